"""Gaussian filtering of 2D and 3D maps by matrix products.

The Gaussian is separable, and filtering an axis of ``S`` voxels is a product with a banded Toeplitz matrix ``(S, S)``.
On a CPU that is many times as fast as a depthwise convolution with the whole window.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

PADDINGS = ("zero", "valid")
# Rows of the banded matrix that one product computes on a CPU: small enough to skip most of the zeros beside the band.
_BLOCK = 16


class Window(NamedTuple):
    """A Gaussian window: ``size`` and ``sigma`` in voxels; ``padding`` is ``"zero"`` or ``"valid"``."""

    size: int
    sigma: float
    padding: str


class _Band(NamedTuple):
    """Rows ``start:stop`` of a banded matrix, which are zero outside the columns ``first:last``."""

    start: int
    stop: int
    first: int
    last: int
    block: Tensor  # (last - first, stop - start): transposed, as the products need it


def gaussian_window(window_size: int, sigma: float) -> Tensor:
    """Gaussian weights ``(window_size,)`` with sum 1, float64."""
    offsets = torch.arange(window_size, dtype=torch.float64) - (window_size - 1) / 2
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return weights / weights.sum()


@functools.lru_cache(maxsize=256)
def _bands(size: int, window: Window, transposed: bool, dtype: torch.dtype, device: torch.device) -> tuple[_Band, ...]:
    """The filter of one axis as blocks of its banded matrix; a single dense block where kernel launches cost more."""
    window_size, sigma, padding = window
    if transposed and padding == "valid":
        size += window_size - 1  # `size` is the filtered map's: back to the image's
    # a tensor made in inference mode could not take part in training later
    with torch.inference_mode(False):
        n_out, margin = (size, window_size // 2) if padding == "zero" else (size - window_size + 1, 0)
        # matrix[o, i] weighs input voxel i in output voxel o
        tap = torch.arange(size)[None, :] - torch.arange(n_out)[:, None] + margin
        inside = (tap >= 0) & (tap < window_size)
        matrix = gaussian_window(window_size, sigma)[tap.clamp(0, window_size - 1)] * inside
        matrix = (matrix.t() if transposed else matrix).to(device=device, dtype=dtype)
        n_rows, n_columns = matrix.shape
        block = _BLOCK if device.type == "cpu" else n_rows
        bands = []
        for start in range(0, n_rows, block):
            stop = min(start + block, n_rows)
            shift = (window_size - 1 if transposed else 0) if padding == "valid" else window_size // 2
            first, last = max(0, start - shift), min(n_columns, stop - shift + window_size - 1)
            bands.append(_Band(start, stop, first, last, matrix[start:stop, first:last].t().contiguous()))
        return tuple(bands)


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


def smooth(maps: Tensor, window: Window, *, transposed: bool = False) -> Tensor:
    """Filter maps (M, *S) along every spatial axis.

    Args:
        maps: stack of maps, floating point.
        window: the Gaussian; an axis loses ``window.size - 1`` voxels when its padding is ``"valid"``.
        transposed: apply the adjoint instead, which takes gradients from the filtered maps back to the maps.

    Returns:
        filtered maps (M, *S').
    """
    # each product moves its axis to the end: after all of them the order is the first one again
    for _ in range(maps.ndim - 1):
        n_maps, size, *rest = maps.shape
        flat = maps.reshape(n_maps, size, -1)
        bands = _bands(size, window, transposed, maps.dtype, maps.device)
        if len(bands) == 1:
            flat = torch.matmul(flat.transpose(1, 2), bands[0].block)
        else:
            out = maps.new_empty(n_maps, flat.shape[2], bands[-1].stop)
            for source, destination in zip(flat, out, strict=True):
                for start, stop, first, last, block in bands:
                    torch.mm(source[first:last].t(), block, out=destination[:, start:stop])
            flat = out
        maps = flat.view(n_maps, *rest, flat.shape[2])
    return maps
