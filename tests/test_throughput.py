"""The scripts that time bundles at their own size, and processes that exchange gradients."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.bundles.discovery import REPOSITORY

SCRIPTS = REPOSITORY / "scripts"


@pytest.fixture(scope="module")
def throughput() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPTS))  # as Python does for a script
    import throughput

    yield throughput
    sys.path.remove(str(SCRIPTS))


@pytest.mark.parametrize("stage", ["pretrain", "train"])
def test_the_numbers_of_a_stage_belong_together(throughput: ModuleType, stage: str) -> None:
    speed = throughput.measure("selfmedhpm", stage, torch.device("cpu"), smoke=True, repeats=1, peak=0.5)
    crops = int(speed.crops.split()[0])
    assert speed.crops_per_second == pytest.approx(1000 * crops / speed.step_ms, rel=0.01)
    assert speed.share_of_peak == pytest.approx(speed.tera_operations / speed.step_ms * 1000 / 0.5, rel=0.1)
    assert (speed.tax is None) == (stage == "train")


@pytest.mark.slow
def test_epochs_are_timed_with_loading_and_without(throughput: ModuleType, phantom_dir: Path) -> None:
    took = throughput.epochs("selfmedhpm", torch.device("cpu"), str(phantom_dir), smoke=True, steps=1)
    assert set(took) == {"with", "without"}
    assert min(took.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_step_is_timed_with_exchange_and_without(processes: int) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *torchrun, str(SCRIPTS / "scaling.py"), "selfmedhpm", "--smoke", "--repeats", "1"]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=300)
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["processes"] == processes
    assert min(report["step_ms"], report["without_exchange_ms"]) > 0
