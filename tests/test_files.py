"""Files are complete or absent."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import InputError
from common.files import write_json, written_beside


def test_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "mask.nii.gz"
    with written_beside(path) as part:
        part.write_text("x")
        assert not path.exists()
        assert part.name.endswith(".nii.gz")
    assert path.read_text() == "x"
    assert list(path.parent.iterdir()) == [path]


def test_failure_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("earlier")

    def write_half() -> None:
        with written_beside(path) as part:
            part.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()  # its number is nobody's now
    path = tmp_path / "model.pt"
    names = {
        "stale": f".part-{process.pid}-model.pt",
        "just written": f".part-{process.pid}-model.pt.gz",
        "of a running process": f".part-{os.getppid()}-model.pt",
        "of another file": f".part-{process.pid}-other-model.pt",
        "no part": ".part-x-model.pt",
    }
    for name in names.values():
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - 3600,) * 2)
    os.utime(tmp_path / names["just written"])

    for target in (path, tmp_path / "model.pt.gz"):
        with written_beside(target) as part:
            part.write_text("whole")

    left = {what for what, name in names.items() if (tmp_path / name).exists()}
    assert left == set(names) - {"stale"}


def test_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    path.write_text("earlier")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"run\.json: cannot be written \(No space left on device.*Free space"):
        write_json(path, {"a": 1})
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match=r"run\.json: cannot be written"):
        write_json(tmp_path / "out" / "run.json", {})
