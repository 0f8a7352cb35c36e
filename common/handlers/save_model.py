"""Writes a model file: the best one by validation, or the last one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.engines import Workflow
from torch import nn

from common.checkpoints import save_pretrained

logger = logging.getLogger(__name__)


class SaveModel:
    """Saves ``{"model": weights, "card": ...}``, complete or not at all.

    Attached to an evaluator it saves whenever its key metric is the best so far; attached to a trainer it saves in the
    last epoch, before :class:`common.handlers.resume.Resume` notes that epoch as done: a write that is interrupted is
    repeated when the run is resumed. The card says what the weights are, so that they are not used for something else.

    Args:
        path: e.g. ``models/model.pt``.
        network: the plain network, under the names of ``network_def`` (not its distributed wrapper).
        card: plain values (see :mod:`common.checkpoints`).
        when: ``"best"`` (evaluator) or ``"final"`` (trainer).
        unvalidated: a second path for the final model, used when ``evaluator`` has chosen none in this training
            (MONAI Label trains on one labelled case, without validation; an older model must not stay in its place).
        evaluator: see ``unvalidated``.
    """

    def __init__(
        self,
        *,
        path: str,
        network: nn.Module,
        card: Mapping[str, Any],
        when: str,
        unvalidated: str | None = None,
        evaluator: Workflow | None = None,
    ) -> None:
        if when not in ("best", "final"):
            msg = f"when is {when!r}; choose 'best' (with an evaluator) or 'final' (with a trainer)."
            raise ValueError(msg)
        self.path = path
        self.network = network
        self.card = dict(card)
        self.when = when
        self.unvalidated = unvalidated
        self.evaluator = evaluator

    def attach(self, engine: Workflow) -> None:
        """Register with an evaluator (``best``) or a trainer (``final``)."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Save, if this epoch's key metric is the best, or this epoch is the last."""
        if self.when == "final" and engine.state.epoch != engine.state.max_epochs:
            return
        if self.when == "best" and engine.state.best_metric_epoch != engine.state.epoch:
            return
        card = {**self.card, "epoch": engine.state.epoch}
        if self.when == "best":
            card[str(engine.state.key_metric_name)] = float(engine.state.best_metric)
        save_pretrained(self.path, self.network, card)
        if self.unvalidated and self.evaluator is not None and self.evaluator.state.best_metric_epoch < 0:
            logger.info("No validation in this training: the final model is written to %s too.", self.unvalidated)
            save_pretrained(self.unvalidated, self.network, card)


def final_path(model: str) -> str:
    """``models/model.pt`` -> ``models/model_final.pt``."""
    path = Path(model)
    return str(path.with_name(f"{path.stem}_final{path.suffix}"))
