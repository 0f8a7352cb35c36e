"""Mix Transformer: sizes, interface, stochastic depth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.networks.drop_path import DropPath
from common.networks.mix_transformer import VARIANTS, EfficientSelfAttention, MixTransformer


def n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("spatial_dims", "variant", "millions"),
    [
        (2, "b0", 3.32),
        (2, "b1", 13.15),
        (2, "b2", 24.20),
        (2, "b3", 44.07),
        (2, "b4", 60.84),
        (2, "b5", 81.44),
        (3, "b0", 5.90),
        (3, "b2", 39.49),
    ],
)
def test_parameter_counts_of_the_paper(spatial_dims: int, variant: str, millions: float) -> None:
    with torch.device("meta"):
        encoder = MixTransformer(spatial_dims=spatial_dims, variant=variant)
    assert round(n_parameters(encoder) / 1e6, 2) == millions


@pytest.mark.parametrize(("variant", "millions"), [("b0", 5.895), ("b2", 39.494)])
def test_parameter_counts_of_the_official_3d_code(variant: str, millions: float) -> None:
    with torch.device("meta"):
        assert round(n_parameters(MixTransformer(spatial_dims=3, variant=variant)) / 1e6, 3) == millions


@pytest.mark.parametrize("stem_stride", [2, 4])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_four_maps_finest_first(spatial_dims: int, stem_stride: int) -> None:
    encoder = MixTransformer(spatial_dims=spatial_dims, in_channels=2, variant="b0", stem_stride=stem_stride)
    size = (64, 32, 32)[:spatial_dims]
    maps = encoder(torch.rand(2, 2, *size))
    assert encoder.strides == tuple(stem_stride * s for s in (1, 2, 4, 8))
    assert encoder.channels == (32, 64, 160, 256)
    for x, channels, stride in zip(maps, encoder.channels, encoder.strides, strict=True):
        assert x.shape == (2, channels, *(s // stride for s in size))


def test_maps_are_channels_last_without_a_copy() -> None:
    encoder = MixTransformer(spatial_dims=3, variant="b0", stem_stride=2)
    for x in encoder(torch.rand(2, 3, 32, 32, 32)):
        assert x.is_contiguous(memory_format=torch.channels_last_3d)


def test_keys_come_from_a_coarser_map(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    original = F.scaled_dot_product_attention

    def watched(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        shapes.append((tuple(q.shape), tuple(k.shape), tuple(v.shape)))
        return original(q, k, v)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    attention = EfficientSelfAttention(spatial_dims=3, channels=10, num_heads=2, reduction=4)
    assert attention(torch.rand(3, 8, 8, 4, 10)).shape == (3, 8, 8, 4, 10)
    assert shapes == [((3, 2, 256, 5), (3, 2, 4, 5), (3, 2, 4, 5))]


def test_attention_by_hand() -> None:
    torch.manual_seed(0)
    attention = EfficientSelfAttention(spatial_dims=2, channels=4, num_heads=2, reduction=1).double()
    x = torch.randn(1, 2, 3, 4, dtype=torch.double)
    q, (k, v) = attention.q(x).view(6, 4), attention.kv(x).view(6, 8).chunk(2, dim=-1)
    heads = [torch.softmax(q[:, h] @ k[:, h].T / 2**0.5, dim=-1) @ v[:, h] for h in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(attention(x).view(6, 4), attention.proj(torch.cat(heads, dim=-1)))


def test_drop_path_rises_linearly() -> None:
    encoder = MixTransformer(spatial_dims=2, variant="b0", drop_path_rate=0.7)
    rates = [m.rate for m in encoder.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.1 * i for i in range(8)])


def test_drop_path_keeps_the_mean_and_rests_in_evaluation() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(4000, 1, 1)
    dropped = drop(x)
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    assert drop.eval()(x) is x


def test_every_norm_has_the_paper_epsilon() -> None:
    encoder = MixTransformer(spatial_dims=2, variant="b0")
    assert {m.eps for m in encoder.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"spatial_dims": 4}, "spatial_dims"),
        ({"variant": "b6"}, "b0, b1"),
        ({"stem_stride": 3}, "stem_stride"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"in_channels": 0}, "in_channels"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        MixTransformer(**{"variant": "b0", **arguments})


def test_all_variants_have_four_stages() -> None:
    assert set(VARIANTS) == {"b0", "b1", "b2", "b3", "b4", "b5"}
    assert all(len(v.channels) == len(v.depths) == 4 for v in VARIANTS.values())
