"""The plain autoencoders that papers compare with: identity, denoising, and masked patches in a U-Net.

Sources: AE, the identity with nothing hidden. DAE: Vincent et al., JMLR 2010, Gaussian noise on the input, the clean
image as target. MAE: He et al., CVPR 2022 (arXiv 2111.06377), 75 % of the patches hidden and the mean squared error of
the hidden ones alone; a U-Net has no token to leave out, so hidden patches are filled (METHODS.md, section 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.losses.reconstruction import KINDS, mean_error
from common.masking.generator import MaskGenerator
from common.methods.views import PatchView, check_reconstructs
from common.networks.mit_unet import MixTransformerUNet

CORRUPTIONS = ("none", "noise", "patches")
WHERE = ("all", "hidden")


class Autoencoder(nn.Module):
    """Reconstructs an image from itself, from a noisy copy, or from what random patches leave of it.

    Args:
        network: reconstructs its input, through its last convolution as it is.
        corruption: ``"none"`` (AE), ``"noise"`` (DAE) or ``"patches"`` (MAE).
        noise_sd: standard deviation of the noise, in units of the channels' range.
        patch_size: edge of a patch in voxels, or one per axis.
        mask_ratio: hidden share of the patches, above 0 where patches are the corruption.
        fill: value of hidden voxels.
        mask_seed: start of the random stream of noise and masks; :meth:`seed_masks` starts it anew.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        network: MixTransformerUNet,
        *,
        corruption: str = "patches",
        noise_sd: float = 0.1,
        patch_size: int | Sequence[int] = 16,
        mask_ratio: float = 0.75,
        fill: float = 0.0,
        mask_seed: int = 0,
    ) -> None:
        super().__init__()
        check_reconstructs(network)
        if corruption not in CORRUPTIONS:
            raise ValueError(f"corruption: got {corruption!r}. Allowed are {', '.join(map(repr, CORRUPTIONS))}.")
        if noise_sd <= 0:
            raise ValueError(f"noise_sd: got {noise_sd}. Give a standard deviation above 0.")
        self.network = network
        self.corruption = corruption
        self.noise_sd = noise_sd
        self.hide_patches = PatchView(
            spatial_dims=network.spatial_dims,
            patch_size=patch_size,
            mask_ratio=mask_ratio,
            hides_something=corruption == "patches",
        )
        self.fill = fill
        self.masks = MaskGenerator(mask_seed)

    def seed_masks(self, seed: int) -> None:
        """Start the random stream of noise and masks anew."""
        self.masks.seed(seed)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Reconstruct ``image`` (B, C, *S), values in [0, 1].

        Returns:
            ``reconstruction`` float32 (1, B, C, *S), not limited to a range; ``target`` (1, B, C, *S), the clean image;
            ``mask`` bool (1, B, 1, *S), ``True`` = hidden, nowhere unless patches are; ``fill``; and ``stats``:
            ``mask_share``.
        """
        image = image.as_subclass(Tensor).float()
        generator = self.masks.on(image.device)
        mask = torch.zeros_like(image[:, :1], dtype=torch.bool)
        seen = image
        if self.corruption == "noise":
            noise = torch.randn(image.shape, generator=generator, device=image.device)
            seen = image + self.noise_sd * noise
        elif self.corruption == "patches":
            mask = self.hide_patches(image, generator)
            seen = image.masked_fill(mask, self.fill)
        return {
            "reconstruction": self.network(seen).float().unsqueeze(0),
            "target": image.unsqueeze(0),
            "mask": mask.unsqueeze(0),
            "fill": self.fill,
            "stats": {"mask_share": mask.float().mean()},
        }


class ReconstructionLoss(nn.Module):
    """Mean error over all voxels, or over the hidden ones.

    Args:
        kind: ``"mse"`` (AE, DAE, MAE) or ``"l1"`` (SimMIM).
        where: ``"all"`` or ``"hidden"`` voxels; 0 where none is hidden.

    Raises:
        ValueError: for an unknown option.
    """

    def __init__(self, *, kind: str = "mse", where: str = "hidden") -> None:
        super().__init__()
        if kind not in KINDS or where not in WHERE:
            raise ValueError(f"kind, where: got {kind!r}, {where!r}. Allowed are {KINDS} and {WHERE}.")
        self.kind = kind
        self.where = where

    def forward(self, outputs: dict[str, Any], target: Tensor | None = None) -> Tensor:
        """Scalar loss of what a method returns, and its parts in ``outputs["losses"]``.

        Args:
            outputs: see :mod:`common.methods`.
            target: what MONAI's trainer passes; unused, ``outputs`` holds the target.
        """
        del target
        counted = outputs["mask"] if self.where == "hidden" else None
        loss = mean_error(outputs["reconstruction"], outputs["target"], counted, kind=self.kind)
        outputs["losses"] = {"reconstruction": loss.detach()}
        return loss
