"""The command: plan, say what will run, run it, report."""

from __future__ import annotations

import logging
import shlex
import sys

from common.compare.arms import Arm
from common.compare.estimate import estimate
from common.compare.options import Options
from common.compare.plan import Plan
from common.compare.report import write_report
from common.compare.results import Results
from common.compare.run import check_settings
from common.compare.schedule import Schedule
from common.compare.texts import cases_text, numbers_text
from common.errors import InputError


def run_comparison(options: Options, *, dry_run: bool = False) -> str:
    """Do what is missing of a comparison and write its report.

    Args:
        options: what to compare.
        dry_run: only say what would be done.

    Returns:
        the plan, or where the report is.

    Raises:
        InputError: for bad input, before anything runs; at the end, when a run has failed or a result is missing.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    plan = Plan(options)
    for run in plan.runs():
        check_settings(plan.out, run)
    text = describe(plan)
    if dry_run:
        return text
    sys.stderr.write(text + "\n")
    schedule = Schedule(plan)
    schedule.work()
    results = Results(plan, schedule)
    results.write()
    report = write_report(results)
    if schedule.failures or results.missing():
        failures = "\n".join(schedule.failures.values())
        missing = "; ".join(results.missing()[:6])
        msg = (
            f"{failures}\n{report}: written, but incomplete: {len(schedule.failures)} runs failed, "
            f"{len(results.missing())} results are missing ({missing}). The same command tries them again."
        )
        raise InputError(msg.strip())
    return f"Report: {report}"


def describe(plan: Plan) -> str:
    """What will run, and how long it will take."""
    options = plan.options
    lines = [
        f"{cases_text(plan)}; {len(plan.pretraining)} images to pretrain on.",
        f"Seeds: {options.seeds}; labelled cases per run: "
        f"{', '.join(numbers_text(plan.n_labelled(f)) for f in options.label_fractions)}.",
    ]
    for arm in plan.arms:
        if arm.kind == "pretrained":
            run = plan.pretrain(arm, 0)
            lines.append(
                f"  {arm.name}: {run.steps} steps of pretraining ({arm.network_name}), against {arm.baseline}; "
                f"learning rates {_rates(plan, arm)}"
            )
    scratch = [arm for arm in plan.arms if arm.kind == "scratch"]
    for arm in scratch:
        run = plan.train(plan.cells_of(arm, options.label_fractions[0])[0], 0, 0)
        lines.append(f"  {arm.name}: {run.steps} steps; learning rates {_rates(plan, arm)}")
    guess = estimate(plan)
    kind = "at the pace of the runs that are done" if guess.measured else "a guess for one CPU core; a GPU is faster"
    lines.append(
        f"{guess.n_done} of {guess.n_runs} trainings are done; about {guess.seconds / 3600:.1f} hours of one process "
        f"to go ({kind})."
    )
    lines.append(f"Into {shlex.quote(str(plan.out))}. Start the same command again to share the work.")
    return "\n".join(lines)


def _rates(plan: Plan, arm: Arm) -> str:
    candidates = plan.candidates(arm)
    body = f", times {candidates[0][1]:g} for the body" if arm.kind == "pretrained" and arm.has_body_rate else ""
    return ", ".join(f"{lr:g}" for lr, _ in candidates) + body
