"""Small modules on top of an encoder or decoder."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.networks.batch_norm import BatchNorm

POOLS = ("avg", "max")
NORMS: dict[str, type[nn.Module] | None] = {"none": None, "layer": nn.LayerNorm, "batch": BatchNorm}
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


def hidden_layer(in_features: int, out_features: int, *, norm: str = "none", activation: str = "relu") -> nn.Sequential:
    """A linear layer, a norm over the features where wanted, and an activation: all but the last layer of an MLP.

    Args:
        in_features, out_features: of the linear layer.
        norm: ``"none"``, ``"layer"``, or ``"batch"``, see :class:`common.networks.batch_norm.BatchNorm`.
        activation: ``"relu"`` or ``"gelu"``.

    Raises:
        ValueError: for an unknown norm or activation.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: got {activation!r}. Allowed are {', '.join(map(repr, ACTIVATIONS))}.")
    return nn.Sequential(nn.Linear(in_features, out_features), *_norm(norm, out_features), ACTIVATIONS[activation]())


def _norm(name: str, features: int) -> list[nn.Module]:
    """That norm over so many features, or nothing."""
    if name not in NORMS:
        raise ValueError(f"norm: got {name!r}. Allowed are {', '.join(map(repr, NORMS))}.")
    made = NORMS[name]
    return [] if made is None else [made(features)]


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
        out_norm: of the embedding (SimCLR's code has ``"batch"``).
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
        out_norm: str = "none",
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
        self.out_norm = nn.Sequential(*_norm(out_norm, out_features))

    def forward(self, *maps: Tensor) -> Tensor:
        """V maps (B, C, *S), of any S, to (V * B, out_features), map by map. A batch norm sees all of them at once."""
        pooled = torch.cat([x.mean(self.axes) if self.pool == "avg" else torch.amax(x, self.axes) for x in maps])
        return self.out_norm(self.linear(self.hidden(pooled)))


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
    """Maps to their embeddings, and on to their scores (DINO, SwAV).

    Args:
        projection: the maps (B, C, *S) to embeddings (B, E).
        prototypes: the embedding to scores (B, K).
    """

    def __init__(self, projection: ProjectionHead, prototypes: Prototypes) -> None:
        super().__init__()
        self.projection = projection
        self.prototypes = prototypes

    def forward(self, *maps: Tensor) -> Tensor:
        """V maps (B, C, *S) to (V * B, K), map by map."""
        return self.prototypes(self.projection(*maps))


class Embedder(nn.Module):
    """Encoder and projection head: images (B, C, *S) to embeddings (B, E), float32. What a slow copy is made of.

    Args:
        encoder: an image to its maps, the deepest one last.
        projector: the deepest maps of all images to their embeddings.
    """

    def __init__(self, encoder: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector

    def forward(self, *images: Tensor) -> Tensor:
        """Embed the deepest maps of V batches of images: (V * B, E), batch by batch."""
        return self.projector(*(self.encoder(image)[-1] for image in images)).float()
