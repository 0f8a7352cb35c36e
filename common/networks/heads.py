"""Small modules on top of an encoder or decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

POOLS = ("avg", "max")
NORMS = ("none", "layer")


def hidden_layer(in_features: int, out_features: int, *, norm: str = "none") -> nn.Sequential:
    """A linear layer, a norm over the features where wanted, and a ReLU: all but the last layer of an MLP.

    Args:
        in_features, out_features: of the linear layer.
        norm: ``"none"``, or ``"layer"``, in place of the papers' batch norm, which needs batches of hundreds.

    Raises:
        ValueError: for an unknown norm.
    """
    if norm not in NORMS:
        raise ValueError(f"norm: got {norm!r}. Allowed are {', '.join(map(repr, NORMS))}.")
    normalised = [nn.LayerNorm(out_features)] if norm == "layer" else []
    return nn.Sequential(nn.Linear(in_features, out_features), *normalised, nn.ReLU())


def mlp(in_features: int, hidden_features: int, out_features: int, *, norm: str = "none") -> nn.Sequential:
    """A :func:`hidden_layer` and a linear one: what predicts one embedding from another (BYOL, CMAE)."""
    return nn.Sequential(
        hidden_layer(in_features, hidden_features, norm=norm), nn.Linear(hidden_features, out_features)
    )


class ProjectionHead(nn.Module):
    """Pools a map over space and projects it: the embedding that a contrastive loss compares.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the map.
        out_features: length of the embedding.
        pool: ``"avg"`` (ISD-MAE's paper) or ``"max"`` (its code).
        hidden_features: width of a layer before the last one (SimCLR, MoCo v2, BYOL); 0 for none.
        norm: of that layer, see :func:`hidden_layer`.
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 3,
        in_channels: int,
        out_features: int = 128,
        pool: str = "avg",
        hidden_features: int = 0,
        norm: str = "none",
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims: got {spatial_dims}. Allowed are 2 and 3.")
        if pool not in POOLS:
            raise ValueError(f"pool: got {pool!r}. Allowed are {', '.join(map(repr, POOLS))}.")
        self.axes = list(range(2, 2 + spatial_dims))
        self.pool = pool
        self.hidden: nn.Module = nn.Identity()
        if hidden_features:
            self.hidden = hidden_layer(in_channels, hidden_features, norm=norm)
        self.linear = nn.Linear(hidden_features or in_channels, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, out_features)."""
        pooled = x.mean(self.axes) if self.pool == "avg" else torch.amax(x, self.axes)
        return self.linear(self.hidden(pooled))


class Embedder(nn.Module):
    """Encoder and projection head: an image (B, C, *S) to its embedding (B, E), float32. What a slow copy is made of.

    Args:
        encoder: an image to its maps, the deepest one last.
        projector: that map to the embedding.
    """

    def __init__(self, encoder: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector

    def forward(self, image: Tensor) -> Tensor:
        """Embed the deepest map."""
        return self.projector(self.encoder(image)[-1]).float()
