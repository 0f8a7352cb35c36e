"""The random stream that masks draw from: their own, so that another network sees the same masks."""

from __future__ import annotations

from typing import Any

import torch


class MaskGenerator:
    """One ``torch.Generator`` per device, made on first use, all from one seed.

    In distributed training each rank gives its own seed (``seed + rank``), or all ranks would hide the same places.
    The generator can be pickled and copied, and its state saved, so that a resumed run draws the masks that an
    uninterrupted one would have drawn.

    Args:
        seed: seed of every device's stream.

    Example:
        >>> generator = MaskGenerator(seed=1)
        >>> noise = torch.rand(2, generator=generator.on("cpu"))
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = int(seed)
        self._generators: dict[str, torch.Generator] = {}

    def seed(self, seed: int) -> None:
        """Start every stream anew from ``seed``."""
        self._seed = int(seed)
        for generator in self._generators.values():
            generator.manual_seed(self._seed)

    def on(self, device: torch.device | str) -> torch.Generator:
        """The generator of ``device``."""
        name = str(torch.device(device))
        if name not in self._generators:
            self._generators[name] = torch.Generator(device=device).manual_seed(self._seed)
        return self._generators[name]

    def state_dict(self) -> dict[str, Any]:
        """Seed and position of every stream, in types that ``torch.load(weights_only=True)`` reads."""
        return {"seed": self._seed, "streams": {name: g.get_state() for name, g in self._generators.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken; the stream of a device absent there starts from the seed."""
        self._seed = int(state["seed"])
        self._generators = {}
        for name, position in state["streams"].items():
            if _is_available(torch.device(name)):
                # `map_location` moves every tensor of a checkpoint, but generators take their state from the CPU
                self.on(name).set_state(position.cpu())

    def __getstate__(self) -> dict[str, Any]:
        return self.state_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.load_state_dict(state)


def _is_available(device: torch.device) -> bool:
    if device.type == "cuda":
        return (device.index or 0) < torch.cuda.device_count()
    return device.type == "cpu" or (device.type == "mps" and torch.backends.mps.is_available())
