"""One bundle command in a process of its own: done once, by one process at a time, with its log and its record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import common
from common.compare.arms import Run
from common.compare.lock import locked
from common.errors import InputError
from common.files import write_json

COMMAND = [sys.executable, "-m", "monai.bundle", "run", "--args_file"]
_REPOSITORY = Path(common.__file__).resolve().parent.parent
_LOG_LINES = 12


class RunFailedError(RuntimeError):
    """A bundle command ended with an error; the message ends with the last lines of its log."""


def record_of(out: Path, key: str) -> dict[str, Any] | None:
    """What was noted of a run that is complete, or has diverged; ``None`` of any other."""
    path = out / key / "record.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def check_settings(out: Path, run: Run) -> None:
    """Refuse to continue a run that was begun with other settings.

    Raises:
        InputError: naming the first setting that differs.
    """
    path = out / run.key / "arguments.json"
    if not path.is_file():
        return
    earlier, now = json.loads(path.read_text(encoding="utf-8")), _arguments(run)
    for name in sorted({*earlier, *now}):
        if earlier.get(name) != now.get(name):
            values = "" if "#" in name or name == "cases" else f", {earlier.get(name)!r} instead of {now.get(name)!r}"
            msg = (
                f"{out / run.key}: was begun with other settings ({name}{values}). Repeat the earlier settings, or "
                "choose another out_dir."
            )
            raise InputError(msg)


def execute(out: Path, run: Run, *, threads: int = 0) -> bool:
    """Do a run unless it is done, or being done by another process.

    Args:
        out: the comparison's folder.
        run: what to do; continues where it was interrupted, as bundles do.
        threads: of the process; 0 leaves it to torch.

    Returns:
        whether the run is complete (or has diverged) now; ``False`` while another process does it.

    Raises:
        RunFailedError: when the command fails for another reason than a loss that is not finite.
    """
    if record_of(out, run.key) is not None:
        return True
    folder = out / run.key
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock") as lock:
        if lock is None:
            return False
        if record_of(out, run.key) is not None:  # done between the look above and the lock
            return True
        check_settings(out, run)
        write_json(folder / "arguments.json", _arguments(run))
        write_json(folder / "record.json", _record(folder, run, _command(folder, run, threads, lock)))
        _remove_leftovers(folder)
    return True


def _command(folder: Path, run: Run, threads: int, lock: int) -> float:
    """Run the command to its end and return its seconds. The child keeps the lock should this process be killed."""
    command = [*COMMAND, str(folder / "arguments.json")]
    paths = [str(_REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if threads:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    started = time.monotonic()
    inherited = (lock,) if lock >= 0 else ()
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        log.write(f"$ {' '.join(command)}\n")
        log.flush()
        done = subprocess.run(command, check=False, stdout=log, stderr=log, env=environment, pass_fds=inherited)
    if done.returncode != 0 and not _diverged(folder):
        lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "\n".join(f"    {line}" for line in lines[-_LOG_LINES:])
        raise RunFailedError(f"{run.key}: exit code {done.returncode}. The end of {folder / 'log.txt'}:\n{tail}")
    return time.monotonic() - started


def _arguments(run: Run) -> dict[str, Any]:
    """Content of ``--args_file``, as JSON returns it."""
    content = {"config_file": run.bundle.files(*run.configs), **run.arguments}
    return json.loads(json.dumps(content))


def _diverged(folder: Path) -> bool:
    """Whether the training ended because its loss was not finite: a result, not a failure."""
    return _report(folder).get("status") == "ended by FloatingPointError"


def _report(folder: Path) -> Mapping[str, Any]:
    path = folder / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _record(folder: Path, run: Run, wall: float) -> dict[str, Any]:
    report = _report(folder)
    model = next((folder / name for name in ("model.pt", "ssl.pt") if (folder / name).is_file()), None)
    return {
        "status": "diverged" if _diverged(folder) else "complete",
        "wall_seconds": round(wall, 1),
        "seconds": report.get("seconds"),
        "steps": run.steps,
        "best_metric": report.get("best_metric"),
        "best_metric_epoch": report.get("best_metric_epoch"),
        "parameters": None if model is None else _n_parameters(model),
        "device": report.get("device"),
        "versions": report.get("versions"),
        "commit": commit(),
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _n_parameters(model: Path) -> int:
    from common.checkpoints import load_checkpoint

    return sum(tensor.numel() for tensor in load_checkpoint(model)["model"].values())


def commit() -> str | None:
    """Commit of the code that runs, with a plus where files differ from it; ``None`` outside of git."""
    git = ["git", "-C", str(_REPOSITORY)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return name.stdout.strip() + ("+" if changed.strip() else "")


def _remove_leftovers(folder: Path) -> None:
    """Optimizer states and last models of complete runs: hundreds of runs would fill a disk with them."""
    for name in ("resume.pt", "model_final.pt"):
        (folder / name).unlink(missing_ok=True)
