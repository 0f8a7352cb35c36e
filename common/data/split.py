"""Train, validation and test cases: the same for the same seed, whatever else is in the folder."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from common.data.cases import Case
from common.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Cases by what they are for; no patient is in two of ``train``, ``val`` and ``test``.

    Nor is one of ``val`` or ``test`` in ``unlabelled``.
    """

    train: list[Case]
    val: list[Case]
    test: list[Case]
    unlabelled: list[Case]


def split_cases(
    cases: Sequence[Case],
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    min_train: int = 1,
    min_val: int = 1,
    label_fraction: float = 1.0,
    patient: str | None = None,
    val_first: Collection[str] = (),
) -> Split:
    """Split labelled cases into training and validation.

    Cases are ordered by a hash of seed and id, so a case that is added later leaves the others mostly where they were,
    and the training cases of a smaller ``label_fraction`` are among those of a larger one.

    Args:
        cases: from :func:`common.data.cases.find_cases`; its test cases stay test cases.
        val_fraction: share of the labelled cases to validate on.
        seed: of the order.
        min_train, min_val: at least so many cases, whatever the fractions say.
        label_fraction: share of the training cases that keep their label (at least one does); the others join the
            unlabelled cases.
        patient: regular expression for the part of an id (its first group, else the match) that names the patient.
            Cases of one patient stay together; those of a test case's patient are left out, and so are unlabelled ones
            of a validation case's. ``None``: every case is a patient of its own.
        val_first: ids of cases to validate on before others.

    Raises:
        InputError: fewer labelled cases (or patients) than needed; a fraction out of range; a bad expression.
    """
    if not 0 <= val_fraction < 1:
        raise InputError(f"val_fraction: {val_fraction} given, at least 0 and below 1 is allowed. Try 0.2.")
    if not 0 < label_fraction <= 1:
        raise InputError(
            f"label_fraction: {label_fraction} given, above 0 and at most 1 is allowed. 1 uses all labels."
        )
    test = [c for c in cases if c.subset == "test"]
    left_out = same_patients(cases, {c.id for c in test}, patient)
    if left_out:
        logger.warning("left out, as other scans of their patients are test cases: %s", ", ".join(sorted(left_out)))
    labelled = [c for c in cases if c.subset == "train" and c.label is not None and c.id not in left_out]
    needed = max(min_train, 0) + max(min_val, 0)
    if len(labelled) < needed:
        msg = (
            f"labelled cases: {len(labelled)} found, the split needs at least {needed} "
            f"({min_train} to train, {min_val} to validate). Add labelled volumes."
        )
        raise InputError(msg)

    groups = _patients(labelled, patient, seed)
    groups.sort(key=lambda group: not any(c.id in val_first for c in group))  # stable: else as the hash has them
    n_val = min(max(min_val, round(val_fraction * len(labelled))), len(labelled) - min_train)
    val: list[Case] = []
    while len(val) < n_val and len(groups) > 1:
        val += groups.pop(0)
    train = [c for group in groups for c in group]
    if len(train) < min_train or len(val) < min_val:
        msg = (
            f"labelled cases: those of one patient stay together, which leaves {len(train)} to train and {len(val)} to "
            f"validate; at least {min_train} and {min_val} are needed. Add patients or change the patient expression."
        )
        raise InputError(msg)

    n_labels = max(1, round(label_fraction * len(train))) if train else 0
    left_out |= same_patients(cases, {c.id for c in val}, patient)
    unlabelled = [c for c in cases if c.subset == "unlabelled" and c.id not in left_out]
    return Split(
        train=_by_id(train[:n_labels]),
        val=_by_id(val),
        test=_by_id(test),
        unlabelled=_by_id(unlabelled + train[n_labels:]),
    )


def split_folds(cases: Sequence[Case], folds: int, *, seed: int = 0, patient: str | None = None) -> list[list[Case]]:
    """Cut cases into parts of about as many patients each, for cross-validation.

    Args:
        cases: to be cut; those of one patient stay together.
        folds: number of parts.
        seed: of the order, by the same hash as in :func:`split_cases`.
        patient: see :func:`split_cases`.

    Raises:
        InputError: fewer patients than folds.
    """
    groups = _patients(cases, patient, seed)
    if len(groups) < folds:
        raise InputError(f"folds: {folds} given, {len(groups)} labelled patients found. Give at most so many folds.")
    return [_by_id([c for group in groups[fold::folds] for c in group]) for fold in range(folds)]


def patients(cases: Sequence[Case], patient: str | None) -> dict[str, list[Case]]:
    """Cases by the name of their patient (see :func:`split_cases`).

    Raises:
        InputError: a bad expression.
    """
    try:
        expression = re.compile(patient) if patient else None
    except re.error as error:
        raise InputError(f"patient: '{patient}' is not a regular expression ({error}). Try '^[^_]+'.") from error
    groups: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda c: c.id):
        match = expression.search(case.id) if expression else None
        name = case.id if match is None else (match.group(1) if match.groups() else match.group(0))
        groups.setdefault(name, []).append(case)
    return groups


def same_patients(cases: Sequence[Case], ids: Collection[str], patient: str | None) -> set[str]:
    """Ids of further cases of the patients of these cases; see :func:`split_cases`.

    Raises:
        InputError: a bad expression.
    """
    groups = [{c.id for c in group} for group in patients(cases, patient).values()]
    return {i for group in groups if group & set(ids) for i in group - set(ids)}


def _patients(cases: Sequence[Case], patient: str | None, seed: int) -> list[list[Case]]:
    """Cases grouped by patient, the groups in the order of the hash of seed and patient."""
    groups = patients(cases, patient)
    return [groups[name] for name in sorted(groups, key=lambda name: _hash(seed, name))]


def _hash(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def _by_id(cases: Sequence[Case]) -> list[Case]:
    return sorted(cases, key=lambda c: c.id)
