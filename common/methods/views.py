"""The two ways in which several methods hide parts of an image: by intensity, by place."""

from __future__ import annotations

import torch
from torch import Tensor

from common.masking.intensity import BINNINGS, intensity_mask, luminosity, n_masked_bins
from common.masking.patches import (
    as_patch_size,
    check_mask_ratio,
    check_rule,
    grid_size,
    patch_mask,
    upsample_patch_mask,
)


class IntensityView:
    """Hides the voxels of random intensity intervals (:func:`common.masking.intensity.intensity_mask`).

    Args:
        n_bins: K, intervals that [0, 1] is divided into.
        mask_ratio: share of the intervals that is hidden, floor(ratio * K) of them.
        replacement: draw intervals with replacement.
        binning: ``"uniform"`` or ``"quantile"``.
        gray: what is binned: ``"luminosity"`` of one or three channels, or the index of one channel.
    """

    def __init__(
        self,
        *,
        n_bins: int,
        mask_ratio: float,
        replacement: bool = False,
        binning: str = "uniform",
        gray: str | int = "luminosity",
    ) -> None:
        n_masked_bins(n_bins, mask_ratio)  # refuses what cannot be drawn
        if binning not in BINNINGS:
            raise ValueError(f"binning: got {binning!r}. Allowed are {', '.join(map(repr, BINNINGS))}.")
        if gray != "luminosity" and not isinstance(gray, int):
            raise ValueError(f"gray: got {gray!r}. Give 'luminosity' or the index of a channel.")
        self.n_bins = n_bins
        self.mask_ratio = mask_ratio
        self.replacement = replacement
        self.binning = binning
        self.gray = gray

    def __call__(self, image: Tensor, *, generator: torch.Generator, eligible: Tensor | None = None) -> Tensor:
        """Hidden voxels (B, 1, *S) of ``image`` (B, C, *S); only ``eligible`` ones, if given."""
        hidden, _ = intensity_mask(
            image[:, [self.gray]] if isinstance(self.gray, int) else luminosity(image),
            n_bins=self.n_bins,
            mask_ratio=self.mask_ratio,
            generator=generator,
            replacement=self.replacement,
            binning=self.binning,
            eligible=eligible,
        )
        return hidden


class PatchView:
    """Hides random patches (:func:`common.masking.patches.patch_mask`).

    Args:
        spatial_dims: 2 or 3.
        patch_size: edge, voxels.
        mask_ratio: share of the patches that is hidden.
        rule: how many patches that is.
    """

    def __init__(self, *, spatial_dims: int, patch_size: int, mask_ratio: float, rule: str = "floor_keep") -> None:
        self.patch_size = as_patch_size(patch_size, spatial_dims)
        self.mask_ratio = check_mask_ratio(mask_ratio)
        self.rule = check_rule(rule)

    def __call__(self, image: Tensor, *, generator: torch.Generator) -> Tensor:
        """Hidden voxels (B, 1, *S) of ``image`` (B, C, *S)."""
        shape = image.shape[2:]
        hidden = patch_mask(
            image.shape[0],
            grid_size(shape, self.patch_size),
            mask_ratio=self.mask_ratio,
            rule=self.rule,
            generator=generator,
            device=image.device,
        )
        return upsample_patch_mask(hidden, self.patch_size, shape)
