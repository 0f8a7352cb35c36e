"""Mix Transformer, the encoder of SegFormer, in 2D and 3D.

Source: Xie et al., "SegFormer", NeurIPS 2021 (arXiv 2105.15203), Table 6; in 3D every convolution becomes a 3D one and
all other numbers stay. Maps are kept as (B, *S, C) throughout: channels innermost is what linear layers and layer norms
want, and seen as (B, C, *S) it is the channels-last memory format, so convolutions need no copy either.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from common.networks.depthwise_conv import DepthwiseConv
from common.networks.drop_path import DropPath

_EPS = 1e-6
_MLP_RATIO = 4
_HEADS = (1, 2, 5, 8)
_REDUCTIONS = (8, 4, 2, 1)
_CONVS = {2: nn.Conv2d, 3: nn.Conv3d}


@dataclass(frozen=True)
class Variant:
    """Sizes of the four stages."""

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


VARIANTS = {
    "b0": Variant((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": Variant((64, 128, 320, 512), (2, 2, 2, 2)),
    "b2": Variant((64, 128, 320, 512), (3, 4, 6, 3)),
    "b3": Variant((64, 128, 320, 512), (3, 4, 18, 3)),
    "b4": Variant((64, 128, 320, 512), (3, 8, 27, 3)),
    "b5": Variant((64, 128, 320, 512), (3, 6, 40, 3)),
}


# Positive axes, because the ONNX exporter writes negative ones down as they are.
def _channels_first(x: Tensor) -> Tensor:
    """(B, *S, C) -> (B, C, *S), a view."""
    return x.movedim(x.dim() - 1, 1)


def _channels_inside(x: Tensor) -> Tensor:
    """(B, C, *S) -> (B, *S, C), a view."""
    return x.movedim(1, x.dim() - 1)


class EfficientSelfAttention(nn.Module):
    """Self-attention whose keys and values come from a coarser map (SegFormer Eq. 1-2).

    Args:
        spatial_dims: 2 or 3.
        channels: C, a multiple of ``num_heads``.
        num_heads: attention heads.
        reduction: edge of the blocks that one key stands for.
    """

    def __init__(self, *, spatial_dims: int, channels: int, num_heads: int, reduction: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.reduce: nn.Module = nn.Identity()
        self.reduced_norm: nn.Module = nn.Identity()
        if reduction > 1:
            self.reduce = _CONVS[spatial_dims](channels, channels, kernel_size=reduction, stride=reduction)
            self.reduced_norm = nn.LayerNorm(channels, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within ``x`` (B, *S, C)."""
        batch, channels = x.shape[0], x.shape[-1]
        q = self.q(x).reshape(batch, -1, self.num_heads, channels // self.num_heads).transpose(1, 2)
        coarse = self.reduced_norm(_channels_inside(self.reduce(_channels_first(x))))
        kv = self.kv(coarse).reshape(batch, -1, 2, self.num_heads, channels // self.num_heads)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.proj(attended.transpose(1, 2).reshape(x.shape))


class MixFFN(nn.Module):
    """Feed-forward layer with a depthwise convolution inside, the only source of position (SegFormer Eq. 3)."""

    def __init__(self, *, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, _MLP_RATIO * channels)
        self.dwconv = DepthwiseConv(spatial_dims=spatial_dims, channels=_MLP_RATIO * channels)
        self.fc2 = nn.Linear(_MLP_RATIO * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, *S, C) to the same shape."""
        hidden = _channels_inside(self.dwconv(_channels_first(self.fc1(x))))
        return self.fc2(F.gelu(hidden))


class MixBlock(nn.Module):
    """Attention and feed-forward layer, each normalised before and added to its input."""

    def __init__(
        self, *, spatial_dims: int, channels: int, num_heads: int, reduction: int, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=_EPS)
        self.attention = EfficientSelfAttention(
            spatial_dims=spatial_dims, channels=channels, num_heads=num_heads, reduction=reduction
        )
        self.norm2 = nn.LayerNorm(channels, eps=_EPS)
        self.ffn = MixFFN(spatial_dims=spatial_dims, channels=channels)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``x`` (B, *S, C)."""
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.ffn(self.norm2(x)))


class MixStage(nn.Module):
    """Overlapping patch embedding, then blocks at that resolution."""

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        channels: int,
        kernel_size: int,
        stride: int,
        num_heads: int,
        reduction: int,
        drop_path_rates: list[float],
    ) -> None:
        super().__init__()
        self.embed = _CONVS[spatial_dims](in_channels, channels, kernel_size, stride=stride, padding=kernel_size // 2)
        self.embed_norm = nn.LayerNorm(channels, eps=_EPS)
        self.blocks = nn.ModuleList(
            MixBlock(
                spatial_dims=spatial_dims,
                channels=channels,
                num_heads=num_heads,
                reduction=reduction,
                drop_path_rate=rate,
            )
            for rate in drop_path_rates
        )
        self.norm = nn.LayerNorm(channels, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *S) -> (B, C, *S / stride), channels-last in memory."""
        x = self.embed_norm(_channels_inside(self.embed(x)))
        for block in self.blocks:
            x = block(x)
        return _channels_first(self.norm(x))


class MixTransformer(nn.Module):
    """Encoder that returns four maps, finest first.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        variant: ``"b0"`` to ``"b5"``.
        stem_stride: stride of the first patch embedding: 4 (the paper), or 2 for small crops and fine structures, which
            halves every stride of the network.
        drop_path_rate: of the last block; rises linearly from 0 in the first.

    Attributes:
        channels: channels of the four maps.
        strides: their strides; the last one is the total stride, by which every axis of the image must be divisible.
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 3,
        in_channels: int = 3,
        variant: str = "b2",
        stem_stride: int = 4,
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__()
        _check_arguments(spatial_dims, in_channels, variant, stem_stride, drop_path_rate)
        sizes = VARIANTS[variant]
        self.channels: tuple[int, ...] = sizes.channels
        self.strides: tuple[int, ...] = tuple(stem_stride * 2**i for i in range(4))
        n_blocks = sum(sizes.depths)
        rates = [drop_path_rate * i / (n_blocks - 1) for i in range(n_blocks)]
        stages = []
        for i, depth in enumerate(sizes.depths):
            stages.append(
                MixStage(
                    spatial_dims=spatial_dims,
                    in_channels=in_channels if i == 0 else sizes.channels[i - 1],
                    channels=sizes.channels[i],
                    kernel_size=7 if i == 0 else 3,
                    stride=stem_stride if i == 0 else 2,
                    num_heads=_HEADS[i],
                    reduction=_REDUCTIONS[i],
                    drop_path_rates=[rates.pop(0) for _ in range(depth)],
                )
            )
        self.stages = nn.ModuleList(stages)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image (B, C, *S) -> maps (B, channels[i], *S / strides[i])."""
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def _initialise(module: nn.Module) -> None:
    """SegFormer's initialisation: truncated normal for linear layers, normal by fan-out for convolutions."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _check_arguments(
    spatial_dims: int, in_channels: int, variant: str, stem_stride: int, drop_path_rate: float
) -> None:
    if spatial_dims not in _CONVS:
        raise ValueError(f"spatial_dims: got {spatial_dims}. Allowed are 2 and 3.")
    if in_channels < 1:
        raise ValueError(f"in_channels: got {in_channels}. Give at least 1.")
    if variant not in VARIANTS:
        raise ValueError(f"variant: got {variant!r}. Allowed are {', '.join(VARIANTS)}.")
    if stem_stride not in (2, 4):
        raise ValueError(f"stem_stride: got {stem_stride}. Allowed are 4 (the paper) and 2 (small crops).")
    if not 0 <= drop_path_rate < 1:
        raise ValueError(f"drop_path_rate: got {drop_path_rate}. Give a probability, at least 0 and below 1.")
