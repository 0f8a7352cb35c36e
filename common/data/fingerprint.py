"""Whether a file, or the files of a folder, are what they were."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def fingerprint(path: str | os.PathLike) -> dict[str, int]:
    """What tells at once that nothing was written: bytes, number of files and time of the last change."""
    stats = [file.stat() for file in _files(path)]
    return {
        "bytes": sum(s.st_size for s in stats),
        "files": len(stats),
        "modified_ns": max((s.st_mtime_ns for s in stats), default=0),
    }


def digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file, or of the names and contents of the files directly in a folder."""
    total = hashlib.sha256()
    for file in _files(path):
        if file != Path(path):
            total.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with open(file, "rb") as content:
            while block := content.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def unchanged(path: str | os.PathLike, recorded: Mapping[str, Any], *, read: bool = False) -> bool:
    """Whether a source is what it was when it was recorded, by fingerprint and, where that differs, by digest.

    Args:
        path: file or folder.
        recorded: its :func:`fingerprint` and, as ``sha256``, its :func:`digest`.
        read: compare the digest whatever the fingerprint says.
    """
    now = fingerprint(path)
    if now["bytes"] != recorded["bytes"] or now["files"] != recorded["files"]:
        return False
    if not read and now["modified_ns"] == recorded["modified_ns"]:
        return True
    return digest(path) == recorded["sha256"]


def _files(path: str | os.PathLike) -> list[Path]:
    path = Path(path)
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
