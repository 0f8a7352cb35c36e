"""HybMIM: reconstruct a part of the hidden patches, tell how many and which are hidden, and recognise the image.

Source: Xing et al., "HybridMIM: A Hybrid Masked Image Modeling Framework for 3D Medical Image Segmentation"
(arXiv 2303.10333) and its released code, ``ge-xing/HybridMIM``, ``Pretrain``; what differs is told in
docs/baselines.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.losses.contrastive import embedding_spread
from common.losses.level_contrast import LevelContrast
from common.losses.reconstruction import mean_error
from common.losses.total import checked_weights, total_loss
from common.masking.generator import MaskGenerator
from common.masking.patches import as_patch_size
from common.methods.views import PatchView, check_reconstructs
from common.networks.heads import ProjectionHead
from common.networks.mit_unet import MixTransformerUNet


def last_two_thirds(x: Tensor, cells: Sequence[int]) -> Tensor:
    """Those of a map or image (B, C, *S) along each axis, in whole ``cells`` of the deepest map."""
    for axis, n in enumerate(cells, start=2):
        first = (n // 3) * (x.shape[axis] // n)
        x = x.narrow(axis, first, x.shape[axis] - first)
    return x


class HybMIM(nn.Module):
    """Three tasks on one masked image; a region is what one voxel of the encoder's deepest map stands for.

    The second embedding is that of the same masked image: what differs is which paths of the encoder are dropped.

    Args:
        network: reconstructs its input. Its encoder, decoder and head are what is saved and transferred.
        patch_size: edge of a patch in voxels, or one per axis; must divide the network's stride.
        mask_ratio: hidden share of the patches, above 0.
        fill: value of hidden voxels.
        embedding_features: E, length of an embedding.
        mask_seed: start of the masks' random stream; :meth:`seed_masks` starts it anew.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        network: MixTransformerUNet,
        *,
        patch_size: int | Sequence[int] = 16,
        mask_ratio: float = 0.4,
        fill: float = 0.0,
        embedding_features: int = 384,
        mask_seed: int = 0,
    ) -> None:
        super().__init__()
        check_reconstructs(network)
        dims, channels, stride = network.spatial_dims, network.encoder.channels[-1], network.total_stride
        self.edges = as_patch_size(patch_size, dims)
        if any(stride % edge for edge in self.edges):
            raise ValueError(f"patch_size: got {patch_size}. Give a divisor of the network's stride, {stride}.")
        self.network = network
        self.hide_patches = PatchView(
            spatial_dims=dims, patch_size=patch_size, mask_ratio=mask_ratio, hides_something=True
        )
        self.patches_per_axis = [stride // edge for edge in self.edges]
        n_patches = math.prod(self.patches_per_axis)
        self.count_head = nn.Linear(channels, n_patches + 1)
        self.place_head = nn.Linear(channels, n_patches)
        self.projector = ProjectionHead(spatial_dims=dims, in_channels=channels, out_features=embedding_features)
        self.fill = fill
        self.masks = MaskGenerator(mask_seed)

    def seed_masks(self, seed: int) -> None:
        """Start the masks' random stream anew."""
        self.masks.seed(seed)

    def hidden_places(self, mask: Tensor) -> Tensor:
        """Which patches of each region are hidden, bool (B, regions, patches), of a mask (B, 1, *S)."""
        # a patch is wholly hidden or wholly visible, so one voxel of it tells
        hidden = mask[:, 0][(slice(None), *(slice(None, None, edge) for edge in self.edges))]
        d = len(self.edges)
        for axis, patches in enumerate(self.patches_per_axis):
            hidden = hidden.unflatten(1 + 2 * axis, (-1, patches))
        order = [0, *range(1, 1 + 2 * d, 2), *range(2, 2 + 2 * d, 2)]
        return hidden.permute(order).flatten(1 + d).flatten(1, d)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Do the three tasks on ``image`` (B, C, *S), values in [0, 1].

        Returns:
            ``reconstruction`` float32 (1, B, C, *s), ``target`` and ``mask`` of a part of the image; ``fill``;
            ``embeddings`` float32 (2, B, E); of R regions with P patches ``hidden_places`` bool (B, R, P),
            ``place_scores`` float32 (B, R, P) and ``count_scores`` float32 (B, R, P + 1); ``stats``.
        """
        image = image.as_subclass(Tensor).float()
        mask = self.hide_patches(image, self.masks.on(image.device))
        seen = image.masked_fill(mask, self.fill)
        features = self.network.encode(seen)
        deepest = features[-1]
        cells = deepest.shape[2:]
        made = self.network.head(self.network.decode([last_two_thirds(feature, cells) for feature in features]))
        with torch.no_grad():
            again = self.network.encode(seen)[-1]
        regions = deepest.flatten(2).transpose(1, 2)
        embeddings = torch.stack([self.projector(deepest), self.projector(again)]).float()
        return {
            "reconstruction": made.float().unsqueeze(0),
            "target": last_two_thirds(image, cells).unsqueeze(0),
            "mask": last_two_thirds(mask, cells).unsqueeze(0),
            "fill": self.fill,
            "embeddings": embeddings,
            "hidden_places": self.hidden_places(mask),
            "place_scores": self.place_head(regions).float(),
            "count_scores": self.count_head(regions).float(),
            "stats": {"mask_share": mask.float().mean(), "embedding_spread": embedding_spread(embeddings[0])},
        }


class HybMIMLoss(nn.Module):
    """Squared error of the hidden voxels, and the cross entropies of number, places and partner; weights of the code.

    Half a cross entropy asks the number besides to agree with that of the places: the code's other half of this term
    is a difference of whole numbers, which teaches nothing.

    Args:
        temperature: divides the cosines of NT-Xent.
        count_weight, place_weight, agreement_weight, contrastive_weight: of these terms; the first one has 1.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.5,
        count_weight: float = 0.1,
        place_weight: float = 0.1,
        agreement_weight: float = 0.01,
        contrastive_weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.weights = checked_weights(
            count=count_weight, place=place_weight, agreement=agreement_weight, contrastive=contrastive_weight
        )
        self.contrast = LevelContrast(kind="ntxent", temperature=temperature, learnable=False)

    def forward(self, outputs: dict[str, Any], target: Tensor | None = None) -> Tensor:
        """Scalar loss of what :class:`HybMIM` returns; its parts go into ``outputs["losses"]``.

        Args:
            outputs: see :meth:`HybMIM.forward`.
            target: what MONAI's trainer passes; unused, ``outputs`` holds the target.
        """
        del target
        hidden, places = outputs["hidden_places"], outputs["place_scores"]
        counts = outputs["count_scores"].flatten(0, 1)
        a, b = outputs["embeddings"].unsqueeze(2)  # the encoder's deepest level is the only one
        parts = {
            "reconstruction": mean_error(outputs["reconstruction"], outputs["target"], outputs["mask"]),
            "count": F.cross_entropy(counts, hidden.sum(-1).flatten()),
            "place": F.binary_cross_entropy_with_logits(places, hidden.float()),
            "agreement": F.cross_entropy(counts, (places > 0).sum(-1).flatten()) / 2,
            "contrastive": self.contrast(a, b),
        }
        return total_loss(outputs, parts, **self.weights)
