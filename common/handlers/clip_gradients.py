"""Gradient norm clipping for MONAI's trainers."""

from __future__ import annotations

import torch
from monai.engines import SupervisedTrainer, Workflow
from monai.engines.utils import IterationEvents


class ClipGradients:
    """Scales the gradients down to a total norm, once they are complete and fp16's loss scaling is undone.

    Where a trainer accumulates the gradients of several batches, the last of them completes them.

    Args:
        optimizer: its parameters' gradients are clipped.
        max_norm: largest total L2 norm.
    """

    def __init__(self, *, optimizer: torch.optim.Optimizer, max_norm: float) -> None:
        if not max_norm > 0:
            msg = f"max_norm is {max_norm}; it must be positive (leave the handler out for no clipping)."
            raise ValueError(msg)
        self.optimizer = optimizer
        self.max_norm = max_norm

    def attach(self, engine: Workflow) -> None:
        """Register with a trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: SupervisedTrainer) -> None:
        """Clip before the optimizer's step."""
        if not completes_gradients(engine):
            return
        if engine.scaler is not None:
            engine.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.max_norm, foreach=True)


def completes_gradients(engine: SupervisedTrainer) -> bool:
    """Whether the optimizer steps after this batch: MONAI's trainer steps after every ``accumulation_steps`` of an
    epoch's batches, and after the last one.
    """
    batch = (engine.state.iteration - 1) % engine.state.epoch_length + 1
    return batch % engine.accumulation_steps == 0 or batch == engine.state.epoch_length
