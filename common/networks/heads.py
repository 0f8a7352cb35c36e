"""Small modules on top of an encoder or decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

POOLS = ("avg", "max")


class ProjectionHead(nn.Module):
    """Pools a map over space and projects it: the embedding that a contrastive loss compares.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the map.
        out_features: length of the embedding.
        pool: ``"avg"`` (ISD-MAE's paper) or ``"max"`` (its code).
    """

    def __init__(self, *, spatial_dims: int = 3, in_channels: int, out_features: int = 128, pool: str = "avg") -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims: got {spatial_dims}. Allowed are 2 and 3.")
        if pool not in POOLS:
            raise ValueError(f"pool: got {pool!r}. Allowed are {', '.join(map(repr, POOLS))}.")
        self.axes = list(range(2, 2 + spatial_dims))
        self.pool = pool
        self.linear = nn.Linear(in_channels, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, out_features)."""
        pooled = x.mean(self.axes) if self.pool == "avg" else torch.amax(x, self.axes)
        return self.linear(pooled)
