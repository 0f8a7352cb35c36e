from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from common.networks.batch_norm import BatchNorm


def norm(features: int) -> BatchNorm:
    made = BatchNorm(features)
    with torch.no_grad():
        made.weight.uniform_(0.5, 2)
        made.bias.uniform_(-1, 1)
    return made


def test_is_torchs_batch_norm_by_the_batch_at_hand_also_in_evaluation() -> None:
    ours, theirs = norm(5), nn.BatchNorm1d(5)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    x = 3 * torch.randn(6, 5) + 7
    torch.testing.assert_close(ours(x), theirs.train()(x))
    assert torch.equal(ours.eval()(x), ours.train()(x))
    assert set(ours.state_dict()) == {"weight", "bias"}


def test_tells_cases_apart_that_differ_little() -> None:
    """Around 1000, by 0.1: in half precision, and by the mean of squares, nothing of it would be left."""
    x = torch.tensor([[1000.0], [1000.1]])
    with torch.autocast("cpu", torch.bfloat16):
        made = BatchNorm(1)(x)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, torch.tensor([[-1.0], [1.0]]), atol=0.01, rtol=0)


def test_a_single_case_becomes_the_bias_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    made = norm(3)
    made(torch.rand(2, 3))
    assert caplog.messages == []
    for _ in range(2):
        torch.testing.assert_close(made(torch.rand(1, 3)), made.bias.detach()[None])
    assert len(caplog.messages) == 1


def test_several_processes_have_values_and_gradients_of_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads in their place. Each has its part of the loss, and the mean of their gradients is that of the mean."""
    here, turn, given = threading.local(), threading.Barrier(2, timeout=20), [torch.empty(0), torch.empty(0)]

    def all_reduce(x: Tensor) -> None:
        given[here.rank] = x.clone()
        turn.wait()
        total = given[0] + given[1]
        turn.wait()
        x.copy_(total)

    x, wanted, made = torch.randn(6, 4), torch.randn(6, 4), norm(4)
    whole = x.clone().requires_grad_()
    expected = made(whole)
    ((expected - wanted) ** 2).mean().backward()

    for name, replacement in {
        "is_initialized": lambda: True,
        "get_world_size": lambda: 2,
        "all_reduce": all_reduce,
    }.items():
        monkeypatch.setattr(torch.distributed, name, replacement)

    def process(rank: int) -> tuple[Tensor, Tensor]:
        here.rank = rank
        part = x[3 * rank : 3 * rank + 3].clone().requires_grad_()
        out = made(part)
        (gradient,) = torch.autograd.grad(((out - wanted[3 * rank : 3 * rank + 3]) ** 2).mean(), part)
        return out.detach(), gradient / 2

    with ThreadPoolExecutor(2) as pool:
        outs, gradients = zip(*pool.map(process, range(2)), strict=True)
    torch.testing.assert_close(torch.cat(outs), expected.detach())
    torch.testing.assert_close(torch.cat(gradients), whole.grad)
