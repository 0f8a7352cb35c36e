"""DICOM series folders: which they are, and whether their slices make one regular grid.

Series are grouped as MONAI's ``ITKReader`` groups them, so what passes here is what it reads.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError

_MAGIC_OFFSET = 128  # bytes of preamble before "DICM" (DICOM PS3.10, section 7.1)

_CT_IMAGE_STORAGE = b"1.2.840.10008.5.1.4.1.1.2\0"  # SOP class, padded to an even length
_HEAD_BYTES = 8192  # more than what precedes it in a file

_SERIES_DATE = "0008|0021"
_MODALITY = "0008|0060"
_DESCRIPTION = "0008|103e"
_GANTRY_TILT = "0018|1120"
_SLICE_THICKNESS = "0018|0050"
_POSITION = "0020|0032"
_ORIENTATION = "0020|0037"
_PIXEL_SPACING = "0028|0030"

# slices may be this far from their place: scanners round positions to 0.1 mm
_GAP_TOLERANCE_MM = 0.1
_GAP_TOLERANCE = 0.1  # of the distance between slices
_TILT_TOLERANCE_DEGREES = 0.5

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def is_dicom_file(path: str | os.PathLike) -> bool:
    """Whether a file is DICOM by its magic word or its ``.dcm`` suffix (an index, ``DICOMDIR``, is not an image)."""
    path = Path(path)
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    if path.suffix.lower() == ".dcm":
        return True
    with open(path, "rb") as file:
        file.seek(_MAGIC_OFFSET)
        return file.read(4) == b"DICM"


def is_dicom_folder(path: str | os.PathLike) -> bool:
    """Whether a folder directly holds DICOM files."""
    path = Path(path)
    return path.is_dir() and any(is_dicom_file(p) for p in sorted(path.iterdir()))


def check_series(folder: str | os.PathLike) -> tuple[tuple[int, ...], np.ndarray]:
    """Grid of the one CT series in ``folder``.

    Returns:
        Shape (H, W, D) and affine (4, 4) from voxels to RAS mm, as MONAI's ``ITKReader`` will give them.

    Raises:
        InputError: no series, several, another modality than CT, one slice only, slices missing or at irregular
            distances, gantry tilt.
    """
    folder = Path(folder)
    files = series_files(folder)
    slices = [_tags(folder, f) for f in files]
    modality = slices[0][0].get(_MODALITY, "CT")
    if modality != "CT":
        msg = f"{folder}: a DICOM series of modality {modality}. Only CT, with values in HU, can be used."
        raise InputError(msg)
    if len(files) == 1 and slices[0][1][2] > 1:
        return _multi_frame_grid(files[0])
    if len(files) == 1:
        msg = f"{folder}: a DICOM series of one slice. Give the folder that holds the whole 3D series."
        raise InputError(msg)
    return _series_grid(folder, slices)


def series_files(folder: Path) -> list[str]:
    """Files of the one series in ``folder``.

    Raises:
        InputError: no series, several, or a slice that cannot be read.
    """
    import itk  # takes seconds to import and only DICOM needs it

    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.AddSeriesRestriction(_SERIES_DATE)
    warns = names.GetGlobalWarningDisplay()
    names.SetGlobalWarningDisplay(False)  # the errors below say it better
    try:
        names.SetDirectory(os.fspath(folder))
        groups = [list(names.GetFileNames(uid)) for uid in names.GetSeriesUIDs()]
    finally:
        names.SetGlobalWarningDisplay(warns)
    if not groups:
        msg = f"{folder}: no readable DICOM series. Check that the export is complete, or convert it to NIfTI."
        raise InputError(msg)
    if len(groups) > 1:
        listed = ", ".join(_describe(folder, group) for group in groups[:8])
        msg = f"{folder}: {len(groups)} DICOM series ({listed}). Put each into a folder of its own."
        raise InputError(msg)
    _check_complete(folder, groups[0])
    return groups[0]


def _check_complete(folder: Path, files: list[str]) -> None:
    """A damaged slice is passed over in silence when the series is listed; at either end it would leave no gap."""
    read = {Path(f).name for f in files}
    for path in sorted(folder.iterdir()):
        if path.name not in read and is_dicom_file(path):
            with open(path, "rb") as file:
                damaged = _CT_IMAGE_STORAGE in file.read(_HEAD_BYTES)
            if damaged:
                msg = f"{path}: a CT slice that cannot be read, truncated or damaged. Copy or export the series again."
                raise InputError(msg)


def _describe(folder: Path, files: list[str]) -> str:
    tags, _ = _tags(folder, files[0])
    thickness = f", {tags[_SLICE_THICKNESS]} mm" if tags.get(_SLICE_THICKNESS) else ""
    return f"'{tags.get(_DESCRIPTION) or 'unnamed'}' {len(files)} files{thickness}"


def _tags(folder: Path, file: str) -> tuple[dict[str, str], tuple[int, ...]]:
    """Tags of one file, and its columns, rows and frames; the pixels are not decoded."""
    io = _image_io(folder, file)
    dictionary = io.GetMetaDataDictionary()
    keys = (_MODALITY, _DESCRIPTION, _GANTRY_TILT, _SLICE_THICKNESS, _POSITION, _ORIENTATION, _PIXEL_SPACING)
    tags = {key: str(dictionary[key]).strip() for key in keys if dictionary.HasKey(key)}
    size = tuple(int(io.GetDimensions(i)) for i in range(io.GetNumberOfDimensions()))
    return tags, (*size, 1, 1)[:3]


def _image_io(folder: Path, file: str) -> Any:
    import itk

    io = itk.GDCMImageIO.New()
    io.SetFileName(file)
    try:
        io.ReadImageInformation()
    except RuntimeError as error:
        msg = f"{folder}: DICOM file {Path(file).name} cannot be read. Copy or export the series again."
        raise InputError(msg) from error
    return io


def _series_grid(
    folder: Path, slices: list[tuple[dict[str, str], tuple[int, ...]]]
) -> tuple[tuple[int, ...], np.ndarray]:
    tags = [t for t, _ in slices]
    for key, name in ((_POSITION, "image position"), (_ORIENTATION, "image orientation"), (_PIXEL_SPACING, "spacing")):
        if any(key not in t for t in tags):
            msg = f"{folder}: DICOM slices without {name}. They cannot be stacked: export the series again."
            raise InputError(msg)
    orientations = np.array([_vector(folder, t[_ORIENTATION], 6) for t in tags])
    if np.abs(orientations - orientations[0]).max() > 1e-3:
        msg = f"{folder}: DICOM slices in different directions. Leave localizers and reformats out of the folder."
        raise InputError(msg)
    row, column = orientations[0, :3], orientations[0, 3:]
    normal = np.cross(row, column)
    positions = np.array([_vector(folder, t[_POSITION], 3) for t in tags])
    positions = positions[np.argsort(positions @ normal)]
    step = _regular_step(folder, positions @ normal)
    _check_tilt(folder, positions, normal, tags[0])

    row_spacing, column_spacing = _vector(folder, tags[0][_PIXEL_SPACING], 2)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row * column_spacing, column * row_spacing, normal * step], axis=1)
    affine[:3, 3] = positions[0]
    affine[:3] = _LPS_TO_RAS @ affine[:3]
    return (*slices[0][1][:2], len(slices)), affine


def _regular_step(folder: Path, heights: np.ndarray) -> float:
    """Distance between slices in mm, from their sorted heights along the stack."""
    gaps = np.diff(heights)
    step = float(np.median(gaps))
    if gaps.min() < 0.01:
        at = heights[int(gaps.argmin())]
        msg = f"{folder}: two DICOM slices at the same place ({at:.2f} mm). Remove the repeated slices or phases."
        raise InputError(msg)
    worst = int(np.abs(gaps - step).argmax())
    if abs(gaps[worst] - step) > max(_GAP_TOLERANCE_MM, _GAP_TOLERANCE * step):
        missing = round(gaps[worst] / step) - 1
        what = f"{missing} slice(s) missing" if missing >= 1 else "slices at irregular distances"
        msg = (
            f"{folder}: {what}: {gaps[worst]:.2f} mm between {heights[worst]:.2f} and {heights[worst + 1]:.2f} mm, "
            f"{step:.2f} mm elsewhere. Export the complete series again, or resample it to a regular NIfTI."
        )
        raise InputError(msg)
    return float((heights[-1] - heights[0]) / len(gaps))


def _check_tilt(folder: Path, positions: np.ndarray, normal: np.ndarray, tags: dict[str, str]) -> None:
    """Slices that are shifted against each other do not form a rectangular grid, whatever the tilt tag says."""
    direction = positions[-1] - positions[0]
    cosine = float(direction @ normal) / float(np.linalg.norm(direction))
    angle = float(np.degrees(np.arccos(min(1.0, cosine))))
    if angle > _TILT_TOLERANCE_DEGREES:
        tag = f", tag {tags[_GANTRY_TILT]}" if tags.get(_GANTRY_TILT) else ""
        msg = (
            f"{folder}: gantry tilt of {angle:.1f} degrees{tag}. Its slices are shifted against each other: "
            "convert the series with tilt correction (dcm2niix does it) and give the NIfTI."
        )
        raise InputError(msg)


def _multi_frame_grid(file: str) -> tuple[tuple[int, ...], np.ndarray]:
    import itk

    reader = itk.ImageFileReader[itk.Image[itk.SS, 3]].New(FileName=file)
    reader.UpdateOutputInformation()
    image = reader.GetOutput()
    direction, spacing = itk.array_from_matrix(image.GetDirection()), np.asarray(image.GetSpacing())
    affine = np.eye(4)
    affine[:3, :3] = direction @ np.diag(spacing)
    affine[:3, 3] = np.asarray(image.GetOrigin())
    affine[:3] = _LPS_TO_RAS @ affine[:3]
    size = image.GetLargestPossibleRegion().GetSize()
    return tuple(int(size[i]) for i in range(3)), affine


def _vector(folder: Path, text: str, length: int) -> np.ndarray:
    try:
        values = np.array([float(v) for v in text.split("\\")])
    except ValueError:
        values = np.array([])
    if len(values) != length or not np.isfinite(values).all():
        raise InputError(f"{folder}: DICOM tag '{text}' is not {length} numbers. Export the series again.")
    return values
