"""Every kind of bad file gets one error, naming the file, what is wrong and what to do, wherever it is read.

The table holds one row per kind. Each row's file is written, and must be refused by the check of the file, by the
pipeline that loads it, and must appear in the report on its folder, beside a good case that is reported as usable.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose

from common.data.checks import inspect_folder
from common.data.contents import check_label, check_volume
from common.errors import InputError, input_error_message
from common.transforms.check_volume import CheckVolumed
from common.transforms.load import LoadVolumed
from common.transforms.structures import StructuresToChannelsd
from tests.volumes import AFFINE, ct_array, label_array, write_case, write_dicom, write_nifti

STRUCTURES = {"lung_left": 1, "lung_right": 2}


def _truncated(path: Path) -> None:
    write_nifti(path, ct_array((24, 24, 24)))
    path.write_bytes(path.read_bytes()[:-5000])


def _truncated_header(path: Path) -> None:
    write_nifti(path, ct_array())
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:200]))


def _shorter_than_its_header(path: Path) -> None:
    write_nifti(path, ct_array())
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-500]))


def _array(make: Callable[[], np.ndarray]) -> Callable[[Path], object]:
    return lambda path: write_nifti(path, make())


def _with_value(value: float) -> np.ndarray:
    array = ct_array().astype(np.float32)
    array[3, 4, 5] = value
    return array


def _mr() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.abs(rng.normal(0, 8, (16, 16, 16)) + 400 * (ct_array((16, 16, 16)) > -500)).astype(np.int16)


def _header_field(field: str, index: int, value: float) -> Callable[[Path], object]:
    """A good file whose header is patched where nibabel would repair or refuse it."""

    def write(path: Path) -> None:
        write_nifti(path, ct_array())
        content = gzip.decompress(path.read_bytes())
        header = nib.Nifti1Header(content[:348], check=False)
        header[field][index] = value
        path.write_bytes(gzip.compress(header.binaryblock + content[348:]))

    return write


def _affine(affine: np.ndarray) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        write_nifti(path, ct_array())
        content = gzip.decompress(path.read_bytes())
        header = nib.Nifti1Header(content[:348], check=False)
        header["sform_code"] = 1
        header["srow_x"], header["srow_y"], header["srow_z"] = affine[:3]
        path.write_bytes(gzip.compress(header.binaryblock + content[348:]))

    return write


SINGULAR = np.array([[2.0, 2.0, 0, 0], [0, 0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1]])
SHIFTED = AFFINE + 5 * np.eye(4, k=3)  # 5 mm along the first axis
SHEARED = AFFINE + 0.3 * np.eye(4, k=1)  # 0.3 mm along the first axis per row
NAN_AFFINE = np.where(np.eye(4) > 0, np.nan, 0)

BAD_IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty file": (lambda p: p.write_bytes(b""), r"cannot be read as NIfTI .* copy or convert it again"),
    "not gzip": (lambda p: p.write_bytes(b"no volume" * 99), r"cannot be read as NIfTI .* copy or convert"),
    "truncated": (_truncated, r"voxels cannot be decoded .* Copy or export it again"),
    "truncated header": (_truncated_header, r"cannot be read as NIfTI .* copy or convert it again"),
    "too few voxels": (_shorter_than_its_header, r"voxels cannot be decoded .* Copy or export it again"),
    "2D": (_array(lambda: ct_array((12, 10, 8))[..., 0]), r"2D image of shape \(12, 10\)\. Give the whole 3D volume"),
    "one slice": (_array(lambda: ct_array((12, 10, 1))), r"2D image of shape \(12, 10, 1\)\. Give the whole 3D"),
    "4D": (_array(lambda: np.stack([ct_array()] * 2, -1)), r"4D image .*\. Save one 3D volume per file"),
    "no voxels": (_header_field("dim", 2, 0), r"empty image of shape .*\. Export the volume again"),
    "colour": (
        lambda p: write_nifti(p, np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])),
        r"voxels of type .*\. Store one integer or real number per voxel",
    ),
    "NaN": (_array(lambda: _with_value(np.nan)), r"1 voxels are NaN or infinite\. Export the volume again"),
    "infinite": (_array(lambda: _with_value(-np.inf)), r"1 voxels are NaN or infinite\. Export the volume again"),
    "constant": (_array(lambda: np.full((9, 9, 9), -1024, np.int16)), r"all voxels have the value -1024\. Export"),
    "MR": (_array(_mr), r"not Hounsfield units .* none is negative .* leave other modalities out"),
    "8-bit": (
        _array(lambda: (ct_array((16, 16, 16)).astype(float).clip(-1000, 1000) / 2000 * 255 + 128).astype(np.uint8)),
        r"not Hounsfield units .* none is negative .* before windowing",
    ),
    "unscaled": (_array(lambda: ct_array() + 2000), r"not Hounsfield units .* none is negative .* rescale slope"),
    "normalised": (_array(lambda: ct_array().astype(np.float32) / 1000), r"not Hounsfield units .* span only"),
    "offset twice": (_array(lambda: ct_array() - 1024), r"not Hounsfield units .* offset of -1024 applied twice"),
    "zero background": (
        _array(lambda: np.where(ct_array() < -500, 0, ct_array()).astype(np.int16)),
        r"not Hounsfield units .* background is 0",
    ),
    "MR with overshoot": (
        _array(lambda: _mr() * 5 - 60),
        r"not Hounsfield units .* no air .* denser than bone",
    ),
    "spacing 0": (_header_field("pixdim", 2, 0.0), r"spacing 2, 0, 3 mm .* write the right pixdim"),
    "spacing negative": (_header_field("pixdim", 3, -3.0), r"spacing 2, 2, -3 mm .* write the right pixdim"),
    "spacing NaN": (_header_field("pixdim", 1, np.nan), r"spacing nan, 2, 3 mm .* write the right pixdim"),
    "singular affine": (_affine(SINGULAR), r"singular affine .* write the right sform and qform"),
    "sheared": (_affine(SHEARED), r"not perpendicular, as after gantry tilt .* Resample the volume to perpendicular"),
    "NaN affine": (_affine(NAN_AFFINE), r"affine has NaN .* write the right sform and qform"),
}


def _load() -> Compose:
    return Compose([LoadVolumed(keys="image"), CheckVolumed(keys="image")])


@pytest.mark.parametrize(("write", "message"), BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_bad_image(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    write_case(tmp_path, "good.nii.gz")
    bad = tmp_path / "bad.nii.gz"
    write(bad)

    with pytest.raises(InputError, match=rf"bad\.nii\.gz: .*{message}"):
        check_volume(bad)
    with pytest.raises(Exception, match=r"applying transform|bad\.nii\.gz") as caught:
        _load()({"image": str(bad)})
    assert str(bad) in str(input_error_message(caught.value))
    report = inspect_folder(tmp_path, structures=STRUCTURES, spacing=(2, 2, 2))
    assert [c.id for c in report.cases] == ["good"]
    assert [f.startswith(f"{bad}: ") for f in report.failures] == [True]


def _probabilities() -> np.ndarray:
    return label_array().astype(np.float32) * 0.7


BAD_LABELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "other shape": (
        _array(lambda: label_array((12, 10, 7))),
        r"another grid: shape \(12, 10, 7\), its image has \(12, 10, 8\)\. Resample the label to the grid of .*image",
    ),
    "shifted": (
        lambda p: write_nifti(p, label_array(), SHIFTED),
        r"another grid: its affine differs .* by 5 mm\. Resample the label to the grid of .*image",
    ),
    "other spacing": (
        lambda p: write_nifti(p, label_array(), np.diag([2, 2, 3.01, 1])),
        r"another grid: its affine differs .* by 0\.01 mm\. Resample",
    ),
    "unknown ids": (
        _array(lambda: label_array(ids=(1, 7, 9))),
        r"unknown label ids 7, 9 \(known: 1, 2\)\. Name them under 'labels' in dataset\.json",
    ),
    "not integer": (_array(_probabilities), r"not integers .* \(0 to 1\.4\)\. Labels are ids.* export them as uint8"),
    "negative": (_array(lambda: label_array().astype(np.int16) - 1), r"not integers .* \(-1 to 1\)\. .* as uint8"),
    "NaN label": (_array(lambda: _probabilities() * np.nan), r"not integers .*\. .* export them as uint8"),
    "truncated label": (_truncated_header, r"cannot be read as NIfTI .* copy or convert it again"),
    "4D label": (_array(lambda: np.stack([label_array()] * 2, -1)), r"4D image .*\. Save one 3D volume per file"),
}


@pytest.mark.parametrize(("write", "message"), BAD_LABELS.values(), ids=BAD_LABELS.keys())
def test_bad_label(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    image = write_nifti(tmp_path / "image.nii.gz", ct_array())
    write_case(tmp_path, "good.nii.gz", "labels/good.nii.gz")
    bad = tmp_path / "labels" / "image.nii.gz"
    write(bad)

    with pytest.raises(InputError, match=rf"labels/image\.nii\.gz: .*{message}"):
        check_label(bad, image, known_ids=[1, 2])
    load = Compose([LoadVolumed(keys=["image", "label"]), StructuresToChannelsd(structures=STRUCTURES)])
    with pytest.raises(Exception, match=r"applying transform|image\.nii\.gz") as caught:
        load({"image": str(image), "label": str(bad), "known_ids": [1, 2]})
    assert str(bad) in str(input_error_message(caught.value))
    report = inspect_folder(tmp_path, structures=STRUCTURES, spacing=(2, 2, 2))
    assert [c.id for c in report.cases] == ["good"]
    assert [f.startswith(f"{bad}: ") for f in report.failures] == [True]


def _two_series(folder: Path) -> None:
    write_dicom(folder, ct_array(), description="thin", spacing=(1, 1, 1))
    write_dicom(folder, ct_array(), description="thick", prefix="second", spacing=(1, 1, 5))


def _truncated_slice(folder: Path) -> None:
    write_dicom(folder, ct_array())
    last = folder / "007.dcm"
    last.write_bytes(last.read_bytes()[:-50])


BAD_SERIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no series": (lambda p: (p / "x.dcm").write_text("text"), r"no readable DICOM series\. .* convert it"),
    "two series": (_two_series, r"2 DICOM series \(.*'thin' 8 files.*\)\. Put each into a folder of its own"),
    "missing slice": (
        lambda p: write_dicom(p, ct_array((12, 10, 5)), heights=[0, 2.5, 5, 10, 12.5]),
        r"1 slice\(s\) missing: 5\.00 mm between 35\.00 and 40\.00 mm, 2\.50 mm elsewhere\. Export the complete series",
    ),
    "irregular": (
        lambda p: write_dicom(p, ct_array((12, 10, 5)), heights=[0, 2.5, 5, 6.8, 9.3]),
        r"slices at irregular distances: 1\.80 mm .* Export the complete series",
    ),
    "repeated slice": (
        lambda p: write_dicom(p, ct_array((12, 10, 4)), heights=[0, 2.5, 2.5, 5]),
        r"two DICOM slices at the same place \(32\.50 mm\)\. Remove",
    ),
    "gantry tilt": (
        lambda p: write_dicom(p, ct_array(), shift_per_slice=0.8),
        r"gantry tilt of 17\.7 degrees.* convert the series with tilt correction",
    ),
    "one slice": (lambda p: write_dicom(p, ct_array((12, 10, 1))), r"one slice\. Give the folder that holds"),
    "MR": (lambda p: write_dicom(p, ct_array(), modality="MR"), r"modality MR\. Only CT"),
    "damaged last slice": (_truncated_slice, r"007\.dcm: a CT slice that cannot be read.* Copy or export"),
}


@pytest.mark.parametrize(("write", "message"), BAD_SERIES.values(), ids=BAD_SERIES.keys())
def test_bad_dicom_series(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    write_case(tmp_path, "good.nii.gz")
    bad = tmp_path / "series"
    bad.mkdir()
    write(bad)

    with pytest.raises(InputError, match=rf"{bad}.*{message}"):
        check_volume(bad)
    with pytest.raises(Exception, match=r"applying transform|series") as caught:
        _load()({"image": str(bad)})
    assert str(bad) in str(input_error_message(caught.value))
    report = inspect_folder(tmp_path, structures=STRUCTURES, spacing=(2, 2, 2))
    assert [c.id for c in report.cases] == ["good"]
    assert len(report.failures) == 1
