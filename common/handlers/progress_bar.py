"""One progress bar over the whole run, with the time left."""

from __future__ import annotations

import sys

from ignite.engine import Events
from monai.engines import Workflow
from tqdm import tqdm


class ProgressBar:
    """Steps done, time left and the mean loss that :class:`common.handlers.scalars.Scalars` read last.

    Nothing is read from the device for it. Attach it behind ``Scalars``.

    Args:
        description: what is running, e.g. ``"pretraining"``.
        interval: least seconds between two drawings; ``None`` is 0.1 on a terminal, and half a minute in a log file.
    """

    def __init__(self, *, description: str, interval: float | None = None) -> None:
        self.description = description
        self.interval = interval
        self.bar: tqdm | None = None

    def attach(self, engine: Workflow) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.COMPLETED, self.close)

    def start(self, engine: Workflow) -> None:
        """Open the bar where a resumed run left off."""
        total = engine.state.max_epochs * engine.state.epoch_length
        interval = self.interval
        if interval is None:
            interval = 0.1 if sys.stderr.isatty() else 30.0
        self.bar = tqdm(
            total=total,
            initial=engine.state.iteration,
            desc=self.description,
            unit="step",
            mininterval=interval,
            maxinterval=max(10.0, interval),
            dynamic_ncols=True,
        )

    def step(self, engine: Workflow) -> None:
        """Advance; show the loss when the bar is redrawn."""
        if self.bar is None:
            return
        if self.bar.update(1):
            shown = {"epoch": f"{engine.state.epoch}/{engine.state.max_epochs}"}
            averages = getattr(engine.state, "averages", {})
            if "loss" in averages:
                shown["loss"] = f"{averages['loss']:.4f}"
            self.bar.set_postfix(shown, refresh=False)

    def close(self, engine: Workflow) -> None:  # noqa: ARG002 (ignite's signature)
        """Leave the finished bar on the screen."""
        if self.bar is not None:
            self.bar.close()
