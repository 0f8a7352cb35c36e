"""Data lists of the three stages: what the bundles' configs call.

An item is ``{"image": path, "label": path, "annotated": [ids], "known_ids": [ids], "case": id}``; entries that a case
does not have are absent. :class:`common.transforms.structures.StructuresToChannelsd` consumes the two lists of ids.

Where the folder is a prepared archive (:mod:`common.data.archive`), the paths of training cases are those of its own
files; what is validated, tested or segmented is read from the files that the archive was made from.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from common.data.archive import image_file, label_file
from common.data.cases import Case, find_cases, image_case_id, label_names
from common.data.dicom import is_dicom_folder
from common.data.split import same_patients, split_cases
from common.errors import InputError

logger = logging.getLogger(__name__)

Item = dict[str, Any]


def training_items(
    dataset_dir: str | os.PathLike,
    *,
    structures: Mapping[str, int],
    val_fraction: float = 0.2,
    seed: int = 0,
    label_fraction: float = 1.0,
    section: Literal["train", "val", "test"] = "train",
    patient: str | None = None,
) -> list[Item]:
    """Labelled cases of one section of the split; the same arguments give the same split in every section.

    Args:
        dataset_dir: see :mod:`common.data.cases`.
        structures: {name: id} to segment.
        val_fraction, seed, label_fraction, patient: see :func:`common.data.split.split_cases`.
        section: which part of the split.

    Raises:
        InputError: see :func:`~common.data.cases.find_cases` and :func:`~common.data.split.split_cases`; also
            ``structures`` that contradict the names in ``dataset.json``, and no labelled case in the section.
    """
    if section not in ("train", "val", "test"):
        raise InputError(f"section: '{section}' given. Choose train, val or test.")
    check_names(structures, label_names(dataset_dir), dataset_dir)
    split = split_cases(
        find_cases(dataset_dir), val_fraction=val_fraction, seed=seed, label_fraction=label_fraction, patient=patient
    )
    cases = [c for c in getattr(split, section) if c.label is not None]
    if not cases:
        remedy = "Put the labels of test cases into labelsTs, or use section val"
        raise InputError(f"{dataset_dir}: no labelled {section} case. {remedy}.")
    items = labelled_items(dataset_dir, cases, structures=structures, prepared=section == "train")
    logger.info("%s: %d labelled cases of %s", section, len(items), dataset_dir)
    if section == "train":
        _warn_about_missing(items, structures)
    return items


def pretraining_items(
    dataset_dir: str | os.PathLike,
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    include_test: bool = False,
    patient: str | None = None,
    hold_out: Collection[str] = (),
) -> list[Item]:
    """Images to pretrain on: unlabelled cases and the training cases of the split, without their labels.

    Validation and test volumes are left out although no label of theirs would be used: a network that has already
    seen the volumes that it is scored on scores better than it will on new ones, and the comparison with training from
    scratch would not be fair.

    Args:
        dataset_dir: see :mod:`common.data.cases`.
        val_fraction, seed, patient: as for :func:`training_items`, so that both stages hold out the same cases.
        include_test: pretrain on validation and test volumes too (a transductive setting: say so with the scores).
        hold_out: ids of further cases to leave out, such as those that another task validates on; their patients' other
            scans are left out too.

    Raises:
        InputError: see :func:`~common.data.cases.find_cases`; also when everything in the folder is held out.
    """
    cases = find_cases(dataset_dir)
    # too few labelled cases to hold one out: fine-tuning will say so, and pretraining can use them
    labelled = sum(c.subset == "train" and c.label is not None for c in cases)
    smallest = 1 if labelled >= 2 else 0
    split = split_cases(
        cases,
        val_fraction=val_fraction if smallest else 0.0,
        seed=seed,
        min_train=smallest,
        min_val=smallest,
        patient=patient,
    )
    used = split.unlabelled + split.train + (split.val + split.test if include_test else [])
    also = same_patients(cases, hold_out, patient)
    used = [c for c in used if c.id not in hold_out and c.id not in also]
    if not used:
        what = "validation and test" if hold_out else "test"
        msg = (
            f"{dataset_dir}: it holds {what} cases only, and those are held out. Put volumes into imagesTr or imagesUn."
        )
        raise InputError(msg)
    items = image_items(sorted(used, key=lambda c: c.id), prepared=True)
    logger.info("pretraining: %d of %d volumes of %s", len(items), len(cases), dataset_dir)
    return items


def inference_items(volumes: str | os.PathLike) -> list[Item]:
    """Volumes to segment: one NIfTI file, a folder with one DICOM series, or a folder of several volumes.

    Raises:
        InputError: nothing there. The volumes themselves are checked when they are loaded, one by one.
    """
    path = Path(volumes).expanduser() if volumes else None
    if path is None or not path.exists():
        raise InputError(
            f"{volumes}: no such file or folder. Give a NIfTI file, a DICOM folder or a folder of volumes."
        )
    if path.is_file() or is_dicom_folder(path):
        items = [{"image": os.fspath(path), "case": image_case_id(path)}]
    else:
        items = image_items(find_cases(path))
    logger.info("inference: %d volumes of %s", len(items), path)
    return items


def labelled_items(
    dataset_dir: str | os.PathLike, cases: Sequence[Case], *, structures: Mapping[str, int], prepared: bool = False
) -> list[Item]:
    """Items of these labelled cases of the folder, in their order.

    Args:
        dataset_dir: see :mod:`common.data.cases`.
        cases: some of them.
        structures: {name: id} to segment.
        prepared: to train on, from the prepared archive where the folder is one.

    Raises:
        InputError: ``structures`` that contradict the names in ``dataset.json``.
    """
    names = label_names(dataset_dir)
    check_names(structures, names, dataset_dir)
    return [_labelled_item(case, structures, names, prepared) for case in cases]


def image_items(cases: Sequence[Case], *, prepared: bool = False) -> list[Item]:
    """Items of these cases without their labels, in their order; ``prepared`` as for :func:`labelled_items`."""
    return [{"image": _files(case, prepared)[0], "case": case.id} for case in cases]


def known_ids(dataset_dir: str | os.PathLike, structures: Mapping[str, int]) -> list[int]:
    """Ids that label files of the folder may hold: those of its ``dataset.json``, else those of ``structures``."""
    return sorted(label_names(dataset_dir) or structures.values())


def _files(case: Case, prepared: bool) -> tuple[str, str | None]:
    """Image and label of a case, in its archive where that is wanted and there is one."""
    if not prepared or case.archive is None:
        return case.image, case.label
    label = None if case.label is None else os.fspath(label_file(case.archive, case.id))
    return os.fspath(image_file(case.archive, case.id)), label


def _labelled_item(case: Case, structures: Mapping[str, int], names: Mapping[int, str] | None, prepared: bool) -> Item:
    ids = sorted(names if names is not None else structures.values())
    image, label = _files(case, prepared)
    item = {"image": image, "case": case.id, "label": label, "known_ids": ids}
    if case.annotated is not None or names is not None:
        item["annotated"] = list(case.annotated if case.annotated is not None else ids)
    return item


def check_names(structures: Mapping[str, int], names: Mapping[int, str] | None, dataset_dir: str | os.PathLike) -> None:
    """Refuse ids that mean one thing in ``structures`` and another in the label files: they train the wrong thing.

    Raises:
        InputError: naming the first such structure.
    """
    for name, i in structures.items():
        given = (names or {}).get(i)
        if given is not None and _plain(given) != _plain(name):
            msg = (
                f"structures: id {i} is '{name}', but {Path(dataset_dir) / 'dataset.json'} calls it '{given}'. "
                f"Set structures to names and ids of this label map, for example {{'{given}': {i}}}."
            )
            raise InputError(msg)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _warn_about_missing(items: Sequence[Item], structures: Mapping[str, int]) -> None:
    for name, i in structures.items():
        if not any("annotated" not in item or i in item["annotated"] for item in items):
            logger.warning("structure %s (id %d): no training case annotates it, so it cannot be learnt", name, i)
