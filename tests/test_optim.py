"""Parameter groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common.networks.unetr import UNETR
from common.optim import layer_decay_groups, parameter_groups


def network() -> nn.ModuleDict:
    return nn.ModuleDict({"encoder": nn.Linear(2, 3), "head": nn.Linear(3, 1)})


def test_head_and_body_have_rates_of_their_own_and_vectors_no_decay() -> None:
    net = network()
    groups = parameter_groups(net, lr=0.1, weight_decay=0.5, body_lr_factor=0.25)
    by_parameter = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert by_parameter == {
        id(net["encoder"].weight): (0.025, 0.5),
        id(net["encoder"].bias): (0.025, 0.0),
        id(net["head"].weight): (0.1, 0.5),
        id(net["head"].bias): (0.1, 0.0),
    }


def test_all_that_starts_fresh_can_have_the_heads_rate() -> None:
    net = nn.ModuleDict({"stage_0": nn.Linear(1, 1), "decoder": nn.Linear(1, 1), "head": nn.Linear(1, 1)})
    groups = parameter_groups(net, lr=0.1, weight_decay=0.0, body_lr_factor=0.5, head=["decoder", "head"])
    rates = {id(p): g["lr"] for g in groups for p in g["params"]}
    assert [rates[id(p)] for p in net.parameters()] == [0.05] * 2 + [0.1] * 4


def test_parameters_of_several_modules_all_arrive_once() -> None:
    a, b = network(), network()
    groups = parameter_groups(a, b, lr=0.1, weight_decay=0.0)
    assert sum(len(g["params"]) for g in groups) == 8
    assert {g["lr"] for g in groups} == {0.1}


def test_frozen_parameters_stay_out() -> None:
    net = network()
    net["encoder"].requires_grad_(False)
    assert sum(len(g["params"]) for g in parameter_groups(net, lr=0.1, weight_decay=0.0)) == 2


def test_rates_must_be_positive() -> None:
    with pytest.raises(ValueError, match="body_lr_factor"):
        parameter_groups(network(), lr=0.1, weight_decay=0.0, body_lr_factor=0.0)


class TestLayerDecay:
    """0.75 ** (13 - layer) with 12 blocks (METHODS 5.11)."""

    def groups(self, **changes: float) -> dict[str, tuple[float, float]]:
        with torch.device("meta"):
            net = UNETR(img_size=(32, 32, 32), out_channels=2, hidden_size=24, n_heads=2, feature_size=4)
        options = {"lr": 1.0, "weight_decay": 0.05, "layer_decay": 0.75, **changes}
        found = {id(p): (g["lr"], g["weight_decay"]) for g in layer_decay_groups(net, **options) for p in g["params"]}
        named = {name: found.pop(id(p)) for name, p in net.named_parameters()}
        assert found == {}
        return named

    def test_by_hand(self) -> None:
        named = self.groups()
        assert named["vit.patch_embedding.patch_embeddings.weight"] == pytest.approx((0.75**13, 0.05))
        assert named["vit.patch_embedding.position_embeddings"] == pytest.approx((0.75**13, 0.0))
        assert named["vit.blocks.0.attn.qkv.weight"] == pytest.approx((0.75**12, 0.05))
        assert named["vit.blocks.0.norm1.weight"] == pytest.approx((0.75**12, 0.0))
        assert named["vit.blocks.11.mlp.linear2.weight"] == pytest.approx((0.75, 0.05))
        assert named["vit.norm.weight"] == (1.0, 0.0)
        assert named["decoder2.conv_block.conv1.conv.weight"] == (1.0, 0.05)
        assert named["encoder2.transp_conv_init.conv.weight"] == (1.0, 0.05)

    def test_one_rate_from_scratch(self) -> None:
        assert {rate for rate, _ in self.groups(layer_decay=1.0).values()} == {1.0}

    @pytest.mark.parametrize("wrong", [0.0, 1.1])
    def test_out_of_range(self, wrong: float) -> None:
        with pytest.raises(ValueError, match="layer_decay"):
            self.groups(layer_decay=wrong)
