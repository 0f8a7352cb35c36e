"""Gaussian filtering of 2D and 3D maps, axis by axis.

On a CPU an axis of ``S`` voxels is filtered by adding up shifted maps, on a GPU by a product with a banded Toeplitz matrix
``(S, S)``, a kernel per axis. On a CPU that is many times as fast as a depthwise convolution with the whole window.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

PADDINGS = ("zero", "valid")


class Window(NamedTuple):
    """A Gaussian window: ``size`` and ``sigma`` in voxels; ``padding`` is ``"zero"`` or ``"valid"``."""

    size: int
    sigma: float
    padding: str


def gaussian_window(window_size: int, sigma: float) -> Tensor:
    """Gaussian weights ``(window_size,)`` with sum 1, float64."""
    offsets = torch.arange(window_size, dtype=torch.float64) - (window_size - 1) / 2
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return weights / weights.sum()


@functools.lru_cache(maxsize=64)
def _taps(window: Window) -> list[tuple[int, float]]:
    """Distance from an output voxel to an input voxel in the window, and its weight."""
    margin = window.size // 2 if window.padding == "zero" else 0
    weights = gaussian_window(window.size, window.sigma).tolist()
    return [(i - margin, weight) for i, weight in enumerate(weights)]


@functools.lru_cache(maxsize=256)
def _matrix(size: int, window: Window, transposed: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The filter of one axis of ``size`` voxels as a banded matrix (size, filtered size)."""
    n_in = _filtered_size(size, window, transposed) if transposed else size
    # a tensor made in inference mode could not take part in training later
    with torch.inference_mode(False):
        n_out = _filtered_size(n_in, window, False)
        # matrix[o, i] weighs input voxel i in output voxel o
        matrix = torch.zeros(n_out, n_in, dtype=torch.float64)
        for distance, weight in _taps(window):
            matrix.diagonal(distance).fill_(weight)
        return (matrix if transposed else matrix.t()).to(device=device, dtype=dtype).contiguous()


def _filtered_size(size: int, window: Window, transposed: bool) -> int:
    """Voxels along an axis after filtering ``size`` of them."""
    if window.padding == "zero":
        return size
    return size + (window.size - 1) * (1 if transposed else -1)


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
    if out is None:
        out = maps.new_empty(len(maps), *(_filtered_size(size, window, transposed) for size in maps.shape[1:]))
    if maps.device.type == "cpu":
        _smooth_by_shifts(maps, window, transposed, out)
    else:
        _smooth_by_products(maps, window, transposed, out)
    return out


def _smooth_by_shifts(maps: Tensor, window: Window, transposed: bool, out: Tensor) -> None:
    """One map after the other, which stays in a CPU's cache."""
    sizes, n_axes = maps.shape[1:], maps.ndim - 1
    between = [maps.new_empty(*out.shape[1 : 1 + done], *sizes[done:]) for done in range(1, n_axes)]
    for source, destination in zip(maps, out, strict=True):
        for axis, filtered in enumerate([*between, destination]):
            _add_shifted(source, axis, window, transposed, filtered)
            source = filtered


def _add_shifted(source: Tensor, axis: int, window: Window, transposed: bool, out: Tensor) -> None:
    """Filter one axis of a map."""
    n_in, n_out = source.shape[axis], out.shape[axis]
    out.zero_()
    for distance, weight in _taps(window):
        # output voxel i takes input voxel i + shift
        shift = -distance if transposed else distance
        start, stop = max(0, -shift), min(n_out, n_in - shift)
        if start < stop:
            taken = source.narrow(axis, start + shift, stop - start)
            out.narrow(axis, start, stop - start).add_(taken, alpha=weight)


def _smooth_by_products(maps: Tensor, window: Window, transposed: bool, out: Tensor) -> None:
    """All maps at once, a product for each axis."""
    n_axes = maps.ndim - 1
    # each product moves its axis to the end: after all of them the order is the first one again
    for axis in range(n_axes):
        n_maps, size, *rest = maps.shape
        matrix = _matrix(size, window, transposed, maps.dtype, maps.device)
        flat = maps.reshape(n_maps, size, -1).transpose(1, 2)
        result = out.view(n_maps, -1, matrix.shape[1]) if axis == n_axes - 1 else None
        maps = torch.matmul(flat, matrix, out=result).view(n_maps, *rest, matrix.shape[1])
