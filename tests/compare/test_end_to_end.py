"""A comparison as a user types it, at tiny sizes. Slow: scripts/test --slow."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles.discovery import REPOSITORY
from tests.bundles.running import TINY


@pytest.mark.slow
@pytest.mark.parametrize("name", ["isd_mae", "selfmedhpm"])  # the two ways in which bundles set learning rates
def test_a_real_comparison(name: str, phantom_dir: Path, tmp_path: Path) -> None:
    """Pretraining, both arms, their tests and example masks; bundles are only read."""
    out, bundle = tmp_path / "out", REPOSITORY / "bundles" / name
    before = {path: path.stat().st_mtime_ns for path in bundle.rglob("*")}
    words = ["compare", "--dataset_dir", phantom_dir, "--out_dir", out, "--methods", name, "--overlays", TINY]
    words += ["--bundles_dir", REPOSITORY / "bundles", "--seeds", 1, "--lr", 0.001, "--threads", 1]
    command = [sys.executable, "-m", "common", *map(str, words)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Report: {out / 'report.html'}" in done.stdout
    with open(out / "runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == ["pretrain", "train", "train"]
    assert all(row["status"] == "complete" and float(row["seconds"]) > 0 for row in rows)
    assert all(0 <= float(row["test_dice"]) <= 1 for row in rows if row["chosen"] == "True")
    results = json.loads((out / "results.json").read_text())
    (cases,) = results["folds"]
    scored = set(cases["val"] + cases["test"])
    pretrained = json.loads((out / "pretrain" / name / "p0" / "run.json").read_text())
    trained = json.loads((out / "train" / name / "labels_1" / "s0" / "lr0" / "run.json").read_text())
    assert pretrained["cases"]
    assert trained["cases"]
    assert not scored & {*pretrained["cases"], *trained["cases"]}
    assert {path.name for path in (out / "pictures").iterdir()} >= {"masks_1.png", "curves_1.png", "pretraining.png"}
    assert {path: path.stat().st_mtime_ns for path in bundle.rglob("*")} == before
