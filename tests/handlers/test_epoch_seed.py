"""Randomness is a function of seed, epoch and rank."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import Dataset
from monai.transforms import Compose, RandGaussianNoise

from common.handlers.epoch_seed import EpochSeed
from tests.handlers.helpers import tiny_trainer


class MaskProbe:
    """Remembers the seeds a method is given."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def seed_masks(self, seed: int) -> None:
        self.seeds.append(seed)


def draws_of_epoch(epoch: int, *, first: int, seed: int = 0) -> list[float]:
    """What the generators give in ``epoch`` of a run that starts with epoch ``first``."""
    transform = Compose([RandGaussianNoise(prob=1.0)])
    handler = EpochSeed(seed=seed, dataset=Dataset([torch.zeros(1, 2)], transform))
    drawn: list[float] = []
    trainer = tiny_trainer([handler], epochs=epoch)

    def draw(engine: object) -> None:  # noqa: ARG001
        if trainer.state.epoch == epoch:
            drawn.extend([float(torch.rand(())), float(np.random.rand()), random.random()])
            drawn.extend(transform(torch.zeros(1, 2)).flatten().tolist())

    trainer.add_event_handler(Events.EPOCH_STARTED, draw)
    trainer.state.epoch = first - 1
    trainer.state.iteration = (first - 1) * trainer.state.epoch_length
    trainer.run()
    return drawn


def test_an_epoch_does_not_depend_on_those_before_it() -> None:
    assert draws_of_epoch(3, first=1) == draws_of_epoch(3, first=3)


def test_epochs_and_seeds_differ() -> None:
    assert draws_of_epoch(2, first=2) != draws_of_epoch(3, first=3)
    assert draws_of_epoch(2, first=2, seed=1) != draws_of_epoch(2, first=2)


def test_masks_have_a_seed_of_their_own_per_epoch() -> None:
    probe = MaskProbe()
    tiny_trainer([EpochSeed(seed=5, method=probe)], epochs=3).run()
    data_seeds = [EpochSeed(seed=5).epoch_seeds(epoch)[0] for epoch in (1, 2, 3)]
    assert len({*probe.seeds, *data_seeds}) == 6


def test_ranks_draw_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = EpochSeed(seed=0)
    first = handler.epoch_seeds(1)
    monkeypatch.setenv("RANK", "1")
    assert handler.epoch_seeds(1) != first
