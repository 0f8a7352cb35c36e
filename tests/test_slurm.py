"""The sbatch files start torchrun with files that exist; `srun` and `scontrol` are stand-ins that print."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.bundles.discovery import NAMES, REPOSITORY


@pytest.mark.parametrize("stage", ["pretrain", "train"])
def test_sbatch_files_start_one_torchrun_per_node(stage: str, tmp_path: Path) -> None:
    for command, text in (("srun", 'printf "%s\\n" "$@"'), ("scontrol", "printf 'node7\\nnode8\\n'")):
        (tmp_path / command).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / command).chmod(0o755)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").write_text("")
    slurm = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "12", "SLURM_JOB_NUM_NODES": "2"}
    environment = {
        **os.environ,
        **slurm,
        "SLURM_GPUS_ON_NODE": "4",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CT_BUNDLES_VENV": str(tmp_path / "venv"),
    }
    words = ["bash", f"scripts/slurm/{stage}.sbatch", NAMES[0], "/data/a folder", "--pretrain_lr", "0.0002"]
    done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    given = done.stdout.splitlines()
    assert {"torchrun", "--nnodes=2", "--nproc_per_node=4", "--rdzv_endpoint=node7:20012"} <= set(given)
    files = given[given.index("--config_file") + 1]
    for file in files.strip("[]").replace("'", "").split(","):
        assert (REPOSITORY / file).is_file()
    assert stage in files
    assert given[given.index("--dataset_dir") + 1] == "/data/a folder"
    assert given[-2:] == ["--pretrain_lr", "0.0002"]
