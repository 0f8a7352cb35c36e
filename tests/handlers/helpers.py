"""A tiny trainer for handler tests."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from torch import nn
from torch.utils.data import RandomSampler


def tiny_trainer(
    handlers: list[Any], *, epochs: int = 3, steps: int = 4, network: nn.Module | None = None
) -> SupervisedTrainer:
    """One linear layer with dropout on random batches drawn by torch's global generator."""
    network = nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.5)) if network is None else network
    data = [{"image": torch.full((3,), float(i)), "label": torch.zeros(1)} for i in range(6)]
    dataset = Dataset(data)
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(dataset, batch_size=2, sampler=RandomSampler(dataset, num_samples=2 * steps)),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=0.1),
        loss_function=nn.MSELoss(),
        decollate=False,
        train_handlers=handlers,
    )
