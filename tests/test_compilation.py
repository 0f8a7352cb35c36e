"""Compiled networks: the same names and numbers, and a message where there is no compiler."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from common.compilation import _error_of, compile_network
from common.inferers import AutocastInferer
from tests.bundles.discovery import NAMES
from tests.bundles.two_processes import images, parser


@pytest.fixture
def forgetful() -> Any:
    """Whether there is a compiler is found out anew."""
    _error_of.cache_clear()
    yield
    _error_of.cache_clear()


@pytest.mark.usefixtures("forgetful")
def test_without_a_compiler_the_network_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no C++ compiler found\nin a long list of places")

    monkeypatch.setattr(torch, "compile", refuse)
    network = nn.Sequential(nn.Linear(1, 1))
    with caplog.at_level("WARNING"):
        made = AutocastInferer(precision="fp32", compile=True)(torch.ones(1, 1), network)
    assert "compile: not on this machine (no C++ compiler found)" in caplog.text
    assert torch.equal(made, network[0](torch.ones(1, 1)))


@pytest.mark.usefixtures("forgetful")
def test_a_network_is_compiled_once_with_its_children_and_keeps_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function) or function)
    method = nn.Sequential()
    method.network = nn.Sequential(nn.Linear(1, 1), nn.ModuleList([nn.Linear(1, 1)]))
    method.forward = lambda x: method.network[0](x)
    names = list(method.state_dict())
    inferer = AutocastInferer(precision="fp32", compile=True)
    for _ in range(2):
        inferer(torch.ones(1, 1), method)
    bound = [function.__self__ for function in compiled if hasattr(function, "__self__")]
    assert bound == [method.network, method.network[0]]
    assert list(method.state_dict()) == names


def test_compiling_and_recomputing_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="Choose one"):
        AutocastInferer(compile=True, checkpointing=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backend"), [*((name, "aot_eager") for name in NAMES), ("isd_mae", "inductor")])
def test_a_compiled_step_has_the_same_loss_and_gradients(name: str, backend: str) -> None:
    config = parser(name, "pretrain")
    method, criterion = config.get_parsed_content("method"), config.get_parsed_content("loss")
    for module in method.modules():
        if hasattr(module, "rate"):  # drop path draws in another order
            module.rate = 0.0
    if hasattr(method, "set_progress"):
        method.set_progress(0.5)
    other = copy.deepcopy(method)
    names = list(method.state_dict())
    assert compile_network(other.network, "cpu", backend=backend)
    torch._dynamo.reset()  # else what another method's test has compiled is found and not counted
    torch._dynamo.utils.counters.clear()
    losses, gradients = [], []
    for each in (method, other):
        each.seed_masks(3)
        loss = criterion(each(images(name, 0, 0)))
        loss.backward()
        losses.append(loss.detach())
        gradients.append({n: p.grad for n, p in each.named_parameters() if p.grad is not None})
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert list(other.state_dict()) == names
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-2, atol=1e-4)
