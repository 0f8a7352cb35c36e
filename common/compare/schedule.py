"""Which run comes next, given what is complete; learning rates are chosen here, on validation cases."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from common.compare.arms import Cell, Run
from common.compare.plan import Plan
from common.compare.run import RunFailedError, execute, record_of
from common.errors import InputError
from common.files import write_json

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 5.0


class Schedule:
    """Runs of a plan in an order that respects what they need.

    Several processes may work through the same folder: a run is locked while one of them does it, and choices are
    functions of complete runs, so that all come to the same ones.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.failures: dict[str, str] = {}

    def work(self) -> None:
        """Do every run that can be done; failures are collected in ``failures``, and the others are still done."""
        while True:
            progressed = waiting = False
            for run in self.missing():
                try:
                    done = execute(self.plan.out, run, threads=self.plan.options.threads)
                except (RunFailedError, InputError) as error:
                    self.failures[run.key] = str(error)
                    logger.error("%s", error)
                    continue
                if done:
                    progressed = True
                    logger.info("%s: done", run.key)
                    break  # what is possible now may have changed
                waiting = True
            if not progressed and not waiting:
                return
            if not progressed:
                time.sleep(_WAIT_SECONDS)

    def missing(self) -> Iterator[Run]:
        """Runs that are not complete, have not failed here, and whose needs are complete."""
        for run in self._possible():
            if run.key not in self.failures and record_of(self.plan.out, run.key) is None:
                yield run

    def _possible(self) -> Iterator[Run]:
        options = self.plan.options
        for cell in self.plan.cells:
            arm = cell.arm
            for seed in range(options.pretrain_seeds if arm.kind == "pretrained" else 0):
                yield self.plan.pretrain(arm, seed)
            if arm.kind != "scratch_long":
                for seed in range(options.search_seeds):
                    for candidate in range(len(self.plan.candidates(arm))):
                        yield from self._after_pretraining(cell, seed, self.plan.train(cell, seed, candidate))
            for seed in range(options.seeds):
                run = self.chosen_run(cell, seed)
                if run is None:
                    continue
                yield from self._after_pretraining(cell, seed, run)
                if self._complete(run):
                    yield self.plan.test(run, cell)
                    if seed == 0 and not cell.fold:
                        yield self.plan.example(run, cell)

    def chosen(self, cell: Cell) -> int | None:
        """Position of the learning rate with the best mean validation Dice over the search's seeds, once all are done.

        A candidate that diverged on any of them is out; ``None`` while runs are missing, or when all are out. The
        choice is kept in a file: more seeds of a search do not change it, other learning rates do.
        """
        if cell.arm.kind == "scratch_long":
            return self.chosen(self._scratch(cell))
        rates = [list(candidate) for candidate in self.plan.candidates(cell.arm)]
        path = self.plan.out / "train" / cell.folder / "chosen.json"
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept.get("rates") == rates:
                return int(kept["candidate"])
        scores = self.search(cell)
        if scores is None or all(score is None for score in scores):
            return None
        ranked = [-math.inf if score is None else score for score in scores]
        best = ranked.index(max(ranked))
        write_json(path, {"candidate": best, "rates": rates, "validation_dice": scores})
        return best

    def search(self, cell: Cell) -> list[float | None] | None:
        """Mean validation Dice of every candidate (``None``: diverged); ``None`` while runs are missing."""
        scores: list[float | None] = []
        for candidate in range(len(self.plan.candidates(cell.arm))):
            seeds = range(self.plan.options.search_seeds)
            records = [record_of(self.plan.out, self.plan.train(cell, seed, candidate).key) for seed in seeds]
            if any(record is None for record in records):
                return None
            scores.append(_mean_metric([record for record in records if record is not None]))
        return scores

    def chosen_run(self, cell: Cell, seed: int) -> Run | None:
        """The run of a cell and seed with the chosen learning rate; ``None`` while it cannot be told."""
        chosen = self.chosen(cell)
        if chosen is None:
            return None
        steps = None
        if cell.arm.kind == "scratch_long":
            steps = self.long_steps(cell)
            if steps is None:
                return None
        return self.plan.train(cell, seed, chosen, steps)

    def long_steps(self, cell: Cell) -> int | None:
        """Steps from scratch that take as long as the longest pretraining and its fine-tuning; kept in a file.

        ``None`` while a pretraining on this network, or scratch itself, is not complete.
        """
        path = self.plan.out / "train" / cell.folder / "length.json"
        if path.is_file():
            return int(json.loads(path.read_text(encoding="utf-8"))["steps"])
        run = self.chosen_run(self._scratch(cell), 0)
        record = None if run is None else record_of(self.plan.out, run.key)
        sharing = [a for a in self.plan.arms if a.kind == "pretrained" and a.network == cell.arm.network]
        pretrainings = [record_of(self.plan.out, self.plan.pretrain(a, 0).key) for a in sharing]
        if run is None or record is None or not record["seconds"] or any(p is None for p in pretrainings):
            return None
        longest = max(float(p["seconds"]) for p in pretrainings if p is not None)
        steps = run.steps + math.ceil(longest / (float(record["seconds"]) / run.steps))
        write_json(path, {"steps": steps, "pretraining_seconds": longest, "scratch_seconds": record["seconds"]})
        return steps

    def _scratch(self, cell: Cell) -> Cell:
        return replace(cell, arm=self.plan.by_name[cell.arm.baseline])

    def _after_pretraining(self, cell: Cell, seed: int, run: Run) -> Iterator[Run]:
        if cell.arm.kind != "pretrained" or self._complete(self.plan.pretrain(cell.arm, seed)):
            yield run

    def _complete(self, run: Run) -> bool:
        record = record_of(self.plan.out, run.key)
        return record is not None and record["status"] == "complete"


def _mean_metric(records: list[dict[str, Any]]) -> float | None:
    values = [record["best_metric"] for record in records]
    if any(record["status"] == "diverged" for record in records) or any(value is None for value in values):
        return None
    return sum(values) / len(values)
