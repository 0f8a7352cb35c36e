"""UNETR: MONAI's at its only size, other sizes beside it, and what pretraining hands over."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks import nets

from common.networks.unetr import UNETR
from common.networks.vit import SIZES
from tests.networks import monai_vit


def small(**changes: Any) -> UNETR:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"feature_size": 4, "hidden_size": 24, "depth": 4, "n_heads": 2, "patch_size": 8}
    return UNETR(**{"img_size": (16, 16, 16), "out_channels": 3, **sizes, **changes})


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_same_scores_as_monais(spatial_dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monai_vit.allow(monkeypatch)
    size = (32, 48, 32)[:spatial_dims]
    ours = small(img_size=size, patch_size=16, depth=12).eval()
    theirs = nets.UNETR(
        in_channels=1,
        out_channels=3,
        img_size=size,
        feature_size=4,
        hidden_size=24,
        mlp_dim=96,
        num_heads=2,
        spatial_dims=spatial_dims,
        qkv_bias=True,
    ).eval()
    monai_vit.load_into(theirs, ours)
    x = torch.rand(1, 1, *size)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=1e-4)


def test_parameters_of_the_papers_size() -> None:
    with torch.device("meta"):
        network = UNETR(img_size=(96, 96, 96), out_channels=14, **SIZES["B"])
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(92.81, abs=0.005)
    assert network.skips == [3, 6, 9]


@pytest.mark.parametrize(
    ("patch_size", "depth", "skips"), [(16, 24, [6, 12, 18]), (8, 6, [2, 4]), (8, 12, [4, 8]), (4, 2, [1])]
)
def test_skips_of_other_sizes(patch_size: int, depth: int, skips: list[int]) -> None:
    network = small(patch_size=patch_size, depth=depth)
    assert network.skips == skips
    assert network(torch.rand(1, 1, 32, 16, 16)).shape == (1, 3, 32, 16, 16)


def test_every_weight_takes_part() -> None:
    """Distributed training refuses weights without a gradient."""
    network = small()
    network(torch.rand(1, 1, 16, 16, 16)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"patch_size": 12}, "power of 2"), ({"patch_size": 2}, "power of 2"), ({"depth": 2}, "at least 3 blocks")],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**arguments)
