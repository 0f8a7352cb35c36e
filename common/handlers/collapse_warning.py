"""Says when the embeddings of different cases have become alike."""

from __future__ import annotations

import logging
import math

from ignite.engine import Events
from monai.engines import Workflow

logger = logging.getLogger(__name__)

_STATISTIC = "embedding_spread"
_ALARM = 0.1  # of the spread of directions all over the sphere


class CollapseWarning:
    """Warns once, after an epoch, if a method's ``embedding_spread`` is below a tenth of what it could be.

    A constant embedding teaches nothing about images, and a loss without negatives is lowest there. The value is that
    of :class:`common.handlers.scalars.Scalars`, which has to be attached before. The spread of a single case is 0
    whatever the network does, and is not judged.
    """

    def __init__(self) -> None:
        self._warned = False

    def attach(self, engine: Workflow) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Judge the last averages."""
        outputs = engine.state.output["pred"]
        if self._warned or "embeddings" not in outputs or outputs["embeddings"].shape[1] == 1:
            return
        even = 1 / math.sqrt(outputs["embeddings"].shape[-1])
        spreads = {name: value for name, value in engine.state.averages.items() if name.startswith(_STATISTIC)}
        for name, value in spreads.items():
            if value < _ALARM * even:
                self._warned = True
                logger.warning(
                    "The embeddings have collapsed: at step %d, %s is %.4f, where directions all over the sphere have "
                    "%.3f. The contrastive term teaches nothing then. Lower the learning rate, or enlarge the batch.",
                    engine.state.iteration,
                    name,
                    value,
                    even,
                )
