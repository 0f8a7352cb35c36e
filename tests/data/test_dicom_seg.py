from __future__ import annotations

import builtins
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest

from common.cli import dicomseg
from common.data.dicom_seg import write_dicom_seg
from common.errors import InputError
from tests.volumes import ct_array, dicom_affine, write_dicom

SHAPE = (6, 5, 4)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write_dicom(tmp_path / "series", ct_array(SHAPE))


def ids() -> np.ndarray:
    """The heart in two slices, a tumour of one voxel in another."""
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[1:4, 2:4, 1:3] = 3
    mask[5, 0, 3] = 24
    return mask


def write_mask(path: Path, mask: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(mask, dicom_affine() if affine is None else affine), path)
    return path


def test_another_library_reads_the_same_mask_in_the_same_place(series: Path, tmp_path: Path) -> None:
    mask = write_mask(tmp_path / "mask.nii.gz", ids())
    out = dicomseg(str(mask), str(series), str(tmp_path / "seg.dcm"))

    content = pydicom.dcmread(out)
    assert content.Modality == "SEG"
    assert [s.SegmentLabel for s in content.SegmentSequence] == ["heart", "tumor"]
    assert [s.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for s in content.SegmentSequence] == [
        "Heart",
        "Neoplasm",
    ]
    source = pydicom.dcmread(next(series.iterdir()))
    assert content.StudyInstanceUID == source.StudyInstanceUID
    assert content.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert content.SeriesInstanceUID != source.SeriesInstanceUID

    volume = highdicom.seg.segread(out).get_volume(combine_segments=True)
    lps = nib.Nifti1Image(volume.array.astype(np.uint8), LPS @ volume.affine)
    read, written = (nib.as_closest_canonical(i) for i in (lps, nib.Nifti1Image(ids(), dicom_affine())))
    # only the box of slices that hold a segment is stored
    first = round(float((np.linalg.inv(written.affine) @ read.affine)[2, 3]))
    expected = np.asarray(written.dataobj)[:, :, first : first + read.shape[2]]
    np.testing.assert_array_equal(np.array([0, 3, 24])[np.asarray(read.dataobj)], expected)
    assert expected.sum() == ids().sum()
    np.testing.assert_allclose(read.affine[:3, :3], written.affine[:3, :3], atol=1e-5)
    np.testing.assert_allclose(read.affine[:2, 3], written.affine[:2, 3], atol=1e-5)


def test_masks_of_another_grid_are_refused(series: Path, tmp_path: Path) -> None:
    moved = dicom_affine()
    moved[2, 3] += 2.5
    for mask, affine, said in ((ids(), moved, "2.50 mm apart"), (ids()[:5], None, "shape")):
        path = write_mask(tmp_path / "mask.nii.gz", mask, affine)
        with pytest.raises(InputError, match=said):
            write_dicom_seg(path, series, tmp_path / "seg.dcm")
    assert not (tmp_path / "seg.dcm").exists()


def test_empty_masks_and_unknown_ids_are_refused(series: Path, tmp_path: Path) -> None:
    for mask, said in ((ids() * 0, "is empty"), (ids(), r"ids \[24\] without a name")):
        path = write_mask(tmp_path / "mask.nii.gz", mask)
        with pytest.raises(InputError, match=said):
            write_dicom_seg(path, series, tmp_path / "seg.dcm", structures={"heart": 3})
    with pytest.raises(InputError, match="no readable NIfTI"):
        write_dicom_seg(tmp_path / "absent.nii.gz", series, tmp_path / "seg.dcm")


def test_structures_of_ones_own_get_a_code_of_their_own(series: Path, tmp_path: Path) -> None:
    path = write_mask(tmp_path / "mask.nii.gz", ids())
    out = write_dicom_seg(path, series, tmp_path / "seg.dcm", structures={"my_heart": 3, "tumor": 24})
    code = pydicom.dcmread(out).SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("my_heart", "99CTPB")


def test_tilted_and_incomplete_series_are_refused(tmp_path: Path) -> None:
    mask = write_mask(tmp_path / "mask.nii.gz", ids())
    tilted = write_dicom(tmp_path / "tilted", ct_array(SHAPE), shift_per_slice=0.5)
    gap = write_dicom(tmp_path / "gap", ct_array(SHAPE), heights=[0.0, 2.5, 7.5, 10.0])
    for series, said in ((tilted, "gantry tilt"), (gap, "missing")):
        with pytest.raises(InputError, match=said):
            write_dicom_seg(mask, series, tmp_path / "seg.dcm")


def test_without_highdicom_it_says_what_to_install(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name == "highdicom":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="dicomseg"):
        write_dicom_seg(write_mask(tmp_path / "mask.nii.gz", ids()), series, tmp_path / "seg.dcm")
