"""Tang et al.: fill in what is cut out, tell how the image is turned, and recognise it in another view of itself.

Source: Tang et al., CVPR 2022 (arXiv 2111.14791) and its released code, ``Project-MONAI/research-contributions``,
``SwinUNETR/Pretrain``: all from the encoder's deepest map; mean absolute error of all voxels, cross entropy of four
turns, NT-Xent of temperature 0.5 on 512 features, all with weight 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.losses.contrastive import embedding_spread
from common.losses.level_contrast import LevelContrast
from common.losses.reconstruction import mean_error
from common.losses.total import checked_weights, total_loss
from common.masking.boxes import boxes_mask, random_boxes
from common.masking.generator import MaskGenerator
from common.networks.heads import ProjectionHead
from common.networks.mit_unet import MixTransformerUNet
from common.networks.upsample_conv import UpsampleConv

_TURNS = 4
_BOXES = 256  # as many as the largest share can need
_SHORTEST, _LONGEST = 0.05, 0.25  # edges of a box, in parts of the image's
_NOISE_SD = 1 / 7  # of standard normal noise between its least and largest value in a box


def turn(image: Tensor, quarters: Tensor) -> Tensor:
    """Each sample of ``image`` (B, C, *S) turned by ``quarters`` (B,) of a circle, 0 to 3, in its axial plane."""
    turned = torch.stack([image.rot90(k, (2, 3)) for k in range(_TURNS)])
    return turned[quarters, torch.arange(len(image), device=image.device)]


def cutouts(
    batch_size: int,
    shape: list[int],
    *,
    max_share: float,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Mask bool (B, 1, *shape) of boxes that are added until they hold a share drawn from 0 to ``max_share``.

    What boxes have in common counts for each of them, so that the mask holds a little less.
    """
    shortest = [max(1, int(_SHORTEST * size)) for size in shape]
    longest = [max(least, int(_LONGEST * size) - 1) for least, size in zip(shortest, shape, strict=True)]
    starts, edges = random_boxes(
        batch_size, _BOXES, shape, shortest=shortest, longest=longest, generator=generator, device=device
    )
    wanted = max_share * math.prod(shape) * torch.rand(batch_size, 1, generator=generator, device=device)
    volumes = edges.prod(-1)
    return boxes_mask(starts, edges, shape, counted=volumes.cumsum(1) - volumes < wanted)


def map_decoder(spatial_dims: int, channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """From the deepest map alone to the image: stages double the resolution, and the first four halve the channels."""
    convolution, norm = (nn.Conv3d, nn.InstanceNorm3d) if spatial_dims == 3 else (nn.Conv2d, nn.InstanceNorm2d)
    layers: list[nn.Module] = []
    width = channels
    for stage in range(1, int(math.log2(stride)) + 1):
        wider, width = width, channels // 2 ** min(stage, 4)
        layers += [
            UpsampleConv(spatial_dims=spatial_dims, in_channels=wider, out_channels=width),
            norm(width),
            nn.LeakyReLU(),
        ]
    return nn.Sequential(*layers, convolution(width, out_channels, kernel_size=1))


class Tang(nn.Module):
    """Two turned views, parts of them replaced by noise and by another image; the encoder alone learns.

    Args:
        network: its encoder is trained; the decoder is saved as it was initialised.
        max_share: largest share of a view that noise replaces, and again another image of the batch.
        embedding_features: E, length of an embedding.
        mask_seed: start of the views' random stream; :meth:`seed_masks` starts it anew.

    Raises:
        ValueError: for an argument out of range.
    """

    view_names = ("view 1", "view 2")

    def __init__(
        self,
        network: MixTransformerUNet,
        *,
        max_share: float = 0.3,
        embedding_features: int = 512,
        mask_seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= max_share <= 0.3:
            raise ValueError(f"max_share: got {max_share}. Give a share, 0 to 0.3.")
        dims, channels = network.spatial_dims, network.encoder.channels[-1]
        self.network = network
        network.freeze_decoder()
        self.decoder = map_decoder(dims, channels, network.in_channels, network.total_stride)
        self.rotation_head = ProjectionHead(spatial_dims=dims, in_channels=channels, out_features=_TURNS)
        self.projector = ProjectionHead(spatial_dims=dims, in_channels=channels, out_features=embedding_features)
        self.max_share = max_share
        self.masks = MaskGenerator(mask_seed)

    def seed_masks(self, seed: int) -> None:
        """Start the views' random stream anew."""
        self.masks.seed(seed)

    @torch.no_grad()
    def draw_view(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of ``image`` (B, C, *S): its turns (B,), the turned image, what is seen of it, and the mask of the rest."""
        generator, shape = self.masks.on(image.device), list(image.shape[2:])
        if shape[0] != shape[1]:
            raise ValueError(f"roi_size: got {shape}. What is turned must be square: make the first two axes equal.")
        drawn: dict[str, Any] = {"generator": generator, "device": image.device}
        quarters = torch.randint(_TURNS, (len(image),), **drawn)
        turned = turn(image, quarters)
        noisy, foreign = (cutouts(len(image), shape, max_share=self.max_share, **drawn) for _ in range(2))
        noise = (0.5 + _NOISE_SD * torch.randn(image.shape, **drawn)).clamp(0, 1)
        partner = torch.randint(len(image), (len(image),), **drawn)
        foreign &= (partner != torch.arange(len(image), device=image.device)).view(-1, *[1] * (image.ndim - 1))
        seen = torch.where(foreign, turned[partner], torch.where(noisy, noise, turned))
        return quarters, turned, seen, noisy | foreign

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Restore two views of ``image`` (B, C, *S), values in [0, 1], tell their turns, and embed them.

        Returns:
            ``reconstruction`` float32 and ``target`` (2, B, C, *S), the turned image; ``image`` (2, B, C, *S), what the
            network saw; ``mask``, nowhere ``True``; ``regions``: ``replaced``; ``embeddings`` float32 (2, B, E);
            ``quarters`` (2, B), the turns, and ``turn_scores`` float32 (2, B, 4); ``stats``.
        """
        image = image.as_subclass(Tensor).float()
        quarters, turned, seen, replaced = map(
            torch.stack, zip(*(self.draw_view(image) for _ in self.view_names), strict=True)
        )
        maps = [self.network.encode(view)[-1] for view in seen]
        embeddings = torch.stack([self.projector(deepest).float() for deepest in maps])
        return {
            "reconstruction": torch.stack([self.decoder(deepest).float() for deepest in maps]),
            "target": turned,
            "image": seen,
            "mask": torch.zeros_like(replaced),
            "regions": {"replaced": replaced},
            "embeddings": embeddings,
            "quarters": quarters,
            "turn_scores": torch.stack([self.rotation_head(deepest).float() for deepest in maps]),
            "stats": {
                "replaced_share": replaced.float().mean(),
                "embedding_spread": torch.stack([embedding_spread(of_view) for of_view in embeddings]).mean(),
            },
        }


class TangLoss(nn.Module):
    """Mean absolute error of all voxels, cross entropy of the turns, and NT-Xent over the cases of all processes.

    Args:
        temperature: divides the cosines.
        reconstruction_weight, rotation_weight, contrastive_weight: of the three terms.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.5,
        reconstruction_weight: float = 1.0,
        rotation_weight: float = 1.0,
        contrastive_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.weights = checked_weights(
            reconstruction=reconstruction_weight, rotation=rotation_weight, contrastive=contrastive_weight
        )
        self.contrast = LevelContrast(kind="ntxent", temperature=temperature, learnable=False)

    def forward(self, outputs: dict[str, Any], target: Tensor | None = None) -> Tensor:
        """Scalar loss of what :class:`Tang` returns; its parts go into ``outputs["losses"]``.

        Args:
            outputs: see :meth:`Tang.forward`.
            target: what MONAI's trainer passes; unused, ``outputs`` holds the target.
        """
        del target
        a, b = outputs["embeddings"].unsqueeze(2)  # the encoder's deepest level is the only one
        parts = {
            "reconstruction": mean_error(outputs["reconstruction"], outputs["target"], kind="l1"),
            "rotation": F.cross_entropy(outputs["turn_scores"].flatten(0, 1), outputs["quarters"].flatten()),
            "contrastive": self.contrast(a, b),
        }
        return total_loss(outputs, parts, **self.weights)
