"""Files that are complete or absent."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError

_STALE_SECONDS = 60


@contextlib.contextmanager
def written_beside(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path in the folder of ``path`` that takes its name when the block ends well.

    The temporary name keeps all suffixes (``.nii.gz``), by which many writers choose their format. When the block
    fails, the temporary file is removed and an earlier file of that name stays as it was. What a killed process has
    left of the same file is removed too.

    Raises:
        InputError: when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale_parts(path)
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free / 2**20 if path.parent.is_dir() else 0.0
        reason = f"{error.strerror or error}; {free:.0f} MiB free there"
        msg = f"{path}: cannot be written ({reason}). Free space or choose another folder."
        raise InputError(msg) from error
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be what is wrong; that error is on its way
            part.unlink(missing_ok=True)


def _remove_stale_parts(path: Path) -> None:
    """Remove temporary files of ``path`` whose process is gone.

    The process may be one of another host that writes to the same folder, which cannot be asked; so a part stays while
    a process of that number runs here, and for a minute after it last grew.
    """
    pattern = re.compile(rf"\.part-(\d{{1,9}})-{re.escape(path.name)}")
    for other in path.parent.iterdir():
        match = pattern.fullmatch(other.name)
        if match is None or _is_running(int(match[1])):
            continue
        with contextlib.suppress(OSError):  # gone already, or another user's: neither keeps `path` from being written
            if time.time() - other.stat().st_mtime > _STALE_SECONDS:
                other.unlink()


def _is_running(pid: int) -> bool:
    if os.name != "posix":
        return True  # there, os.kill ends the process that it is to ask about
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


def write_csv(path: str | os.PathLike, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table, complete or not at all."""
    with written_beside(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write ``content`` as JSON, complete or not at all; what JSON does not know is written as text."""
    with written_beside(path) as part:
        part.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
