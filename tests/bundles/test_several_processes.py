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
from tests.bundles.running import assert_same_weights, copy_bundle, make_tiny
from tests.bundles.test_end_to_end import ENVIRONMENT, monai_command
from tests.bundles.two_processes import SHARDS, fine_tune, pretrain

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


# those of whose losses a part is counted over the cases of all processes, in ways of their own
GATHERED = ["baselines/dino", "baselines/swav", "baselines/tang"]


@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in GATHERED)])
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
def test_a_job_that_lost_a_process_continues_as_if_it_had_not(name: str, phantom_dir: Path, tmp_path: Path) -> None:
    """``kill -9`` of rank 1 after an epoch of each stage: an error soon, no hang; the same command ends where one that
    nobody disturbed does; only rank 0 has written.
    """
    sizes = {"pretrain_epochs": 3, "pretrain_steps": 20, "epochs": 3, "steps": 20}
    arguments = {"dataset_dir": phantom_dir, "device": "$local_device()", **sizes}
    roots, commands = {}, {}
    for job in ("whole", "killed"):
        roots[job] = copy_bundle(name, tmp_path / job)
        make_tiny(roots[job])
        words = monai_command(roots[job], "train", "multi_gpu_train", "smoke", **arguments)
        commands[job] = [*TORCHRUN, "-m", *words]
    subprocess.run(commands["whole"], cwd=tmp_path, env=ENVIRONMENT, check=True, timeout=600)
    for stage in ("pretrain", "train"):
        process = subprocess.Popen(commands["killed"], cwd=tmp_path, env=ENVIRONMENT)
        victim = _second_process(process, roots["killed"] / "runs" / stage / "resume.pt")
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        assert process.wait(timeout=60) != 0
        print(f"{stage}: the job ended {time.monotonic() - killed:.1f} s after its second process")
        events = (roots["killed"] / "runs" / stage).glob("events.out.tfevents.*")
        writers = {int(file.name.split(".")[-2]) for file in events}  # ids of processes
        assert len(writers) == 1
        assert victim not in writers
    assert not (roots["killed"] / "models/model_final.pt").exists()
    subprocess.run(commands["killed"], cwd=tmp_path, env=ENVIRONMENT, check=True, timeout=600)
    for model in ("models/pretrained/ssl.pt", "models/model.pt", "models/model_final.pt"):
        assert_same_weights(roots["killed"] / model, roots["whole"] / model)


def _second_process(torchrun: subprocess.Popen, state: Path) -> int:
    """Process id of rank 1, as soon as the state of an epoch is there: the next epoch is under way then."""
    deadline = time.monotonic() + 600  # most of it is imports, slow on a busy machine
    while not state.exists():
        assert torchrun.poll() is None, "the job ended by itself"
        assert time.monotonic() < deadline, "the first epoch did not end"
        time.sleep(0.02)
    (process,) = [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _is_second_process(entry, torchrun.pid)]
    return process


def _is_second_process(entry: Path, torchrun: int) -> bool:
    try:
        parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
        return int(parent) == torchrun and b"RANK=1" in (entry / "environ").read_bytes().split(b"\0")
    except OSError:  # it has ended meanwhile, or is another user's
        return False
