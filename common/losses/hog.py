"""Histograms of oriented gradients as a target, on the image's device, and a picture of them.

Sources: Dalal & Triggs, CVPR 2005; as the target of MaskFeat (Wei et al., CVPR 2022, arXiv 2112.09133) with 9 unsigned
orientations, cells of 8 x 8, each cell's histogram with length 1, channels apart from each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from common.masking.patches import as_patch_size, grid_size, patchify

GRADIENTS = ("sobel", "difference")
_EPS = 1e-5  # as in scikit-image


@torch.no_grad()
def oriented_gradients(
    image: Tensor, *, cell_size: int | Sequence[int] = 8, n_bins: int = 9, gradient: str = "sobel"
) -> Tensor:
    """How strong the gradients of each direction are in each cell, every cell's histogram with length 1.

    Gradients are those of axial slices, in 3D too, and a cell of several slices adds theirs up: thick slices make
    the gradient along the body's axis one of another kind, and a direction in space has no natural order of bins.
    With cells of one slice, this is scikit-image's ``hog`` of each (``gradient="difference"``, blocks of one cell).

    Args:
        image: (B, C, *S), 2D or 3D, a slice in its first two axes.
        cell_size: edge of a cell in voxels, or one per axis; must divide S.
        n_bins: intervals of the gradient's direction in [0, 180) degrees, from the second axis to the first.
        gradient: ``"sobel"`` (MaskFeat's released code), or ``"difference"`` of the two neighbours (Dalal & Triggs).
            Borders are reflected.

    Returns:
        float32 (B, C * n_bins, *grid), channel by channel; 0 in a cell without gradients.

    Raises:
        ValueError: for an unknown gradient, no bins, or cells that do not divide the image.
    """
    if gradient not in GRADIENTS or n_bins < 1:
        raise ValueError(f"gradient, n_bins: got {gradient!r} and {n_bins}. Allowed are {GRADIENTS}, and 1 or more.")
    spatial = image.shape[2:]
    edges = as_patch_size(cell_size, len(spatial))
    with torch.autocast(device_type=image.device.type, enabled=False):
        volume = image.float() if len(spatial) == 3 else image.float().unsqueeze(4)
        padded = F.pad(volume, (0, 0, 1, 1, 1, 1), mode="reflect")
        rows, columns = (_slope(padded, along, across, gradient) for along, across in ((2, 3), (3, 2)))
        bins = (torch.atan2(rows, columns) * (n_bins / math.pi)).floor().long() % n_bins
        bins, votes = (
            patchify(x.reshape(image.shape), edges).unflatten(2, (-1, image.shape[1]))
            for x in (bins, torch.hypot(rows, columns))
        )
        cells, channels = votes.shape[1], votes.shape[3]
        histogram = votes.new_zeros(len(image), cells, n_bins, channels).scatter_add_(2, bins, votes) / votes.shape[2]
        histogram = histogram / (histogram.square().sum(2, keepdim=True) + _EPS**2).sqrt()
    return histogram.permute(0, 3, 2, 1).reshape(len(image), -1, *grid_size(spatial, edges))


def _slope(padded: Tensor, along: int, across: int, gradient: str) -> Tensor:
    """Change along one axis of an image padded by 1, smoothed across for Sobel's filter."""
    n, m = padded.shape[along] - 2, padded.shape[across] - 2
    change = padded.narrow(along, 2, n) - padded.narrow(along, 0, n)
    here = change.narrow(across, 1, m)
    if gradient == "difference":
        return here
    return change.narrow(across, 0, m) + 2 * here + change.narrow(across, 2, m)


def draw_gradients(histograms: Tensor, *, cell_size: int | Sequence[int], n_bins: int = 9) -> Tensor:
    """Histograms as a picture: in each cell a stroke along the edge that each bin stands for, as bright as the bin.

    Args:
        histograms: (B, C * n_bins, *grid), as :func:`oriented_gradients` returns them.
        cell_size: edge of a cell in voxels, or one per axis.
        n_bins: bins of a histogram.

    Returns:
        float32 (B, C, *S) of S = grid times cell voxels, without gradient; above 1 where strokes cross.
    """
    grid = histograms.shape[2:]
    edges = as_patch_size(cell_size, len(grid))
    angle = (torch.arange(n_bins, device=histograms.device) + 0.5) * (math.pi / n_bins)
    row, column = (torch.arange(e, device=histograms.device) - (e - 1) / 2 for e in edges[:2])
    # distance from the line through the cell's centre that is perpendicular to the gradient
    distance = row[:, None] * angle.sin()[:, None, None] + column * angle.cos()[:, None, None]
    strokes = (1 - distance.abs()).clamp(min=0)
    strengths = histograms.detach().float().reshape(len(histograms), -1, n_bins, *(*grid, 1)[:3])
    drawn = torch.einsum("bckhwd,kij->bchiwjd", strengths, strokes).flatten(2, 3).flatten(3, 4)
    return drawn.repeat_interleave(edges[2], dim=4) if len(grid) == 3 else drawn.squeeze(4)
