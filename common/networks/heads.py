"""Small modules on top of an encoder or decoder."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POOLS = ("avg", "max")
NORMS = ("none", "layer")
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


def hidden_layer(in_features: int, out_features: int, *, norm: str = "none", activation: str = "relu") -> nn.Sequential:
    """A linear layer, a norm over the features where wanted, and an activation: all but the last layer of an MLP.

    Args:
        in_features, out_features: of the linear layer.
        norm: ``"none"``, or ``"layer"``, in place of the papers' batch norm, which needs batches of hundreds.
        activation: ``"relu"`` or ``"gelu"``.

    Raises:
        ValueError: for an unknown norm or activation.
    """
    if norm not in NORMS:
        raise ValueError(f"norm: got {norm!r}. Allowed are {', '.join(map(repr, NORMS))}.")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: got {activation!r}. Allowed are {', '.join(map(repr, ACTIVATIONS))}.")
    normalised = [nn.LayerNorm(out_features)] if norm == "layer" else []
    return nn.Sequential(nn.Linear(in_features, out_features), *normalised, ACTIVATIONS[activation]())


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
        hidden_layers: how many of them (DINO has 2).
        norm, activation: of those layers, see :func:`hidden_layer`.
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 3,
        in_channels: int,
        out_features: int = 128,
        pool: str = "avg",
        hidden_features: int = 0,
        hidden_layers: int = 1,
        norm: str = "none",
        activation: str = "relu",
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
            widths = [in_channels, *[hidden_features] * hidden_layers]
            self.hidden = nn.Sequential(
                *(
                    layer
                    for before, after in itertools.pairwise(widths)
                    for layer in hidden_layer(before, after, norm=norm, activation=activation)
                )
            )
        self.linear = nn.Linear(hidden_features or in_channels, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, out_features)."""
        pooled = x.mean(self.axes) if self.pool == "avg" else torch.amax(x, self.axes)
        return self.linear(self.hidden(pooled))


class Prototypes(nn.Module):
    """Cosines of embeddings and K learnt directions: the scores of which two views of a case should agree.

    This is DINO's last layer, weight-normalised with a gain of 1. SwAV's code sets its prototypes to length 1 before
    every step, which gives the same scores.

    Args:
        features: E, length of the embeddings.
        n_prototypes: K.

    Raises:
        ValueError: for fewer than two prototypes.

    Attributes:
        frozen: hold the directions still. Their gradient is then 0, not missing: several processes would wait for it.
    """

    def __init__(self, *, features: int, n_prototypes: int) -> None:
        super().__init__()
        if n_prototypes < 2:
            raise ValueError(f"n_prototypes: got {n_prototypes}. Give at least 2: for one, all cases are alike.")
        self.linear = nn.Linear(features, n_prototypes, bias=False)
        self.frozen = False

    def directions(self) -> Tensor:
        """(K, E), each of length 1."""
        directions = F.normalize(self.linear.weight.float(), dim=1)
        return directions.detach() + 0 * directions if self.frozen else directions

    def forward(self, embeddings: Tensor) -> Tensor:
        """(..., E) -> cosines float32 (..., K)."""
        with torch.autocast(device_type=embeddings.device.type, enabled=False):
            return F.normalize(embeddings.float(), dim=-1) @ self.directions().t()


class PrototypeHead(nn.Module):
    """A map to its embedding, and on to its scores (DINO, SwAV).

    Args:
        projection: the map (B, C, *S) to an embedding (B, E).
        prototypes: the embedding to scores (B, K).
    """

    def __init__(self, projection: ProjectionHead, prototypes: Prototypes) -> None:
        super().__init__()
        self.projection = projection
        self.prototypes = prototypes

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, K)."""
        return self.prototypes(self.projection(x))


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
