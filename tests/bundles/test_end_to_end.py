"""Commands as users type them, in processes of their own. Slow: scripts/test --slow."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.arguments import check_arguments
from common.demo import run_demo
from tests.bundles.discovery import NAMES, REPOSITORY
from tests.bundles.running import assert_same_weights, copy_bundle, file, make_tiny

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
PAGES = ["README.md", *(str(p.relative_to(REPOSITORY)) for p in sorted(REPOSITORY.glob("docs/*.md")))]
PAGES += [f"bundles/{name}/docs/README.md" for name in NAMES]


def commands(page: str) -> list[str]:
    """Lines of a page's bash blocks, continuation lines joined."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def monai_command(root: Path, *configs: str, **arguments: object) -> list[str]:
    files = str([str(file(root, c)) for c in configs])
    words = ["monai.bundle", "run", "--config_file", files, "--bundle_root", str(root)]
    return words + [word for name, value in arguments.items() for word in (f"--{name}", str(value))]


@pytest.mark.parametrize("page", PAGES)
def test_commands_name_files_and_settings_that_exist(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    for command in commands(page):
        words = shlex.split(command)
        if "monai.bundle" in words and "run" in words:
            check_arguments(["monai.bundle", *words[words.index("run") :]])
        if words[0].startswith("scripts/"):
            assert os.access(words[0], os.X_OK)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_documentation_run(page: str, tmp_path: Path, phantom_dir: Path) -> None:
    """As written, with smoke.json at tiny sizes. Those without smoke.json are for GPUs and are only checked above."""
    for name in NAMES:
        shutil.copytree(REPOSITORY / "bundles" / name / "configs", tmp_path / "bundles" / name / "configs")
        make_tiny(tmp_path / "bundles" / name)
    shutil.copytree(phantom_dir, tmp_path / "phantoms")
    for command in commands(page):
        runnable = "smoke.json" in command or command.startswith("python -m common ")
        if not runnable or " demo" in command or "common phantoms" in command:
            continue
        words = shlex.split(command)
        if "compare" in words:
            words.append("--dry_run")  # tests/compare runs one
        if words[0] == "python":
            words[0] = sys.executable
        elif words[0] == "torchrun":
            words[:1] = [sys.executable, "-m", "torch.distributed.run"]
        done = subprocess.run(
            words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=900
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_demo_leaves_pictures_and_metrics(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    root = copy_bundle(name, tmp_path / "source")
    make_tiny(root)
    told = run_demo(tmp_path / "demo", root)
    assert re.search(r"\n  mean +0\.\d\d\n", told)
    assert re.search(r"\n  heart +(0\.\d\d|not there)\n", told)
    pictures = {p.name for p in (tmp_path / "demo" / "pictures").iterdir()}
    assert "reconstruction.png" in pictures
    assert any(p.endswith("_segmented.png") for p in pictures)
    assert (tmp_path / "demo" / "metrics" / "metrics.csv").exists()
    run_demo(tmp_path / "demo", root)  # again, at once


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("watched", ["runs/pretrain/resume.pt", "runs/train/resume.pt"])
def test_killed_and_resumed_equals_uninterrupted(
    name: str, watched: str, trained: dict[str, Path], tmp_path: Path, phantom_dir: Path
) -> None:
    """``kill -9`` soon after the first epoch of either stage; the command is then typed again."""
    root = copy_bundle(name, tmp_path)
    make_tiny(root)
    words = [sys.executable, "-m", *monai_command(root, "train", "smoke", dataset_dir=phantom_dir, device="cpu")]
    process = subprocess.Popen(words, cwd=tmp_path, env=ENVIRONMENT)
    deadline = time.monotonic() + 240
    while not (root / watched).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, check=True)
    for model in ("models/pretrained/ssl.pt", "models/model.pt", "models/model_final.pt"):
        assert_same_weights(root / model, trained[name] / model)
    assert not list(root.rglob(".part-*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_together(name: str, tmp_path: Path) -> None:
    """The multi-GPU overlays, with gloo on the CPU, both stages; two validation cases."""
    from common.data.phantom import write_phantoms

    data = write_phantoms(tmp_path / "ct", n_unlabelled=2, n_labelled=4, shape=(56, 48, 48), spacing=(6.0, 6.0, 6.0))
    root = copy_bundle(name, tmp_path)
    make_tiny(root)
    command = monai_command(
        root, "train", "multi_gpu_train", "smoke", dataset_dir=data, val_fraction=0.5, device="$local_device()"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    subprocess.run([*torchrun, *command], cwd=tmp_path, env=ENVIRONMENT, check=True, timeout=900)
    for model in ("models/pretrained/ssl.pt", "models/model.pt", "models/model_final.pt"):
        assert (root / model).exists()
    report = json.loads((root / "runs/train/run.json").read_text())
    assert report["status"] == "complete"


@pytest.mark.parametrize("name", NAMES)
def test_mistyped_override_ends_with_one_line(name: str, tmp_path: Path, phantom_dir: Path) -> None:
    root = copy_bundle(name, tmp_path)
    words = [sys.executable, "-m", *monai_command(root, "train", dataset_dir=phantom_dir, epoch=3)]
    done = subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: --epoch: no such setting" in done.stderr
    assert "Did you mean --epochs?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_folder_ends_with_one_line(name: str, tmp_path: Path) -> None:
    root = copy_bundle(name, tmp_path)
    words = [sys.executable, "-m", *monai_command(root, "train", dataset_dir="not_there")]
    done = subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: not_there" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (root / "models").exists()
