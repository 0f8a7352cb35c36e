"""A mask as a DICOM segmentation object of the series that it belongs to, for archives and viewers.

Needs highdicom: ``pip install ct-pretraining-bundles[dicomseg]``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from common import __version__
from common.data.dicom import check_series, series_files
from common.data.structures import ALL_STRUCTURES
from common.errors import InputError
from common.files import written_beside

_SERIES_NUMBER = 900  # apart from what scanners count
_SAME_GRID_MM = 0.01

# highdicom reads these; DICOM lets them be empty
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber"),
)

# names of pydicom's dictionary of SNOMED CT codes (DICOM PS3.16); the label of a segment says the side
_SNOMED = {
    "lung_left": "Lung",
    "lung_right": "Lung",
    "heart": "Heart",
    "aorta": "Aorta",
    "pulmonary_artery": "PulmonaryArtery",
    "trachea_airway": "Trachea",
    "esophagus": "Esophagus",
    "spinal_cord": "SpinalCord",
    "vertebrae": "Vertebra",
    "ribs_cartilage": "Rib",
    "liver": "Liver",
    "spleen": "Spleen",
    "kidney_left": "Kidney",
    "kidney_right": "Kidney",
    "stomach": "Stomach",
    "pancreas": "Pancreas",
    "gallbladder": "Gallbladder",
    "adrenal_glands": "AdrenalGland",
    "other_vessels": "BloodVessel",
    "muscle": "SkeletalMuscle",
    "tumor": "Neoplasm",
}


def write_dicom_seg(
    mask: str | os.PathLike,
    series: str | os.PathLike,
    out: str | os.PathLike,
    *,
    structures: Mapping[str, int] = ALL_STRUCTURES,
    model: str = "ct-pretraining-bundles",
) -> Path:
    """Write one binary segment per structure that the mask holds; each bears the structure's name as its label.

    Args:
        mask: NIfTI file of structure ids, as ``inference.json`` wrote it for this series.
        series: folder of the DICOM series.
        out: the file to write, usually ``*.dcm``.
        structures: {name: id}.
        model: name of the algorithm, to be told in the file.

    Raises:
        InputError: highdicom is not installed; a bad series (see :func:`common.data.dicom.check_series`); a mask that
            is empty, holds other ids, or is not on the grid of the series.
    """
    try:
        import highdicom as hd
        from pydicom.sr.codedict import codes
        from pydicom.sr.coding import Code
    except ImportError as error:
        raise InputError(
            "highdicom is not installed. DICOM SEG needs it: pip install ct-pretraining-bundles[dicomseg]."
        ) from error

    ids = _mask_on_grid(Path(mask), Path(series))
    held = [int(i) for i in np.unique(ids) if i]
    names = {i: name for name, i in structures.items()}
    if not held or set(held) - set(names):
        what = f"holds ids {sorted(set(held) - set(names))} without a name" if held else "is empty"
        raise InputError(f"{mask}: {what}. Give the mask of this series, and its structures.")

    algorithm = hd.AlgorithmIdentificationSequence(
        name=model, version=__version__, family=codes.cid7162.ArtificialIntelligence
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=names[i],
            segmented_property_category=codes.SCT.BodyStructure,
            segmented_property_type=(
                getattr(codes.SCT, _SNOMED[names[i]])
                if names[i] in _SNOMED
                else Code(names[i][:16], "99CTPB", names[i][:64])
            ),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, i in enumerate(held, start=1)
    ]
    numbers = np.zeros(int(ids.max()) + 1, dtype=np.uint8)
    numbers[held] = np.arange(1, len(held) + 1)
    frames = numbers[ids].transpose(2, 1, 0)  # slices, rows, columns
    segmentation = hd.seg.Segmentation(
        source_images=_from_bottom_to_top(Path(series)),
        pixel_array=np.ascontiguousarray(frames),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="ct-pretraining-bundles",
        manufacturer_model_name=model,
        software_versions=__version__,
        device_serial_number="0",
        series_description=f"Segmentation by {model}",
    )
    with written_beside(out) as part:
        segmentation.save_as(part)
    return Path(out)


def _mask_on_grid(mask: Path, series: Path) -> np.ndarray:
    """Ids (columns, rows, slices) of a mask on the grid of the series, slices from bottom to top."""
    shape, affine = check_series(series)
    try:
        image = nib.Nifti1Image.from_filename(mask)
        ids = np.asarray(image.dataobj)
    except (OSError, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise InputError(f"{mask}: no readable NIfTI file ({error}). Give the mask of this series.") from error
    corners = np.array([[0, 0, 0, 1], [*(n - 1 for n in shape), 1]]).T
    apart = float(np.abs((affine - image.affine) @ corners).max()) if ids.shape == tuple(shape) else np.inf
    if apart > _SAME_GRID_MM:
        what = f"shape {ids.shape}, not {tuple(shape)}" if ids.shape != tuple(shape) else f"{apart:.2f} mm apart"
        raise InputError(f"{mask}: not on the grid of {series} ({what}). Segment that series itself.")
    if not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"{mask}: holds {ids.dtype} numbers, not ids. Give a mask.")
    return ids


def _from_bottom_to_top(series: Path) -> list[Any]:
    """Heads of the slices in the order of :func:`common.data.dicom.check_series`'s grid."""
    from pydicom import dcmread

    def height(head: Any) -> float:
        row, column = np.reshape(np.array(head.ImageOrientationPatient, dtype=float), (2, 3))
        return float(np.cross(row, column) @ np.array(head.ImagePositionPatient, dtype=float))

    heads = [dcmread(file, stop_before_pixels=True) for file in series_files(series)]
    for head in heads:
        for keyword in _MAY_BE_EMPTY:
            if keyword not in head:  # anonymised away
                setattr(head, keyword, "")
    return sorted(heads, key=height)
