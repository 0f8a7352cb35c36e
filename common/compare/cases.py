"""The cases of a comparison: what is held out is held out of every stage of every arm."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.data.cases import Case, find_cases
from common.data.split import same_patients, split_cases, split_folds
from common.errors import InputError


@dataclass(frozen=True)
class ComparedCases:
    """Cases by what they are for.

    Validation and test cases are the same for all seeds, and pretraining sees those of no fold, so that one pretraining
    serves every seed and fold.

    Attributes:
        pool: labelled cases, from which a seed draws those that a run trains on.
        val: labelled cases that decide learning rates and epochs.
        test: labelled cases that are scored once per chosen run.
        pretraining: images of ``pool`` and of the unlabelled cases; of several folds, of the latter alone.
        left_out: unlabelled and labelled cases of a patient, or with an image file, that is held out.
        patient: see :func:`common.data.split.split_cases`.
    """

    pool: list[Case]
    val: list[Case]
    test: list[Case]
    pretraining: list[Case]
    left_out: list[Case] = field(default_factory=list)
    patient: str | None = None

    def n_labelled(self, fraction: float) -> int:
        """Number of labelled cases to train on; 0 when the fraction leaves none."""
        return round(fraction * len(self.pool))

    def labelled(self, fraction: float, seed: int) -> list[Case]:
        """The labelled cases of one seed; those of a smaller fraction are among those of a larger one."""
        split = split_cases(
            self.pool, val_fraction=0.0, min_val=0, seed=seed, label_fraction=fraction, patient=self.patient
        )
        return split.train


def compared_cases(
    dataset_dir: str | os.PathLike,
    *,
    folds: int = 1,
    val_fraction: float = 0.2,
    test_fraction: float = 0.25,
    split_seed: int = 0,
    patient: str | None = None,
    include_held_out: bool = False,
) -> list[ComparedCases]:
    """Split a folder for a comparison, once, or once per fold.

    Args:
        dataset_dir: see :mod:`common.data.cases`. Labelled test cases of the folder are the test cases.
        folds: into so many parts are the labelled cases cut, by patient; each part is the test cases once. Of more than
            one, pretraining sees unlabelled cases alone: every labelled one is a test case of some fold.
        val_fraction: share of the labelled cases (without the test cases) to validate on, at least one.
        test_fraction: share of the labelled cases to test on, at least one, where the folder names no labelled test
            case and there is one fold.
        split_seed: of these choices.
        patient: expression for the part of an id that names the patient; see :func:`common.data.split.split_cases`.
        include_held_out: pretrain on validation and test images too (transductive: say so with the scores).

    Raises:
        InputError: see :func:`~common.data.cases.find_cases` and :func:`~common.data.split.split_cases`; folds of a
            folder that has labelled test cases, too few cases for them, or no image to pretrain on.
    """
    if not 0 < test_fraction < 1:
        raise InputError(f"test_fraction: {test_fraction} given, between 0 and 1 is allowed. Try 0.25.")
    cases = find_cases(dataset_dir)
    labelled = [c for c in cases if c.subset == "train" and c.label is not None]
    test = [c for c in cases if c.subset == "test" and c.label is not None]
    if len(labelled) < (2 if test else 3):
        needed = "2 (one to train, one to validate)" if test else "3 (one each to train, to validate and to test)"
        raise InputError(f"{dataset_dir}: {len(labelled)} labelled training cases, a comparison needs {needed}.")
    if test and folds > 1:
        msg = (
            f"folds: {dataset_dir} has {len(test)} labelled test cases, on which all are tested. Leave folds out, or "
            "make them training cases."
        )
        raise InputError(msg)
    if test:
        tests = [test]
    elif folds > 1:
        tests = split_folds(labelled, folds, seed=split_seed, patient=patient)
    else:
        tests = [split_cases(labelled, val_fraction=test_fraction, seed=split_seed, min_train=2, patient=patient).val]
    compared = []
    for number, tested in enumerate(tests):
        # the next fold's test cases come first, so that no case validates in most folds and trains in few
        val_first = {c.id for c in tests[(number + 1) % folds]} if folds > 1 else set()
        try:
            compared.append(_fold(cases, tested, val_first, val_fraction, split_seed, patient))
        except InputError as error:
            fold = f", fold {number} of {folds}" if folds > 1 else ""
            raise InputError(f"{dataset_dir}{fold}: {error}") from error
    unseen = {c.id for fold in compared for c in [*fold.val, *fold.test, *fold.left_out]}
    unseen |= {c.id for c in cases if c.subset == "test"}
    pretraining = [c for c in cases if include_held_out or c.id not in unseen]
    if not pretraining:
        msg = (
            f"{dataset_dir}: no image is left to pretrain on, since every labelled one is held out in some fold. Add "
            "unlabelled ones, compare without folds, or say include_held_out."
        )
        raise InputError(msg)
    return [replace(fold, pretraining=pretraining) for fold in compared]


def _fold(
    cases: Sequence[Case],
    test: Sequence[Case],
    val_first: Collection[str],
    val_fraction: float,
    seed: int,
    patient: str | None,
) -> ComparedCases:
    """Training and validation cases around these test cases; what to pretrain on is for all folds to say."""
    tested = {c.id for c in test} | {c.id for c in cases if c.subset == "test"}
    left_out = _further(cases, tested, patient)
    labelled = [
        c for c in cases if c.subset == "train" and c.label is not None and c.id not in tested and c.id not in left_out
    ]
    split = split_cases(labelled, val_fraction=val_fraction, seed=seed, patient=patient, val_first=val_first)
    left_out |= _further(cases, {c.id for c in split.val}, patient) - tested
    pool = [c for c in split.train if c.id not in left_out]
    if not pool:
        msg = (
            "every labelled training case shares its patient or its image with a held-out one "
            f"({', '.join(sorted(left_out))}). Add patients, or change the patient expression."
        )
        raise InputError(msg)
    return ComparedCases(pool, split.val, list(test), [], [c for c in cases if c.id in left_out], patient)


def _further(cases: Sequence[Case], ids: set[str], patient: str | None) -> set[str]:
    """Ids of further cases that share a patient or an image file with these."""
    return same_patients(cases, ids, patient) | _same_files(cases, ids)


def _same_files(cases: Sequence[Case], held_out: set[str]) -> set[str]:
    """Ids of further cases whose image file is, byte for byte, a held-out one."""
    sizes: dict[int, list[Case]] = {}
    for case in cases:
        if Path(case.image).is_file():
            sizes.setdefault(Path(case.image).stat().st_size, []).append(case)
    same = set()
    for alike in sizes.values():
        if any(c.id in held_out for c in alike) and any(c.id not in held_out for c in alike):
            digests = {c.id: hashlib.sha256(Path(c.image).read_bytes()).digest() for c in alike}
            gone = {digests[c.id] for c in alike if c.id in held_out}
            same |= {i for i, digest in digests.items() if digest in gone and i not in held_out}
    return same
