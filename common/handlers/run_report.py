"""``run.json``: what ran, with which versions, on what, for how long, and what came out."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import Workflow

from common import __version__
from common.files import write_json

_PACKAGES = ("torch", "monai", "pytorch-ignite", "numpy", "nibabel", "itk")


class RunReport:
    """Writes a run's manifest when it starts (``status: running``) and again when it ends, however it ends.

    ``seconds`` counts those of earlier parts of a resumed run too.

    Args:
        path: the JSON file, replaced as a whole.
        settings: the run's knobs; their hash identifies the configuration.
        device: where it runs.
        cases: training cases (their number and names are recorded).
        outputs: files the run writes; those that exist at its end are listed with their size.
        evaluator: its best metric is recorded.
    """

    def __init__(
        self,
        *,
        path: str,
        settings: Mapping[str, Any],
        device: torch.device | str,
        cases: Sequence[Mapping[str, Any]] = (),
        outputs: Sequence[str] = (),
        evaluator: Workflow | None = None,
    ) -> None:
        self.path = Path(path)
        self.settings = dict(settings)
        self.device = torch.device(device)
        self.cases = [str(case.get("case", case.get("image", i))) for i, case in enumerate(cases)]
        self.outputs = [str(output) for output in outputs]
        self.evaluator = evaluator
        self._started = 0.0
        self._earlier = 0.0

    def attach(self, engine: Workflow) -> None:
        """Register with a trainer or an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.COMPLETED, self.complete)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.fail)

    def start(self, engine: Workflow) -> None:
        """Write the manifest of a run that has begun."""
        self._started = time.time()
        self._earlier = self._earlier_seconds() if engine.state.iteration else 0.0
        self._write(engine, "running")

    def complete(self, engine: Workflow) -> None:
        """Write the manifest of a run that is complete."""
        self._write(engine, "complete")

    def fail(self, engine: Workflow, error: BaseException) -> None:
        """Write the manifest of a run that ends here, and let the error go on."""
        self._write(engine, f"ended by {type(error).__name__}")
        raise error

    def _earlier_seconds(self) -> float:
        """Seconds that the run took before it was interrupted."""
        try:
            earlier = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0.0  # no manifest, or not ours: nothing to add
        return float(earlier["seconds"]) if earlier.get("config_hash") == settings_hash(self.settings) else 0.0

    def _write(self, engine: Workflow, status: str) -> None:
        report = {
            "status": status,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self._started)),
            "seconds": round(self._earlier + time.time() - self._started, 1),
            "device": device_name(self.device),
            "versions": package_versions(),
            "config_hash": settings_hash(self.settings),
            "settings": self.settings,
            "cases": self.cases,
            "epoch": engine.state.epoch,
            "steps": engine.state.iteration // getattr(engine, "accumulation_steps", 1),
        }
        averages = getattr(engine.state, "averages", {})  # of common.handlers.scalars.Scalars
        report["last"] = {name: round(value, 6) for name, value in averages.items()}
        if self.evaluator is not None and self.evaluator.state.best_metric_epoch > 0:
            report["best_metric"] = float(self.evaluator.state.best_metric)
            report["best_metric_epoch"] = self.evaluator.state.best_metric_epoch
        if status == "complete":
            report["outputs"] = {p: os.path.getsize(p) for p in self.outputs if os.path.isfile(p)}
        write_json(self.path, report)


def package_versions() -> dict[str, str | None]:
    """Versions of this package and of those whose versions change results; ``None`` for one that is not installed."""
    return {
        "python": platform.python_version(),
        "common": __version__,
        **{name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None  # a training without DICOM runs without itk, and must not end here


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that change with any setting."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def device_name(device: torch.device) -> str:
    """E.g. ``cuda: NVIDIA H200`` or ``cpu: 8 threads``."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {torch.get_num_threads()} threads"
