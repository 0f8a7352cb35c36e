"""Does pretraining help here: fine-tuning from pretrained weights against training from scratch, paired by seed.

    python scripts/trial.py --out_dir trial --seeds 3

Every run is a bundle command with `smoke.json`; runs that are complete are not repeated. A seed decides which labelled
cases train and validate, and every random draw of fine-tuning; both arms of a pair share it. The test cases are the
same everywhere, and neither pretraining nor model selection sees them.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import fire

from common.data.phantom import write_phantoms

# arm -> settings; from scratch one learning rate serves everywhere, and two rates are tried
ARMS: dict[str, dict[str, object]] = {
    "scratch, 1e-3": {"pretrain_epochs": 0, "lr": 0.001, "body_lr_factor": 1.0},
    "scratch, 3e-3": {"pretrain_epochs": 0, "lr": 0.003, "body_lr_factor": 1.0},
    "pretrained, 1e-3": {"lr": 0.001, "body_lr_factor": 1.0},
    "pretrained, head 3e-3, body 7.5e-4": {"lr": 0.003, "body_lr_factor": 0.25},
}
BASELINE = "scratch, 1e-3"


def trial(
    out_dir: str = "trial",
    bundle: str = "bundles/isd_mae",
    seeds: int = 3,
    pretrain_steps: int = 1200,
    steps: int = 600,
    n_labels: float = 0.34,
    arms: Sequence[str] = tuple(ARMS),
) -> str:
    """Run what is missing, and return a Markdown table of mean test Dice.

    Args:
        out_dir: receives data, runs and `results.json`.
        bundle: folder of the bundle.
        seeds: pairs.
        pretrain_steps: of two crops, once for all.
        steps: of fine-tuning, one crop each.
        n_labels: share of the six training cases that is used with labels.
        arms: names of `ARMS`.
    """
    out = Path(out_dir)
    data = write_phantoms(out / "ct", n_unlabelled=40, n_labelled=8, n_test=6)
    root = out / "bundle"
    shutil.copytree(Path(bundle) / "configs", root / "configs", dirs_exist_ok=True)
    length = {"epochs": 2, "steps": steps // 2, "val_interval": 1, "val_fraction": 0.25}
    run(root, "pretrain", dataset_dir=data, pretrain_epochs=4, pretrain_steps=pretrain_steps // 4, val_fraction=0.25)
    dice: dict[str, list[float]] = {}
    for seed in range(seeds):
        for arm in arms:
            here = root / "runs" / f"{arm.replace(' ', '_')}_{seed}"
            common = {"dataset_dir": data, "seed": seed, "model": here / "model.pt", **length, **ARMS[arm]}
            if not (here / "metrics.json").exists():
                run(root, "train", output_dir=here, label_fraction=n_labels, pretrained_as_is=True, **common)
                run(root, "train", "evaluate", output_dir=here, section="test", **common)
            summary = json.loads((here / "metrics.json").read_text(encoding="utf-8"))
            dice.setdefault(arm, []).append(float(summary["over_structures"]["dsc"]["mean"]))
            (out / "results.json").write_text(json.dumps(dice, indent=1), encoding="utf-8")
    return table(dice)


def run(root: Path, *configs: str, **settings: object) -> None:
    """One bundle command with `smoke.json`, its output in a log beside the runs."""
    files = [str(root / "configs" / f"{name}.json") for name in (*configs, "smoke")]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files), "--bundle_root", str(root)]
    for name, value in settings.items():
        command += [f"--{name}", os.fspath(value) if isinstance(value, Path) else str(value)]
    with open(root / "log.txt", "a", encoding="utf-8") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)


def table(dice: dict[str, list[float]]) -> str:
    """Mean over structures, per seed, with the paired difference to the baseline."""
    n = len(next(iter(dice.values())))
    lines = [f"| arm | {' | '.join(f'seed {s}' for s in range(n))} | mean (SD) | paired gain (SD) |"]
    lines.append("| --- " * (n + 3) + "|")
    for arm, values in dice.items():
        gains = [v - b for v, b in zip(values, dice[BASELINE], strict=False)]
        shown = " | ".join(f"{v:.3f}" for v in values)
        lines.append(f"| {arm} | {shown} | {spread(values)} | {'' if arm == BASELINE else spread(gains)} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return (
        f"{statistics.mean(values):+.3f} ({deviation:.3f})"
        if min(values) < 0
        else f"{statistics.mean(values):.3f} ({deviation:.3f})"
    )


if __name__ == "__main__":
    fire.Fire(trial)
