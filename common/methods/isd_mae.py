"""ISD-MAE: intensity- and spatially-masked views of one image, both reconstructed, their embeddings pulled together.

Ding, Wang, Lyu, "Intensity-Spatial Dual Masked AutoEncoder for Multi-Scale Feature Learning in Chest CT Segmentation"
(arXiv 2411.13198). Where the released code differs from the paper, both are switches; docs/isd_mae.md lists them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from common.losses.contrastive import SymmetricContrastiveLoss, embedding_spread
from common.losses.ssim import SSIMLoss
from common.masking.generator import MaskGenerator
from common.masking.intensity import intensity_mask, luminosity, n_masked_bins
from common.masking.patches import (
    as_patch_size,
    check_mask_ratio,
    check_rule,
    grid_size,
    patch_mask,
    upsample_patch_mask,
)
from common.networks.heads import ProjectionHead


class ISDMAE(nn.Module):
    """Two passes of one autoencoder: random intensity intervals hidden, random patches hidden (paper Sec. III, Fig. 1).

    Args:
        network: has ``encode(image) -> maps``, ``decode(maps)``, ``head`` (to the image's channels), ``spatial_dims``
            and ``encoder.channels``; it is what is kept after pretraining.
        n_bins: K, intervals that [0, 1] is divided into (Eq. 9).
        intensity_mask_ratio: share of the intervals that is hidden: floor(ratio * K) of them (Eq. 11).
        replacement: draw intervals with replacement, as the released code does.
        binning: ``"uniform"`` intervals (paper), or ``"quantile"``: equally many voxels in each.
        exclude_background: voxels that are 0 in every channel (air outside the windows) are never hidden by intensity.
        gray: what is binned: ``"luminosity"`` of three channels, or the index of one channel.
        patch_mask_ratio: share of the patches that is hidden.
        patch_size: edge of a patch, voxels.
        rule: how many patches that is (``floor_keep`` as in MAE; ``bernoulli`` as in the released code).
        pool: of the projection: ``"avg"`` (paper) or ``"max"`` (released code).
        embedding_features: length of the embeddings.
        fill: value of hidden voxels (Eq. 12: 0).
    """

    def __init__(
        self,
        network: Any,
        *,
        n_bins: int = 16,
        intensity_mask_ratio: float = 0.25,
        replacement: bool = False,
        binning: str = "uniform",
        exclude_background: bool = False,
        gray: str | int = "luminosity",
        patch_mask_ratio: float = 0.5,
        patch_size: int = 16,
        rule: str = "floor_keep",
        pool: str = "avg",
        embedding_features: int = 128,
        fill: float = 0.0,
    ) -> None:
        super().__init__()
        n_masked_bins(n_bins, intensity_mask_ratio)  # refuses what cannot be drawn
        if gray != "luminosity" and not isinstance(gray, int):
            msg = f"gray: got {gray!r}. Give 'luminosity' or the index of a channel."
            raise ValueError(msg)
        self.network = network
        self.spatial_dims = int(network.spatial_dims)
        self.n_bins = n_bins
        self.intensity_mask_ratio = intensity_mask_ratio
        self.replacement = replacement
        self.binning = binning
        self.exclude_background = exclude_background
        self.gray = gray
        self.patch_mask_ratio = check_mask_ratio(patch_mask_ratio)
        self.patch_size = as_patch_size(patch_size, self.spatial_dims)
        self.rule = check_rule(rule)
        self.fill = fill
        self.projection = ProjectionHead(
            spatial_dims=self.spatial_dims,
            in_channels=network.encoder.channels[-1],
            out_features=embedding_features,
            pool=pool,
        )
        self.masks = MaskGenerator()

    def seed_masks(self, seed: int) -> None:
        """Start the masks' random stream anew."""
        self.masks.seed(seed)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Reconstruct both views of ``image`` (B, C, *S) in [0, 1]; V = 2: intensity, patches.

        Returns:
            the dictionary of :mod:`common.methods`.
        """
        with torch.no_grad():
            mask = torch.stack([self.intensity_view(image), self.patch_view(image)])
        passes = [self._reconstruct(torch.where(hidden, self.fill, image)) for hidden in mask]
        reconstruction, embeddings = (torch.stack(parts) for parts in zip(*passes, strict=True))
        return {
            "reconstruction": reconstruction,
            "target": image.expand(2, *image.shape),
            "mask": mask,
            "fill": self.fill,
            "embeddings": embeddings,
            "stats": {
                "mask_share_intensity": mask[0].float().mean(),
                "mask_share_patch": mask[1].float().mean(),
                "embedding_spread": embedding_spread(embeddings[0].detach()),
            },
        }

    def intensity_view(self, image: Tensor) -> Tensor:
        """Hidden voxels (B, 1, *S) of the intensity mask (Eq. 8-12)."""
        gray = image[:, [self.gray]] if isinstance(self.gray, int) else luminosity(image)
        hidden, _ = intensity_mask(
            gray,
            n_bins=self.n_bins,
            mask_ratio=self.intensity_mask_ratio,
            generator=self.masks.on(image.device),
            replacement=self.replacement,
            binning=self.binning,
            eligible=(image > 0).any(1, keepdim=True) if self.exclude_background else None,
        )
        return hidden

    def patch_view(self, image: Tensor) -> Tensor:
        """Hidden voxels (B, 1, *S) of the patch mask."""
        shape = image.shape[2:]
        hidden = patch_mask(
            image.shape[0],
            grid_size(shape, self.patch_size),
            mask_ratio=self.patch_mask_ratio,
            rule=self.rule,
            generator=self.masks.on(image.device),
            device=image.device,
        )
        return upsample_patch_mask(hidden, self.patch_size, shape)

    def _reconstruct(self, view: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.encode(view)
        logits = self.network.head(self.network.decode(features))
        return torch.sigmoid(logits.float()), self.projection(features[-1]).float()


class ISDMAELoss(nn.Module):
    """SSIM loss of both reconstructions plus the symmetric contrastive loss, all weights 1 (paper Eq. 14-17).

    SSIM compares whole images, as the paper's text and code do; Eq. 14 writes the masked inputs by mistake.

    Args:
        spatial_dims: 2 or 3.
        ssim_window: edge of the Gaussian window, voxels; default 15 in 2D and 7 in 3D.
        contrastive_weight: of the contrastive term; 0 leaves it out.
        logit_scale: ln(1/0.07) = 2.6593 is what paper and code use; CLIP's own would be 1/0.07 = 14.2857.
        learnable: learn the logit scale.
        queue_size: earlier embeddings kept as negatives; needed when a batch holds one image.
        embedding_features: length of the embeddings, for the queue.
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
            msg = f"contrastive_weight: got {contrastive_weight}. Give 0 or more."
            raise ValueError(msg)
        self.ssim = SSIMLoss(spatial_dims=spatial_dims, window_size=ssim_window)
        self.contrastive = SymmetricContrastiveLoss(
            logit_scale=logit_scale,
            learnable=learnable,
            queue_size=queue_size,
            embedding_features=embedding_features,
        )
        self.contrastive_weight = contrastive_weight

    def forward(self, outputs: dict[str, Any], target: Any = None) -> Tensor:  # noqa: ARG002 (the engine passes one)
        """Scalar loss of :class:`ISDMAE`'s outputs; writes ``outputs["losses"]``."""
        reconstruction, image = outputs["reconstruction"], outputs["target"]
        parts = {
            "ssim_intensity": self.ssim(reconstruction[0], image[0]),
            "ssim_patch": self.ssim(reconstruction[1], image[1]),
        }
        if self.contrastive_weight > 0:
            a, b = outputs["embeddings"]
            parts["contrastive"] = self.contrastive_weight * self.contrastive(a, b)
        outputs["losses"] = {name: part.detach() for name, part in parts.items()}
        return torch.stack(list(parts.values())).sum()
