"""Blocks of STU-Net (arXiv 2304.06716, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.networks.masked_conv import InstanceNorm

CONVS = {2: nn.Conv2d, 3: nn.Conv3d}
SLOPE = 0.01  # of every leaky ReLU


def make_conv(
    spatial_dims: int, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, bias: bool = True
) -> nn.Module:
    """Convolution that keeps the size at stride 1, initialised for leaky ReLU (He et al., as nnU-Net does)."""
    conv = CONVS[spatial_dims](in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=bias)
    nn.init.kaiming_normal_(conv.weight, a=SLOPE)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class ResidualBlock(nn.Module):
    """Two 3x3(x3) convolutions with instance norm around a shortcut.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of the input.
        out_channels: of the output.
        stride: of the first convolution.
        project: put a 1x1(x1) convolution into the shortcut; needed where stride or channels change.
    """

    def __init__(
        self, *, spatial_dims: int, in_channels: int, out_channels: int, stride: int = 1, project: bool = True
    ) -> None:
        super().__init__()
        self.conv1 = make_conv(spatial_dims, in_channels, out_channels, 3, stride=stride)
        self.norm1 = InstanceNorm(out_channels)
        self.conv2 = make_conv(spatial_dims, out_channels, out_channels, 3)
        self.norm2 = InstanceNorm(out_channels)
        self.shortcut = make_conv(spatial_dims, in_channels, out_channels, 1, stride=stride) if project else None

    def forward(self, x: Tensor, visible: Tensor | None = None, batch_pooled: bool = False) -> Tensor:
        """(B, C_in, *S) -> (B, C_out, *S / stride).

        Args:
            x: the map; 0 at hidden places.
            visible: float (B, 1, *S / stride), see :class:`common.networks.masked_conv.InstanceNorm`; the result is 0
                at hidden places.
            batch_pooled: see there.
        """
        y = F.leaky_relu(self.norm1(self.conv1(x), visible, batch_pooled), SLOPE, inplace=True)
        y = self.norm2(self.conv2(y), visible, batch_pooled)
        if self.shortcut is None:
            y = y + x
        else:
            y = y + self.shortcut(x)
            if visible is not None:  # the shortcut's bias is everywhere
                y = y * visible.to(y.dtype)
        return F.leaky_relu(y, SLOPE, inplace=True)


class UpBlock(nn.Module):
    """Enlarges a coarse map, appends the encoder's map of that resolution, and convolves.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of the coarse map.
        out_channels: of the encoder's map and of the output.
        depth: residual blocks.
        stride: factor between the two resolutions.
    """

    def __init__(self, *, spatial_dims: int, in_channels: int, out_channels: int, depth: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.reduce = make_conv(spatial_dims, in_channels, out_channels, 1)
        self.blocks = nn.ModuleList(
            ResidualBlock(
                spatial_dims=spatial_dims,
                in_channels=2 * out_channels if i == 0 else out_channels,
                out_channels=out_channels,
                project=i == 0,
            )
            for i in range(depth)
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C_in, *S) and (B, C_out, *S stride) -> (B, C_out, *S stride)."""
        # a 1x1(x1) convolution and copying voxels commute: the small map is convolved
        x = self.reduce(x)
        if self.stride > 1:
            x = F.interpolate(x, scale_factor=float(self.stride), mode="nearest")
        x = torch.cat([x, skip], dim=1)
        for block in self.blocks:
            x = block(x)
        return x
