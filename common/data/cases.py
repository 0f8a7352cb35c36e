"""The cases of a folder of CT: which volumes it holds, which labels belong to them, what those labels annotate.

Layouts (volumes are NIfTI files or sub-folders with one DICOM series each; a case's id is its name without suffix):

- Medical Segmentation Decathlon: ``imagesTr`` with ``labelsTr``, ``imagesTs`` (with ``labelsTs``), ``imagesUn``, and an
  optional ``dataset.json``; the ``_0000`` that nnU-Net appends to image names is understood;
- flat: volumes in the folder itself, labels of the same names in ``labels/final`` (MONAI Label), ``labels`` or
  ``labelsTr``;
- ``images`` beside ``labels``;
- a prepared archive (:mod:`common.data.archive`): the cases of the folder that it was made from.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.data.archive import is_archive, read_index
from common.data.dicom import is_dicom_folder
from common.data.headers import NIFTI_SUFFIXES, is_nifti
from common.errors import InputError

logger = logging.getLogger(__name__)

Subset = Literal["train", "test", "unlabelled"]

_IMAGE_FOLDERS: tuple[tuple[str, Subset], ...] = (
    ("imagesTr", "train"),
    ("imagesTs", "test"),
    ("imagesUn", "unlabelled"),
    ("images", "train"),
    (".", "train"),
)
_LABEL_FOLDERS = ("labelsTr", "labels/final", "labels")
_LISTS: dict[str, Subset] = {"training": "train", "test": "test", "unlabelled": "unlabelled", "unlabeled": "unlabelled"}
_CHANNEL_SUFFIX = "_0000"


@dataclass(frozen=True)
class Case:
    """One volume of a folder.

    Attributes:
        id: name of the volume without folder and suffix.
        image: path of a NIfTI file or of a folder with one DICOM series.
        label: path of the label file, or ``None``.
        annotated: ids that the label annotates; ``None``: everything that the label map can hold.
        subset: ``"train"`` for labelled cases to train and validate on, ``"test"``, or ``"unlabelled"``.
        archive: the prepared archive (:mod:`common.data.archive`) that training may read the case from; ``image`` and
            ``label`` are then the files it was made from, which need not be there.
    """

    id: str
    image: str
    label: str | None
    annotated: tuple[int, ...] | None
    subset: Subset
    archive: str | None = None


def find_cases(dataset_dir: str | os.PathLike) -> list[Case]:
    """Cases of a folder, sorted by id.

    Where ``dataset.json`` lists training, test or unlabelled cases, its list is used for that subset; its
    ``cases[id].annotated_ids`` say what a partial label annotates. Training cases without a label count as unlabelled.

    Raises:
        InputError: folder missing; no images in it; a listed file missing; an id that occurs twice.
    """
    root = _existing_folder(dataset_dir)
    if is_archive(root):
        return _archived_cases(root)
    content = _dataset_json(root)
    listed = {subset for key, subset in _LISTS.items() if _entries(content, key)}
    cases = [c for key, subset in _LISTS.items() for c in _listed_cases(root, content, key, subset)]
    if is_dicom_folder(root):
        cases.append(_case(root, root, None, "unlabelled", content))
    else:
        taken = {os.path.normpath(c.image) for c in cases}
        for folder, subset in _IMAGE_FOLDERS:
            if subset not in listed:
                cases += [c for c in _folder_cases(root, folder, subset, content) if c.image not in taken]
    if not cases:
        msg = (
            f"{root}: no images. Looked for NIfTI files (.nii, .nii.gz) and sub-folders with a DICOM series, in it and "
            f"in its {', '.join(name for name, _ in _IMAGE_FOLDERS[:-1])}. Check the path."
        )
        raise InputError(msg)
    _check_unique(cases)
    return sorted(cases, key=lambda c: c.id)


def label_names(dataset_dir: str | os.PathLike) -> dict[int, str] | None:
    """The label map {id: name} of the folder's ``dataset.json``, background left out; ``None`` when it has none.

    Both directions are read: MSD's {"1": "liver"} and nnU-Net's {"liver": 1}.

    Raises:
        InputError: a ``dataset.json`` that is not what it should be.
    """
    root = Path(dataset_dir).expanduser()
    labels = (read_index(root) if is_archive(root) else _dataset_json(root)).get("labels")
    if not labels:
        return None
    try:
        pairs = [(int(k), str(v)) if str(k).isdigit() else (int(v), str(k)) for k, v in labels.items()]
    except (AttributeError, TypeError, ValueError) as error:
        msg = f'{root / "dataset.json"}: \'labels\' is not a map of ids to names. Write it like {{"1": "liver"}}.'
        raise InputError(msg) from error
    return {i: name for i, name in sorted(pairs) if i != 0}


def volumes_in(folder: Path) -> list[Path]:
    """NIfTI files and DICOM series sub-folders directly in ``folder``, sorted by name."""
    if not folder.is_dir():
        return []
    return [p for p in sorted(folder.iterdir()) if is_nifti(p) or (not p.name.startswith(".") and is_dicom_folder(p))]


def case_id(path: str | os.PathLike) -> str:
    """Name of a volume without folder and suffix."""
    name = Path(path).name
    for suffix in NIFTI_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def image_case_id(path: str | os.PathLike) -> str:
    """Id of the case that an image belongs to, as :func:`find_cases` gives it.

    That is its :func:`case_id`, without nnU-Net's ``_0000`` where every volume of its folder carries it.
    """
    name = case_id(path)
    if not name.endswith(_CHANNEL_SUFFIX) or name == _CHANNEL_SUFFIX:
        return name
    strip = all(case_id(p).endswith(_CHANNEL_SUFFIX) for p in volumes_in(Path(path).parent))
    return name.removesuffix(_CHANNEL_SUFFIX) if strip else name


def _existing_folder(dataset_dir: str | os.PathLike) -> Path:
    if not dataset_dir:
        raise InputError("dataset_dir: empty. Give the folder that holds the CT volumes.")
    root = Path(dataset_dir).expanduser()
    if not root.is_dir():
        what = "not a folder" if root.exists() else "no such folder"
        raise InputError(f"{root}: {what}. Give the folder that holds the CT volumes (--dataset_dir).")
    return root


def _archived_cases(root: Path) -> list[Case]:
    index = read_index(root)
    if not index["complete"]:
        raise InputError(f"{root}: its preparation was not finished. Run `python -m common prepare` again: it goes on.")
    source = Path(index["source"])
    cases = []
    for name, entry in sorted(index["cases"].items()):
        label, ids = entry["label"], entry["annotated_ids"]
        cases.append(
            Case(
                id=name,
                image=os.path.normpath(source / entry["image"]),
                label=None if label is None else os.path.normpath(source / label),
                annotated=None if ids is None else tuple(ids),
                subset=entry["subset"],
                archive=os.fspath(root),
            )
        )
    return cases


def _dataset_json(root: Path) -> dict[str, Any]:
    path = root / "dataset.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}). Correct it or remove it.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: a JSON object is expected. Correct it or remove it.")
    return content


def _entries(content: Mapping[str, Any], key: str) -> Sequence[Any]:
    entries = content.get(key)
    return entries if isinstance(entries, list) else []


def _listed_cases(root: Path, content: Mapping[str, Any], key: str, subset: Subset) -> Iterable[Case]:
    for entry in _entries(content, key):
        paths = entry if isinstance(entry, dict) else {"image": entry}
        if not isinstance(paths.get("image"), str):
            msg = (
                f'{root / "dataset.json"}: an entry of \'{key}\' names no image. Write {{"image": ..., "label": ...}}.'
            )
            raise InputError(msg)
        image = _listed_file(root, paths["image"])
        label: Path | None
        if paths.get("label"):
            label = _listed_file(root, paths["label"])
        else:
            label = _label_of(root, image, strip=case_id(image).endswith(_CHANNEL_SUFFIX), subset=subset)
        yield _case(root, image, label, subset, content)


def _listed_file(root: Path, name: str) -> Path:
    path = root / name
    channel = path.with_name(f"{case_id(path)}{_CHANNEL_SUFFIX}{path.name[len(case_id(path)) :]}")
    for candidate in (path, channel):  # nnU-Net lists images without the suffix that their files have
        if candidate.exists():
            return candidate
    msg = f"{path}: listed in {root / 'dataset.json'} but not there. Copy it there or correct the list."
    raise InputError(msg)


def _folder_cases(root: Path, folder: str, subset: Subset, content: Mapping[str, Any]) -> Iterable[Case]:
    images = volumes_in(root / folder)
    strip = bool(images) and all(case_id(p).endswith(_CHANNEL_SUFFIX) for p in images)
    for image in images:
        yield _case(root, image, _label_of(root, image, strip=strip, subset=subset), subset, content, strip=strip)


def _label_of(root: Path, image: Path, *, strip: bool, subset: Subset) -> Path | None:
    stem = case_id(image)
    stem = stem.removesuffix(_CHANNEL_SUFFIX) if strip else stem
    for folder in ("labelsTs",) if subset == "test" else _LABEL_FOLDERS:
        for suffix in NIFTI_SUFFIXES:
            path = root / folder / f"{stem}{suffix}"
            if path.is_file():
                return path
    return None


def _case(
    root: Path, image: Path, label: Path | None, subset: Subset, content: Mapping[str, Any], *, strip: bool = True
) -> Case:
    name = case_id(image)
    has_suffix = strip and name.endswith(_CHANNEL_SUFFIX) and len(name) > len(_CHANNEL_SUFFIX)
    name = name.removesuffix(_CHANNEL_SUFFIX) if has_suffix else name
    annotated = _annotated(root, content, name)
    if annotated == ():
        label = None  # a label file that annotates nothing teaches nothing
    if subset == "train" and label is None:
        subset = "unlabelled"
    return Case(name, os.fspath(image), None if label is None else os.fspath(label), annotated, subset)


def _annotated(root: Path, content: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    cases = content.get("cases")
    entry = cases.get(name) if isinstance(cases, dict) else None
    ids = entry.get("annotated_ids") if isinstance(entry, dict) else None
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
        msg = f"{root / 'dataset.json'}: annotated_ids of case {name} is not a list of ids. Write it like [1, 2, 8]."
        raise InputError(msg)
    return tuple(ids)


def _check_unique(cases: Iterable[Case]) -> None:
    first: dict[str, str] = {}
    for case in cases:
        if case.id in first:
            msg = f"{case.image}: same case id '{case.id}' as {first[case.id]}. Rename one of them."
            raise InputError(msg)
        first[case.id] = case.image
