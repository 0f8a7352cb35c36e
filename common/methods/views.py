"""The two ways in which methods hide parts of an image, by intensity and by place, and what they ask of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from common.losses.ssim import SSIMLoss
from common.masking.enclosed import enclosed_by_tissue
from common.masking.intensity import BINNINGS, intensity_mask, luminosity, n_masked_bins
from common.masking.patches import (
    as_patch_size,
    check_mask_ratio,
    check_rule,
    grid_size,
    patch_mask,
    upsample_patch_mask,
)
from common.networks.mit_unet import MixTransformerUNet


def check_reconstructs(network: MixTransformerUNet) -> None:
    """Raises ``ValueError`` unless the network gives as many channels as it takes."""
    if network.out_channels != network.in_channels:
        raise ValueError(
            f"network: it has {network.out_channels} outputs for {network.in_channels} input channels. A network that "
            "reconstructs its input needs as many."
        )


def ssim_of_views(ssim: SSIMLoss, outputs: Mapping[str, Any], names: Sequence[str]) -> dict[str, Tensor]:
    """``1 - SSIM`` of every view's reconstruction over the whole image, as ``ssim_<name>``."""
    pairs = zip(names, outputs["reconstruction"], outputs["target"], strict=True)
    return {f"ssim_{name}": ssim(made, wanted) for name, made, wanted in pairs}


class IntensityView:
    """Hides random intensity intervals: whole tissues, wherever they are.

    Args:
        channels: C of the images.
        n_bins: K, intensity intervals in [0, 1].
        mask_ratio: share of hidden intervals.
        replacement: draw intervals with replacement instead of exactly ``floor(ratio * K)`` of them.
        binning: ``"uniform"`` intervals, or ``"quantile"`` ones that hold equally many voxels of the image.
        gray: ``"luminosity"`` of three channels (of one: the channel itself), or the index of a channel.
        exclude_background: neither hide nor count the air around the body, see
            :func:`common.masking.enclosed.enclosed_by_tissue`.
        tissue_level: value of the first channel above which a voxel is tissue.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        *,
        channels: int,
        n_bins: int,
        mask_ratio: float,
        replacement: bool = False,
        binning: str = "uniform",
        gray: str | int = "luminosity",
        exclude_background: bool = False,
        tissue_level: float = 0.5,
    ) -> None:
        n_masked_bins(n_bins, mask_ratio)
        if binning not in BINNINGS:
            raise ValueError(f"binning: got {binning!r}. Allowed are {', '.join(map(repr, BINNINGS))}.")
        if gray != "luminosity" and not (isinstance(gray, int) and 0 <= gray < channels):
            raise ValueError(f"gray: got {gray!r}. Allowed are 'luminosity' and channels 0 to {channels - 1}.")
        if gray == "luminosity" and channels not in (1, 3):
            raise ValueError(f"gray: 'luminosity' needs 1 or 3 channels, the network has {channels}. Give a channel.")
        self.n_bins = n_bins
        self.mask_ratio = mask_ratio
        self.replacement = replacement
        self.binning = binning
        self.gray = gray
        self.exclude_background = exclude_background
        self.tissue_level = tissue_level

    @torch.no_grad()
    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Mask bool (B, 1, *S) for ``image`` (B, C, *S), ``True`` = hidden."""
        hidden, _ = intensity_mask(
            luminosity(image) if isinstance(self.gray, str) else image[:, self.gray : self.gray + 1],
            n_bins=self.n_bins,
            mask_ratio=self.mask_ratio,
            generator=generator,
            replacement=self.replacement,
            binning=self.binning,
            eligible=enclosed_by_tissue(image[:, :1] > self.tissue_level) if self.exclude_background else None,
        )
        return hidden


class PatchView:
    """Hides random patches: places, whatever they hold.

    Args:
        spatial_dims: 2 or 3.
        patch_size: edge in voxels, or one per axis.
        mask_ratio: share of hidden patches.
        rule: how the ratio becomes a number, see :func:`common.masking.patches.n_masked_patches`.
        hides_something: refuse a ratio of 0, for losses that count hidden voxels alone.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        patch_size: int | Sequence[int],
        mask_ratio: float,
        rule: str = "floor_keep",
        hides_something: bool = False,
    ) -> None:
        if hides_something and mask_ratio == 0:
            raise ValueError(
                "mask_ratio: it is 0, which hides nothing, and only what is hidden counts. Give a share above 0 and "
                "below 1."
            )
        self.patch_size = as_patch_size(patch_size, spatial_dims)
        self.mask_ratio = check_mask_ratio(mask_ratio)
        self.rule = check_rule(rule)

    @torch.no_grad()
    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Mask bool (B, 1, *S) for ``image`` (B, C, *S), ``True`` = hidden."""
        shape = image.shape[2:]
        patches = patch_mask(
            image.shape[0],
            grid_size(shape, self.patch_size),
            mask_ratio=self.mask_ratio,
            rule=self.rule,
            generator=generator,
            device=image.device,
        )
        return upsample_patch_mask(patches, self.patch_size, shape)
