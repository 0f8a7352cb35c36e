"""Where a token lies: fixed sine-cosine positions on a grid, and positions of one grid on another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def sincos_positions(grid: Sequence[int], channels: int, *, temperature: float = 10000.0) -> Tensor:
    """Sine and cosine of the place along each axis at ``channels / (2 d)`` frequencies (MAE, SelfMedMAE).

    The channels are split evenly over axes and functions: sin h, cos h, sin w, cos w, sin d, cos d. What is left over,
    4 of the 1024 channels of a ViT-L in 3D, is 0.

    Args:
        grid: tokens per axis.
        channels: C, at least 2 per axis.
        temperature: ratio of the largest wavelength to the smallest, 2 pi tokens.

    Returns:
        (1, n, C), tokens in the order of the grid.

    Raises:
        ValueError: for too few channels.
    """
    n_frequencies = channels // (2 * len(grid))
    if n_frequencies < 1:
        raise ValueError(f"channels: got {channels} for {len(grid)} axes. Give at least 2 per axis.")
    frequencies = temperature ** -(torch.arange(n_frequencies, dtype=torch.float32) / n_frequencies)
    places = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in places]
    table = torch.cat([function for angle in angles for function in (angle.sin(), angle.cos())], dim=1)
    return F.pad(table, (0, channels - table.shape[1]))[None]


def resample_positions(positions: Tensor, old: Sequence[int], new: Sequence[int] | torch.Size) -> Tensor:
    """Positions (1, n, C) of the grid ``old`` stretched over the grid ``new``, linearly along every axis: (1, m, C)."""
    as_image = positions.transpose(1, 2).unflatten(2, tuple(old)).float()
    stretched = F.interpolate(as_image, size=new, mode=_MODES[len(old)], align_corners=False)
    return stretched.flatten(2).transpose(1, 2).to(positions.dtype)


def grid_of_proportions(n: int, grid: Sequence[int]) -> tuple[int, ...] | None:
    """The grid of ``n`` tokens with the proportions of ``grid``, or ``None`` where there is none.

    >>> grid_of_proportions(512, (6, 6, 6))
    (8, 8, 8)
    >>> grid_of_proportions(500, (6, 6, 6))
    """
    scale = (n / float(torch.tensor(grid).prod())) ** (1 / len(grid))
    candidate = tuple(round(size * scale) for size in grid)
    exact = all(abs(size * scale - whole) < 1e-6 * whole for size, whole in zip(grid, candidate, strict=True))
    return candidate if exact else None
