"""Scalars of a training for TensorBoard: loss, its named parts, what the method measures, learning rates."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import Workflow
from torch.utils.tensorboard import SummaryWriter


class Scalars:
    """Writes averages over ``interval`` steps to TensorBoard; the last ones are in ``engine.state.averages``.

    Sums stay on the device between writes: one transfer per interval, none per step. A loss that is not finite ends the
    run there, before a checkpoint of it is written.

    ``data_wait`` is the share of the time that the training stood still until the next batch was there. On a GPU, which
    may still be busy with steps before, it is an upper bound.

    Args:
        log_dir: TensorBoard folder.
        interval: steps between two points.
        optimizer: its learning rates are written too.
        prefix: first part of every tag.
    """

    def __init__(
        self, *, log_dir: str, interval: int = 10, optimizer: torch.optim.Optimizer | None = None, prefix: str = "train"
    ) -> None:
        if interval < 1:
            msg = f"interval is {interval}; it must be at least 1 step."
            raise ValueError(msg)
        self.log_dir = log_dir
        self.interval = interval
        self.optimizer = optimizer
        self.prefix = prefix
        self._sums: dict[str, torch.Tensor] = {}
        self._count = 0
        self._asked = 0.0
        self._waited = 0.0
        self._elapsed = 0.0
        self._writer: SummaryWriter | None = None

    def attach(self, engine: Workflow) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.GET_BATCH_STARTED, self.ask)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self.receive)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.COMPLETED, self.close)

    def ask(self, engine: Workflow) -> None:  # noqa: ARG002 (ignite's signature)
        """A step begins with waiting for its batch."""
        self._asked = time.perf_counter()

    def receive(self, engine: Workflow) -> None:  # noqa: ARG002 (ignite's signature)
        """The batch is there."""
        self._waited += time.perf_counter() - self._asked

    def step(self, engine: Workflow) -> None:
        """Add the step's values; write when the interval is full."""
        for name, value in step_values(engine.state.output).items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1
        if self._count == self.interval or engine.state.iteration % engine.state.epoch_length == 0:
            self._write(engine)
        else:
            self._elapsed += time.perf_counter() - self._asked

    def _write(self, engine: Workflow) -> None:
        if not self._sums:
            return
        if self._writer is None:
            self._writer = SummaryWriter(self.log_dir)
        means = torch.stack(list(self._sums.values())).div(self._count).tolist()
        averages = engine.state.averages = dict(zip(self._sums, means, strict=True))
        # after the transfer, for which the host waits until the device is done
        averages["data_wait"] = self._waited / (self._elapsed + time.perf_counter() - self._asked)
        iteration = engine.state.iteration
        if not math.isfinite(averages["loss"]):
            msg = f"The loss is {averages['loss']} at step {iteration}. Lower the learning rate, or set precision fp32."
            raise FloatingPointError(msg)
        for name, value in averages.items():
            self._writer.add_scalar(f"{self.prefix}/{name}", value, iteration)
        if self.optimizer is not None:
            for i, group in enumerate(self.optimizer.param_groups):
                self._writer.add_scalar(f"{self.prefix}/lr_{i}", group["lr"], iteration)
        self._sums, self._count = {}, 0
        self._waited = self._elapsed = 0.0

    def close(self, engine: Workflow) -> None:
        """Write what is left and flush."""
        self._write(engine)
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def step_values(output: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Named 0-d tensors of one step: the loss, and a method's ``losses`` and ``stats``."""
    values = {"loss": output["loss"]}
    outputs = output.get("pred")
    if isinstance(outputs, dict):
        values.update({f"loss_{name}": value for name, value in outputs.get("losses", {}).items()})
        values.update(outputs.get("stats", {}))
    return values
