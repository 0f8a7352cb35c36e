"""How much memory a computation takes at once, counted rather than measured."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class Largest(TorchDispatchMode):
    """Remembers how many bytes the largest tensor had that was made."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.bytes = max(self.bytes, made.untyped_storage().nbytes())
        return made


class Peak(TorchDispatchMode):
    """Remembers how many bytes the tensors had together that operations returned, as long as they lived."""

    bytes = 0

    def __init__(self) -> None:
        super().__init__()
        self.living = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                memory = tensor.untyped_storage()
                self.living[memory] = memory.nbytes()
        self.bytes = max(self.bytes, sum(self.living.values()))
        return made
