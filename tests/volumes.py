"""Small CT-like volumes and the files that tests put them into."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def ct_array(shape: Sequence[int] = (12, 10, 8), seed: int = 0) -> np.ndarray:
    """Air around a block of soft tissue, int16 HU."""
    rng = np.random.default_rng(seed)
    array = rng.normal(-1000, 10, shape)
    inside = tuple(slice(n // 4, n - n // 4) for n in shape)
    array[inside] = rng.normal(40, 20, array[inside].shape)
    return array.astype(np.int16)


def label_array(shape: Sequence[int] = (12, 10, 8), ids: Sequence[int] = (1, 2)) -> np.ndarray:
    """Background and one slab of voxels per id, uint8."""
    array = np.zeros(shape, dtype=np.uint8)
    for k, i in enumerate(ids, start=1):
        array[k] = i
    return array


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """A NIfTI file, its folder made when it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def write_case(root: Path, image: str, label: str | None = None, ids: Sequence[int] = (1, 2)) -> None:
    """An image and, where named, its label, under ``root``."""
    write_nifti(root / image, ct_array())
    if label is not None:
        write_nifti(root / label, label_array(ids=ids))


def write_dicom(
    folder: Path,
    array: np.ndarray,
    *,
    spacing: Sequence[float] = (0.8, 0.7, 2.5),
    origin: Sequence[float] = (-10.0, -20.0, 30.0),
    heights: Sequence[float] | None = None,
    shift_per_slice: float = 0.0,
    modality: str = "CT",
    description: str = "chest",
    prefix: str = "",
) -> Path:
    """A DICOM series of axial slices in a folder, stored with an offset of 1024 as scanners do.

    Args:
        array: HU (H, W, D), columns x rows x slices.
        spacing: mm of columns, rows, slices.
        origin: mm, DICOM patient coordinates of the first voxel.
        heights: mm of the slices above the first one. Default: regular.
        shift_per_slice: mm along the columns from slice to slice, as with a tilted gantry.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for k in range(array.shape[2]):
        stored = (array[:, :, k].T + 1024).astype(np.int16)
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = series, study, frame
        ds.Modality, ds.SeriesDescription, ds.SeriesDate = modality, description, "20200101"
        ds.SeriesNumber, ds.InstanceNumber = 1, array.shape[2] - k
        height = k * spacing[2] if heights is None else heights[k]
        ds.ImagePositionPatient = [origin[0], origin[1] + k * shift_per_slice, origin[2] + height]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        ds.Rows, ds.Columns = stored.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        ds.PixelData = stored.tobytes()
        ds.save_as(folder / f"{prefix}{k:03d}.dcm", enforce_file_format=True)
    return folder


def dicom_affine(
    spacing: Sequence[float] = (0.8, 0.7, 2.5), origin: Sequence[float] = (-10.0, -20.0, 30.0)
) -> np.ndarray:
    """Affine from voxels to RAS mm of a series that :func:`write_dicom` wrote: x and y change their sign."""
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = [-origin[0], -origin[1], origin[2]]
    return affine
