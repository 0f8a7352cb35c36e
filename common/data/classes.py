"""What is known of whole cases: ``classes.csv``, and the items of a training on it.

The file has a header ``case,<class>,<class>,...`` and a line per case: the name of the volume without suffix, then per
class 1 (yes), 0 (no) or nothing (not known). Classes do not exclude each other. A case needs no mask.

An item is ``{"image": path, "case": id, "label": float32 (N,)}``, NaN where a class is not known.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.data.archive import is_archive, read_index
from common.data.cases import Case, case_id, find_cases
from common.data.split import split_cases
from common.errors import InputError
from common.files import write_csv

logger = logging.getLogger(__name__)

CLASSES_FILE = "classes.csv"
_FORM = "Write 'case,<class>,<class>,...' with commas, and one line per case with 1, 0 or nothing for each class"


@dataclass(frozen=True)
class ClassTable:
    """Which classes the cases of a folder have.

    Attributes:
        path: the file.
        names: of the classes, in the order of a network's outputs.
        labels: per case 1.0, 0.0 or NaN (not known) for every class.
    """

    path: str
    names: tuple[str, ...]
    labels: Mapping[str, tuple[float, ...]]

    @property
    def digest(self) -> str:
        """Fingerprint of what the table says, whatever the order of its lines."""
        lines = [repr(self.names), *sorted(f"{case}:{values}" for case, values in self.labels.items())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def read_classes(
    dataset_dir: str | os.PathLike,
    *,
    classes_file: str | os.PathLike | None = None,
    classes: str | Sequence[str] | None = None,
) -> ClassTable:
    """Read and check a table of classes.

    Args:
        dataset_dir: the folder of CT, which holds ``classes.csv``.
        classes_file: another file.
        classes: columns to use, in this order. Default: all.

    Raises:
        InputError: no such file, not of this form, a case or a class that is there twice, a value that is not 0, 1 or
            nothing, a class of ``classes`` that has no column.
    """
    path = Path(classes_file if classes_file else Path(dataset_dir) / CLASSES_FILE).expanduser()
    lines = _lines(path)
    _, header = lines[0]
    names = tuple(header[1:])
    if header[0] != "case" or not names or not all(names):
        raise InputError(f"{path}: the header is '{','.join(header)}'. {_FORM}.")
    if twice := _first_repeated(names):
        raise InputError(f"{path}: class '{twice}' has two columns. Remove or rename one.")
    labels: dict[str, tuple[float, ...]] = {}
    for number, cells in lines[1:]:
        case = case_id(cells[0])
        if not case or len(cells) != len(header):
            raise InputError(f"{path}: line {number} has {len(cells)} entries, the header {len(header)}. {_FORM}.")
        if case in labels:
            raise InputError(f"{path}: case '{case}' is there twice, again in line {number}. Remove one of the lines.")
        labels[case] = tuple(_value(cell, path, number) for cell in cells[1:])
    return _chosen(ClassTable(os.fspath(path), names, labels), classes)


def classified_items(
    dataset_dir: str | os.PathLike,
    table: ClassTable,
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    label_fraction: float = 1.0,
    section: Literal["train", "val", "test"] = "train",
    patient: str | None = None,
) -> list[dict[str, Any]]:
    """Cases of one section of the split of which at least one class is known.

    The split is that of :func:`common.data.datalist.training_items`: where the same cases have masks and classes, both
    trainings validate on the same ones. A case without a mask can be in any section; those of ``imagesTs`` are tested
    on.

    Args:
        dataset_dir: see :mod:`common.data.cases`.
        table: from :func:`read_classes`.
        val_fraction, seed, label_fraction, patient: see :func:`common.data.split.split_cases`.
        section: which part of the split. There may be no test cases.

    Raises:
        InputError: see :func:`~common.data.cases.find_cases` and :func:`~common.data.split.split_cases`; also a
            prepared archive, a case that the folder does not hold, and a class of which training or validation cases
            have one value only.
    """
    if section not in ("train", "val", "test"):
        raise InputError(f"section: '{section}' given. Choose train, val or test.")
    if is_archive(dataset_dir):
        source = read_index(dataset_dir)["source"]
        msg = f"{dataset_dir}: is a prepared archive; classification reads whole volumes. Give their folder, {source}."
        raise InputError(msg)
    found = {case.id: case for case in find_cases(dataset_dir)}
    if unknown := sorted(set(table.labels) - set(found)):
        msg = (
            f"{table.path}: case '{unknown[0]}' is not in {dataset_dir}, nor are {len(unknown) - 1} others. A case is "
            "named like its volume, without .nii.gz (and nnU-Net's _0000). Correct or remove the line."
        )
        raise InputError(msg)
    known = [case_of(found[case], table) for case, values in table.labels.items() if not all(map(math.isnan, values))]
    split = split_cases(known, val_fraction=val_fraction, seed=seed, label_fraction=label_fraction, patient=patient)
    cases = getattr(split, section)
    items = [{"image": c.image, "case": c.id, "label": np.array(table.labels[c.id], dtype=np.float32)} for c in cases]
    if section != "test":
        _check_both_values(items, table, section)
    logger.info("%s: %d classified cases of %s", section, len(items), dataset_dir)
    return items


def case_of(case: Case, table: ClassTable) -> Case:
    """The case as one that this table labels: to train and validate on, unless it is a test case."""
    return replace(case, label=table.path, subset="test" if case.subset == "test" else "train")


def write_classes(path: str | os.PathLike, names: Sequence[str], labels: Mapping[str, Iterable[float]]) -> None:
    """Write a table that :func:`read_classes` reads; cases in the order of their names, NaN as nothing."""
    rows = ([case, *("" if math.isnan(v) else int(v) for v in labels[case])] for case in sorted(labels))
    write_csv(path, ["case", *names], rows)


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Number and stripped entries of the lines that are not empty: at least one."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark before UTF-8
            reader = csv.reader(file)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except FileNotFoundError as error:
        raise InputError(f"{path}: not there. {_FORM}, or name another file with --classes_file.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}). Check the file.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a text file of comma-separated values ({error}). {_FORM}.") from error
    if not lines:
        raise InputError(f"{path}: empty. {_FORM}.")
    return lines


def _value(cell: str, path: Path, number: int) -> float:
    if not cell:
        return math.nan
    try:
        value = float(cell)  # programs that know no empty integer write 1.0
    except ValueError:
        value = math.nan
    if value not in (0.0, 1.0):
        raise InputError(f"{path}: line {number}: '{cell}' is not 0, 1 or nothing. {_FORM}.")
    return value


def _chosen(table: ClassTable, classes: str | Sequence[str] | None) -> ClassTable:
    if classes is None:
        return table
    names = (classes,) if isinstance(classes, str) else tuple(classes)
    missing = [name for name in names if name not in table.names]
    if missing or not names or _first_repeated(names):
        wrong = f"{table.path} has no column '{missing[0]}'" if missing else f"{list(names)} given"
        raise InputError(f"classes: {wrong}. Choose among {', '.join(table.names)}, each once.")
    columns = [table.names.index(name) for name in names]
    return replace(table, names=names, labels={c: tuple(v[i] for i in columns) for c, v in table.labels.items()})


def _first_repeated(names: Sequence[str]) -> str | None:
    return next((name for i, name in enumerate(names) if name in names[:i]), None)


def _check_both_values(items: Sequence[Mapping[str, Any]], table: ClassTable, section: str) -> None:
    for i, name in enumerate(table.names):
        values = [float(item["label"][i]) for item in items if not math.isnan(item["label"][i])]
        if set(values) != {0.0, 1.0}:
            what = f"{values[0]:g} in all" if values else "not known in any"
            which = {"train": "training", "val": "validation"}[section]
            msg = (
                f"{table.path}: class '{name}' is {what} of the {len(items)} {which} cases; both values are needed. "
                f"Add cases, choose another val_fraction or seed, or leave it out: --classes names those to use."
            )
            raise InputError(msg)
