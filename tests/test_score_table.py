"""The table of difficulty scores."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "scripts" / "score_table.py"
    spec = importlib.util.spec_from_file_location("score_table_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_classes_of_patches(script: ModuleType) -> None:
    """Air, muscle, half muscle and half fat, lung inside the body."""
    hu = torch.full((1, 1, 32, 32, 16), -1000.0)
    body = torch.ones_like(hu)
    body[..., :16, :16, :] = 0
    hu[..., :16, 16:, :] = 50.0
    hu[..., 16:, :16, :8], hu[..., 16:, :16, 8:] = 50.0, -100.0
    hu[..., 16:, 16:, :] = -800.0
    assert script.classes_of(torch.cat([hu, body], 1)).tolist() == [[0, 1, 2, 1]]


def test_a_table_and_a_picture_are_made(
    script: ModuleType,
    phantom_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture = tmp_path / "picture.png"
    sizes = "--spacing 6 --roi_size 32 --steps 2 --crops 2 --masks 1 --features 4 4 4 4 4 4"
    monkeypatch.setattr(sys, "argv", ["score_table.py", str(phantom_dir), *sizes.split(), "--picture", str(picture)])
    script.main()
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("| ")]
    assert [row[2] for row in rows[2:]] == [
        "all hidden patches", "denorm", "student", "code", "denorm", "denorm", "student", "code"
    ]  # fmt: skip
    assert all(abs(sum(map(float, row[3:])) - 1) < 0.02 for row in rows[2:])
    assert picture.stat().st_size > 10_000
