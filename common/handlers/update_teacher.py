"""Lets a method's teacher follow its student."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Events
from monai.engines import Workflow
from torch.utils.hooks import RemovableHandle


class UpdateTeacher:
    """Calls ``method.update_teacher()`` after every step that the optimizer takes.

    It hooks into the optimizer and not into the engine: in fp16 the gradient scaler leaves out steps whose gradients
    overflow, and then there is nothing to follow.

    Args:
        method: has ``update_teacher()`` (see :mod:`common.methods`).
        optimizer: of the training.
    """

    def __init__(self, *, method: Any, optimizer: torch.optim.Optimizer) -> None:
        self.method = method
        self.optimizer = optimizer
        self._hook: RemovableHandle | None = None

    def attach(self, engine: Workflow) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.COMPLETED, self.stop)

    def start(self, engine: Workflow) -> None:  # noqa: ARG002
        """Follow from the first step on."""
        self.stop()
        self._hook = self.optimizer.register_step_post_hook(lambda *_: self.method.update_teacher())

    def stop(self, engine: Workflow | None = None) -> None:  # noqa: ARG002
        """Do not follow any more."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
