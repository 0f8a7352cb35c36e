"""A folder of phantoms in the layout of the Medical Segmentation Decathlon (MSD)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.wrapstruct import WrapStructError
from tqdm import tqdm

from common.data.cases import case_id
from common.data.phantom.generate import check_seed, grid_of, phantom
from common.data.phantom.lesion_classes import PREFIX, LesionClasses
from common.data.structures import ALL_STRUCTURES
from common.errors import InputError
from common.files import write_json, written_beside

VERSION = 1
"""Raise when the same seed gives another volume: files of an earlier version are then written anew."""

ANNOTATED_IDS = sorted(
    ALL_STRUCTURES[name]
    for name in ALL_STRUCTURES
    if name not in ("pancreas", "gallbladder", "adrenal_glands", "pelvis_femur", "bladder_prostate")
)
"""What every phantom's label shows wherever it is in view; the rest is not drawn."""

_FIRST_SEED = {"unlabelled": 1000, "labelled": 2000, "test": 3000}
_SEEDS_APART = 10_000  # between two values of `seed`
_MOST = 1000


def write_phantoms(
    out_dir: str | os.PathLike,
    *,
    n_unlabelled: int,
    n_labelled: int,
    n_test: int = 0,
    seed: int = 0,
    shape: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
) -> Path:
    """Write phantoms for pretraining, training and testing, and their ``dataset.json``.

    ``imagesUn`` holds images without labels, ``imagesTr`` and ``labelsTr`` the training cases, ``imagesTs`` and
    ``labelsTs`` the test cases; ``classes.csv`` says which kinds of lesion these two have. No phantom is in two of
    them. Every file is complete or absent, ``dataset.json`` comes last; files that an earlier call with the same
    arguments wrote are kept.

    Args:
        out_dir: the folder, created when missing.
        n_unlabelled, n_labelled, n_test: how many of each, at most 1000.
        seed: another seed, other patients.
        shape, spacing: as in :func:`~common.data.phantom.generate.phantom`.

    Returns:
        The folder.

    Raises:
        InputError: when an argument cannot be used, the folder cannot be written, or a user's ``classes.csv`` in it
            describes phantoms that would be replaced.
    """
    counts = {"unlabelled": n_unlabelled, "labelled": n_labelled, "test": n_test}
    for name, n in counts.items():
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 0 <= n <= _MOST:
            msg = f"n_{name}={n!r}: not a number of phantoms between 0 and {_MOST}. Give an integer in that range."
            raise InputError(msg)
    if sum(counts.values()) == 0:
        msg = "n_unlabelled, n_labelled, n_test: all 0, nothing to write. Ask for at least one phantom."
        raise InputError(msg)
    check_seed(seed)
    grid_of(3.0, shape, spacing)  # refuses a bad shape or spacing before anything is written
    out = Path(out_dir)
    if out.exists() and not out.is_dir():
        msg = f"{out}: is a file, not a folder. Choose another folder for the phantoms."
        raise InputError(msg)

    listed: dict[str, list[str]] = {name: [] for name in counts}
    classes = LesionClasses(out)
    with tqdm(total=sum(counts.values()), desc="phantoms", unit="volume") as bar:
        for name, folder in (("labelled", "Tr"), ("unlabelled", "Un"), ("test", "Ts")):
            for i in range(counts[name]):
                number = _FIRST_SEED[name] + i
                case = f"{PREFIX}{number:04d}"
                image = out / f"images{folder}" / f"{case}.nii.gz"
                label = None if name == "unlabelled" else out / f"labels{folder}" / f"{case}.nii.gz"
                _write_case(image, label, number + _SEEDS_APART * int(seed), shape, spacing, classes)
                listed[name].append(case)
                bar.update()
    classes.keep([*listed["labelled"], *listed["test"]])
    write_json(out / "dataset.json", _description(listed))
    return out


def _write_case(
    image: Path,
    label: Path | None,
    seed: int,
    shape: Sequence[int] | None,
    spacing: Sequence[float] | None,
    classes: LesionClasses,
) -> None:
    key = hashlib.sha256(
        repr((VERSION, seed, *(None if v is None else [float(x) for x in v] for v in (shape, spacing)))).encode()
    )
    mark = f"generated chest CT {key.hexdigest()[:24]}"
    case = case_id(image)
    written = all(path is None or _mark_of(path) == mark for path in (image, label))
    if written and (label is None or case in classes):
        return
    made = phantom(seed, shape=shape, spacing=spacing)
    if not written:
        classes.remove(case)
        if label is not None:
            _save(made.label, made.affine, label, mark)
        _save(made.hu, made.affine, image, mark)
    if label is not None:
        classes.add(case, made.info["lesions"])


def _mark_of(path: Path) -> str | None:
    """What the header says about the file's origin; None when there is no such file or it is not one of ours."""
    try:
        return str(nib.Nifti1Image.from_filename(path).header["descrip"].astype(str))
    except (OSError, EOFError, nib.filebasedimages.ImageFileError, WrapStructError):
        return None  # missing or broken: written anew


def _save(array: np.ndarray, affine: np.ndarray, path: Path, mark: str) -> None:
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = mark
    with written_beside(path) as part:
        nib.save(image, part)


def _description(listed: dict[str, list[str]]) -> dict:
    return {
        "name": "Phantoms",
        "description": "Generated chest CT with labels (common.data.phantom). No patient's data.",
        "tensorImageSize": "3D",
        "reference": "generated",
        "licence": "Apache-2.0",
        "release": str(VERSION),
        "modality": {"0": "CT"},
        "labels": {"0": "background", **{str(i): name for name, i in ALL_STRUCTURES.items()}},
        "numTraining": len(listed["labelled"]),
        "numTest": len(listed["test"]),
        "training": [
            {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in listed["labelled"]
        ],
        "test": [f"./imagesTs/{case}.nii.gz" for case in listed["test"]],
        "unlabelled": [f"./imagesUn/{case}.nii.gz" for case in listed["unlabelled"]],
        "cases": {case: {"annotated_ids": ANNOTATED_IDS} for case in (*listed["labelled"], *listed["test"])},
    }
