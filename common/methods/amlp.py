"""AMLP: the patches that k-means calls lesion are hidden first, ever more of them, and reconstructed by a plain U-Net.

Source: "AMLP: adaptive masking lesion patches", arXiv 2309.04312, sections 3.1 to 3.4. No code was published. Where the
text contradicts itself or cannot train as printed, the defaults follow METHODS.md (decision table, rows 14-17) and a
switch keeps the alternative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.losses.consistency import (
    DISAGREEMENTS,
    attention_reconstruction_loss,
    category_consistency_loss,
    foreground_logit,
    mean_over_hidden,
    update_categories,
)
from common.losses.reconstruction import patch_loss_map
from common.losses.total import total_loss
from common.masking.enclosed import enclosed_by_tissue
from common.masking.generator import MaskGenerator
from common.masking.lesion import (
    ORDERS,
    PatchClusters,
    cluster_patches,
    eligible_patches,
    lesion_mask,
    n_lesion_patches,
)
from common.masking.patches import as_patch_size, patchify, upsample_patch_mask
from common.masking.schedules import linear, log


class AMLP(nn.Module):
    """Clusters the patches of an image, hides the foreground first, and reconstructs the image.

    The ablations of the paper's Table 3: ``order="random"`` is without patch selection (MPS), ``mask_ratio_start``
    equal to ``mask_ratio_end`` without the adaptive ratio (AMR), and zero weights in :class:`AMLPLoss` without the two
    further losses (CRCL).

    Args:
        network: takes and gives (B, C, *S), e.g. ``monai.networks.nets.BasicUNet``; what is saved and transferred.
        spatial_dims: 2 or 3.
        patch_size: edge of a patch in voxels, or one per axis; must divide the image.
        mask_ratio_start: share of hidden patches in the first step (paper: 0.25).
        mask_ratio_end: the largest share (the paper gives none).
        ramp_epochs: E of the ratio's logarithm: how bent it is, see :func:`common.masking.schedules.log`.
        tau: of the logarithm; ``None`` reaches ``mask_ratio_end`` with the last step.
        order: ``"lesion_first"`` (paper, section 3.1), ``"background_first"`` or ``"random"``.
        order_noise: Gumbel noise on the log-probability of being foreground. 0 (paper) hides the same patches of an
            image every time.
        n_clusters: 2 in the paper; the smallest cluster is the foreground.
        exclude_background: cluster only patches that lie in the body by half, see
            :func:`common.masking.enclosed.enclosed_by_tissue`; the others are hidden last.
        tissue_level: value above which a voxel is tissue.
        fill: value of hidden voxels; the paper's is the mean of the image (0 after normalisation).
        mask_seed: start of the masks' random stream; :meth:`seed_masks` starts it anew.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        spatial_dims: int = 3,
        patch_size: int | Sequence[int] = 16,
        mask_ratio_start: float = 0.25,
        mask_ratio_end: float = 0.75,
        ramp_epochs: float = 100,
        tau: float | None = None,
        order: str = "lesion_first",
        order_noise: float = 0.0,
        n_clusters: int = 2,
        exclude_background: bool = True,
        tissue_level: float = 0.5,
        fill: float = 0.5,
        mask_seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < mask_ratio_start <= mask_ratio_end < 1:
            raise ValueError(
                f"mask_ratio_start, mask_ratio_end: got {mask_ratio_start} and {mask_ratio_end}. "
                "Give shares above 0 and below 1, the second at least as large."
            )
        if order not in ORDERS:
            raise ValueError(f"order: got {order!r}. Allowed are {', '.join(map(repr, ORDERS))}.")
        if order_noise < 0:
            raise ValueError(f"order_noise: got {order_noise}. Give 0 or more.")
        if n_clusters < 2:
            raise ValueError(f"n_clusters: got {n_clusters}. Give at least 2.")
        log(0.0, mask_ratio_start, mask_ratio_end, epochs=ramp_epochs)  # refuses what makes no ramp
        if tau is not None and not tau > 0:
            raise ValueError(f"tau: got {tau}. Give a number above 0, or none.")
        self.network = network
        self.patch_size = as_patch_size(patch_size, spatial_dims)
        self.mask_ratio_start = mask_ratio_start
        self.mask_ratio_end = mask_ratio_end
        self.ramp_epochs = ramp_epochs
        self.tau = tau
        self.order = order
        self.order_noise = order_noise
        self.n_clusters = n_clusters
        self.exclude_background = exclude_background
        self.tissue_level = tissue_level
        self.fill = fill
        self.progress = 0.0
        self.masks = MaskGenerator(mask_seed)

    def seed_masks(self, seed: int) -> None:
        """Start the masks' random stream anew."""
        self.masks.seed(seed)

    def set_progress(self, progress: float) -> None:
        """How much of the training is done, in [0, 1]; the share of hidden patches follows."""
        self.progress = progress

    @property
    def mask_ratio(self) -> float:
        """Share of the patches that is hidden now (Eq. 9, clamped)."""
        start, end = self.mask_ratio_start, self.mask_ratio_end
        if start == end:
            return start
        return log(self.progress, start, end, epochs=self.ramp_epochs, tau=self.tau)

    @torch.no_grad()
    def cluster(self, image: Tensor) -> PatchClusters:
        """Foreground and background among the patches of ``image`` (B, C, *S)."""
        eligible = None
        if self.exclude_background:
            body = enclosed_by_tissue(image[:, :1] > self.tissue_level)
            eligible = eligible_patches(body, self.patch_size)
        return cluster_patches(patchify(image, self.patch_size), n_clusters=self.n_clusters, eligible=eligible)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Reconstruct ``image`` (B, C, *S), values in [0, 1], from what is left of it.

        Returns:
            the dictionary of :mod:`common.methods`, V = 1; per patch (B, n) in the order of the grid ``patch_mask``,
            ``foreground``, ``clustered`` (took part in the clustering) and ``coin`` (heads or tails); ``centroids``
            (B, K, D); ``progress`` and ``patch_size``; and in ``regions``, for pictures, the foreground as voxels.
        """
        image = image.as_subclass(Tensor)  # metadata costs time in every operation
        clusters = self.cluster(image)
        n = clusters.foreground.shape[1]
        generator = self.masks.on(image.device)
        hidden = lesion_mask(
            clusters,
            n_masked=n_lesion_patches(n, self.mask_ratio),
            order=self.order,
            order_noise=self.order_noise,
            generator=generator,
        )
        coin = torch.rand(hidden.shape, generator=generator, device=image.device) < 0.5
        mask = self._to_voxels(hidden, image)
        reconstruction = self.network(image.masked_fill(mask, self.fill)).float()
        return {
            "reconstruction": reconstruction[None],
            "target": image[None],
            "mask": mask[None],
            "fill": self.fill,
            "patch_mask": hidden,
            "foreground": clusters.foreground,
            "clustered": clusters.eligible & clusters.split[:, None],
            "coin": coin,
            "centroids": clusters.centroids,
            "patch_size": self.patch_size,
            "progress": self.progress,
            "regions": {"k-means foreground": self._to_voxels(clusters.foreground, image)[None]},
            "stats": {
                "mask_share": mask.float().mean(),
                "foreground_share": clusters.foreground.float().mean(),
                "foreground_hidden": (clusters.foreground & hidden).sum() / clusters.foreground.sum().clamp(min=1),
            },
        }

    def _to_voxels(self, patches: Tensor, image: Tensor) -> Tensor:
        """Patches (B, n) as voxels (B, 1, *S)."""
        shape = image.shape[2:]
        grid = [size // edge for size, edge in zip(shape, self.patch_size, strict=True)]
        return upsample_patch_mask(patches.view(-1, *grid), self.patch_size, shape)


class AMLPLoss(nn.Module):
    """Mean squared error of the hidden patches, plus attention reconstruction and category consistency (Eq. 6-8).

    Errors and distances count in standard deviations of the image, as those of the paper's normalised images do.

    Args:
        attention_weight: of the attention reconstruction loss; 0 leaves it out.
        consistency_weight: of the category consistency loss (paper: 1, which outweighs a falling squared error).
        consistency_ramp: share of the training in which that weight grows from 0, in [0, 1].
        intensity_sd: standard deviation of images in [0, 1], the unit of errors and distances. 0.3 is that of chest CT
            within the body, in wide and in narrow windows.
        temperature: t of the soft assignment to the clusters.
        disagreement: ``"coin"`` (paper) or ``"half"``, see :func:`common.losses.consistency.update_categories`.
        literal_attention: Eq. 6 as printed: adds 1 and no gradient.
        literal_consistency: Eq. 7 as printed: adds a number and no gradient.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        *,
        attention_weight: float = 1.0,
        consistency_weight: float = 0.1,
        consistency_ramp: float = 0.1,
        intensity_sd: float = 0.3,
        temperature: float = 1.0,
        disagreement: str = "coin",
        literal_attention: bool = False,
        literal_consistency: bool = False,
    ) -> None:
        super().__init__()
        if min(attention_weight, consistency_weight) < 0 or not 0 <= consistency_ramp <= 1:
            raise ValueError(
                f"attention_weight, consistency_weight, consistency_ramp: got {attention_weight}, {consistency_weight} "
                f"and {consistency_ramp}. Give weights of 0 or more, and a share of the training."
            )
        if not (intensity_sd > 0 and temperature > 0):
            raise ValueError(f"intensity_sd, temperature: got {intensity_sd} and {temperature}. Both must be above 0.")
        if disagreement not in DISAGREEMENTS:
            raise ValueError(f"disagreement: got {disagreement!r}. Allowed are {', '.join(map(repr, DISAGREEMENTS))}.")
        self.attention_weight = attention_weight
        self.consistency_weight = consistency_weight
        self.consistency_ramp = consistency_ramp
        self.intensity_sd = intensity_sd
        self.temperature = temperature
        self.disagreement = disagreement
        self.literal_attention = literal_attention
        self.literal_consistency = literal_consistency

    def forward(self, outputs: dict[str, Any], target: Tensor | None = None) -> Tensor:
        """Scalar loss of what :class:`AMLP` returns; its parts, weighted, go into ``outputs["losses"]``.

        Args:
            outputs: see :meth:`AMLP.forward`.
            target: what MONAI's trainer passes; unused, ``outputs`` holds the target.
        """
        del target
        reconstruction, image, hidden = outputs["reconstruction"][0], outputs["target"][0], outputs["patch_mask"]
        errors = patch_loss_map(reconstruction, image, patch_size=outputs["patch_size"]) / self.intensity_sd**2
        parts = {"reconstruction": mean_over_hidden(errors, hidden).mean()}
        if self.attention_weight:
            attention = attention_reconstruction_loss(errors, hidden, literal=self.literal_attention)
            parts["attention"] = self.attention_weight * attention
        if self.consistency_weight:
            parts["consistency"] = self._weight_now(outputs["progress"]) * self._consistency(outputs, errors)
        return total_loss(outputs, parts)

    def _weight_now(self, progress: float) -> float:
        if not self.consistency_ramp:
            return self.consistency_weight
        return linear(progress / self.consistency_ramp, 0.0, self.consistency_weight)

    def _consistency(self, outputs: dict[str, Any], errors: Tensor) -> Tensor:
        hidden, foreground = outputs["patch_mask"], outputs["foreground"]
        category = update_categories(errors, hidden, foreground, outputs["coin"], disagreement=self.disagreement)
        logit = foreground_logit(
            patchify(outputs["reconstruction"][0].float(), outputs["patch_size"]),
            outputs["centroids"],
            scale=self.intensity_sd,
            temperature=self.temperature,
        )
        counted = hidden & outputs["clustered"]
        return category_consistency_loss(logit, foreground, category, counted, literal=self.literal_consistency)
