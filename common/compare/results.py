"""What the runs of a comparison have left: a row per run, and the Dice of every test case."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.compare.arms import Arm, Run
from common.compare.plan import Plan, label_name
from common.compare.run import record_of
from common.compare.schedule import Schedule
from common.compare.statistics import Scores
from common.files import write_csv, write_json

Cell = tuple[str, float]  # arm, fraction

COLUMNS = (
    *("run", "stage", "arm", "bundle", "network", "labels", "labelled_cases", "seed", "lr", "body_lr_factor", "chosen"),
    *("status", "steps", "seconds", "wall_seconds", "parameters", "validation_dice", "test_dice", "commit", "device"),
)


class Results:
    """Reads a comparison's folder, complete or not.

    Attributes:
        rows: one per run that has ended, with :data:`COLUMNS`.
        scores: test Dice by seed, case and structure, per cell.
        chosen: position of the chosen learning rate, per cell.
    """

    def __init__(self, plan: Plan, schedule: Schedule) -> None:
        self.plan = plan
        self.schedule = schedule
        self.rows: list[dict[str, Any]] = []
        self.scores: dict[Cell, Scores] = {}
        self.chosen: dict[Cell, int] = {}
        for arm in plan.arms:
            if arm.kind == "pretrained":
                for seed in range(plan.options.pretrain_seeds):
                    self._add(plan.pretrain(arm, seed), arm, "pretrain", seed=seed)
        for arm, fraction in plan.cells:
            self._read_cell(arm, fraction)

    def seconds(self, arm: Arm, fraction: float) -> tuple[float, float]:
        """Mean seconds of pretraining and of the chosen trainings; 0 where there are none."""
        pretraining = [row["seconds"] for row in self.rows if row["stage"] == "pretrain" and row["arm"] == arm.name]
        training = [
            row["seconds"]
            for row in self.rows
            if row["arm"] == arm.name and row["labels"] == fraction and row["chosen"] and row["status"] == "complete"
        ]
        return _mean(pretraining), _mean(training)

    def missing(self) -> list[str]:
        """Cells and seeds without test scores."""
        options = self.plan.options
        found = {(cell, seed) for cell, scores in self.scores.items() for seed, _, _ in scores}
        return [
            f"{arm.name}, {label_name(fraction)}, seed {seed}"
            for arm, fraction in self.plan.cells
            for seed in range(options.seeds)
            if ((arm.name, fraction), seed) not in found
        ]

    def write(self) -> None:
        """``runs.csv`` and ``results.json``, each complete or as before."""
        out = self.plan.out
        # each row has all columns, in this order
        write_csv(out / "runs.csv", COLUMNS, (row.values() for row in self.rows))
        cases = self.plan.cases
        content = {
            "options": vars(self.plan.options),
            "cases": {
                name: [case.id for case in getattr(cases, name)]
                for name in ("pool", "val", "test", "pretraining", "left_out")
            },
            "arms": [
                {k: getattr(a, k) for k in ("name", "kind", "network", "network_name", "baseline", "overrides")}
                for a in self.plan.arms
            ],
            "versions": next((r["versions"] for r in self._records() if r.get("versions")), None),
            "runs": self.rows,
            "missing": self.missing(),
            "failed": self.schedule.failures,
        }
        write_json(out / "results.json", content)

    def _records(self) -> list[dict[str, Any]]:
        records = [record_of(self.plan.out, row["run"]) for row in self.rows]
        return [record for record in records if record is not None]

    def _read_cell(self, arm: Arm, fraction: float) -> None:
        position = self.schedule.chosen(arm, fraction)
        if position is not None:
            self.chosen[arm.name, fraction] = position
        scores: dict[tuple[int, str, str], float] = {}
        for seed in range(self.plan.options.seeds):
            test: dict[tuple[str, str], float] = {}
            run = self.schedule.chosen_run(arm, fraction, seed)
            if run is not None:
                folder = self.plan.out / self.plan.test(run, arm).key
                if (folder / "record.json").is_file():
                    test = read_dice(folder / "metrics.csv")
            scores |= {(seed, case, structure): dice for (case, structure), dice in test.items()}
            dice = _mean([value for value in test.values() if not math.isnan(value)]) if test else None
            runs = [self.plan.train(arm, fraction, seed, i) for i in range(len(self.plan.candidates(arm)))]
            if arm.kind == "scratch_long":
                runs = [run] if run is not None else []
            for each in runs:
                chosen = run is not None and each.key == run.key
                self._add(
                    each, arm, "train", seed=seed, fraction=fraction, chosen=chosen, dice=dice if chosen else None
                )
        if scores:
            self.scores[arm.name, fraction] = scores

    def _add(
        self,
        run: Run,
        arm: Arm,
        stage: str,
        *,
        seed: int,
        fraction: float | None = None,
        chosen: bool = False,
        dice: float | None = None,
    ) -> None:
        record = record_of(self.plan.out, run.key)
        if record is None:
            return
        values = (
            *(run.key, stage, arm.name, arm.bundle.name, arm.network_name, fraction),
            None if fraction is None else self.plan.cases.n_labelled(fraction),
            *(seed, run.arguments.get("lr"), run.arguments.get("body_lr_factor"), chosen),
            *(record[k] for k in ("status", "steps", "seconds", "wall_seconds", "parameters", "best_metric")),
            *(dice, record["commit"], record["device"]),
        )
        self.rows.append(dict(zip(COLUMNS, values, strict=True)))


def read_dice(path: Path) -> dict[tuple[str, str], float]:
    """Dice by case and structure from an evaluation's ``metrics.csv``; NaN where it is not defined."""
    with open(path, newline="", encoding="utf-8") as file:
        return {(row["case"], row["structure"]): float(row["dsc"] or "nan") for row in csv.DictReader(file)}


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0
