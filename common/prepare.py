"""From a folder of CT to an archive that crops are read from: behind ``python -m common prepare``.

:mod:`common.data.archive` describes the archive. A case is complete when its record is written, after its files; what
is complete, verifies and has the source that it had is not done again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from common.data.archive import (
    INDEX,
    VERSION,
    centres_file,
    check_files,
    image_file,
    is_archive,
    label_file,
    read_index,
    same_spacing,
    write_array,
    write_centres,
)
from common.data.cases import Case, find_cases, label_names
from common.data.fingerprint import digest, fingerprint, unchanged
from common.data.headers import check_header
from common.errors import InputError, input_error_message
from common.files import write_json
from common.recipes import BODY_HU, prepared_volume
from common.transforms.outside_body import inside_body
from common.transforms.structures import MAX_ID

DEFAULT_SPACING = (1.5, 1.5, 1.5)  # of the bundles
_PERCENTILES = (0.5, 50.0, 99.5)


@dataclass(frozen=True)
class Outcome:
    """What became of a case: ``"written"``, ``"kept"`` or ``"failed"``, and then why."""

    case: str
    state: str
    message: str = ""


class Preparation(Dataset):
    """Cases of a folder; taking one prepares it, in whichever process takes it.

    Args:
        dataset_dir: folder of CT.
        out: the archive.
        spacing: mm of its grid. Default: that of the archive, where it is there already, else 1.5 mm.
        verify: check the case and its sources by their checksums instead, and write nothing.
    """

    def __init__(
        self,
        dataset_dir: str | os.PathLike,
        out: str | os.PathLike,
        *,
        spacing: Sequence[float] | None = None,
        verify: bool = False,
    ) -> None:
        if is_archive(dataset_dir):
            raise InputError(f"{dataset_dir}: is a prepared archive. Give the folder that it was made from.")
        self.source = Path(os.path.abspath(Path(dataset_dir).expanduser()))
        self.out = Path(out).expanduser()
        self.verify = verify
        self.cases = find_cases(dataset_dir)
        self.names = label_names(dataset_dir)
        if self.out.resolve() == self.source.resolve():
            raise InputError(f"--out {self.out}: is the folder of the scans itself. Give another folder.")
        index = read_index(self.out) if is_archive(self.out) else None
        if index is not None and not {c.id for c in self.cases} & set(index["cases"]) and index["cases"]:
            theirs = index["source"]
            msg = f"{self.out}: prepared from {theirs}, of which {self.source} has no case. Choose another folder."
            raise InputError(msg)
        earlier = None if index is None else index["spacing"]
        if earlier is None and verify:
            raise InputError(f"{self.out}: no prepared archive ({INDEX} is not there). Leave out --verify to make it.")
        self.spacing = tuple(float(s) for s in (spacing or earlier or DEFAULT_SPACING))
        if earlier is not None and not same_spacing(earlier, self.spacing):
            msg = f"{self.out}: prepared at spacing {earlier}, {list(self.spacing)} given. Choose another folder."
            raise InputError(msg)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, i: int) -> Outcome:
        case = self.cases[i]
        try:
            reason = self._why_not_done(case)
            if reason is None:
                return Outcome(case.id, "kept")
            if self.verify:
                return Outcome(case.id, "failed", f"{reason}. Prepare again: it is redone.")
            self._write(case)
        except OSError as error:
            why = error.strerror or error
            return Outcome(case.id, "failed", f"{error.filename or case.image}: cannot be read or written ({why}).")
        except Exception as error:
            message = input_error_message(error)
            if message is None:
                raise
            return Outcome(case.id, "failed", message)
        return Outcome(case.id, "written")

    def begin(self) -> None:
        """Write an ``archive.json`` that says what is being made: from now on old files and new ones are mixed."""
        earlier = read_index(self.out)["cases"] if is_archive(self.out) else ()
        self.write_index(earlier, complete=False)

    def write_index(self, done: Iterable[str], *, complete: bool = True) -> None:
        """Write ``archive.json`` with these cases; training refuses one that is not ``complete``."""
        chosen = set(done)
        entries = {
            case.id: {
                "subset": case.subset,
                "image": os.path.relpath(os.path.abspath(case.image), self.source),
                "label": case.label and os.path.relpath(os.path.abspath(case.label), self.source),
                "annotated_ids": None if case.annotated is None else list(case.annotated),
            }
            for case in self.cases
            if case.id in chosen
        }
        labels = None if self.names is None else {str(i): name for i, name in self.names.items()}
        index = {
            "version": VERSION,
            "complete": complete,
            "spacing": self.spacing,
            "source": os.fspath(self.source),
            "labels": labels,
            "cases": entries,
        }
        write_json(self.out / INDEX, index)

    def _record_file(self, case: Case) -> Path:
        return self.out / "cases" / f"{case.id}.json"

    def _why_not_done(self, case: Case) -> str | None:
        """Why the case has to be prepared; ``None`` when what is there is right."""
        try:
            record = json.loads(self._record_file(case).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return f"{self._record_file(case)}: not there, or not readable"
        if record["version"] != VERSION or not same_spacing(record["spacing"], self.spacing):
            return f"{self._record_file(case)}: of another version or spacing"
        sources, recorded = _sources(case), record["source"]
        if sources.keys() != recorded.keys():
            return f"{case.id}: its label is {'new' if 'label' in sources else 'gone'}"
        for name, path in sources.items():
            if not unchanged(path, recorded[name], read=self.verify):
                return f"{path}: changed since it was prepared"
        return check_files(self.out, record["files"])

    def _write(self, case: Case) -> None:
        sources = _sources(case)
        # before they are read: whatever changes them from here on makes them others than those on record
        before = {name: {**fingerprint(path), "sha256": digest(path)} for name, path in sources.items()}
        header = check_header(case.image)
        transform = prepared_volume(
            spacing=self.spacing, label="label" in sources, known_ids=self.names or range(MAX_ID + 1)
        )
        data: Any = transform(sources)
        hu = data["image"].as_tensor()
        files = [image_file(self.out, case.id)]
        write_array(files[0], hu[0].numpy(), self.spacing)
        voxels = None
        if "label" in sources:
            files += [label_file(self.out, case.id), centres_file(label_file(self.out, case.id))]
            ids = data["label"].as_tensor()
            outside = ~inside_body(data["image"], BODY_HU)
            write_array(files[1], torch.cat([ids, outside.to(torch.uint8)]).numpy(), self.spacing)
            voxels = write_centres(files[2], ids[0].numpy())
        record = {
            "version": VERSION,
            "spacing": self.spacing,
            "shape": list(hu.shape[1:]),
            "affine": data["image"].affine.tolist(),
            "body_box": [[int(n) for n in data[key]] for key in ("body_start", "body_end")],
            "original": {"shape": list(header.shape), "affine": header.affine.tolist()},
            "hu": _statistics(hu.numpy()),
            "label_voxels": voxels,
            "source": before,
            "files": [
                {"file": file.relative_to(self.out).as_posix(), "bytes": file.stat().st_size, "sha256": digest(file)}
                for file in files
            ],
        }
        write_json(self._record_file(case), record)


def prepare_folder(
    dataset_dir: str | os.PathLike,
    out: str | os.PathLike,
    *,
    spacing: Sequence[float] | None = None,
    workers: int = 0,
    verify: bool = False,
) -> str:
    """Prepare a folder, or verify what was prepared of it; a case that fails is said at once, the others are done.

    Args:
        dataset_dir, out, spacing, verify: see :class:`Preparation`.
        workers: processes beside this one; 0: this one alone.

    Returns:
        what was done, in a line.

    Raises:
        InputError: after everything else was done, when cases have failed.
    """
    if not isinstance(workers, int) or workers < 0:
        raise InputError(f"workers: {workers!r} given. Give a number of processes, 0 or more.")
    work = Preparation(dataset_dir, out, spacing=spacing, verify=verify)
    if not verify:
        work.begin()
    outcomes = list(_reported(work, workers))
    done = [o.case for o in outcomes if o.state != "failed"]
    if not verify:
        work.write_index(done, complete=bool(done))
    counts = {state: sum(o.state == state for o in outcomes) for state in ("written", "kept", "failed")}
    told = "verified" if verify else f"kept, {counts['written']} written"
    summary = f"{work.out}: {len(outcomes)} cases, {counts['kept']} {told}, {_size(work.out)}"
    if counts["failed"]:
        raise InputError(f"{summary}; {counts['failed']} failed, named above. Mend or remove them, and repeat this.")
    return summary


def _reported(work: Preparation, workers: int) -> Iterator[Outcome]:
    """Outcomes in the order of the cases; what failed is written to the standard error output."""
    loader = DataLoader(work, batch_size=None, num_workers=workers)
    for outcome in tqdm(loader, desc="verifying" if work.verify else "preparing", unit="volume", dynamic_ncols=True):
        if outcome.message:
            tqdm.write(f"error: {outcome.message}", file=sys.stderr)
        yield outcome


def _sources(case: Case) -> dict[str, str]:
    return {"image": case.image} if case.label is None else {"image": case.image, "label": case.label}


def _statistics(hu: np.ndarray) -> dict[str, float]:
    percentiles = np.percentile(hu, _PERCENTILES)
    named = {f"p{q:g}": round(float(v), 1) for q, v in zip(_PERCENTILES, percentiles, strict=True)}
    return {"min": int(hu.min()), "max": int(hu.max()), "mean": float(hu.mean()), "std": float(hu.std()), **named}


def _size(archive: Path) -> str:
    total = sum(f.stat().st_size for folder in ("images", "labels") for f in (archive / folder).glob("*"))
    return f"{total / 2**20:.0f} MiB"
