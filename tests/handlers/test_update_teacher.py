from __future__ import annotations

import torch
from torch import nn

from common.handlers.update_teacher import UpdateTeacher
from tests.handlers.helpers import tiny_trainer


class Counter:
    """Counts how often the teacher is updated, and what the student's weight was then."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.seen: list[float] = []

    def update_teacher(self) -> None:
        self.seen.append(float(next(self.network.parameters()).flatten()[0]))


def test_the_teacher_follows_after_every_step_of_this_run_only() -> None:
    network = nn.Linear(3, 1)
    method = Counter(network)
    trainer = tiny_trainer([], epochs=2, steps=3, network=network)
    before = float(network.weight.flatten()[0])
    UpdateTeacher(method=method, optimizer=trainer.optimizer).attach(trainer)
    trainer.run()
    assert len(method.seen) == 6
    assert method.seen[0] != before  # the student had moved already
    assert method.seen[-1] == float(network.weight.flatten()[0])
    trainer.optimizer.step()
    assert len(method.seen) == 6


def test_a_step_that_the_scaler_leaves_out_does_not_count() -> None:
    network = nn.Linear(3, 1)
    method = Counter(network)
    trainer = tiny_trainer([], network=network)
    UpdateTeacher(method=method, optimizer=trainer.optimizer).start(trainer)
    scaler = torch.amp.GradScaler("cpu")
    for value in (1.0, float("inf")):
        scaler.scale(network(torch.ones(1, 3)).sum() * value).backward()
        scaler.step(trainer.optimizer)
        scaler.update()
        trainer.optimizer.zero_grad()
    assert len(method.seen) == 1
