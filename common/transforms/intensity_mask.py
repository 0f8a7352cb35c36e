"""Intensity mask as a MONAI transform; the training methods mask on the device instead."""

from __future__ import annotations

import torch
from monai.config import KeysCollection
from torch import Tensor

from common.masking.intensity import BINNINGS, intensity_mask, luminosity, n_masked_bins
from common.transforms.rand_mask import RandMask, RandMaskd


class RandIntensityMask(RandMask):
    """Hide the voxels of random intensity intervals (ISD-MAE, TCS-MAE; :mod:`common.masking.intensity`).

    Images have values in [0, 1] and one channel, or three whose luminosity is used.

    Args:
        n_bins: number of intervals.
        mask_ratio: share of hidden intervals, in [0, 1).
        replacement: draw the intervals with replacement (released code).
        binning: ``"uniform"`` or ``"quantile"``.
        prob: probability that an image is masked at all.
        fill: value of hidden voxels.
    """

    def __init__(
        self,
        *,
        n_bins: int = 16,
        mask_ratio: float = 0.25,
        replacement: bool = False,
        binning: str = "uniform",
        prob: float = 1.0,
        fill: float = 0.0,
    ) -> None:
        super().__init__(prob=prob, fill=fill)
        n_masked_bins(n_bins, mask_ratio)
        if binning not in BINNINGS:
            raise ValueError(f"binning: got {binning!r}. Allowed are {', '.join(map(repr, BINNINGS))}.")
        self.n_bins = n_bins
        self.mask_ratio = mask_ratio
        self.replacement = replacement
        self.binning = binning

    def draw(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Mask bool (1, 1, *S) of a batch of one image (1, C, *S)."""
        mask, _ = intensity_mask(
            luminosity(image.float()),
            n_bins=self.n_bins,
            mask_ratio=self.mask_ratio,
            generator=generator,
            replacement=self.replacement,
            binning=self.binning,
        )
        return mask


class RandIntensityMaskd(RandMaskd):
    """Dictionary twin of :class:`RandIntensityMask`.

    Args:
        keys: images (C, *S) of one grid; the first one's values make the mask of all.
        n_bins: number of intervals.
        mask_ratio: share of hidden intervals, in [0, 1).
        replacement: draw the intervals with replacement (released code).
        binning: ``"uniform"`` or ``"quantile"``.
        prob: probability that an image is masked at all.
        fill: value of hidden voxels.
        mask_key: where the mask, bool (1, *S), is stored; ``None`` stores none.
        allow_missing_keys: leave absent keys alone instead of raising.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        n_bins: int = 16,
        mask_ratio: float = 0.25,
        replacement: bool = False,
        binning: str = "uniform",
        prob: float = 1.0,
        fill: float = 0.0,
        mask_key: str | None = "mask",
        allow_missing_keys: bool = False,
    ) -> None:
        masker = RandIntensityMask(
            n_bins=n_bins, mask_ratio=mask_ratio, replacement=replacement, binning=binning, prob=prob, fill=fill
        )
        super().__init__(keys, masker=masker, mask_key=mask_key, allow_missing_keys=allow_missing_keys)
