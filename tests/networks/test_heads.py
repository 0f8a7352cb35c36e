"""Projection head."""

from __future__ import annotations

import pytest
import torch

from common.networks.heads import ProjectionHead, hidden_layer


@pytest.mark.parametrize(("pool", "pooled"), [("avg", [2.5, 2.0]), ("max", [4.0, 2.0])])
def test_pools_then_projects(pool: str, pooled: list[float]) -> None:
    head = ProjectionHead(spatial_dims=2, in_channels=2, out_features=3, pool=pool)
    x = torch.stack([torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.full((2, 2), 2.0)])[None]
    torch.testing.assert_close(head(x), head.linear(torch.tensor([pooled])))


def test_3d_embedding_has_128_features() -> None:
    assert ProjectionHead(spatial_dims=3, in_channels=4)(torch.rand(2, 4, 2, 3, 2)).shape == (2, 128)


def test_unknown_pool() -> None:
    with pytest.raises(ValueError, match="'avg', 'max'"):
        ProjectionHead(in_channels=2, pool="median")


def test_hidden_layers_follow_each_other() -> None:
    layers = {"hidden_features": 5, "hidden_layers": 2, "activation": "gelu"}
    head = ProjectionHead(spatial_dims=2, in_channels=3, out_features=2, **layers)
    assert [type(layer).__name__ for layer in head.hidden] == ["Linear", "GELU", "Linear", "GELU"]
    assert [tuple(p.shape) for p in head.parameters() if p.ndim == 2] == [(5, 3), (5, 5), (2, 5)]
    x = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(head(x), head.linear(head.hidden(x.mean((2, 3)))))


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match="'relu', 'gelu'"):
        hidden_layer(2, 2, activation="tanh")
