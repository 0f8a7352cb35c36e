"""Files are complete or absent."""

from __future__ import annotations

import errno
import os
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
