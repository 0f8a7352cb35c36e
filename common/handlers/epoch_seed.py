"""Randomness as a function of (seed, epoch, rank), so that a resumed run repeats an uninterrupted one bit for bit."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.data.utils import set_rnd
from monai.engines import Workflow

from common.distributed import rank


class EpochSeed:
    """Seeds torch, numpy, Python, the random transforms and the method's masks when an epoch starts.

    Every random draw of an epoch (data order, crops, augmentation, masks, drop path) then depends on nothing that
    happened before it, and no generator state has to be saved.

    Args:
        seed: the run's seed.
        dataset: dataset whose random transforms are seeded; worker processes are seeded by MONAI's ``DataLoader`` from
            torch's generator.
        method: has ``seed_masks(seed)`` (see :mod:`common.methods`).
    """

    def __init__(self, *, seed: int, dataset: Any = None, method: Any = None) -> None:
        self.seed = seed
        self.dataset = dataset
        self.method = method

    def attach(self, engine: Workflow) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        """Seed everything for the epoch that starts."""
        data_seed, mask_seed = self.epoch_seeds(engine.state.epoch)
        torch.manual_seed(data_seed)
        np.random.seed(data_seed)
        random.seed(data_seed)
        if self.dataset is not None:
            set_rnd(self.dataset, seed=data_seed)
        if self.method is not None:
            self.method.seed_masks(mask_seed)

    def epoch_seeds(self, epoch: int) -> tuple[int, int]:
        """Two independent 32-bit seeds for ``epoch`` on this rank: data and masks."""
        state = np.random.SeedSequence([self.seed, epoch, rank()]).generate_state(2)
        return int(state[0]), int(state[1])
