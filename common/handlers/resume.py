"""Continue an interrupted training where it stopped, as if it had not been interrupted."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.engines import Workflow

from common.checkpoints import card_difference, load_checkpoint, save_atomic
from common.errors import InputError

logger = logging.getLogger(__name__)


class Resume:
    """Saves everything a training needs at the end of each epoch, and loads it when the same run is started again.

    With :class:`common.handlers.epoch_seed.EpochSeed`, what happens in an epoch is a function of the seed and of this
    state. An interruption at any moment costs at most the epoch it hits, and the file is complete or absent: MONAI's
    ``CheckpointSaver`` removes the previous file before it writes the next, so this one does not use it.

    Args:
        path: the file, replaced after every ``interval`` epochs.
        state: objects with ``state_dict`` and ``load_state_dict`` (network, optimizer, scheduler, loss, ...).
        trainer: its epoch and iteration are saved; it continues after them.
        evaluator: its best metric so far is saved, so that a resumed run does not overwrite a better model.
        settings: plain values that must not change between the runs; a difference is refused by name.
        outputs: files that a finished run has left; when one of them is gone, the run starts anew.
        interval: epochs between two saves; the last epoch is always saved.
        enabled: ``False`` starts anew (and replaces the file when the first epoch ends).
    """

    def __init__(
        self,
        *,
        path: str,
        state: Mapping[str, Any],
        trainer: Workflow,
        evaluator: Workflow | None = None,
        settings: Mapping[str, Any],
        outputs: Sequence[str] = (),
        interval: int = 1,
        enabled: bool = True,
    ) -> None:
        self.path = Path(path)
        self.state = dict(state)
        self.trainer = trainer
        self.evaluator = evaluator
        self.settings = dict(settings)
        self.outputs = [Path(output) for output in outputs]
        self.interval = max(1, interval)
        self.enabled = enabled
        self.resumed_epoch = 0

    def attach(self, *, save: bool = True) -> None:
        """Load the state if there is one, and save from now on (``save=False`` on all ranks but the first)."""
        if self.enabled and self.path.exists():
            self.load()
        if save:
            self.trainer.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    @property
    def finished(self) -> bool:
        """Whether the loaded state has reached the last epoch."""
        return self.resumed_epoch >= self.trainer.state.max_epochs

    def save(self, engine: Workflow) -> None:
        """Write the state after the epoch that ends (an event handler)."""
        epoch = engine.state.epoch
        if epoch % self.interval and epoch != engine.state.max_epochs:
            return
        progress: dict[str, Any] = {"epoch": epoch, "iteration": engine.state.iteration}
        if self.evaluator is not None:
            progress["best_metric"] = float(self.evaluator.state.best_metric)
            progress["best_metric_epoch"] = int(self.evaluator.state.best_metric_epoch)
        content = {name: item.state_dict() for name, item in self.state.items()}
        saved: dict[str, Any] = {"settings": self.settings, "progress": progress, "state": content}
        if engine.scaler is not None:
            saved["scaler"] = engine.scaler.state_dict()
        save_atomic(saved, self.path)

    def load(self) -> None:
        """Load the state.

        Raises:
            InputError: when the file was written with other settings, or is damaged.
        """
        saved = load_checkpoint(self.path, map_location="cpu")
        differences = card_difference(self.settings, saved["settings"])
        if differences:
            msg = (
                f"{self.path}: this run was started with other settings ({'; '.join(differences)}). Repeat the earlier "
                "settings to continue it, choose another output_dir, or start anew with --restart True."
            )
            raise InputError(msg)
        progress = saved["progress"]
        gone = [path for path in self.outputs if not path.exists()]
        if gone and progress["epoch"] >= self.trainer.state.max_epochs:
            logger.info("%s: finished, but %s is not there any more. Training anew.", self.path, gone[0])
            return
        for name, item in self.state.items():
            item.load_state_dict(saved["state"][name])
        if self.trainer.scaler is not None:  # of fp16 training
            self.trainer.scaler.load_state_dict(saved["scaler"])
        self.resumed_epoch = self.trainer.state.epoch = progress["epoch"]
        self.trainer.state.iteration = progress["iteration"]
        if self.evaluator is not None:
            self.evaluator.state.best_metric = progress["best_metric"]
            self.evaluator.state.best_metric_epoch = progress["best_metric_epoch"]
        logger.info("%s: continuing after epoch %d of %d.", self.path, progress["epoch"], self.trainer.state.max_epochs)
