"""What SimMIM and MaskFeat share: a token hides patches, one linear layer predicts from the encoder's deepest map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.masking.generator import MaskGenerator
from common.methods.views import PatchView
from common.networks.mit_unet import MixTransformerUNet


class EncoderPrediction(nn.Module):
    """The encoder alone learns; the decoder is saved as it was initialised, so transfer the encoder alone.

    The token is a value per channel of the image and not one per feature: the encoder's first convolution overlaps
    neighbouring patches, so a token behind it would come too late to hide what lies at a patch's border.

    Args:
        network: its encoder is trained.
        features: numbers that are predicted for each cell.
        cell_size: edge of a cell in voxels; must divide the network's stride.
        patch_size: edge of a patch in voxels, or one per axis.
        mask_ratio: hidden share of the patches, above 0.
        mask_seed: start of the masks' random stream; :meth:`seed_masks` starts it anew.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        network: MixTransformerUNet,
        *,
        features: int,
        cell_size: int,
        patch_size: int | Sequence[int],
        mask_ratio: float,
        mask_seed: int,
    ) -> None:
        super().__init__()
        dims, channels, stride = network.spatial_dims, network.in_channels, network.total_stride
        if cell_size < 1 or stride % cell_size:
            raise ValueError(f"cell_size: got {cell_size}. Give a divisor of the network's stride, {stride}.")
        self.network = network
        network.freeze_decoder()
        self.hide_patches = PatchView(
            spatial_dims=dims, patch_size=patch_size, mask_ratio=mask_ratio, hides_something=True
        )
        self.token = nn.Parameter(torch.zeros(channels, *[1] * dims))
        nn.init.trunc_normal_(self.token, std=0.02)
        self.cells = stride // cell_size
        convolution = nn.Conv3d if dims == 3 else nn.Conv2d
        self.predictor = convolution(network.encoder.channels[-1], features * self.cells**dims, kernel_size=1)
        self.masks = MaskGenerator(mask_seed)

    def seed_masks(self, seed: int) -> None:
        """Start the masks' random stream anew."""
        self.masks.seed(seed)

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mask bool (B, 1, *S) of ``image`` (B, C, *S) and what is predicted of it, float32 (B, features, *cells)."""
        mask = self.hide_patches(image, self.masks.on(image.device))
        seen = torch.where(mask, self.token.to(image.dtype), image)
        return mask, depth_to_space(self.predictor(self.network.encode(seen)[-1]).float(), self.cells)


def depth_to_space(features: Tensor, stride: int) -> Tensor:
    """Features (B, C * stride^d, *S) -> (B, C, *(S * stride)): channels become a block's voxels, row by row."""
    batch, depth, *shape = features.shape
    d = len(shape)
    channels = depth // stride**d
    blocks = features.reshape(batch, channels, *[stride] * d, *shape)
    order = [0, 1, *(axis for i in range(d) for axis in (2 + d + i, 2 + i))]
    return blocks.permute(order).reshape(batch, channels, *(stride * n for n in shape))
