"""Two processes that share a batch, as torchrun starts them; gloo on the CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bundles.discovery import NAMES, REPOSITORY
from tests.bundles.running import copy_bundle, make_tiny
from tests.bundles.test_end_to_end import ENVIRONMENT, monai_command
from tests.bundles.two_processes import SHARDS, fine_tune, pretrain

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_have_the_losses_of_one_with_twice_the_batch(name: str, tmp_path: Path) -> None:
    """Both stages, with the same images and masks; the contrastive terms see the pairs of both processes."""
    script = REPOSITORY / "tests" / "bundles" / "two_processes.py"
    command = [*TORCHRUN, str(script), name, str(tmp_path / "out.json")]
    subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, check=True, timeout=300)
    several = json.loads((tmp_path / "out.json").read_text())
    alone, _ = pretrain(name, list(range(SHARDS)))
    assert several["pretrain"] == pytest.approx(alone, rel=1e-4)
    assert several["fine_tune"] == pytest.approx(fine_tune(name, list(range(SHARDS))), rel=1e-4)
    assert several["hidden"][0] != several["hidden"][1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["isd_mae"])  # torchrun and the launch are the same for every bundle
def test_one_process_that_dies_ends_the_job_and_it_can_be_resumed(name: str, phantom_dir: Path, tmp_path: Path) -> None:
    """``kill -9`` of rank 1 in the first stage: an error within a minute, no hang; only rank 0 has written."""
    root = copy_bundle(name, tmp_path)
    make_tiny(root)
    arguments = {"dataset_dir": phantom_dir, "device": "$local_device()", "pretrain_steps": 200}
    command = [*TORCHRUN, "-m", *monai_command(root, "pretrain", "multi_gpu_pretrain", "smoke", **arguments)]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT)
    victim = _second_process(process.pid, root / "runs" / "pretrain")
    os.kill(victim, signal.SIGKILL)
    assert process.wait(timeout=60) != 0
    assert not (root / "models").exists()
    assert len(list((root / "runs" / "pretrain").glob("events.out.tfevents.*"))) == 1
    command[command.index("--pretrain_steps") + 1] = "2"
    subprocess.run([*command, "--restart", "true"], cwd=tmp_path, env=ENVIRONMENT, check=True, timeout=300)
    assert (root / "models/pretrained/ssl.pt").exists()


def _second_process(torchrun: int, written: Path) -> int:
    """Process id of rank 1, once rank 0 has begun to write: the training is under way then."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if list(written.glob("events.out.tfevents.*")):
            for entry in Path("/proc").glob("[0-9]*"):
                try:
                    environment = (entry / "environ").read_bytes().split(b"\0")
                    parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                except OSError:  # it has ended meanwhile
                    continue
                if int(parent) == torchrun and b"RANK=1" in environment:
                    return int(entry.name)
        time.sleep(0.1)
    raise AssertionError("the training did not begin")
