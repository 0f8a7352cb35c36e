"""ISD-MAE: one pass with hidden intensities, one with hidden patches, both reconstruct the image.

Source: "ISD-MAE", arXiv 2411.13198, Eq. 8-16. Where paper and released code disagree, the defaults follow METHODS.md
(decision table, rows 1-6) and a switch keeps the alternative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.losses.contrastive import SymmetricContrastiveLoss, embedding_spread
from common.losses.ssim import SSIMLoss
from common.losses.total import total_loss
from common.masking.generator import MaskGenerator
from common.methods.views import IntensityView, PatchView, check_reconstructs, ssim_of_views
from common.networks.heads import ProjectionHead
from common.networks.mit_unet import MixTransformerUNet

VIEWS = ("intensity", "patch")


class ISDMAE(nn.Module):
    """Hides intensities and patches of an image in turn, reconstructs it from both, and embeds both.

    The two passes share all weights and run one after the other, so a batch norm sees them separately.

    Args:
        network: reconstructs its input: as many outputs as input channels. Its encoder, decoder and head are what is
            saved and transferred.
        n_bins: K, intensity intervals in [0, 1].
        intensity_mask_ratio: share of hidden intervals. The share of hidden voxels is another: ``stats`` has it.
        replacement: draw intervals with replacement (released code) instead of exactly ``floor(ratio * K)`` of them.
        binning: ``"uniform"`` intervals, or ``"quantile"`` ones that hold equally many voxels of the image.
        gray: ``"luminosity"`` of three channels (of one: the channel itself), or the index of a channel.
        exclude_background: neither hide nor count the air around the body, see
            :func:`common.masking.enclosed.enclosed_by_tissue`.
        tissue_level: value of the first channel above which a voxel is tissue; 0.5 is -500 HU in the lung window.
        patch_size: edge of a patch in voxels, or one per axis.
        patch_mask_ratio: share of hidden patches.
        patch_rule: ``"floor_keep"`` (MAE) or ``"round_keep"`` hide the same number in every sample, ``"bernoulli"``
            each patch by chance (released code).
        fill: value of hidden voxels.
        embedding_features: length of the embeddings.
        pool: of the coarsest map before the projection: ``"avg"`` (paper) or ``"max"`` (released code).
        mask_seed: start of the masks' random stream; :meth:`seed_masks` starts it anew.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        network: MixTransformerUNet,
        *,
        n_bins: int = 16,
        intensity_mask_ratio: float = 0.25,
        replacement: bool = False,
        binning: str = "uniform",
        gray: str | int = "luminosity",
        exclude_background: bool = False,
        tissue_level: float = 0.5,
        patch_size: int | Sequence[int] = 16,
        patch_mask_ratio: float = 0.5,
        patch_rule: str = "floor_keep",
        fill: float = 0.0,
        embedding_features: int = 128,
        pool: str = "avg",
        mask_seed: int = 0,
    ) -> None:
        super().__init__()
        check_reconstructs(network)
        self.network = network
        self.projector = ProjectionHead(
            spatial_dims=network.spatial_dims,
            in_channels=network.encoder.channels[-1],
            out_features=embedding_features,
            pool=pool,
        )
        self.hide_intensities = IntensityView(
            channels=network.in_channels,
            n_bins=n_bins,
            mask_ratio=intensity_mask_ratio,
            replacement=replacement,
            binning=binning,
            gray=gray,
            exclude_background=exclude_background,
            tissue_level=tissue_level,
        )
        self.hide_patches = PatchView(
            spatial_dims=network.spatial_dims, patch_size=patch_size, mask_ratio=patch_mask_ratio, rule=patch_rule
        )
        self.fill = fill
        self.masks = MaskGenerator(mask_seed)

    def seed_masks(self, seed: int) -> None:
        """Start the masks' random stream anew."""
        self.masks.seed(seed)

    def draw_masks(self, image: Tensor) -> Tensor:
        """Masks of both views for ``image`` (B, C, *S): bool (2, B, 1, *S), ``True`` = hidden."""
        generator = self.masks.on(image.device)
        return torch.stack([self.hide_intensities(image, generator), self.hide_patches(image, generator)])

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Reconstruct ``image`` (B, C, *S), values in [0, 1], from both masked views.

        Returns:
            ``reconstruction`` float32 (2, B, C, *S) in [0, 1]; ``target`` (2, B, C, *S), the image seen twice;
            ``mask`` bool (2, B, 1, *S), ``True`` = hidden; ``embeddings`` float32 (2, B, E); ``fill``; and ``stats``,
            0-d tensors: hidden voxel share of each view, and the spread of the embeddings over the cases (0 for a
            single case). View 0 hides intensities, view 1 patches.
        """
        image = image.as_subclass(Tensor).float()  # metadata costs time in every operation
        mask = self.draw_masks(image)
        reconstructions, embeddings = [], []
        for hidden in mask:
            features = self.network.encode(image.masked_fill(hidden, self.fill))
            embeddings.append(self.projector(features[-1]).float())
            # a sigmoid in half precision is coarse where SSIM's variances are small
            reconstructions.append(self.network.head(self.network.decode(features)).float().sigmoid())
        shares = mask.flatten(1).float().mean(1)
        stats = {f"mask_share_{view}": share for view, share in zip(VIEWS, shares, strict=True)}
        stats["embedding_spread"] = torch.stack([embedding_spread(e) for e in embeddings]).mean()
        return {
            "reconstruction": torch.stack(reconstructions),
            "target": image.expand(len(VIEWS), *image.shape),
            "mask": mask,
            "embeddings": torch.stack(embeddings),
            "fill": self.fill,
            "stats": stats,
        }


class ISDMAELoss(nn.Module):
    """``(1 - SSIM)`` of both reconstructions over the whole image, plus the contrast of the embeddings.

    ISD-MAE Eq. 14-16, all weights 1. A learnable logit scale is a parameter of this module: give the optimizer
    ``list(method.parameters()) + list(loss.parameters())``.

    Args:
        spatial_dims: 2 or 3.
        ssim_window: edge of the Gaussian window in voxels; ``None`` is 15 in 2D and 7 in 3D (released code).
        contrastive_weight: weight of the contrastive term.
        logit_scale: factor of the cosines: 2.6593 = ln(1/0.07) (paper and code) or 14.2857 = 1/0.07 (CLIP).
        learnable: train the factor.
        queue_size: embeddings of earlier batches kept as negatives, for small batches.
        embedding_features: length of the embeddings.
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 3,
        ssim_window: int | None = None,
        contrastive_weight: float = 1.0,
        logit_scale: float = 2.6593,
        learnable: bool = False,
        queue_size: int = 0,
        embedding_features: int = 128,
    ) -> None:
        super().__init__()
        if contrastive_weight < 0:
            raise ValueError(f"contrastive_weight: got {contrastive_weight}. Give 0 or more.")
        self.contrastive_weight = contrastive_weight
        self.ssim = SSIMLoss(spatial_dims=spatial_dims, window_size=ssim_window)
        self.contrastive = SymmetricContrastiveLoss(
            logit_scale=logit_scale, learnable=learnable, queue_size=queue_size, embedding_features=embedding_features
        )

    def forward(self, outputs: dict[str, Any], target: Tensor | None = None) -> Tensor:
        """Scalar loss of what :class:`ISDMAE` returns; its parts go into ``outputs["losses"]``.

        Args:
            outputs: see :meth:`ISDMAE.forward`.
            target: what MONAI's trainer passes; unused, ``outputs`` holds the target.
        """
        del target
        parts = ssim_of_views(self.ssim, outputs, VIEWS)
        parts["contrastive"] = self.contrastive(*outputs["embeddings"])
        return total_loss(outputs, parts, contrastive=self.contrastive_weight)
