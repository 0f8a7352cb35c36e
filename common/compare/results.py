"""What the runs of a comparison have left: a row per run, and the Dice of every test case."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.compare.arms import Arm, Cell, Run, label_name
from common.compare.plan import Plan
from common.compare.run import record_of
from common.compare.schedule import Schedule
from common.files import write_csv, write_json

COLUMNS = (
    *("run", "stage", "arm", "bundle", "network", "labels", "labelled_cases", "fold", "seed"),
    *("lr", "body_lr_factor", "chosen", "status", "steps", "seconds", "wall_seconds", "parameters"),
    *("validation_dice", "test_dice", "commit", "device"),
)


class Results:
    """Reads a comparison's folder, complete or not.

    Attributes:
        rows: one per run that has ended, with :data:`COLUMNS`.
        scores: test Dice by seed, case and structure, per arm and fraction, of seeds of which every fold is there.
            Folds are joined: a case is tested in one.
        chosen: position of the chosen learning rate, per folder of a cell.
    """

    def __init__(self, plan: Plan, schedule: Schedule) -> None:
        self.plan = plan
        self.schedule = schedule
        self.rows: list[dict[str, Any]] = []
        self.scores: dict[tuple[str, float], dict[tuple[int, str, str], float]] = {}
        self.chosen: dict[str, int] = {}
        self._missing: list[str] = []
        for arm in plan.arms:
            if arm.kind == "pretrained":
                for seed in range(plan.options.pretrain_seeds):
                    self._add(plan.pretrain(arm, seed), arm, "pretrain", seed=seed)
        tests: dict[tuple[str, float, int], list[dict[tuple[str, str], float]]] = {}
        for cell in plan.cells:
            for seed, test in self._read_cell(cell).items():
                tests.setdefault((cell.arm.name, cell.fraction, seed), []).append(test)
        for (name, fraction, seed), folds in tests.items():
            if len(folds) == len(plan.folds):  # else its mean would be one over other cases than those of other arms
                scores = self.scores.setdefault((name, fraction), {})
                scores |= {(seed, *key): dice for test in folds for key, dice in test.items()}

    def seconds(self, arm: Arm, fraction: float) -> tuple[float, float]:
        """Mean seconds of pretraining and of the chosen trainings; 0 where there are none."""
        pretraining = [row["seconds"] for row in self.rows if row["stage"] == "pretrain" and row["arm"] == arm.name]
        training = [
            row["seconds"]
            for row in self.rows
            if row["arm"] == arm.name and row["labels"] == fraction and row["chosen"] and row["status"] == "complete"
        ]
        return _mean(pretraining), _mean(training)

    def by_network(self) -> list[Arm]:
        """Arms by network, each network's scratch first."""
        kinds = {"scratch": 0, "scratch_long": 1, "pretrained": 2}
        return sorted(self.plan.arms, key=lambda arm: (arm.network_name, kinds[arm.kind]))

    def missing(self) -> list[str]:
        """Cells and seeds without test scores."""
        return self._missing

    def write(self) -> None:
        """``runs.csv`` and ``results.json``, each complete or as before."""
        out = self.plan.out
        # each row has all columns, in this order
        write_csv(out / "runs.csv", COLUMNS, (row.values() for row in self.rows))
        names = ("pool", "val", "test", "left_out")
        content = {
            "options": vars(self.plan.options),
            "pretraining_cases": [case.id for case in self.plan.pretraining],
            "folds": [{name: [c.id for c in getattr(cases, name)] for name in names} for cases in self.plan.folds],
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

    def _read_cell(self, cell: Cell) -> dict[int, dict[tuple[str, str], float]]:
        """Add the cell's rows; its test Dice by seed, of those that are there."""
        arm, plan = cell.arm, self.plan
        tests = {}
        position = self.schedule.chosen(cell)
        if position is not None:
            self.chosen[cell.folder] = position
        for seed in range(plan.options.seeds):
            run = self.schedule.chosen_run(cell, seed)
            test = {} if run is None else self._test_dice(plan.test(run, cell))
            if test:
                tests[seed] = test
            else:
                fold = "" if cell.fold is None else f"fold {cell.fold}, "
                self._missing.append(f"{arm.name}, {label_name(cell.fraction)}, {fold}seed {seed}")
            dice = _mean([value for value in test.values() if not math.isnan(value)]) if test else None
            runs = [plan.train(cell, seed, i) for i in range(len(plan.candidates(arm)))]
            if arm.kind == "scratch_long":
                runs = [run] if run is not None else []
            for each in runs:
                chosen = run is not None and each.key == run.key
                self._add(each, arm, "train", seed=seed, cell=cell, chosen=chosen, dice=dice if chosen else None)
        return tests

    def _test_dice(self, test: Run) -> dict[tuple[str, str], float]:
        folder = self.plan.out / test.key
        return read_dice(folder / "metrics.csv") if (folder / "record.json").is_file() else {}

    def _add(
        self,
        run: Run,
        arm: Arm,
        stage: str,
        *,
        seed: int,
        cell: Cell | None = None,
        chosen: bool = False,
        dice: float | None = None,
    ) -> None:
        record = record_of(self.plan.out, run.key)
        if record is None:
            return
        values = (
            *(run.key, stage, arm.name, arm.bundle.name, arm.network_name),
            *((None, None, None) if cell is None else self._draw(cell)),
            *(seed, run.arguments.get("lr"), run.arguments.get("body_lr_factor"), chosen),
            *(record[k] for k in ("status", "steps", "seconds", "wall_seconds", "parameters", "best_metric")),
            *(dice, record["commit"], record["device"]),
        )
        self.rows.append(dict(zip(COLUMNS, values, strict=True)))

    def _draw(self, cell: Cell) -> tuple[float, int, int | None]:
        return cell.fraction, self.plan.cases(cell).n_labelled(cell.fraction), cell.fold


def read_dice(path: Path) -> dict[tuple[str, str], float]:
    """Dice by case and structure from an evaluation's ``metrics.csv``; NaN where it is not defined."""
    with open(path, newline="", encoding="utf-8") as file:
        return {(row["case"], row["structure"]): float(row["dsc"] or "nan") for row in csv.DictReader(file)}


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0
