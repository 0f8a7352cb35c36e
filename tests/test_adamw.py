"""The fused AdamW: the ordinary one's steps, its checkpoints, and fp16's loss scaling."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from common.adamw import FusedAdamW
from common.handlers.clip_gradients import ClipGradients


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 2, 1, 1), (4,))]


def step(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None, factor: float = 1.0) -> None:
    """One step down a quadratic, clipped."""
    optimizer.zero_grad()
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    loss = factor * torch.stack([(p - 1).square().sum() for p in weights]).sum()
    (loss if scaler is None else scaler.scale(loss)).backward()
    state = SimpleNamespace(iteration=1, epoch_length=1)
    engine: Any = SimpleNamespace(scaler=scaler, accumulation_steps=1, state=state)
    ClipGradients(optimizer=optimizer, max_norm=0.5)(engine)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()


@pytest.mark.parametrize("scaled", [False, True])
def test_continues_an_ordinary_adamw_in_its_own_kernel(scaled: bool) -> None:
    """With fp16's loss scaling too, where torch alone refuses the step after loading."""
    ordinary = torch.optim.AdamW(parameters(), lr=0.1, weight_decay=0.2)
    for _ in range(2):
        step(ordinary)
    continued = FusedAdamW([p.detach().clone().requires_grad_() for p in ordinary.param_groups[0]["params"]])
    continued.load_state_dict(copy.deepcopy(ordinary.state_dict()))
    assert continued.param_groups[0]["fused"]
    assert continued.param_groups[0]["lr"] == 0.1
    step(ordinary)
    step(continued, torch.amp.GradScaler("cpu", init_scale=1024.0) if scaled else None)
    torch.testing.assert_close(continued.param_groups[0]["params"], ordinary.param_groups[0]["params"])
    assert not ordinary.param_groups[0]["fused"]


@pytest.mark.parametrize("saved", [torch.channels_last, torch.contiguous_format])
def test_continues_a_state_of_another_memory_format(saved: torch.memory_format) -> None:
    own = torch.contiguous_format if saved == torch.channels_last else torch.channels_last
    start = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    ordinary = torch.optim.AdamW([nn.Parameter(start.to(memory_format=saved))], lr=0.1)
    step(ordinary)
    weight = ordinary.param_groups[0]["params"][0]
    continued = FusedAdamW([nn.Parameter(weight.detach().clone().to(memory_format=own))])
    continued.load_state_dict(copy.deepcopy(ordinary.state_dict()))
    for _ in range(2):
        step(ordinary)
        step(continued)
    torch.testing.assert_close(continued.param_groups[0]["params"], [weight])


def test_an_overflow_under_loss_scaling_changes_no_weight() -> None:
    optimizer = FusedAdamW(parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    step(optimizer, scaler, factor=float("inf"))
    for own, start in zip(optimizer.param_groups[0]["params"], parameters(), strict=True):
        assert torch.equal(own, start)
    assert scaler.get_scale() == 512.0
