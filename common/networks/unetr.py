"""UNETR with a Vision Transformer of any depth and patch size.

Source: Hatamizadeh et al., "UNETR", WACV 2022. The convolutional blocks are MONAI's, and so are all names; MONAI's own
``UNETR`` has 12 blocks and patches of 16, and with those this is the same network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.networks.blocks.dynunet_block import UnetOutBlock
from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock
from torch import Tensor, nn

from common.networks.vit import ViT


class UNETR(nn.Module):
    """Vision Transformer, whose tokens at several depths are the skips of a convolutional decoder.

    A patch edge of 2^k voxels makes k steps of the decoder and k - 1 skips from the encoder, after the blocks number
    1 + j depth / k, rounded down, j = 1 to k - 1: for patches of 16 and 12 blocks those of MONAI, whose hidden states
    count from 0, 3, 6 and 9. The decoder starts from the last, normed output, and ends with a skip from the image.

    Args:
        img_size: voxels per axis; other sizes work, with interpolated positions. Its length, 2 or 3, is the number of
            spatial dimensions.
        in_channels: C.
        out_channels: classes.
        patch_size: edge in voxels, a power of 2 from 4 on.
        feature_size: channels at full resolution; twice as many at every step down.
        hidden_size: channels of a token.
        depth: blocks of the encoder, at least k.
        n_heads: attention heads of a block.
        drop_path_rate: stochastic depth of the encoder's last block; rises linearly from 0 in the first.

    Raises:
        ValueError: for sizes that do not fit each other.
    """

    def __init__(
        self,
        *,
        img_size: Sequence[int],
        in_channels: int = 1,
        out_channels: int,
        patch_size: int = 16,
        feature_size: int = 16,
        hidden_size: int = 768,
        depth: int = 12,
        n_heads: int = 12,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        n_steps = patch_size.bit_length() - 1
        if n_steps < 2 or patch_size != 2**n_steps:
            raise ValueError(f"patch_size: got {patch_size}. Give a power of 2, at least 4.")
        if depth < n_steps:
            raise ValueError(f"depth: got {depth}. Give at least {n_steps} blocks with patches of {patch_size} voxels.")
        self.vit = ViT(
            img_size=img_size,
            patch_size=patch_size,
            in_channels=in_channels,
            hidden_size=hidden_size,
            depth=depth,
            n_heads=n_heads,
            drop_path_rate=drop_path_rate,
            learnable_positions=True,
        )
        self.n_steps = n_steps
        self.skips = [j * depth // n_steps for j in range(1, n_steps)]
        shared: dict[str, Any] = {
            "spatial_dims": len(img_size),
            "kernel_size": 3,
            "norm_name": "instance",
            "res_block": True,
        }
        widths = [feature_size * 2**i for i in range(n_steps)]
        self.encoder1 = UnetrBasicBlock(in_channels=in_channels, out_channels=feature_size, stride=1, **shared)
        for i in range(1, n_steps):
            encoder = UnetrPrUpBlock(
                in_channels=hidden_size,
                out_channels=widths[i],
                num_layer=n_steps - 1 - i,
                stride=1,
                upsample_kernel_size=2,
                conv_block=True,
                **shared,
            )
            self.add_module(f"encoder{i + 1}", encoder)
        for i in reversed(range(n_steps)):
            wide = hidden_size if i == n_steps - 1 else widths[i + 1]
            decoder = UnetrUpBlock(in_channels=wide, out_channels=widths[i], upsample_kernel_size=2, **shared)
            self.add_module(f"decoder{i + 2}", decoder)
        self.out = UnetOutBlock(spatial_dims=len(img_size), in_channels=feature_size, out_channels=out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, out_channels, *S) of an image (B, C, *S); S is a multiple of the patch."""
        tokens, hidden_states = self.vit(x)
        grid = [size // edge for size, edge in zip(x.shape[2:], self.vit.patch_embedding.patch_size, strict=True)]
        skips = [self.encoder1(x)]
        for i, state in enumerate(self.skips):
            skips.append(self.get_submodule(f"encoder{i + 2}")(_as_map(hidden_states[state], grid)))
        decoded = _as_map(tokens, grid)
        for i in reversed(range(self.n_steps)):
            decoded = self.get_submodule(f"decoder{i + 2}")(decoded, skips[i])
        return self.out(decoded)


def _as_map(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, n, C) -> (B, C, *grid)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)
