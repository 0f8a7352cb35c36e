"""Vision Transformer for 2D and 3D, under the names of MONAI's ``ViT``, that can run visible patches alone.

Source: Dosovitskiy et al. (arXiv 2010.11929) as in SelfMedMAE. Written here because MONAI's block needs a further
package (einops), has no stochastic depth, carries a norm that is never used (which distributed training refuses) and
its ``ViT`` cannot be given fused attention or a part of the patches. Weights fit MONAI's ``ViT`` and ``UNETR`` by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.blocks.mlp import MLPBlock
from torch import Tensor, nn

from common.masking.patches import as_patch_size, patchify
from common.networks.drop_path import DropPath
from common.networks.positions import grid_of_proportions, resample_positions, sincos_positions

_EPS = 1e-6
_MLP_RATIO = 4
_CONVS: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}

SIZES: dict[str, dict[str, int]] = {
    "S": {"hidden_size": 384, "depth": 12, "n_heads": 6},
    "B": {"hidden_size": 768, "depth": 12, "n_heads": 12},
    "L": {"hidden_size": 1024, "depth": 24, "n_heads": 16},
}
"""The usual sizes, as arguments of :class:`ViT`; the paper's is B with patches of 16 x 16 x 16."""


class PatchEmbedding(nn.Module):
    """Patches to tokens, plus their positions.

    Args:
        img_size: voxels per axis of the images that it is meant for; others get interpolated positions.
        patch_size: edge in voxels, one or one per axis.
        in_channels: C.
        hidden_size: channels of a token.
        learnable_positions: train the positions; fixed otherwise. Both start as sines and cosines.

    Raises:
        ValueError: when patches do not divide images.
    """

    def __init__(
        self,
        *,
        img_size: Sequence[int],
        patch_size: int | Sequence[int],
        in_channels: int,
        hidden_size: int,
        learnable_positions: bool,
    ) -> None:
        super().__init__()
        self.patch_size = as_patch_size(patch_size, len(img_size))
        if any(size < 1 or size % edge for size, edge in zip(img_size, self.patch_size, strict=True)):
            raise ValueError(
                f"img_size, patch_size: {self.patch_size} does not divide {tuple(img_size)}. Give multiples of the "
                "patch."
            )
        self.grid = tuple(size // edge for size, edge in zip(img_size, self.patch_size, strict=True))
        self.patch_embeddings = _CONVS[len(img_size)](in_channels, hidden_size, self.patch_size, self.patch_size)
        self.position_embeddings = nn.Parameter(sincos_positions(self.grid, hidden_size), learnable_positions)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Tokens (B, n, C) of an image (B, C_in, *S), or those (B, k, C) of the patches ``visible`` (B, k) alone."""
        if visible is None:
            tokens = self.patch_embeddings(x)
            return tokens.flatten(2).transpose(1, 2) + self.positions(tokens.shape[2:])
        patches = _at(patchify(x, self.patch_size), visible)
        # the convolution's weights in the voxel order of `patchify`
        weight = self.patch_embeddings.weight.movedim(1, -1).flatten(1)
        grid = [size // edge for size, edge in zip(x.shape[2:], self.patch_size, strict=True)]
        positions = self.positions(grid).expand(len(x), -1, -1)
        return F.linear(patches, weight, self.patch_embeddings.bias) + _at(positions, visible)

    def positions(self, grid: Sequence[int]) -> Tensor:
        """Positions (1, n, C) on ``grid``."""
        # an exported network must not take the size of the example for granted
        if not torch.jit.is_tracing() and tuple(grid) == self.grid:
            return self.position_embeddings
        return resample_positions(self.position_embeddings, self.grid, grid)

    def adapt_weight(self, name: str, weight: Tensor, img_size: Sequence[int] | None = None) -> Tensor | None:
        """A weight of another network fitted to this one: its positions, stretched over this one's grid.

        Args:
            name: of the weight.
            weight: the other network's.
            img_size: voxels per axis of its images; ``None`` assumes a grid of this one's proportions.

        Returns:
            the fitted weight, ``weight`` itself where the grids agree, or ``None`` where it cannot be fitted.
        """
        if name != "position_embeddings" or weight.ndim != 3 or weight.shape[2] != self.position_embeddings.shape[2]:
            return None
        n = weight.shape[1]
        old = grid_of_proportions(n, self.grid)
        if img_size is not None:
            told = tuple(size // edge for size, edge in zip(img_size, self.patch_size, strict=False))
            old = told if math.prod(told) == n else None
        if old is None:
            return None
        return weight if old == self.grid else resample_positions(weight, old, self.grid)


def _at(tokens: Tensor, places: Tensor) -> Tensor:
    """Tokens (B, k, C) of (B, n, C) at ``places`` (B, k)."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[2]))


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    Args:
        hidden_size: C, a multiple of ``n_heads``.
        n_heads: attention heads.
    """

    def __init__(self, *, hidden_size: int, n_heads: int) -> None:
        super().__init__()
        if hidden_size < 1 or n_heads < 1 or hidden_size % n_heads:
            raise ValueError(
                f"hidden_size, n_heads: got {hidden_size} and {n_heads}. Give a hidden size that is a multiple of the "
                "heads."
            )
        self.n_heads = n_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within ``x`` (B, n, C)."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        # torch's fused attention on a CPU trains at a half to a third of the speed in bf16, and is faster elsewhere
        if q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled():
            share = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
            attended = share.to(v.dtype) @ v
        else:
            attended = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Attention and a multilayer perceptron, each behind a layer norm and beside a shortcut."""

    def __init__(self, *, hidden_size: int, n_heads: int, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=_EPS)
        self.attn = SelfAttention(hidden_size=hidden_size, n_heads=n_heads)
        self.norm2 = nn.LayerNorm(hidden_size, eps=_EPS)
        self.mlp = MLPBlock(hidden_size, _MLP_RATIO * hidden_size)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, C) -> (B, n, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ViT(nn.Module):
    """Plain Vision Transformer without a class token, which MONAI's UNETR has no place for.

    Args:
        img_size: see :class:`PatchEmbedding`; its length is the number of spatial dimensions, 2 or 3.
        patch_size: edge in voxels, one or one per axis.
        in_channels: C.
        hidden_size: channels of a token.
        depth: blocks.
        n_heads: attention heads of a block.
        drop_path_rate: stochastic depth of the last block; rises linearly from 0 in the first.
        learnable_positions: train the positions (UNETR), or keep them (pretraining).

    Raises:
        ValueError: for sizes that do not fit each other.
    """

    def __init__(
        self,
        *,
        img_size: Sequence[int],
        patch_size: int | Sequence[int] = 16,
        in_channels: int = 1,
        hidden_size: int = 768,
        depth: int = 12,
        n_heads: int = 12,
        drop_path_rate: float = 0.0,
        learnable_positions: bool = False,
    ) -> None:
        super().__init__()
        if len(img_size) not in _CONVS:
            raise ValueError(f"img_size: got {list(img_size)}. Give two or three sizes in voxels.")
        if depth < 1 or not 0 <= drop_path_rate < 1:
            raise ValueError(
                f"depth, drop_path_rate: got {depth} and {drop_path_rate}. Give one block or more, and a probability "
                "below 1."
            )
        self.patch_embedding = PatchEmbedding(
            img_size=img_size,
            patch_size=patch_size,
            in_channels=in_channels,
            hidden_size=hidden_size,
            learnable_positions=learnable_positions,
        )
        rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            TransformerBlock(hidden_size=hidden_size, n_heads=n_heads, drop_path_rate=rate) for rate in rates
        )
        self.norm = nn.LayerNorm(hidden_size, eps=_EPS)
        self.apply(initialise)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Encode an image (B, C, *S).

        Args:
            x: the image; any multiple of the patch.
            visible: indices (B, k) of the patches that the network sees, in the order of the grid. ``None``: all.

        Returns:
            The tokens after the last norm, (B, k, hidden_size), and the output of every block before it.
        """
        tokens = self.patch_embedding(x, visible)
        hidden_states = []
        for block in self.blocks:
            tokens = block(tokens)
            hidden_states.append(tokens)
        return self.norm(tokens), hidden_states


def initialise(module: nn.Module) -> None:
    """MAE's initial weights: Xavier uniform for linear layers and patch embedding, biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, PatchEmbedding):
        weight = module.patch_embeddings.weight
        bound = math.sqrt(6 / (weight.shape[0] + weight[0].numel()))  # as a linear layer of a whole patch
        nn.init.uniform_(weight, -bound, bound)
        nn.init.zeros_(module.patch_embeddings.bias)
