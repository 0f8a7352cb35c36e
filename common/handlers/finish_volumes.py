"""Masks on their way to the disk while the network works on the next volume, and how long each stage took."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import IterationEvents, Workflow
from monai.transforms import Compose, SaveImaged

from common.preview import preview

logger = logging.getLogger(__name__)


class FinishVolumes:
    """Postprocesses what an evaluator segments, draws previews, and logs a line per volume: seconds of each stage.

    In the background at most one volume is finished at a time: the network's next one waits for it. What fails there
    ends the run, one volume later. Channel indices leave the network's device first, since both would work in the same
    queue of a GPU, and each would be charged with the other's time. Scores stay: they are many times as large, and the
    device chooses among them quickly; with them the times of ``network`` and ``restore`` overlap on a GPU.

    Args:
        postprocessing: from scores to files, e.g. :func:`common.recipes.save_masks`. Its savers' time is ``save``, that
            of all others ``restore``.
        structures: names and ids for the previews' legend.
        previews: also draw each volume with its mask to ``<case>_preview.png`` beside it.
        background: do it in a thread of its own; otherwise the network waits, and less memory is needed.
    """

    def __init__(
        self, *, postprocessing: Compose, structures: Mapping[str, int], previews: bool = False, background: bool = True
    ) -> None:
        groups = groupby(postprocessing.transforms, key=lambda transform: isinstance(transform, SaveImaged))
        self.stages = [("save" if saves else "restore", Compose(list(steps))) for saves, steps in groups]
        self.structures = dict(structures)
        self.previews = previews
        self.pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="finish") if background else None
        self.unfinished: Future[None] | None = None
        self.started = self.network_seconds = 0.0

    def attach(self, engine: Workflow) -> None:
        """Register with an evaluator that has no postprocessing of its own."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._start)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._forward_completed)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.wait)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._failed)

    def __call__(self, engine: Workflow) -> None:
        """Finish the volumes of this iteration, when those of the last one are done."""
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            data, seconds = {**batch, **output}, self.network_seconds
            if self.pool is None:
                self.finish(data, seconds)
            else:
                if data["pred"].dtype is torch.uint8:
                    data["pred"] = data["pred"].cpu()  # by now it is made, so that nothing else is waited for
                self.wait()
                self.unfinished = self.pool.submit(self.finish, data, seconds)

    def finish(self, data: dict[str, Any], network_seconds: float) -> None:
        """Everything that is left to do with one volume.

        Args:
            data: ``pred`` and ``image``, and what :class:`common.data.volume_stream.VolumeStream` says of it.
        """
        seconds = {"load": float(data["load_seconds"]), "network": network_seconds, "restore": 0.0, "save": 0.0}
        for stage, transform in self.stages:
            with _timed(seconds, stage):
                data = transform(data)
        if self.previews:
            with _timed(seconds, "preview"):
                meta = data["pred"].meta
                mask = Path(str(meta["saved_to"]))
                picture = mask.with_name(mask.name.removesuffix("_seg.nii.gz") + "_preview.png")
                preview(str(meta["filename_or_obj"]), mask, picture, structures=self.structures)
        shown = ", ".join(f"{stage} {spent:.2f} s" for stage, spent in seconds.items())
        logger.info("%s: %s", data["case"], shown)

    def wait(self) -> None:
        """Until the volume in the background is finished; raises what failed there."""
        unfinished, self.unfinished = self.unfinished, None
        if unfinished is not None:
            unfinished.result()

    def _start(self) -> None:
        self.started = time.perf_counter()

    def _forward_completed(self, engine: Workflow) -> None:
        if torch.device(engine.state.device).type == "cuda":
            torch.cuda.synchronize(engine.state.device)  # else what follows would be charged with the network's time
        self.network_seconds = time.perf_counter() - self.started

    def _failed(self, error: Exception) -> None:
        self.wait()  # the volume before the one that failed is finished, or raises too
        raise error


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - begin
