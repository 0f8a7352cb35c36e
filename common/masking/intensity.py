"""Intensity intervals: hide every voxel whose value falls into randomly chosen bins (ISD-MAE, TCS-MAE).

The hidden share of *voxels* is not the ratio, since bins hold unequal numbers of voxels: log it.
"""

from __future__ import annotations

import functools
import logging
import math

import torch
from torch import Tensor

from common.masking.patches import check_mask_ratio

logger = logging.getLogger(__name__)
BINNINGS = ("uniform", "quantile")
# ITU-R BT.601 weights as the released code and METHODS section 1.3 have them: they sum to 0.9999
_LUMINOSITY = (0.2989, 0.5870, 0.1140)


def luminosity(image: Tensor) -> Tensor:
    """Gray image (B, 1, *S) of three channels ``0.2989 R + 0.5870 G + 0.1140 B``, or of one channel as it is.

    Raises:
        ValueError: for any other number of channels.
    """
    if image.shape[1] == 1:
        return image
    if image.shape[1] != 3:
        raise ValueError(f"luminosity: got {image.shape[1]} channels. Give an image of one or three.")
    red, green, blue = (weight * image[:, c : c + 1] for c, weight in enumerate(_LUMINOSITY))
    return red + green + blue


def n_masked_bins(n_bins: int, mask_ratio: float) -> int:
    """Number of hidden bins, ``floor(mask_ratio * n_bins)``; logs once when there are none.

    Raises:
        ValueError: when all bins would be hidden, or arguments are out of range.
    """
    if n_bins < 2:
        raise ValueError(f"n_bins: got {n_bins}. Give at least 2 intensity intervals.")
    if mask_ratio == 1:
        raise ValueError(f"mask_ratio: 1 hides all {n_bins} bins. Give a ratio below 1.")
    # 0.29 * 100 is 28.999999999999996
    m = math.floor(check_mask_ratio(mask_ratio) * n_bins + 1e-9)
    if m == n_bins:
        raise ValueError(f"mask_ratio: {mask_ratio} hides all {n_bins} bins. Give a smaller ratio.")
    if m == 0:
        _warn_of_no_bins(n_bins, mask_ratio)
    return m


@functools.lru_cache(maxsize=64)
def _warn_of_no_bins(n_bins: int, mask_ratio: float) -> None:
    logger.warning("mask_ratio %g of %d bins is less than one bin: no intensity is hidden.", mask_ratio, n_bins)


def intensity_mask(
    gray: Tensor,
    *,
    n_bins: int,
    mask_ratio: float,
    generator: torch.Generator | None = None,
    replacement: bool = False,
    binning: str = "uniform",
    eligible: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Hide the voxels of randomly chosen intensity bins, in every sample others.

    Bin ``i`` is ``[i/K, (i+1)/K)``, the last one closed. ISD-MAE (arXiv 2411.13198) Eq. 8-12, with half-open bins
    because Eq. 10 puts borders into two bins.

    Args:
        gray: values in [0, 1], (B, 1, *S); anything outside belongs to the first or last bin.
        n_bins: K.
        mask_ratio: share of hidden bins, in [0, 1): ``floor(mask_ratio * K)`` of them. 0 bins hide nothing and are
            logged once.
        generator: random stream on the device of ``gray``.
        replacement: draw the bins with replacement (released code), which hides fewer of them on average.
        binning: ``"uniform"`` bins of equal width, ``"quantile"`` bins of equally many eligible voxels per sample.
        eligible: bool (B, 1, *S): voxels that may be hidden and that count in the quantiles; ``None`` is all.

    Returns:
        mask bool (B, 1, *S), ``True`` = hidden, and the chosen bins, bool (B, K).

    Raises:
        ValueError: for arguments out of range, or a ratio that hides every bin.
    """
    if gray.shape[1] != 1:
        raise ValueError(f"gray: got {gray.shape[1]} channels. Give one, for example luminosity(image).")
    if binning not in BINNINGS:
        raise ValueError(f"binning: got {binning!r}. Allowed are {', '.join(map(repr, BINNINGS))}.")
    m = n_masked_bins(n_bins, mask_ratio)
    batch_size, device = gray.shape[0], gray.device

    if replacement:
        drawn = torch.randint(n_bins, (batch_size, m), generator=generator, device=device)
    else:
        drawn = torch.rand(batch_size, n_bins, generator=generator, device=device).topk(m, dim=1).indices
    chosen = torch.zeros(batch_size, n_bins, dtype=torch.bool, device=device).scatter_(1, drawn, True)

    values = gray.detach().flatten(1).float()
    may_hide = None if eligible is None else eligible.expand_as(gray).flatten(1)
    if binning == "uniform":
        bins = _uniform_bins(values, n_bins)
    else:
        bins = torch.searchsorted(_quantiles(values, may_hide, n_bins), values, right=True)
    mask = chosen.gather(1, bins)
    if may_hide is not None:
        mask = mask & may_hide
    return mask.view_as(gray), chosen


def _uniform_bins(values: Tensor, n_bins: int) -> Tensor:
    """Bin of each value, int64; many times as fast as ``torch.bucketize`` on a CPU."""
    values = values.nan_to_num(nan=0.0).clamp(0, 1)
    bins = (values * n_bins).floor_()
    # the product may round across a border: a value of exactly i / K (as float32 rounds it) belongs to bin i
    bins += (values >= (bins + 1) / n_bins).to(bins.dtype)
    bins -= (values < bins / n_bins).to(bins.dtype)
    return bins.clamp_(max=n_bins - 1).long()


def _quantiles(values: Tensor, eligible: Tensor | None, n_bins: int) -> Tensor:
    """Inner borders (B, K - 1) of bins that hold equally many of the eligible ``values`` (B, V)."""
    if eligible is None:
        eligible = torch.ones_like(values, dtype=torch.bool)
    # ineligible voxels sort behind all others
    ranked = values.masked_fill(~eligible, torch.inf).sort(dim=1).values
    steps = torch.arange(1, n_bins, device=values.device)
    position = eligible.sum(dim=1, keepdim=True) * steps // n_bins
    return ranked.gather(1, position)
