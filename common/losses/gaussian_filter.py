"""Gaussian filtering of 2D and 3D maps, axis by axis.

An axis of ``S`` voxels is filtered by a product with a banded matrix ``(S, S)``. In float32 on a CPU it is a depthwise
convolution whose channels are the axes that follow, which oneDNN does fast where channels come last, as these do, and a
sum of shifted maps along the last axis. Either is many times as fast as a convolution of a map with the whole window.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PADDINGS = ("zero", "valid")


class Window(NamedTuple):
    """A Gaussian window: ``size`` and ``sigma`` in voxels; ``padding`` is ``"zero"`` or ``"valid"``."""

    size: int
    sigma: float
    padding: str

    def margin(self, *, transposed: bool) -> int:
        """Zeros to put before and after an axis. The window is symmetric, so the adjoint only needs other margins."""
        if self.padding == "zero":
            return self.size // 2
        return self.size - 1 if transposed else 0


def gaussian_window(window_size: int, sigma: float) -> Tensor:
    """Gaussian weights ``(window_size,)`` with sum 1, float64."""
    offsets = torch.arange(window_size, dtype=torch.float64) - (window_size - 1) / 2
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return weights / weights.sum()


@contextmanager
def full_float32() -> Iterator[None]:
    """Keep the matrix products in float32: TF32's rounding of a mean is as large as the constant C2."""
    settings: Any = torch.backends.cuda.matmul
    name, exact = ("fp32_precision", "ieee") if hasattr(settings, "fp32_precision") else ("allow_tf32", False)
    saved = getattr(settings, name)
    setattr(settings, name, exact)
    try:
        yield
    finally:
        setattr(settings, name, saved)


def smooth(maps: Tensor, window: Window, *, transposed: bool = False, out: Tensor | None = None) -> Tensor:
    """Filter maps (M, *S) along every spatial axis.

    Args:
        maps: stack of maps, floating point.
        window: the Gaussian; an axis loses ``window.size - 1`` voxels when its padding is ``"valid"``.
        transposed: apply the adjoint instead, which takes gradients from the filtered maps back to the maps.
        out: contiguous memory (M, *S') for the result, which may not be that of ``maps``.

    Returns:
        filtered maps (M, *S').
    """
    margin = window.margin(transposed=transposed)
    if out is None:
        out = maps.new_empty(len(maps), *(size + 2 * margin - window.size + 1 for size in maps.shape[1:]))
    # without oneDNN a convolution would loop over its channels
    if maps.device.type == "cpu" and maps.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        _smooth_by_convolutions(maps, window, margin, out)
    else:
        _smooth_by_products(maps, window, margin, out)
    return out


def _smooth_by_convolutions(maps: Tensor, window: Window, margin: int, out: Tensor) -> None:
    """One map after the other, which stays in a CPU's cache."""
    weights = gaussian_window(window.size, window.sigma).float()
    for source, destination in zip(maps, out, strict=True):
        for axis in range(source.ndim - 1):
            source = _convolved(source, axis, weights, margin)
        _filter_last(source, _numbers(window), margin, out=destination)


def _convolved(source: Tensor, axis: int, weights: Tensor, margin: int) -> Tensor:
    """Filter an axis of a map that is not the last one."""
    before, size, after = source.shape[:axis], source.shape[axis], source.shape[axis + 1 :]
    channels = math.prod(after)
    image = source.reshape(-1, 1, size, channels).permute(0, 3, 1, 2)
    filtered = F.conv2d(image, weights.expand(channels, 1, 1, -1), padding=(0, margin), groups=channels)
    return filtered.permute(0, 2, 3, 1).reshape(*before, -1, *after)


def _filter_last(source: Tensor, weights: Sequence[float], margin: int, out: Tensor) -> None:
    """Filter the last axis of a map into ``out``."""
    n_in, n_out = source.shape[-1], out.shape[-1]
    out.zero_()
    for i, weight in enumerate(weights):
        # output voxel o takes input voxel o + shift
        shift = i - margin
        start, stop = max(0, -shift), min(n_out, n_in - shift)
        if start < stop:
            out[..., start:stop].add_(source[..., start + shift : stop + shift], alpha=weight)


def _smooth_by_products(maps: Tensor, window: Window, margin: int, out: Tensor) -> None:
    """All maps at once, a product for each axis."""
    # each product moves its axis to the end: after all of them the order is the first one again
    for axis in range(1, maps.ndim):
        n_maps, size, *rest = maps.shape
        matrix = _matrix(size, window, margin, maps.dtype, maps.device)
        flat = maps.reshape(n_maps, size, -1).transpose(1, 2)
        result = out.view(n_maps, -1, matrix.shape[1]) if axis == maps.ndim - 1 else None
        maps = torch.matmul(flat, matrix, out=result).view(n_maps, *rest, matrix.shape[1])


@functools.lru_cache(maxsize=64)
def _numbers(window: Window) -> tuple[float, ...]:
    """Weights of a window as numbers, which no tensor has to be read for."""
    offsets = [i - (window.size - 1) / 2 for i in range(window.size)]
    heights = [math.exp(-0.5 * (offset / window.sigma) ** 2) for offset in offsets]
    return tuple(height / math.fsum(heights) for height in heights)


@functools.lru_cache(maxsize=256)
def _matrix(size: int, window: Window, margin: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The filter of an axis of ``size`` voxels as a banded matrix (size, filtered size)."""
    # a tensor made in inference mode could not take part in training later
    with torch.inference_mode(False):
        matrix = torch.zeros(size, size + 2 * margin - window.size + 1, dtype=torch.float64)
        for i, weight in enumerate(_numbers(window)):
            matrix.diagonal(margin - i).fill_(weight)
        return matrix.to(device=device, dtype=dtype)
