"""Masked autoencoder with a loss predictor (METHODS 5.4)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from common.networks.masked_autoencoder import DecoderInput, MaskedAutoencoder, TokenDecoder
from common.networks.positions import sincos_positions
from common.networks.vit import SIZES, ViT


def millions(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters() if p.requires_grad) / 1e6


def small(spatial_dims: int = 3, **changes: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    vit = ViT(img_size=(16,) * spatial_dims, patch_size=8, hidden_size=24, depth=2, n_heads=2)
    sizes: dict[str, Any] = {"decoder_hidden_size": 12, "decoder_n_heads": 2, "decoder_depth": 1, "predictor_depth": 1}
    return MaskedAutoencoder(vit, **{**sizes, **changes})


def test_parameters_of_the_papers_size() -> None:
    with torch.device("meta"):
        network = MaskedAutoencoder(ViT(img_size=(96, 96, 96), **SIZES["B"]))
        fewer = MaskedAutoencoder(ViT(img_size=(96, 96, 96), **SIZES["B"]), predictor_depth=4)
        mae = MaskedAutoencoder(ViT(img_size=(96, 96, 96), **SIZES["B"]), predictor_depth=0)
    assert network.predictor is not None
    parts = [network.vit, network.reconstructor, network.predictor, mae]
    assert [millions(part) for part in parts] == pytest.approx([88.20, 15.77, 14.20, 104.27], abs=0.005)
    # eight further blocks are more than the paper's "less than 1.1 times"; four are less
    assert millions(network) / millions(mae) > 1.1 > millions(fewer) / millions(mae)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_shapes(spatial_dims: int) -> None:
    n = 2**spatial_dims
    visible, hidden = torch.tensor([[1], [0]]), torch.arange(n - 1).expand(2, -1)
    x = torch.rand(2, 1, *[16] * spatial_dims)
    voxels, difficulty = small(spatial_dims)(x, visible, hidden)
    assert voxels.shape == (2, n - 1, 8**spatial_dims)
    assert difficulty is not None
    assert difficulty.shape == (2, n - 1)


def test_decoder_input_by_hand() -> None:
    layer = DecoderInput(grid=(2, 2), in_channels=4, out_channels=4)
    nn.init.eye_(layer.projection.weight)
    nn.init.zeros_(layer.projection.bias)
    nn.init.constant_(layer.mask_token, -7.0)
    tokens = torch.tensor([[[1.0, 2, 3, 4], [5, 6, 7, 8]]])
    positions = sincos_positions((2, 2), 4)[0]
    filled = layer(tokens, torch.tensor([[3, 1]]))[0] - positions
    torch.testing.assert_close(filled[3], tokens[0, 0])
    torch.testing.assert_close(filled[1], tokens[0, 1])
    torch.testing.assert_close(filled[[0, 2]], torch.full((2, 4), -7.0))
    assert set(layer.state_dict()) == {"projection.weight", "projection.bias", "mask_token"}


def test_wanted_tokens_are_those_of_the_whole_output() -> None:
    decoder = TokenDecoder(hidden_size=12, depth=2, n_heads=2, out_channels=5)
    tokens = torch.randn(2, 6, 12)
    wanted = torch.tensor([[4, 0], [1, 2]])
    torch.testing.assert_close(decoder(tokens, wanted), torch.stack([decoder(tokens)[b][wanted[b]] for b in (0, 1)]))


def test_difficulty_network_shares_weights_and_says_the_same() -> None:
    network = small()
    x = torch.rand(2, 1, 16, 16, 16)
    visible, hidden = torch.tensor([[1, 2], [0, 7]]), torch.tensor([[0, 3, 4], [1, 2, 3]])
    part = network.difficulty_network()
    torch.testing.assert_close(part(x, visible).gather(1, hidden), network(x, visible, hidden)[1])
    assert part(x).shape == (2, 8)
    own = {id(p) for p in part.parameters()}
    assert own == {id(p) for name, p in network.named_parameters() if not name.startswith("reconstructor")}


def test_without_predictor() -> None:
    network = small(predictor_depth=0)
    assert network(torch.rand(1, 1, 16, 16, 16), torch.tensor([[1]]), torch.tensor([[0]]))[1] is None
    with pytest.raises(ValueError, match="predictor_depth"):
        network.difficulty_network()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"predictor_depth": -1}, "predictor_depth"),
        ({"decoder_depth": 0}, "depth"),
        ({"decoder_n_heads": 5}, "multiple of the heads"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**arguments)
