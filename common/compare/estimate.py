"""How long a comparison takes: from the runs that are done, else a guess for one CPU core."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.compare.arms import Cell, Run
from common.compare.plan import Plan
from common.compare.run import record_of

# measured on one core of a server: docs/results.md, first trial (two crops of 64 voxels cubed, 2 s a step; one, 0.4 s)
_SECONDS_PER_VOXEL = {"pretrain": 4e-6, "train": 1.5e-6}
_SECONDS_PER_TEST = 60.0
_SECONDS_TO_START = 20.0


@dataclass(frozen=True)
class Estimate:
    """Seconds of one process.

    Attributes:
        n_runs, n_done: of trainings; tests come on top.
        seconds: still to go.
        measured: whether any run of this comparison was there to measure.
    """

    n_runs: int
    n_done: int
    seconds: float
    measured: bool


def estimate(plan: Plan) -> Estimate:
    """Time that the missing runs take, at the pace of the complete ones."""
    options = plan.options
    pretrainings = [
        plan.pretrain(arm, seed)
        for arm in plan.arms
        if arm.kind == "pretrained"
        for seed in range(options.pretrain_seeds)
    ]
    trainings = [run for cell in plan.cells for run in _trainings(plan, cell)]
    done: list[Run] = []
    missing: list[Run] = []
    for run in [*pretrainings, *trainings]:
        (missing if record_of(plan.out, run.key) is None else done).append(run)
    paces: dict[tuple[str, str], list[float]] = {}
    for run in done:
        wall = (record_of(plan.out, run.key) or {})["wall_seconds"]
        paces.setdefault((run.configs[0], run.bundle.name), []).append(wall / max(run.steps, 1))
    seconds = math.fsum(_seconds(run, paces) for run in missing)
    if options.scratch_long:  # each takes as long as the longest pretraining and a training
        extra = max(_seconds(run, paces) for run in pretrainings) + max(_seconds(run, paces) for run in trainings)
        seconds += extra * options.seeds * sum(cell.arm.kind == "scratch_long" for cell in plan.cells)
    tests = [plan.out / "test" / cell.folder / f"s{seed}" for cell in plan.cells for seed in range(options.seeds)]
    seconds += _SECONDS_PER_TEST * sum(not any(folder.glob("*/record.json")) for folder in tests)
    return Estimate(len(done) + len(missing), len(done), seconds, bool(done))


def _trainings(plan: Plan, cell: Cell) -> list[Run]:
    """Every candidate of the search's seeds, and one of each later seed: the one that is there, if one is."""
    if cell.arm.kind == "scratch_long":
        return []
    runs = []
    for seed in range(plan.options.seeds):
        tried = [plan.train(cell, seed, i) for i in range(len(plan.candidates(cell.arm)))]
        if seed >= plan.options.search_seeds:
            tried = [next((run for run in tried if record_of(plan.out, run.key) is not None), tried[0])]
        runs += tried
    return runs


def _seconds(run: Run, paces: dict[tuple[str, str], list[float]]) -> float:
    stage = run.configs[0]
    known: Sequence[float] = paces.get((stage, run.bundle.name), [])
    if not known:
        known = [pace for (other, _), values in paces.items() if other == stage for pace in values]
    pace = sum(known) / len(known) if known else run.voxels * _SECONDS_PER_VOXEL[stage]
    return pace * run.steps + (0.0 if known else _SECONDS_TO_START)
