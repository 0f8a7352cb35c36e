"""Parameter groups."""

from __future__ import annotations

import pytest
from torch import nn

from common.optim import parameter_groups


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
