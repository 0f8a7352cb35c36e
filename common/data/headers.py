"""What a volume's header says, checked before a voxel is decoded: NIfTI files and DICOM series folders."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError

from common.data.dicom import check_series, is_dicom_file, is_dicom_folder
from common.errors import InputError

NIFTI_SUFFIXES = (".nii.gz", ".nii")

# what nibabel, gzip and ITK raise for files that are damaged or not what their name says
READ_ERRORS = (OSError, EOFError, ValueError, RuntimeError, zlib.error, ImageFileError, HeaderDataError)

# |det(affine)| over the product of its columns' lengths: 1 for right angles, 0 when two axes coincide
_SINGULAR = 1e-3
# Largest distance, in voxels of the file, between a voxel's place and the place it has on perpendicular axes. A network
# works on such axes, and its masks come back to the file's grid along them (common/transforms/restore.py).
MAX_DRIFT = 0.25


@dataclass(frozen=True)
class Header:
    """Grid of a 3D volume: ``shape`` (H, W, D) in voxels, ``spacing`` in mm, ``affine`` (4, 4), voxels to RAS mm."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    affine: np.ndarray


def is_nifti(path: str | os.PathLike) -> bool:
    """Whether the name is that of a NIfTI file (``.nii`` or ``.nii.gz``) that is not hidden."""
    name = Path(path).name
    return name.lower().endswith(NIFTI_SUFFIXES) and not name.startswith(".")


def check_header(path: str | os.PathLike) -> Header:
    """Grid of the volume at ``path``, read without decoding its voxels.

    Args:
        path: a NIfTI file or a folder with one DICOM series.

    Raises:
        InputError: missing, unreadable, not 3D (a trailing fourth axis of length 1 is fine), empty, spacing that is
            not positive, affine that is singular, not finite or sheared; for DICOM also several series, missing
            slices and gantry tilt.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        if not is_dicom_folder(path):
            msg = f"{path}: a folder without DICOM files. Give a NIfTI file or a folder that holds one DICOM series."
            raise InputError(msg)
        shape, affine = check_series(path)
    elif not path.is_file():
        raise InputError(f"{path}: no such file. Check the path.")
    elif is_nifti(path):
        shape, affine = _nifti_grid(path)
    elif is_dicom_file(path):
        msg = f"{path}: a single DICOM file. Give the folder that holds its whole series, {path.parent}."
        raise InputError(msg)
    else:
        msg = f"{path}: neither NIfTI (.nii, .nii.gz) nor DICOM. Convert it to NIfTI with values in HU."
        raise InputError(msg)
    _check_shape(path, shape)
    _check_affine(path, affine)
    check_shear(affine, shape, os.fspath(path))
    return Header(shape[:3], tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0)), affine)


def check_shear(affine: np.ndarray, shape: Sequence[int], name: str) -> None:
    """Refuse a volume whose axes are not perpendicular before a network has worked on it.

    Reorienting and resampling keep the direction of the first patient axis and make the others perpendicular to it, so
    the triangular factor of the affine says how far a voxel is from there, whatever the spacing of the network.

    Args:
        affine: voxels to mm, (4, 4), not singular.
        shape: voxels (H, W, D).
        name: what to call the volume in the message.

    Raises:
        InputError: when voxels at the border are off by more than ``MAX_DRIFT`` voxels.
    """
    order = nib.orientations.io_orientation(affine)[:, 0].argsort()  # voxel axes, as they run along R, A and S
    factor = np.abs(np.linalg.qr(np.asarray(affine, dtype=np.float64)[:3, :3][:, order], mode="r"))
    middle = (np.asarray(shape[:3], dtype=np.float64)[order] - 1) / 2
    drift = float((np.triu(factor, 1) @ middle / np.diag(factor)).max())
    if drift > MAX_DRIFT:
        msg = (
            f"{name}: sheared: its axes are not perpendicular, as after gantry tilt (they part by {drift:.2f} voxels "
            f"towards the border, {MAX_DRIFT} are allowed). Resample the volume to perpendicular axes first."
        )
        raise InputError(msg)


def _nifti_grid(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    try:
        image: Any = nib.load(path)
        # nibabel repairs spacings of 0 and below while loading, so the header is read again as it is
        with ImageOpener(os.fspath(path)) as file:
            raw = type(image.header).from_fileobj(file, check=False)
    except READ_ERRORS as error:
        msg = (
            f"{path}: cannot be read as NIfTI ({_one_line(error)}). "
            "The file is damaged, truncated or of another format: copy or convert it again."
        )
        raise InputError(msg) from error
    if raw.get_data_dtype().kind not in "iuf":
        msg = f"{path}: voxels of type {raw.get_data_dtype()}. Store one integer or real number per voxel, in HU."
        raise InputError(msg)
    shape = tuple(int(n) for n in image.shape)
    spacing = raw["pixdim"][1:4]
    if len(shape) >= 3 and not (np.isfinite(spacing).all() and (spacing > 0).all()):
        msg = (
            f"{path}: spacing {_numbers(spacing)} mm in the header. It must be positive on every axis: "
            "convert the scan again from DICOM or write the right pixdim, sform and qform."
        )
        raise InputError(msg)
    return shape, np.asarray(image.affine, dtype=np.float64)


def _check_shape(path: Path, shape: tuple[int, ...]) -> None:
    if not shape or min(shape) <= 0:
        raise InputError(f"{path}: empty image of shape {shape}. Export the volume again.")
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    if len(shape) > 3:
        msg = f"{path}: {len(shape)}D image of shape {shape}. Save one 3D volume per file."
        raise InputError(msg)
    if len(shape) < 3 or min(shape) == 1:
        msg = f"{path}: 2D image of shape {shape}. Give the whole 3D volume in one file or in one DICOM folder."
        raise InputError(msg)


def _check_affine(path: Path, affine: np.ndarray) -> None:
    remedy = "Convert the scan again from DICOM or write the right sform and qform"
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: the affine has NaN or infinite entries. {remedy}.")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if (lengths <= 0).any() or abs(np.linalg.det(affine[:3, :3])) < _SINGULAR * lengths.prod():
        rows = "; ".join(_numbers(row) for row in affine[:3, :3])
        raise InputError(f"{path}: singular affine ({rows}), so voxels have no volume. {remedy}.")


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{v:g}" for v in values)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
