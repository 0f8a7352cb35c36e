"""Vision Transformer: MONAI's under its names, visible patches alone, other image sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.nets import ViT as MonaiViT

from common.networks.drop_path import DropPath
from common.networks.positions import sincos_positions
from common.networks.vit import SIZES, SelfAttention, ViT
from tests.networks import monai_vit


def small(**changes: Any) -> ViT:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"img_size": (16, 16, 16), "patch_size": 4, "hidden_size": 24, "depth": 3, "n_heads": 2}
    return ViT(**{**arguments, **changes})


@pytest.mark.parametrize(("size", "millions"), [("S", 22.87), ("B", 88.20), ("L", 306.51)])
def test_parameters(size: str, millions: float) -> None:
    with torch.device("meta"):
        network = ViT(img_size=(96, 96, 96), patch_size=16, **SIZES[size])
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert trained / 1e6 == pytest.approx(millions, abs=0.005)
    assert network.patch_embedding.position_embeddings.shape == (1, 216, SIZES[size]["hidden_size"])


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_same_features_as_monais(spatial_dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monai_vit.allow(monkeypatch)
    size = (16, 8, 12)[:spatial_dims]
    ours = small(img_size=size)
    theirs = MonaiViT(
        in_channels=1,
        img_size=size,
        patch_size=(4,) * spatial_dims,
        hidden_size=24,
        mlp_dim=96,
        num_layers=3,
        num_heads=2,
        spatial_dims=spatial_dims,
        qkv_bias=True,
    )
    monai_vit.load_into(theirs, ours)
    x = torch.rand(2, 1, *size)
    tokens, states = ours(x)
    expected, expected_states = theirs(x)
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)
    for state, wanted in zip(states, expected_states, strict=True):
        torch.testing.assert_close(state, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
def test_all_patches_given_as_visible_are_the_whole_image(channels: int) -> None:
    """The convolution and the linear map of single patches agree, in every order of voxels and channels."""
    network = small(in_channels=channels)
    x = torch.rand(2, channels, 16, 16, 16)
    everything = torch.arange(64).expand(2, -1)
    torch.testing.assert_close(network(x, everything)[0], network(x)[0])


def test_hidden_patches_do_not_matter() -> None:
    network = small()
    x = torch.rand(1, 1, 16, 16, 16)
    visible = torch.tensor([[0, 5, 63]])
    tokens, states = network(x, visible)
    assert tokens.shape == states[0].shape == (1, 3, 24)
    changed = x.clone()
    changed[..., 8:, :8, :] += 1  # neither the first, nor the sixth, nor the last patch
    assert torch.equal(network(changed, visible)[0], tokens)
    changed[..., :4, :4, :4] += 1
    assert not torch.equal(network(changed, visible)[0], tokens)


def test_positions_are_fixed_or_learnable() -> None:
    for learnable in (False, True):
        network = small(learnable_positions=learnable)
        network(torch.rand(1, 1, 16, 16, 16))[0].sum().backward()
        positions = network.patch_embedding.position_embeddings
        assert torch.equal(positions, sincos_positions((4, 4, 4), 24))
        assert (positions.grad is not None) == learnable


def test_other_image_sizes_get_interpolated_positions() -> None:
    network = small()
    tokens, _ = network(torch.rand(1, 1, 24, 16, 8))
    assert tokens.shape == (1, 6 * 4 * 2, 24)
    embedding = network.patch_embedding
    assert embedding.positions((4, 4, 4)) is embedding.position_embeddings
    assert embedding.positions((6, 4, 2)).shape == (1, 48, 24)


def test_weights_of_another_grid_are_adapted_if_its_proportions_agree() -> None:
    embedding = small().patch_embedding
    adapted = embedding.adapt_weight("position_embeddings", sincos_positions((8, 8, 8), 24))
    assert adapted is not None
    assert adapted.shape == (1, 64, 24)
    assert embedding.adapt_weight("position_embeddings", torch.zeros(1, 65, 24)) is None
    assert embedding.adapt_weight("position_embeddings", torch.zeros(1, 64, 24), (32, 32, 40)) is None
    assert embedding.adapt_weight("position_embeddings", torch.zeros(1, 512, 12)) is None
    assert embedding.adapt_weight("patch_embeddings.weight", torch.zeros(1, 512, 24)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_with_and_without_gradients_agrees(dtype: torch.dtype) -> None:
    """Half precision on a CPU trains by another path than it infers."""
    attention = SelfAttention(hidden_size=16, n_heads=4).to(dtype)
    x = torch.randn(2, 10, 16, dtype=dtype)
    with torch.no_grad():
        fused = attention(x)
    torch.testing.assert_close(attention(x), fused, atol=0.02 if dtype == torch.bfloat16 else 1e-6, rtol=0.02)


def test_drop_path_rises_to_its_rate() -> None:
    rates = [m.rate for m in small(drop_path_rate=0.1).modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0, 0.05, 0.1])


def test_initial_weights_are_those_of_a_linear_layer_per_patch() -> None:
    network = ViT(img_size=(16, 16, 16), patch_size=8, hidden_size=96, depth=1, n_heads=2)
    bound = (6 / (96 + 512)) ** 0.5
    weight = network.patch_embedding.patch_embeddings.weight
    assert weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert not network.blocks[0].attn.qkv.bias.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"img_size": (16, 16)[:1]}, "two or three"),
        ({"img_size": (16, 18, 16)}, "multiples of the patch"),
        ({"n_heads": 5}, "multiple of the heads"),
        ({"depth": 0}, "depth"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**arguments)
