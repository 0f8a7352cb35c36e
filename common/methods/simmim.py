"""SimMIM: hide patches, predict their voxels from the deepest features by one linear layer.

Source: Xie et al., CVPR 2022 (arXiv 2111.09886): a learnt token in the place of hidden patches, 60 % of patches larger
than the network's stride (32 pixels there), a one-layer head, L1 over the hidden voxels alone
(:class:`common.methods.autoencoder.ReconstructionLoss`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.masking.generator import MaskGenerator
from common.methods.views import PatchView
from common.networks.mit_unet import MixTransformerUNet


class SimMIM(nn.Module):
    """The encoder alone learns; the decoder is saved as it was initialised, so transfer the encoder alone.

    The token is a value per channel of the image and not one per feature: the encoder's first convolution overlaps
    neighbouring patches, so a token behind it would come too late to hide what lies at a patch's border.

    Args:
        network: its encoder is trained.
        patch_size: edge of a patch in voxels, or one per axis.
        mask_ratio: hidden share of the patches.
        mask_seed: start of the masks' random stream; :meth:`seed_masks` starts it anew.
    """

    def __init__(
        self,
        network: MixTransformerUNet,
        *,
        patch_size: int | Sequence[int] = 32,
        mask_ratio: float = 0.6,
        mask_seed: int = 0,
    ) -> None:
        super().__init__()
        dims, channels, stride = network.spatial_dims, network.in_channels, network.total_stride
        self.network = network
        network.decoder.requires_grad_(False)  # they take no part: without this, training on several GPUs would stop
        network.head.requires_grad_(False)
        self.hide_patches = PatchView(spatial_dims=dims, patch_size=patch_size, mask_ratio=mask_ratio)
        self.token = nn.Parameter(torch.zeros(channels, *[1] * dims))
        nn.init.trunc_normal_(self.token, std=0.02)
        convolution = nn.Conv3d if dims == 3 else nn.Conv2d
        self.predictor = convolution(network.encoder.channels[-1], channels * stride**dims, kernel_size=1)
        self.stride = stride
        self.masks = MaskGenerator(mask_seed)

    def seed_masks(self, seed: int) -> None:
        """Start the masks' random stream anew."""
        self.masks.seed(seed)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Predict ``image`` (B, C, *S), values in [0, 1], every axis a multiple of the network's stride.

        Returns:
            ``reconstruction`` float32 (1, B, C, *S), ``target`` (1, B, C, *S), ``mask`` bool (1, B, 1, *S), ``True`` =
            hidden, ``fill`` (C, 1, ...), the token, and ``stats``: ``mask_share``.
        """
        image = image.as_subclass(Tensor).float()
        mask = self.hide_patches(image, self.masks.on(image.device))
        seen = torch.where(mask, self.token.to(image.dtype), image)
        predicted = depth_to_space(self.predictor(self.network.encode(seen)[-1]).float(), self.stride)
        return {
            "reconstruction": predicted.unsqueeze(0),
            "target": image.unsqueeze(0),
            "mask": mask.unsqueeze(0),
            "fill": self.token.detach(),
            "stats": {"mask_share": mask.float().mean()},
        }


def depth_to_space(features: Tensor, stride: int) -> Tensor:
    """Features (B, C * stride^d, *S) -> (B, C, *(S * stride)): channels become a block's voxels, row by row."""
    batch, depth, *shape = features.shape
    d = len(shape)
    channels = depth // stride**d
    blocks = features.reshape(batch, channels, *[stride] * d, *shape)
    order = [0, 1, *(axis for i in range(d) for axis in (2 + d + i, 2 + i))]
    return blocks.permute(order).reshape(batch, channels, *(stride * n for n in shape))
