"""SparK: a convolutional encoder sees the visible patches only, a light decoder reconstructs the image from its maps.

Source: Tian et al., "Designing BERT for Convolutional Networks", arXiv 2301.03580, in 3D and with STU-Net as AnatoMask
uses it (METHODS section 3.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.networks.masked_conv import InstanceNorm, visible_voxels
from common.networks.stunet import N_STAGES, STUNetEncoder
from common.networks.stunet_blocks import make_conv

_TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
NORMS = ("instance", "batch")


class Densify(nn.Module):
    """Fills the hidden places of a masked map with a learnt vector, and projects it to the decoder.

    Args:
        spatial_dims: 2 or 3.
        channels: of the map, and of what comes out.
        kernel_size: of the projection; 0: none.
    """

    def __init__(self, *, spatial_dims: int, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.norm = InstanceNorm(channels, eps=1e-6)
        self.token = nn.Parameter(torch.empty(channels))
        nn.init.trunc_normal_(self.token, std=0.02)
        self.project = make_conv(spatial_dims, channels, channels, kernel_size) if kernel_size else nn.Identity()

    def forward(self, x: Tensor, visible: Tensor, batch_pooled: bool = False) -> Tensor:
        """(B, C, *S), 0 at hidden places, and float (B, 1, *S), 1 = visible -> (B, C, *S)."""
        x = self.norm(x, visible, batch_pooled)
        token = self.token.to(x.dtype).view(1, -1, *[1] * (x.ndim - 2))
        projected: Tensor = self.project(torch.where(visible > 0, x, token))
        return projected


class DecoderBlock(nn.Module):
    """Doubles the resolution by a transposed convolution, then two convolutions."""

    def __init__(self, *, spatial_dims: int, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__()
        self.up = _TRANSPOSED[spatial_dims](in_channels, in_channels, kernel_size=4, stride=2, padding=1)
        self.conv1 = make_conv(spatial_dims, in_channels, in_channels, 3, bias=False)
        self.norm1 = _norm(norm, spatial_dims, in_channels)
        self.conv2 = make_conv(spatial_dims, in_channels, out_channels, 3, bias=False)
        self.norm2 = _norm(norm, spatial_dims, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *S) -> (B, C_out, *2S)."""
        y = F.relu6(self.norm1(self.conv1(self.up(x))))
        made: Tensor = self.norm2(self.conv2(y))
        return made


class SparK(STUNetEncoder):
    """Stages 0 to 4 of STU-Net in a masked pass, and SparK's decoder.

    The decoder receives the maps of strides 16, 8, 4 and 2; they are added to what it has. The released code also
    prepares a map of stride 1, which its decoder never reads.

    Args:
        decoder_norm: ``"instance"``, or ``"batch"`` (paper and code), whose statistics of a few crops differ between
            the training student and the evaluating teacher.
        batch_pooled: let the encoder's instance norm pool its statistics over the batch (released AnatoMask code).
        spatial_dims, in_channels, size, features, depths: see :class:`common.networks.stunet.STUNetEncoder`.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 3,
        in_channels: int = 1,
        size: str = "B",
        features: Sequence[int] | None = None,
        depths: Sequence[int] | None = None,
        decoder_norm: str = "instance",
        batch_pooled: bool = False,
    ) -> None:
        super().__init__(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            size=size,
            features=features,
            depths=depths,
            n_stages=N_STAGES - 1,
        )
        if decoder_norm not in NORMS:
            raise ValueError(f"decoder_norm: got {decoder_norm!r}. Allowed are {', '.join(map(repr, NORMS))}.")
        self.batch_pooled = batch_pooled
        widths = self.features[N_STAGES - 2 :: -1]  # of strides 16, 8, 4, 2 and 1
        self.densify = nn.ModuleList(
            Densify(spatial_dims=spatial_dims, channels=width, kernel_size=0 if i == 0 else 3)
            for i, width in enumerate(widths[:-1])
        )
        self.decoder = nn.ModuleList(
            DecoderBlock(spatial_dims=spatial_dims, in_channels=wide, out_channels=narrow, norm=decoder_norm)
            for wide, narrow in pairwise(widths)
        )
        self.head = make_conv(spatial_dims, widths[-1], in_channels, 1)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Reconstruct images (B, C, *S) from their visible patches, bool (B, *grid)."""
        maps = self.encode(x, visible, self.batch_pooled)
        y: Tensor | None = None
        for densify, block, seen in zip(self.densify, self.decoder, maps[:0:-1], strict=True):
            dense = densify(seen, visible_voxels(visible, seen.shape[2:]), self.batch_pooled)
            y = block(dense if y is None else y + dense)
        made: Tensor = self.head(y)
        return made


def _norm(norm: str, spatial_dims: int, channels: int) -> nn.Module:
    return InstanceNorm(channels) if norm == "instance" else _BATCH_NORMS[spatial_dims](channels)
