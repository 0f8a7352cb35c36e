"""Prepared archives: volumes on the network's grid, from which crops are read without decoding the rest.

``python -m common prepare`` writes (:mod:`common.prepare`), training reads:

- ``archive.json``: spacing, label map, and for every case its subset, its source files and what its label annotates;
- ``images/CASE.b2nd``: int16 HU (H, W, D) in RAS, cut to the box around the body;
- ``labels/CASE.b2nd``: uint8 (2, H, W, D): ids as in the label file, and 1 in the air outside the body;
- ``labels/CASE.npz``: for every id that occurs, voxels to centre crops on;
- ``cases/CASE.json``: grid, body box, statistics, checksums and source of one case, written when it is complete.

A ``.b2nd`` file is a Blosc2 array: chunks of 64 voxels a side, each of blocks of 32 that are compressed by themselves,
so that a crop costs the blocks it touches.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.data.fingerprint import digest
from common.errors import InputError
from common.files import written_beside

VERSION = 1  # of the layout
INDEX = "archive.json"
SUFFIX = ".b2nd"
MAX_CENTRES = 3000  # voxels per id that are kept as crop centres
_CHUNK, _BLOCK = 64, 32
_REDO = "Run `python -m common prepare` again"


def is_archive(folder: str | os.PathLike) -> bool:
    """Whether a folder is a prepared archive."""
    return (Path(folder).expanduser() / INDEX).is_file()


def is_prepared(path: Any) -> bool:
    """Whether an item's image is a volume of an archive."""
    return isinstance(path, str | os.PathLike) and os.fspath(path).endswith(SUFFIX)


def read_index(archive: str | os.PathLike) -> dict[str, Any]:
    """What ``archive.json`` holds.

    Raises:
        InputError: not JSON, or written by another version of the layout.
    """
    path = Path(archive).expanduser() / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}). {_REDO}.") from error
    if not isinstance(index, dict) or index.get("version") != VERSION:
        given = index.get("version") if isinstance(index, dict) else None
        raise InputError(f"{path}: layout version {given}, this program reads {VERSION}. Prepare a new archive.")
    return index


def image_file(archive: str | os.PathLike, case: str) -> Path:
    """The image of a case."""
    return Path(archive) / "images" / f"{case}{SUFFIX}"


def label_file(archive: str | os.PathLike, case: str) -> Path:
    """The label of a case, if it has one."""
    return Path(archive) / "labels" / f"{case}{SUFFIX}"


def centres_file(label: str | os.PathLike) -> Path:
    """The crop centres beside a label."""
    return Path(label).with_suffix(".npz")


def same_spacing(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two settings mean one grid: 0 and below both keep the scan's own spacing."""
    return len(a) == len(b) and all(x == y or (x <= 0 and y <= 0) for x, y in zip(a, b, strict=True))


def write_array(path: Path, array: np.ndarray, spacing: Sequence[float]) -> None:
    """Write an image (H, W, D) or a label (2, H, W, D), complete or not at all."""
    blosc2 = _blosc2()
    leading = array.ndim - 3
    with written_beside(path) as part:
        try:
            written = blosc2.asarray(
                np.ascontiguousarray(array),
                urlpath=os.fspath(part),
                mode="w",
                chunks=(1,) * leading + tuple(min(_CHUNK, n) for n in array.shape[leading:]),
                blocks=(1,) * leading + tuple(min(_BLOCK, n) for n in array.shape[leading:]),
                cparams={"codec": blosc2.Codec.LZ4, "clevel": 5, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1},
            )
            written.schunk.vlmeta["spacing"] = [float(s) for s in spacing]
        except RuntimeError as error:  # how Blosc2 says that a file cannot be written
            raise OSError(errno.EIO, str(error), os.fspath(path)) from error


def write_centres(path: Path, ids: np.ndarray) -> dict[int, int]:
    """Write the voxels of every id in a label (H, W, D) that crops are centred on; how many voxels each id has."""
    flat = ids.ravel()
    found = np.unique(flat)
    voxels = [np.flatnonzero(flat == i) for i in found]
    kept: list[np.ndarray] = [thinned(v, MAX_CENTRES).astype(np.int32) for v in voxels]
    counts = [len(v) for v in voxels]
    ends = np.cumsum([len(v) for v in kept])
    with written_beside(path) as part:
        np.savez(part, ids=found, counts=np.array(counts), ends=ends, voxels=np.concatenate(kept))
    return {int(i): n for i, n in zip(found, counts, strict=True)}


def thinned(voxels: np.ndarray, n: int) -> np.ndarray:
    """At most ``n`` of them, evenly spaced, as MONAI's ``ClassesToIndices`` takes them."""
    if len(voxels) <= n:
        return voxels
    return voxels[np.round(np.linspace(0, len(voxels) - 1, n)).astype(int)]


def check_files(archive: str | os.PathLike, files: Collection[Mapping[str, Any]]) -> str | None:
    """The first of a record's files that is not as it was written, and why; ``None`` when all are."""
    for entry in files:
        path = Path(archive) / entry["file"]
        if not path.is_file():
            return f"{path}: missing"
        if path.stat().st_size != entry["bytes"] or digest(path) != entry["sha256"]:
            return f"{path}: damaged, its checksum is not what it was when it was written"
    return None


def open_array(path: str | os.PathLike) -> Any:
    """The array, with one thread: crops are cut by many processes. Nothing stays open between crops."""
    blosc2 = _blosc2()
    try:
        return blosc2.open(os.fspath(path), mode="r", dparams={"nthreads": 1})
    except (RuntimeError, ValueError, OSError) as error:
        raise damaged(path) from error


def damaged(path: str | os.PathLike) -> InputError:
    """The error for a file of an archive that is not there or cannot be decoded."""
    return InputError(f"{path}: missing or damaged. {_REDO}; it redoes what does not verify.")


def _blosc2() -> Any:
    try:
        import blosc2
    except ImportError as error:
        msg = "blosc2 is not installed. Prepared archives need it: pip install ct-pretraining-bundles[archive]."
        raise InputError(msg) from error
    return blosc2
