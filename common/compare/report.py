"""The report of a comparison: what was held equal, what came out, and what that supports."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from common.compare.arms import Arm
from common.compare.pictures import pictures
from common.compare.render import Block, Heading, Points, Table, Text, markdown, self_contained_html
from common.compare.results import Results
from common.compare.statistics import Scores, Summary, difference, summary_of
from common.compare.texts import cases_text, numbers_text
from common.files import written_beside

# structures that are reported together; a group is there when at least one of them is
GROUPS: dict[str, tuple[str, ...]] = {
    "tubular": ("aorta", "pulmonary_artery", "trachea_airway", "esophagus", "spinal_cord"),
    "lungs": ("lung_left", "lung_right"),
    "heart": ("heart",),
    "bones": ("vertebrae", "ribs_cartilage"),
    "abdomen": ("liver", "spleen", "kidney_left", "kidney_right", "stomach", "pancreas", "gallbladder"),
}
# small and rare: its Dice is near 0 in every arm for long, and would only dilute the mean
APART = ("tumor",)
_MINUTE = 60.0


def write_report(results: Results) -> Path:
    """Write ``report.md``, ``report.html`` and the pictures; return the HTML file."""
    out = results.plan.out
    blocks = list(_blocks(results))
    with written_beside(out / "report.md") as part:
        part.write_text(markdown(blocks, out), encoding="utf-8")
    with written_beside(out / "report.html") as part:
        part.write_text(self_contained_html(blocks, "Comparison"), encoding="utf-8")
    return out / "report.html"


def _blocks(results: Results) -> list[Block]:
    blocks: list[Block] = [Heading("Comparison of pretraining methods", 1), *_introduction(results)]
    structures = sorted({name for scores in results.scores.values() for _, _, name in scores})
    in_mean = [name for name in structures if name not in APART] or structures
    for fraction in results.plan.options.label_fractions:
        blocks += _fraction_blocks(results, fraction, structures, in_mean)
    blocks += [Heading("Learning rates"), Text(_SEARCH), _search_table(results)]
    blocks += [Heading("Pictures"), *pictures(results, in_mean)]
    blocks += [Heading("How to read this"), Points(_CAUTIONS)]
    return blocks


_SEARCH = (
    "Mean validation Dice of every learning rate that was tried; the best one of each row was used for all seeds. "
    "Test cases had no part in it."
)
_CAUTIONS = (
    "**Gain** is the paired difference to training the same network from scratch: same seed, same labelled cases, same "
    "steps, same test cases. Compare gains, not levels: levels vary with the cases that a seed happens to label.",
    "**Interval**: 95 %, by bootstrap over seeds and test cases. Bold: it excludes 0 and rests on three seeds or more. "
    "Three seeds are few, five are better; with many arms one in twenty intervals excludes 0 by chance.",
    "**The interval knows nothing of pretraining's own luck** unless there are several pretraining seeds.",
    "**Seconds**: pretraining is paid once and shared by all later fine-tunings. Where it is paid for one model only, "
    "compare with `scratch … long`, which trains from scratch for as long as pretraining and fine-tuning together.",
    "**Short trainings** show which arm is faster at first, which need not be the one that ends higher. Repeat with "
    "more steps before you believe an order.",
    "On generated CT a result is about generated CT.",
)


def _introduction(results: Results) -> list[Block]:
    plan, options = results.plan, results.plan.options
    commits = sorted({str(row["commit"]) for row in results.rows if row["commit"]})
    wall = sum(row["wall_seconds"] for row in results.rows)
    n_pretrained, n_scratch = (len(options.rates(1.0, scratch=scratch)) for scratch in (False, True))
    trained = [row for row in results.rows if row["stage"] == "train"]
    where = ", ".join(sorted({str(row["device"]) for row in results.rows if row["device"]})) or "no run yet"
    points = [
        f"Data: {cases_text(plan)}; pretraining sees {len(plan.pretraining)} images"
        + (", **validation and test images among them**." if options.include_held_out else ", none of those held out."),
        f"Seeds: {options.seeds}; a seed draws the labelled cases and everything random in fine-tuning, and all arms "
        f"share it. Pretraining seeds: {options.pretrain_seeds}. Learning rates searched on {options.search_seeds} "
        f"seed(s), {n_pretrained} per pretrained arm, {n_scratch} from scratch.",
        f"Ran {len(results.rows)} trainings, {wall / _MINUTE:.0f} minutes in all ({where}), "
        f"commit {', '.join(commits) or 'unknown'}; written {time.strftime('%Y-%m-%d %H:%M')}.",
    ]
    if len(commits) > 1:
        points.append("**The code changed between the runs** (several commits): repeat the earlier runs to be sure.")
    if any(row["status"] == "diverged" for row in trained):
        points.append("Some learning rates diverged (`runs.csv`); they were not chosen.")
    if left_out := sorted({case.id for cases in plan.folds for case in cases.left_out}):
        points.append(f"Left out, as they share a patient or a file with a held-out case: {', '.join(left_out)}.")
    if missing := results.missing():
        points.append(f"**Incomplete**: {len(missing)} results are missing ({'; '.join(missing[:6])}).")
    points += [f"**Failed**: {text.splitlines()[0]}" for text in results.schedule.failures.values()]
    return [Points(points)]


def _fraction_blocks(
    results: Results, fraction: float, structures: Sequence[str], in_mean: Sequence[str]
) -> list[Block]:
    n = numbers_text(results.plan.n_labelled(fraction))
    arms = [arm for arm in results.by_network() if (arm.name, fraction) in results.scores]
    blocks: list[Block] = [Heading(f"{n} labelled case{'' if n == '1' else 's'} ({fraction:.0%})")]
    if not arms:
        return [*blocks, Text("No result yet.")]
    lesion = [name for name in structures if name in APART and name not in in_mean]
    header = ["arm", "network", "parameters", "test Dice", "gain over scratch", "95 % interval", "seeds better"]
    header += [f"{name} Dice" for name in lesion] + ["pretraining, min", "training, min"]
    rows = []
    for arm in arms:
        scores, gains = results.scores[arm.name, fraction], _gains(results, arm, fraction)
        gain = summary_of(gains, in_mean)
        pretraining, training = results.seconds(arm, fraction)
        row = [arm.name, arm.network_name, _millions(results, arm), _mean_sd(summary_of(scores, in_mean)), *_gain(gain)]
        row += [_mean_sd(summary_of(scores, [name])) for name in lesion]
        row += [f"{pretraining / _MINUTE:.1f}" if pretraining else "", f"{training / _MINUTE:.1f}"]
        rows.append(row)
    blocks += [
        Text(
            f"Mean ± SD over seeds of the Dice over {len(in_mean)} structures"
            + (f"; {', '.join(lesion)} apart." if lesion else ".")
        ),
        Table(header, rows),
    ]
    groups = {name: [s for s in members if s in in_mean] for name, members in GROUPS.items()}
    groups = {name: members for name, members in groups.items() if members}
    blocks += [Text("Gain over scratch, by group:"), _gain_table(results, arms, fraction, groups)]
    each = {name: [name] for name in structures}
    blocks += [Text("By structure:"), _gain_table(results, arms, fraction, each)]
    return blocks


def _gain_table(results: Results, arms: Sequence[Arm], fraction: float, groups: Mapping[str, Sequence[str]]) -> Table:
    """Dice of scratch and gains of the others, a column per group."""
    rows = []
    for arm in arms:
        is_baseline = arm.name == arm.baseline
        scores = results.scores[arm.name, fraction] if is_baseline else _gains(results, arm, fraction)
        write: Callable[[Summary | None], str] = _mean_sd if is_baseline else _short_gain
        rows.append([arm.name, *(write(summary_of(scores, members)) for members in groups.values())])
    return Table(["arm", *groups], rows)


def _search_table(results: Results) -> Table:
    rows = []
    for cell in results.plan.cells:
        arm = cell.arm
        scores = results.schedule.search(cell) if arm.kind != "scratch_long" else None
        if scores is None:
            continue
        for position, ((lr, factor), score) in enumerate(zip(results.plan.candidates(arm), scores, strict=True)):
            body = f"{lr * factor:g}" if arm.has_body_rate else "by layer"
            chosen = "yes" if results.chosen.get(cell.folder) == position else ""
            dice = "diverged" if score is None else f"{score:.3f}"
            fold = [] if cell.fold is None else [str(cell.fold)]
            rows.append([arm.name, f"{cell.fraction:.0%}", *fold, f"{lr:g}", body, dice, chosen])
    folds = ["fold"] if len(results.plan.folds) > 1 else []
    return Table(["arm", "labels", *folds, "head", "body", "validation Dice", "chosen"], rows)


def _gains(results: Results, arm: Arm, fraction: float) -> Scores:
    baseline = results.scores.get((arm.baseline, fraction), {})
    return {} if arm.name == arm.baseline else difference(results.scores[arm.name, fraction], baseline)


def _mean_sd(summary: Summary | None) -> str:
    if summary is None:
        return ""
    return f"{summary.mean:.3f}" + ("" if summary.sd is None else f" ± {summary.sd:.3f}")


def _gain(summary: Summary | None) -> list[str]:
    """Mean ± SD, interval, seeds better."""
    if summary is None:
        return ["", "", ""]
    value = f"{summary.mean:+.3f}" + ("" if summary.sd is None else f" ± {summary.sd:.3f}")
    interval = "one seed" if summary.low is None else f"{summary.low:+.3f} to {summary.high:+.3f}"
    return [_emphasised(value, summary), interval, f"{summary.n_better} of {summary.n_seeds}"]


def _short_gain(summary: Summary | None) -> str:
    if summary is None:
        return ""
    return _emphasised(f"{summary.mean:+.3f}", summary)


def _emphasised(text: str, summary: Summary) -> str:
    return f"**{text}**" if summary.supported else text


def _millions(results: Results, arm: Arm) -> str:
    counts = [
        r["parameters"] for r in results.rows if r["arm"] == arm.name and r["stage"] == "train" and r["parameters"]
    ]
    return f"{counts[0] / 1e6:.1f} M" if counts else ""
