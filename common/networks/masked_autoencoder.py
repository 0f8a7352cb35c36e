"""Masked autoencoder on a Vision Transformer, with a second decoder that predicts how hard a patch is.

Sources: MAE (arXiv 2111.06377) and SelfMedMAE (arXiv 2203.05573); the loss predictor is that of HPM (arXiv 2304.05919).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from common.networks.positions import sincos_positions
from common.networks.vit import TransformerBlock, ViT, initialise

_EPS = 1e-6


class DecoderInput(nn.Module):
    """Visible tokens projected to the decoders' width, mask tokens elsewhere, and positions.

    Args:
        grid: tokens per axis.
        in_channels: channels of the encoder.
        out_channels: channels of the decoders.
    """

    positions: Tensor

    def __init__(self, *, grid: tuple[int, ...], in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(in_channels, out_channels)
        self.mask_token = nn.Parameter(torch.empty(out_channels))
        self.register_buffer("positions", sincos_positions(grid, out_channels), persistent=False)
        initialise(self.projection)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, n, out_channels) of the encoded patches ``visible`` (B, k), or of all of them."""
        projected = self.projection(tokens)
        if visible is not None:
            n = self.positions.shape[1]
            masked = self.mask_token.to(projected.dtype).expand(len(tokens), n, -1)
            projected = masked.scatter(1, visible[..., None].expand_as(projected), projected)
        return projected + self.positions


class TokenDecoder(nn.Module):
    """Transformer blocks, a norm and a linear layer per token.

    Args:
        hidden_size: channels of a token.
        depth: blocks, at least 1.
        n_heads: attention heads of a block.
        out_channels: numbers per token.
    """

    def __init__(self, *, hidden_size: int, depth: int, n_heads: int, out_channels: int) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth: got {depth}. Give one block or more.")
        self.blocks = nn.ModuleList(TransformerBlock(hidden_size=hidden_size, n_heads=n_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden_size, eps=_EPS)
        self.out = nn.Linear(hidden_size, out_channels)
        self.apply(initialise)

    def forward(self, tokens: Tensor, wanted: Tensor | None = None) -> Tensor:
        """(B, n, C) -> (B, n, out_channels), or (B, m, out_channels) of the tokens ``wanted`` (B, m) alone."""
        for block in self.blocks:
            tokens = block(tokens)
        if wanted is not None:
            tokens = tokens.gather(1, wanted[..., None].expand(-1, -1, tokens.shape[2]))
        return self.out(self.norm(tokens))


class DifficultyNetwork(nn.Module):
    """Encoder and loss predictor: all of a masked autoencoder that is needed to say which patches are hard."""

    def __init__(self, vit: ViT, decoder_input: DecoderInput, predictor: TokenDecoder) -> None:
        super().__init__()
        self.vit = vit
        self.decoder_input = decoder_input
        self.predictor = predictor

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Tensor:
        """Difficulty (B, n) of every patch of an image (B, C, *S) of which the patches ``visible`` (B, k) are seen."""
        tokens, _ = self.vit(image, visible)
        return self.predictor(self.decoder_input(tokens, visible)).squeeze(2)


class MaskedAutoencoder(nn.Module):
    """Encodes visible patches, and decodes hidden ones: their voxels, and how hard they are.

    Both decoders read the same tokens and have the same shape; their depths may differ.

    Args:
        vit: the encoder, without the positions of another image size.
        decoder_hidden_size: channels of the decoders' tokens (SelfMedMAE: 384).
        decoder_n_heads: attention heads of a decoder's block.
        decoder_depth: blocks of the reconstructor.
        predictor_depth: blocks of the loss predictor; 0 leaves it out (MAE).

    Raises:
        ValueError: for sizes that do not fit each other.
    """

    def __init__(
        self,
        vit: ViT,
        *,
        decoder_hidden_size: int = 384,
        decoder_n_heads: int = 12,
        decoder_depth: int = 8,
        predictor_depth: int = 8,
    ) -> None:
        super().__init__()
        if predictor_depth < 0:
            raise ValueError(f"predictor_depth: got {predictor_depth}. Give a number of blocks, or 0 for none.")
        embedding = vit.patch_embedding
        sizes = {"hidden_size": decoder_hidden_size, "n_heads": decoder_n_heads}
        self.vit = vit
        self.decoder_input = DecoderInput(
            grid=embedding.grid,
            in_channels=embedding.patch_embeddings.out_channels,
            out_channels=decoder_hidden_size,
        )
        voxels = math.prod(embedding.patch_size) * embedding.patch_embeddings.in_channels
        self.reconstructor = TokenDecoder(**sizes, depth=decoder_depth, out_channels=voxels)
        self.predictor = TokenDecoder(**sizes, depth=predictor_depth, out_channels=1) if predictor_depth else None

    def forward(self, image: Tensor, visible: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """Reconstruct the patches ``hidden`` (B, m) of an image (B, C, *S) from the patches ``visible`` (B, k).

        Returns:
            Voxels (B, m, p^d * C) in the order of :func:`common.masking.patches.patchify`, and difficulties (B, m);
            those are ``None`` without a loss predictor.
        """
        tokens, _ = self.vit(image, visible)
        tokens = self.decoder_input(tokens, visible)
        voxels = self.reconstructor(tokens, hidden)
        return voxels, None if self.predictor is None else self.predictor(tokens, hidden).squeeze(2)

    def difficulty_network(self) -> DifficultyNetwork:
        """The part that rates patches; it shares this network's weights.

        Raises:
            ValueError: without a loss predictor.
        """
        if self.predictor is None:
            raise ValueError("predictor_depth: it is 0, so nothing rates patches. Give 1 or more.")
        return DifficultyNetwork(self.vit, self.decoder_input, self.predictor)
