"""Tells a method how far the training is."""

from __future__ import annotations

from typing import Any

from ignite.engine import Events
from monai.engines import Workflow


class MethodProgress:
    """Calls ``method.set_progress(p)`` before every step, p rising from 0 to 1 over the whole run.

    Mask ratios, shares of hard patches and EMA momenta that change with time are functions of this number, so that a
    short and a long run mean the same.

    Args:
        method: has ``set_progress(progress: float)``.
    """

    def __init__(self, method: Any) -> None:
        self.method = method

    def attach(self, engine: Workflow) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        """Set the progress of the step that starts."""
        last = engine.state.max_epochs * engine.state.epoch_length - 1
        self.method.set_progress((engine.state.iteration - 1) / max(last, 1))
