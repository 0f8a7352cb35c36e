"""Pictures of a report: Dice by labels and by seconds, learning curves, masks side by side, pretraining losses."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from common.compare.arms import Arm, label_name
from common.compare.plots import curves_figure, fractions_figure, masks_figure, read_curve, seconds_figure
from common.compare.render import Block, Picture
from common.compare.results import Results
from common.compare.statistics import Summary, summary_of
from common.preview import save_figure


def pictures(results: Results, in_mean: Sequence[str]) -> list[Block]:
    """Draw what a report shows into the folder ``pictures`` of a comparison.

    Args:
        results: of the comparison.
        in_mean: structures over which Dice is averaged.
    """
    plan = results.plan
    fractions = plan.options.label_fractions
    blocks: list[Block] = []

    def add(name: str, figure: Figure, caption: str) -> None:
        path = plan.out / "pictures" / f"{name}.png"
        save_figure(figure, path)
        blocks.append(Picture(path, caption))

    summaries: dict[str, dict[float, Summary]] = {}
    for arm in results.by_network():
        for fraction in fractions:
            scores = results.scores.get((arm.name, fraction))
            summary = summary_of(scores, in_mean) if scores else None
            if summary is not None:
                summaries.setdefault(arm.name, {})[fraction] = summary
    if len(fractions) > 1 and summaries:
        counted = {name: {plan.n_labelled(f)[-1]: s for f, s in points.items()} for name, points in summaries.items()}
        add("dice_per_labels", fractions_figure(counted, title="Mean ± SD over seeds", y="test Dice"), "Dice by labels")
    for fraction in fractions:
        points = {
            name: (*results.seconds(plan.by_name[name], fraction), values[fraction])
            for name, values in summaries.items()
            if fraction in values
        }
        if points:
            title = f"{label_name(fraction)}: Dice and what it cost"
            add(f"dice_per_seconds_{fraction:g}", seconds_figure(points, title=title), title)
        curves = {
            arm.name: [read_curve(plan.out / run, "val_mean_dice") for run in _chosen_folders(results, arm, fraction)]
            for arm in results.by_network()
        }
        curves = {name: lines for name, lines in curves.items() if any(x for x, _ in lines)}
        if curves:
            title = f"{label_name(fraction)}: validation Dice while training, one line per training"
            add(f"curves_{fraction:g}", curves_figure(curves, title=title, x="epoch", y="validation Dice"), title)
        masks = _example_masks(results, fraction)
        if len(masks) > 1:
            case = plan.folds[0].test[0]
            caption = f"{label_name(fraction)}, seed 0: masks of test case {case.id}"
            add(f"masks_{fraction:g}", masks_figure(case.image, masks), caption)
    losses = {
        arm.name: [
            read_curve(plan.out / plan.pretrain(arm, seed).key, "train/loss")
            for seed in range(plan.options.pretrain_seeds)
        ]
        for arm in plan.arms
        if arm.kind == "pretrained"
    }
    losses = {name: lines for name, lines in losses.items() if any(x for x, _ in lines)}
    if losses:
        title = "Pretraining loss (each method has its own: heights are not comparable)"
        add("pretraining", curves_figure(losses, title=title, x="step", y="loss"), title)
    return blocks


def _example_masks(results: Results, fraction: float) -> dict[str, str]:
    case = results.plan.folds[0].test[0]
    masks = {"label": str(case.label)}
    for arm in results.by_network():
        cell = results.plan.cells_of(arm, fraction)[0]
        run = results.schedule.chosen_run(cell, 0)
        if run is not None:
            folder = results.plan.out / results.plan.example(run, cell).key
            masks.update((arm.name, str(path)) for path in folder.glob("*_seg.nii.gz"))
    return masks


def _chosen_folders(results: Results, arm: Arm, fraction: float) -> list[str]:
    return [r["run"] for r in results.rows if r["arm"] == arm.name and r["labels"] == fraction and r["chosen"]]
