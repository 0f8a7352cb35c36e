"""How fast bundles train at their own size: milliseconds, crops per second, memory, share of the matrix peak.

    python scripts/throughput.py --device cuda                          both stages of every bundle
    python scripts/throughput.py isd_mae amlp --smoke --repeats 3       at the sizes of smoke.json, on a CPU
    python scripts/throughput.py isd_mae --device cuda --dataset_dir phantoms     and the trainer's epochs

A step is what a trainer does with a batch that is there (:mod:`benchmarks.tax`). Operations are those that
``torch.utils.flop_counter`` counts in one step, matrix products and convolutions; the peak is a large matrix product in
bf16, timed first. With ``--dataset_dir`` five epochs of pretraining are timed besides, the first left out: with the
bundle's data loading, and with one batch that is used again and again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from benchmarks.rows import milliseconds, peak_growth
from benchmarks.tax import BATCHES, BUNDLES, bundle_config, method_tax, training_step
from ignite.engine import Events
from monai.bundle import ConfigParser
from torch.utils.flop_counter import FlopCounterMode

from common.errors import install_excepthook

EPOCHS = 5


@dataclass
class Speed:
    """One stage of a bundle. ``tax``: over the bare passes of pretraining; memory: its growth in the first step."""

    bundle: str
    stage: str
    crops: str
    step_ms: float
    tax: float | None
    crops_per_second: float
    memory_gb: float | None
    tera_operations: float
    share_of_peak: float
    epoch_ms: dict[str, float] | None = None
    """Milliseconds per step in the trainer's epochs, ``with`` and ``without`` loading."""


def main() -> None:
    """Command line."""
    install_excepthook()
    names = sorted(path.parts[-3] for path in BUNDLES.glob("*/configs/pretrain.json"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundles", nargs="*", help=f"of {', '.join(names)}; all when none is given")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--smoke", action="store_true", help="sizes of smoke.json in place of the full ones")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps (default: 10)")
    parser.add_argument("--dataset_dir", help="also time the trainer's epochs on these volumes")
    parser.add_argument("--steps", type=int, default=20, help="of such an epoch (default: 20)")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    chosen = parser.parse_args()
    unknown = sorted({*chosen.bundles} - {*names})
    if unknown:
        parser.error(f"no bundle {', '.join(unknown)}; there are {', '.join(names)}")
    device = torch.device(chosen.device)
    peak = matrix_peak(device)
    sys.stdout.write(f"matrix product in bf16: {peak:.2f} TFLOP/s\n")
    speeds: list[Speed] = []
    for name in chosen.bundles or names:
        for stage in ("pretrain", "train"):
            speeds.append(measure(name, stage, device, smoke=chosen.smoke, repeats=chosen.repeats, peak=peak))
            if chosen.dataset_dir and stage == "pretrain":
                speeds[-1].epoch_ms = epochs(name, device, chosen.dataset_dir, smoke=chosen.smoke, steps=chosen.steps)
            sys.stdout.write(json.dumps(asdict(speeds[-1])) + "\n")
            sys.stdout.flush()
    if chosen.json:
        machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        report = {"machine": machine, "torch": torch.__version__, "matrix_peak_tflops": peak}
        Path(chosen.json).write_text(json.dumps({**report, "rows": [asdict(s) for s in speeds]}, indent=2))


def matrix_peak(device: torch.device, n: int | None = None) -> float:
    """TFLOP/s of a product of two (n, n) matrices in bf16, median of five."""
    n = n or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(n, n, device=device).bfloat16() for _ in range(2))
    times = [milliseconds(lambda: a @ b, device) for _ in range(8)]
    return 2 * n**3 / statistics.median(times[3:]) / 1e9


def measure(name: str, stage: str, device: torch.device, *, smoke: bool, repeats: int, peak: float) -> Speed:
    """Time the steps of one stage of a bundle."""
    config = bundle_config(name, stage, {"device": str(device)}, smoke=smoke)
    size, shape = config[BATCHES[stage]], config["roi_size"]
    bare: Callable[[], object] | None = None
    if stage == "pretrain":
        case = method_tax(device, bundle=name, smoke=smoke)
        step, bare = case.ours, case.alternative
    else:
        step = training_step(device, bundle=name, smoke=smoke)
    memory = peak_growth(step, device)
    with FlopCounterMode(display=False) as counter:
        step()
    operations = counter.get_total_flops() / 1e12
    step()
    steps, passes = [], []
    for _ in range(repeats):
        steps.append(milliseconds(step, device))
        if bare is not None:
            passes.append(milliseconds(bare, device))
    took = statistics.median(steps)
    return Speed(
        bundle=name,
        stage=stage,
        crops=f"{size} of {' x '.join(map(str, shape))}",
        step_ms=round(took, 1),
        tax=round(took / statistics.median(passes), 3) if passes else None,
        crops_per_second=round(1000 * size / took, 2),
        memory_gb=None if memory is None else round(memory / 1000, 2),
        tera_operations=round(operations, 3),
        share_of_peak=round(operations / took * 1000 / peak, 3),
    )


def epochs(name: str, device: torch.device, dataset_dir: str, *, smoke: bool, steps: int) -> dict[str, float]:
    """Milliseconds per step of a bundle's pretraining, first epoch left out, with its loading and with one batch."""
    settings = {"device": str(device), "dataset_dir": dataset_dir, "pretrain_epochs": EPOCHS, "pretrain_steps": steps}
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        settings |= {"output_dir": folder, "pretrained": f"{folder}/ssl.pt"}
        for loading in ("with", "without"):
            config = bundle_config(name, "pretrain", settings, smoke=smoke)
            if loading == "without":
                batch = next(iter(config.get_parsed_content("train#dataloader")))
                config = bundle_config(name, "pretrain", settings, smoke=smoke)
                config["train#dataloader"] = Repeated(batch, steps)
            made[loading] = round(statistics.median(_epoch_seconds(config)) * 1000 / steps, 1)
    return made


def _epoch_seconds(config: ConfigParser) -> list[float]:
    trainer = config.get_parsed_content("train#trainer")
    ends: list[float] = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: ends.append(time.perf_counter()))
    trainer.run()
    return [end - start for start, end in pairwise(ends)]


class Repeated:
    """A data loader without data: one batch, again and again."""

    def __init__(self, batch: dict[str, Any], steps: int) -> None:
        self.batch, self.steps = batch, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.batch for _ in range(self.steps))


if __name__ == "__main__":
    main()
