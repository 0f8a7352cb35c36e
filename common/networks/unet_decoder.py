"""Decoder of a U-Net: from an encoder's maps back to full resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.networks.upsample_conv import UpsampleConv

_CONVS = {2: nn.Conv2d, 3: nn.Conv3d}
_NORMS = {
    ("batch", 2): nn.BatchNorm2d,
    ("batch", 3): nn.BatchNorm3d,
    ("instance", 2): nn.InstanceNorm2d,
    ("instance", 3): nn.InstanceNorm3d,
}


class ConvNormReLU(nn.Module):
    """3x3(x3) convolution, normalisation, ReLU; ``upsample`` doubles the resolution first."""

    def __init__(
        self, *, spatial_dims: int, in_channels: int, out_channels: int, norm: str, upsample: bool = False
    ) -> None:
        super().__init__()
        self.conv: nn.Module
        if upsample:
            self.conv = UpsampleConv(spatial_dims=spatial_dims, in_channels=in_channels, out_channels=out_channels)
        else:
            conv = _CONVS[spatial_dims](in_channels, out_channels, kernel_size=3, padding=1, bias=False)
            nn.init.kaiming_uniform_(conv.weight, mode="fan_in", nonlinearity="relu")
            self.conv = conv
        self.norm = _NORMS[norm, spatial_dims](out_channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *S) -> (B, C_out, *S), or twice that size."""
        return F.relu(self.norm(self.conv(x)), inplace=True)


class UpBlock(nn.Module):
    """Doubles the resolution, appends the encoder's map of that resolution if there is one, and convolves twice."""

    def __init__(
        self, *, spatial_dims: int, in_channels: int, skip_channels: int, out_channels: int, norm: str
    ) -> None:
        super().__init__()
        self.conv1 = ConvNormReLU(
            spatial_dims=spatial_dims,
            in_channels=in_channels + skip_channels,
            out_channels=out_channels,
            norm=norm,
            upsample=skip_channels == 0,
        )
        self.conv2 = ConvNormReLU(
            spatial_dims=spatial_dims, in_channels=out_channels, out_channels=out_channels, norm=norm
        )

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(B, C_in, *S) and, where there is one, a skip (B, C_skip, *2S) -> (B, C_out, *2S)."""
        if skip is not None:
            x = torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skip], dim=1)
        return self.conv2(self.conv1(x))


class UNetDecoder(nn.Module):
    """Doubles the resolution from an encoder's coarsest map up to the image's, with the finer maps as skips.

    The decoder of ``segmentation_models_pytorch`` as ISD-MAE uses it (arXiv 2411.13198; METHODS section 1.4), in 2D
    and 3D. Resolutions at which the encoder has no map, such as stride 2 and 1 of a Mix Transformer, get no skip.

    Args:
        spatial_dims: 2 or 3.
        encoder_channels: channels of the encoder's maps, finest first.
        encoder_strides: their strides, rising powers of 2.
        channels: output channels of each block, coarsest first: as many as doublings from the last stride to 1.
        norm: ``"instance"``, which does not mix the samples of a small batch, or ``"batch"`` (the paper). Both with
            learnt scale and offset.
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 3,
        encoder_channels: Sequence[int],
        encoder_strides: Sequence[int],
        channels: Sequence[int] = (512, 256, 128, 128, 128),
        norm: str = "instance",
    ) -> None:
        super().__init__()
        _check_arguments(spatial_dims, encoder_channels, encoder_strides, channels, norm)
        channel_of = dict(zip(encoder_strides, encoder_channels, strict=True))
        stride = encoder_strides[-1]
        in_channels = encoder_channels[-1]
        blocks = []
        for out_channels in channels:
            stride //= 2
            blocks.append(
                UpBlock(
                    spatial_dims=spatial_dims,
                    in_channels=in_channels,
                    skip_channels=channel_of.get(stride, 0),
                    out_channels=out_channels,
                    norm=norm,
                )
            )
            in_channels = out_channels
        self.blocks = nn.ModuleList(blocks)
        self.n_skips = len(encoder_strides) - 1
        self.out_channels = in_channels

    def forward(self, features: list[Tensor]) -> Tensor:
        """The encoder's maps, finest first -> (B, channels[-1], *S) at the image's resolution."""
        x = features[-1]
        for i, block in enumerate(self.blocks):
            skip: Tensor | None = None
            if i < self.n_skips:
                skip = features[self.n_skips - 1 - i]
            x = block(x, skip)
        return x


def _check_arguments(
    spatial_dims: int,
    encoder_channels: Sequence[int],
    encoder_strides: Sequence[int],
    channels: Sequence[int],
    norm: str,
) -> None:
    if spatial_dims not in _CONVS:
        raise ValueError(f"spatial_dims: got {spatial_dims}. Allowed are 2 and 3.")
    if norm not in ("batch", "instance"):
        raise ValueError(f"norm: got {norm!r}. Allowed are 'batch' and 'instance'.")
    strides = list(encoder_strides)
    doubling = [strides[0] * 2**i for i in range(len(strides))] if strides else []
    if not strides or len(strides) != len(encoder_channels) or strides != doubling or strides[0] & (strides[0] - 1):
        raise ValueError(
            f"encoder_strides: got {strides} for {len(encoder_channels)} maps. Give one power of 2 per map, each twice "
            "the one before."
        )
    n_blocks = int(math.log2(strides[-1]))
    if len(channels) != n_blocks or min(channels, default=0) < 1:
        raise ValueError(
            f"decoder channels: got {list(channels)}. An encoder of total stride {strides[-1]} needs {n_blocks} "
            "positive numbers, coarsest first."
        )
