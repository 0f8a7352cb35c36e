"""TCS-MAE: one pass with hidden tissues, one with the whole image, both reconstruct it and agree at several levels.

Source: "TCS-MAE", arXiv 2407.08961, Eq. 1-17. Where paper and released code disagree, the defaults follow METHODS.md
(decision table, rows 7-9) and a switch keeps the alternative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.losses.contrastive import embedding_spread
from common.losses.level_contrast import LevelContrast
from common.losses.ssim import SSIMLoss
from common.losses.total import total_loss
from common.masking.generator import MaskGenerator
from common.methods.augmentation import random_affine, warp
from common.methods.views import IntensityView, PatchView, check_reconstructs, ssim_of_views
from common.networks.heads import ProjectionHead
from common.networks.mit_unet import MixTransformerUNet

VIEWS = ("masked", "unmasked")
MASKS = ("tissue", "patch")
AUGMENTATIONS = ("same", "independent")


class TCSMAE(nn.Module):
    """Reconstructs an image from a masked view of it and from itself, and embeds the levels of both.

    Args:
        network: reconstructs its input: as many outputs as input channels. Its encoder, decoder and head are what is
            saved and transferred.
        mask: ``"tissue"`` hides intensity intervals (paper), ``"patch"`` hides patches (its Table IV).
        mask_ratio: share of hidden intervals, exactly ``floor(ratio * K)`` of them, or of hidden patches. The share of
            hidden voxels is another: ``stats`` has it.
        n_bins: K, intensity intervals in [0, 1].
        replacement: draw intervals with replacement (released code).
        binning: ``"uniform"`` intervals, or ``"quantile"`` ones that hold equally many voxels of the image.
        gray: ``"luminosity"`` of three channels (of one: the channel itself), or the index of a channel.
        exclude_background: neither hide nor count the air around the body when tissues are hidden, see
            :func:`common.masking.enclosed.enclosed_by_tissue`.
        tissue_level: value of the first channel above which a voxel is tissue; 0.5 is -500 HU in the lung window.
        patch_size: edge of a patch in voxels, or one per axis.
        patch_rule: how the ratio becomes a number of patches, see :func:`common.masking.patches.n_masked_patches`.
        fill: value of hidden voxels.
        levels: which of the encoder's levels F2 (finest) to F5 are embedded; F1 of the paper is no map of a Mix
            Transformer. ``()`` embeds none, for a loss without contrast.
        embedding_features: length of the embeddings.
        pool: of a map before its projection: ``"avg"``, or ``"max"`` (released code).
        augmentation: ``"same"`` image in both views (paper), or ``"independent"`` random rotation, shift and scale of
            each (released code).
        rotate_degrees: largest rotation of independent views.
        translate: their largest shift, in parts of the size.
        scale: their largest relative change of size.
        concatenate: both views in one pass instead of one after the other. The same without batch norm, which then
            mixes their statistics; a fifth slower on a CPU.
        mask_seed: start of the masks' random stream; :meth:`seed_masks` starts it anew.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        network: MixTransformerUNet,
        *,
        mask: str = "tissue",
        mask_ratio: float = 0.75,
        n_bins: int = 8,
        replacement: bool = False,
        binning: str = "uniform",
        gray: str | int = "luminosity",
        exclude_background: bool = False,
        tissue_level: float = 0.5,
        patch_size: int | Sequence[int] = 16,
        patch_rule: str = "floor_keep",
        fill: float = 0.0,
        levels: Sequence[int] = (4, 5),
        embedding_features: int = 128,
        pool: str = "avg",
        augmentation: str = "same",
        rotate_degrees: float = 20.0,
        translate: float = 0.05,
        scale: float = 0.1,
        concatenate: bool = False,
        mask_seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, allowed in (("mask", mask, MASKS), ("augmentation", augmentation, AUGMENTATIONS)):
            if value not in allowed:
                raise ValueError(f"{name}: got {value!r}. Allowed are {', '.join(map(repr, allowed))}.")
        check_reconstructs(network)
        finest, deepest = 2, 1 + len(network.encoder.channels)
        if len(set(levels)) != len(levels) or not all(finest <= level <= deepest for level in levels):
            raise ValueError(f"levels: got {list(levels)}. Give different ones of {finest} (finest) to {deepest}.")
        if min(rotate_degrees, translate, scale) < 0 or scale >= 1:
            raise ValueError(
                f"rotate_degrees, translate, scale: got {rotate_degrees}, {translate} and {scale}. Give 0 or more, "
                "and a scale below 1."
            )
        self.network = network
        self.levels = tuple(sorted(levels))
        self.projectors = nn.ModuleList(
            ProjectionHead(
                spatial_dims=network.spatial_dims,
                in_channels=network.encoder.channels[level - finest],
                out_features=embedding_features,
                pool=pool,
            )
            for level in self.levels
        )
        self.mask = mask
        self.hide: IntensityView | PatchView
        if mask == "tissue":
            self.hide = IntensityView(
                channels=network.in_channels,
                n_bins=n_bins,
                mask_ratio=mask_ratio,
                replacement=replacement,
                binning=binning,
                gray=gray,
                exclude_background=exclude_background,
                tissue_level=tissue_level,
            )
        else:
            self.hide = PatchView(
                spatial_dims=network.spatial_dims, patch_size=patch_size, mask_ratio=mask_ratio, rule=patch_rule
            )
        self.fill = fill
        self.augmentation = augmentation
        self.rotate_degrees, self.translate, self.scale = rotate_degrees, translate, scale
        self.concatenate = concatenate
        self.masks = MaskGenerator(mask_seed)

    def seed_masks(self, seed: int) -> None:
        """Start the masks' random stream anew."""
        self.masks.seed(seed)

    def draw_mask(self, image: Tensor) -> Tensor:
        """Mask of the masked view of ``image`` (B, C, *S): bool (B, 1, *S), ``True`` = hidden."""
        return self.hide(image, self.masks.on(image.device))

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Reconstruct ``image`` (B, C, *S), values in [0, 1], from its masked view and from itself.

        Returns:
            ``reconstruction`` float32 (2, B, C, *S) in [0, 1]; ``target`` (2, B, C, *S), the image seen twice, or both
            augmented images; ``mask`` bool (2, B, 1, *S), ``True`` = hidden, nowhere in view 1; ``embeddings`` float32
            (2, B, L, E), levels from fine to deep; ``fill``; and ``stats``, 0-d tensors.
        """
        image = image.as_subclass(Tensor)  # metadata costs time in every operation
        target = self._augmented(image)
        hidden = self.draw_mask(target[0])
        views = [target[0].masked_fill(hidden, self.fill), target[1]]
        passes = [self._pass(torch.cat(views))] if self.concatenate else [self._pass(view) for view in views]
        reconstruction, embeddings = (torch.cat(parts).unflatten(0, (2, -1)) for parts in zip(*passes, strict=True))
        outputs = {
            "reconstruction": reconstruction,
            "target": target,
            "mask": torch.stack([hidden, torch.zeros_like(hidden)]),
            "fill": self.fill,
            "stats": {f"mask_share_{self.mask}": hidden.float().mean()},
        }
        if self.levels:
            outputs["embeddings"] = embeddings
            spread = [embedding_spread(e) for e in embeddings.detach().flatten(0, 1).unbind(1)]
            outputs["stats"] |= {f"embedding_spread_f{n}": s for n, s in zip(self.levels, spread, strict=True)}
        return outputs

    @torch.no_grad()
    def _augmented(self, image: Tensor) -> Tensor:
        """Image of both views, (2, B, C, *S)."""
        if self.augmentation == "same":
            return image.expand(2, *image.shape)
        views = []
        for _ in VIEWS:
            transform = random_affine(
                image.shape[0],
                image.shape[2:],
                rotate_degrees=self.rotate_degrees,
                translate=self.translate,
                scale=self.scale,
                generator=self.masks.on(image.device),
                device=image.device,
            )
            views.append(warp(image, transform))
        return torch.stack(views)

    def _pass(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction (N, C, *S) and embeddings (N, L, E) of views (N, C, *S)."""
        features = self.network.encode(view)
        # a sigmoid in half precision is coarse where SSIM's variances are small
        made = self.network.head(self.network.decode(features)).float().sigmoid()
        embedded = [
            project(features[level - 2]).float() for level, project in zip(self.levels, self.projectors, strict=True)
        ]
        return made, torch.stack(embedded, dim=1) if embedded else made.new_zeros(len(made), 0, 0)


class TCSMAELoss(nn.Module):
    """``(1 - SSIM)`` of both reconstructions over the whole image, plus the contrast of the levels (Eq. 14-17).

    Eq. 14 is typeset like a fraction; it is the sum, as the code has it. The temperature is a parameter of this module:
    give the optimizer ``list(method.parameters()) + list(loss.parameters())``.

    Args:
        spatial_dims: 2 or 3.
        ssim_window: edge of the Gaussian window in voxels; ``None`` is 15 in 2D (released code) and 7 in 3D.
        contrast: ``"ntxent"`` (paper), ``"cosine_x1000"`` (released code) or ``"none"`` (the paper's "Scales 0").
        contrastive_weight: lambda, weight of the contrastive term.
        temperature: of NT-Xent at the start.
        learnable: train the temperature (paper).

    Raises:
        ValueError: for an argument out of range, or when ``contrast`` finds no embeddings.
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 3,
        ssim_window: int | None = None,
        contrast: str = "ntxent",
        contrastive_weight: float = 1.0,
        temperature: float = 0.07,
        learnable: bool = True,
    ) -> None:
        super().__init__()
        if contrastive_weight < 0:
            raise ValueError(f"contrastive_weight: got {contrastive_weight}. Give 0 or more.")
        self.contrastive_weight = contrastive_weight
        self.ssim = SSIMLoss(spatial_dims=spatial_dims, window_size=ssim_window)
        self.contrast = LevelContrast(kind=contrast, temperature=temperature, learnable=learnable)

    def forward(self, outputs: dict[str, Any], target: Tensor | None = None) -> Tensor:
        """Scalar loss of what :class:`TCSMAE` returns; its parts go into ``outputs["losses"]``.

        Args:
            outputs: see :meth:`TCSMAE.forward`.
            target: what MONAI's trainer passes; unused, ``outputs`` holds the target.
        """
        del target
        parts = ssim_of_views(self.ssim, outputs, VIEWS)
        if self.contrast.kind != "none":
            if "embeddings" not in outputs:
                raise ValueError(
                    f"contrast: {self.contrast.kind!r} compares embeddings, and there are none. Give levels."
                )
            parts["contrastive"] = self.contrast(*outputs["embeddings"])
            if self.contrast.kind == "ntxent":
                outputs["stats"]["temperature"] = self.contrast.temperature.detach()
        return total_loss(outputs, parts, contrastive=self.contrastive_weight)
