"""An interrupted training, started again, ends where an uninterrupted one does."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from torch import nn

from common.errors import InputError
from common.handlers.epoch_seed import EpochSeed
from common.handlers.resume import Resume
from common.workflows import train
from tests.handlers.helpers import tiny_trainer


def build(path: Path, *, settings: dict[str, Any] | None = None, **options: Any) -> tuple[SupervisedTrainer, Resume]:
    torch.manual_seed(7)
    network = nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.5))
    trainer = tiny_trainer([EpochSeed(seed=1)], epochs=4, steps=3, network=network)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(trainer.optimizer, 0.9)
    LrScheduleHandler(scheduler, print_lr=False, epoch_level=False).attach(trainer)
    state = {"network": network, "optimizer": trainer.optimizer, "lr_scheduler": scheduler}
    resume = Resume(path=str(path), state=state, trainer=trainer, settings=settings or {"lr": 0.1}, **options)
    return trainer, resume


def weights(trainer: SupervisedTrainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.network.parameters()]


@pytest.mark.parametrize("step", [1, 3, 4, 8, 11])
def test_resumed_weights_equal_uninterrupted_ones_bit_for_bit(tmp_path: Path, step: int) -> None:
    whole, resume = build(tmp_path / "whole.pt")
    train(whole, resume)

    interrupted, resume = build(tmp_path / "resume.pt")

    def interrupt() -> None:
        raise KeyboardInterrupt

    interrupted.add_event_handler(Events.ITERATION_COMPLETED(once=step), interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(interrupted, resume)
    again, resume = build(tmp_path / "resume.pt")
    train(again, resume)
    assert resume.resumed_epoch == step // 3 - (step % 3 == 0)
    for a, b in zip(weights(whole), weights(again), strict=True):
        assert torch.equal(a, b)


def test_a_finished_training_is_not_run_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(*build(tmp_path / "resume.pt"))
    trainer, resume = build(tmp_path / "resume.pt")
    resume.attach()
    before = weights(trainer)
    with caplog.at_level("INFO"):
        train(trainer, resume)
    assert "all 4 epochs are done" in caplog.text
    for a, b in zip(before, weights(trainer), strict=True):
        assert torch.equal(a, b)


def test_restart_trains_anew(tmp_path: Path) -> None:
    train(*build(tmp_path / "resume.pt"))
    trainer, resume = build(tmp_path / "resume.pt", enabled=False)
    resume.attach()
    assert trainer.state.epoch == 0
    assert not resume.finished


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    train(*build(tmp_path / "resume.pt"))
    with pytest.raises(InputError, match=r"resume\.pt.*lr.*0\.1.*--restart True"):
        train(*build(tmp_path / "resume.pt", settings={"lr": 0.2}))


def test_full_disk_keeps_the_last_complete_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "resume.pt"
    trainer, resume = build(path)

    def fill_disk() -> None:
        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)

    trainer.add_event_handler(Events.EPOCH_STARTED(once=3), fill_disk)
    with pytest.raises(InputError, match="No space left"):
        train(trainer, resume)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["resume.pt"]
    _, resume = build(path)
    resume.attach()
    assert resume.resumed_epoch == 2


def test_best_metric_survives(tmp_path: Path) -> None:
    evaluator = tiny_trainer([])
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = 0.75, 2
    train(*build(tmp_path / "resume.pt", evaluator=evaluator))
    fresh = tiny_trainer([])
    build(tmp_path / "resume.pt", evaluator=fresh)[1].attach()
    assert (fresh.state.best_metric, fresh.state.best_metric_epoch) == (0.75, 2)
