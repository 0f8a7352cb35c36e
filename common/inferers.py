"""MONAI inferers that run the network in a chosen precision and memory format, compiled or with less memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer
from torch import nn

from common.activation_checkpointing import checkpoint_blocks
from common.compilation import compile_network
from common.precision import autocast
from common.windows import SlabWindows


class AutocastInferer(Inferer):
    """Calls the network inside an autocast region; what surrounds the network (losses, stitching) stays in float32.

    MONAI's engines only autocast on CUDA, and losses with them; this one serves the CPU too and ends with the network.

    Args:
        inferer: the inferer that decides what the network sees. Default: the whole input at once.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16`` (see :mod:`common.precision`).
        channels_last: lay images out channels-last, which convolutions in bf16 prefer.
        compile: compile the network in its first call, see :func:`common.compilation.compile_network`.
        checkpointing: see :func:`common.activation_checkpointing.checkpoint_blocks`.

    Raises:
        ValueError: for both of the last two: compiled code decides by itself what to compute again.
    """

    def __init__(
        self,
        inferer: Inferer | None = None,
        *,
        precision: str = "auto",
        channels_last: bool = False,
        compile: bool = False,  # noqa: A002 (the name of MONAI's knob)
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if compile and checkpointing:
            msg = "compile, checkpointing: got both. Choose one; compiled code decides by itself what to compute again."
            raise ValueError(msg)
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.precision = precision
        self.channels_last = channels_last
        self.compile = compile
        self.checkpointing = checkpointing
        self._prepared: Callable[..., Any] | None = None

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run ``network`` on ``inputs`` (B, C, *S) the way the wrapped inferer does."""
        if (self.compile or self.checkpointing) and self._prepared is not network:
            self._prepared = network
            self._prepare(network, inputs.device)

        def in_precision(x: torch.Tensor, *network_args: Any, **network_kwargs: Any) -> Any:
            if isinstance(x, MetaTensor):
                x = x.as_tensor()  # metadata costs time in every operation and no network needs it
            if self.channels_last:
                last = torch.channels_last_3d if x.ndim == 5 else torch.channels_last
                x = x.contiguous(memory_format=last)
            with autocast(self.precision, x.device):
                return network(x, *network_args, **network_kwargs)

        return self.inferer(inputs, in_precision, *args, **kwargs)

    def _prepare(self, network: Any, device: torch.device) -> None:
        """Compile or checkpoint the plain network, and its teacher, inside of what trains it."""
        if isinstance(network, nn.parallel.DistributedDataParallel):
            network = network.module
        plain = getattr(network, "network", network)
        if self.checkpointing:
            checkpoint_blocks(plain)
        if self.compile and compile_network(plain, device) and getattr(network, "teacher", None) is not None:
            compile_network(network.teacher.module, device)


class _Mirrored:
    """The network with scores averaged over mirrored windows, in float32."""

    def __init__(self, network: Callable[..., torch.Tensor], flip_axes: Sequence[int]) -> None:
        self.network = network
        # of no axis, of each one, of each two ...: spatial axis a is axis a + 2 of (B, C, *S)
        axes = [axis + 2 for axis in flip_axes]
        self.flips = list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        scores = self.network(x, *args, **kwargs).float()
        for axes in self.flips[1:]:
            scores = scores + self.network(x.flip(axes), *args, **kwargs).float().flip(axes)
        return scores / len(self.flips)


class WindowInferer(AutocastInferer):
    """Sliding windows with Gaussian weights (:mod:`common.windows`); of axial slices when the network is 2D.

    Args:
        roi_size: window in voxels; for a 2D network the last entry is 1.
        spatial_dims: 3, or 2 for a network that segments axial slices.
        overlap: share of a window that its neighbour covers again, in [0, 1).
        sw_batch_size: windows (or slices) per forward pass.
        precision: see :class:`AutocastInferer`.
        stitch_device: where scores are summed; ``"cpu"`` when a layer of windows with all its classes does not fit the
            GPU, or the scores of a whole volume where ``argmax`` is off.
        stitch_half: sum scores in float16.
        argmax: see :class:`common.windows.SlabWindows`.
        flip_axes: average the scores over windows mirrored along these axes, all combinations: 1 (front to back) and 2
            (feet to head). Axis 0 would turn left structures into right ones, which have names of their own. A network
            that was trained without mirrored crops does not gain from it.

    Raises:
        ValueError: for other axes, or a ``roi_size`` or ``overlap`` that does not fit.
    """

    def __init__(
        self,
        *,
        roi_size: Sequence[int],
        spatial_dims: int = 3,
        overlap: float = 0.5,
        sw_batch_size: int = 1,
        precision: str = "auto",
        channels_last: bool = False,
        stitch_device: str | None = None,
        stitch_half: bool = False,
        argmax: bool = False,
        flip_axes: Sequence[int] = (),
    ) -> None:
        if spatial_dims == 2 and tuple(roi_size)[-1] != 1:
            msg = (
                f"roi_size is {list(roi_size)}; a 2D network takes axial slices: let it end with 1, e.g. [256, 256, 1]."
            )
            raise ValueError(msg)
        self.flip_axes = check_flip_axes(flip_axes, spatial_dims)
        windows = SlabWindows(
            roi_size=roi_size,
            overlap=overlap,
            sw_batch_size=sw_batch_size,
            stitch_device=stitch_device,
            argmax=argmax,
            half=stitch_half,
            slices=spatial_dims == 2,
        )
        super().__init__(windows, precision=precision, channels_last=channels_last)

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Of an image (B, C, *S) of any size: scores (B, N + 1, *S), float32, or channels (B, 1, *S), uint8."""
        seen_by = _Mirrored(network, self.flip_axes) if self.flip_axes else network
        return super().__call__(inputs, seen_by, *args, **kwargs)


def check_flip_axes(flip_axes: Sequence[int], spatial_dims: int = 3) -> list[int]:
    """``flip_axes`` itself; raises ``ValueError`` for an axis that must not be mirrored, or is given twice."""
    allowed = list(range(1, spatial_dims))
    if len(set(flip_axes)) < len(flip_axes) or not set(flip_axes) <= set(allowed):
        msg = (
            f"flip_axes is {list(flip_axes)}; give axes among {allowed}, each once. Axis 0 mirrors left and right, "
            "which have names of their own."
        )
        raise ValueError(msg)
    return list(flip_axes)
