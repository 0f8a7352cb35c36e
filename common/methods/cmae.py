"""CMAE: a masked autoencoder whose encoder must also recognise the image in a shifted view, seen by its slow copy.

Source: Huang et al., "Contrastive Masked Autoencoders are Stronger Vision Learners" (arXiv 2207.13532) and its released
code, ``ZhichengHuang/CMAE``; what a U-Net cannot take over is told in docs/baselines.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.losses.contrastive import clip_loss, embedding_spread, gather_embeddings
from common.losses.reconstruction import mean_error
from common.losses.total import total_loss
from common.masking.generator import MaskGenerator
from common.methods.augmentation import jitter_intensity, shift_voxels
from common.methods.teacher import EMATeacher
from common.methods.views import PatchView, check_reconstructs
from common.networks.heads import Embedder, ProjectionHead, mlp
from common.networks.masked_autoencoder import TokenDecoder
from common.networks.mit_unet import MixTransformerUNet

_N_HEADS = 8
_SHIFT = {2: 31 / 224, 3: 8 / 96}
_JITTER = {"strength": 0.4, "probability": 0.8}  # released code


class CMAE(nn.Module):
    """Reconstructs hidden patches, and predicts the embedding that a slow copy has of the whole, shifted image.

    Args:
        network: reconstructs its input. Its encoder, decoder and head are what is saved and transferred.
        patch_size: edge of a patch in voxels, or one per axis.
        mask_ratio: hidden share of the patches, above 0.
        fill: value of hidden voxels.
        max_shift: of the second view along each axis, in parts of its size; ``None`` is 31 / 224 in 2D (released code)
            and 8 / 96 in 3D.
        jitter: change brightness and contrast of the second view (released code: by up to 0.4, in 0.8 of the cases).
        momentum: of the slow copy.
        feature_depth: transformer blocks of the feature decoder.
        embedding_features: E, length of an embedding.
        hidden_features: width of the hidden layer of projector and predictor.
        norm: of that layer, see :func:`common.networks.heads.hidden_layer`; as in the released code, the network's
            embeddings and those of the slow copy are normalised each by themselves.
        mask_seed: start of the random stream of masks and views; :meth:`seed_masks` starts it anew.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        network: MixTransformerUNet,
        *,
        patch_size: int | Sequence[int] = 16,
        mask_ratio: float = 0.75,
        fill: float = 0.0,
        max_shift: float | None = None,
        jitter: bool = True,
        momentum: float = 0.996,
        feature_depth: int = 2,
        embedding_features: int = 256,
        hidden_features: int = 1536,
        norm: str = "batch",
        mask_seed: int = 0,
    ) -> None:
        super().__init__()
        check_reconstructs(network)
        dims, channels = network.spatial_dims, network.encoder.channels[-1]
        max_shift = _SHIFT[dims] if max_shift is None else max_shift
        if not 0 <= max_shift < 1:
            raise ValueError(f"max_shift: got {max_shift}. Give a part of the image, at least 0 and below 1.")
        self.network = network
        self.hide_patches = PatchView(
            spatial_dims=dims, patch_size=patch_size, mask_ratio=mask_ratio, hides_something=True
        )
        self.feature_decoder = TokenDecoder(
            hidden_size=channels, depth=feature_depth, n_heads=_N_HEADS, out_channels=channels
        )
        self.projector = ProjectionHead(
            spatial_dims=dims,
            in_channels=channels,
            out_features=embedding_features,
            hidden_features=hidden_features,
            norm=norm,
        )
        self.predictor = mlp(embedding_features, hidden_features, embedding_features, norm=norm)
        self.fill = fill
        self.max_shift = max_shift
        self.jitter = jitter
        self.masks = MaskGenerator(mask_seed)
        self.teacher = EMATeacher(self._embedder(), momentum_start=momentum, momentum_end=momentum, ramp=0)

    def _embedder(self) -> Embedder:
        return Embedder(self.network.encoder, self.projector)

    def seed_masks(self, seed: int) -> None:
        """Start the random stream of masks and views anew."""
        self.masks.seed(seed)

    def update_teacher(self) -> None:
        """Let the slow copy follow, after a step of the optimizer."""
        self.teacher.update(self._embedder(), 0.0)

    @torch.no_grad()
    def second_view(self, image: Tensor) -> Tensor:
        """The whole of ``image`` (B, C, *S), shifted, and brighter or darker."""
        generator = self.masks.on(image.device)
        shifts = [
            torch.randint(round(self.max_shift * size) + 1, (len(image),), generator=generator, device=image.device)
            for size in image.shape[2:]
        ]
        view = shift_voxels(image, torch.stack(shifts, dim=1))
        return jitter_intensity(view, **_JITTER, generator=generator) if self.jitter else view

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Reconstruct ``image`` (B, C, *S), values in [0, 1], and embed it.

        Returns:
            the dictionary of :mod:`common.methods`, V = 1, with the second view among ``images``; and the embeddings
            that are compared, float32 (B, E) each: ``predictions`` from the masked image, ``keys`` of the second view,
            without gradient, which are the ``embeddings`` (1, B, E), too.
        """
        image = image.as_subclass(Tensor).float()
        mask = self.hide_patches(image, self.masks.on(image.device))
        view = self.second_view(image)
        features = self.network.encode(image.masked_fill(mask, self.fill))
        made = self.network.head(self.network.decode(features)).float()
        deepest = features[-1]
        tokens = self.feature_decoder(deepest.flatten(2).transpose(1, 2))
        completed = tokens.transpose(1, 2).unflatten(2, deepest.shape[2:])
        keys = self.teacher(view)
        return {
            "reconstruction": made.unsqueeze(0),
            "target": image.unsqueeze(0),
            "mask": mask.unsqueeze(0),
            "fill": self.fill,
            "images": {"second view": view.unsqueeze(0)},
            "predictions": self.predictor(self.projector(completed)).float(),
            "keys": keys,
            "embeddings": keys.unsqueeze(0),
            "stats": {"mask_share": mask.float().mean(), "embedding_spread": embedding_spread(keys)},
        }


class CMAELoss(nn.Module):
    """Squared error of the hidden voxels, plus InfoNCE of the predictions among the batch's keys.

    In distributed training the keys of all ranks are negatives. A batch of one case has none, and its contrastive term
    is 0.

    Args:
        temperature: divides the cosines.
        contrastive_weight: of the contrastive term: 1 (paper); the released code multiplies by twice the temperature
            besides, which is 0.14 here.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(self, *, temperature: float = 0.07, contrastive_weight: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0 or contrastive_weight < 0:
            raise ValueError(
                f"temperature, contrastive_weight: got {temperature} and {contrastive_weight}. Give a number above 0, "
                "and one of at least 0."
            )
        self.temperature = temperature
        self.contrastive_weight = contrastive_weight

    def forward(self, outputs: dict[str, Any], target: Tensor | None = None) -> Tensor:
        """Scalar loss of what :class:`CMAE` returns; its parts go into ``outputs["losses"]``.

        Args:
            outputs: see :meth:`CMAE.forward`.
            target: what MONAI's trainer passes; unused, ``outputs`` holds the target.
        """
        del target
        predictions, keys = gather_embeddings(outputs["predictions"]), gather_embeddings(outputs["keys"])
        parts = {
            "reconstruction": mean_error(outputs["reconstruction"], outputs["target"], outputs["mask"]),
            "contrastive": clip_loss(predictions, keys, 1 / self.temperature, symmetric=False),
        }
        return total_loss(outputs, parts, contrastive=self.contrastive_weight)
