from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.data.headers import check_header, is_nifti
from common.errors import InputError
from tests.volumes import AFFINE, ct_array, dicom_affine, write_dicom, write_nifti

OBLIQUE = np.array([[1.9, 0.3, 0.0, -5.0], [-0.3, 1.9, 0.2, 7.0], [0.1, -0.2, 2.9, 1.0], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE], ids=["straight", "oblique"])
def test_grid_of_a_nifti_file(tmp_path: Path, suffix: str, affine: np.ndarray) -> None:
    header = check_header(write_nifti(tmp_path / f"a{suffix}", ct_array((6, 5, 4)), affine))

    assert header.shape == (6, 5, 4)
    np.testing.assert_allclose(header.affine, affine, atol=1e-6)
    np.testing.assert_allclose(header.spacing, np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-6)


def test_nifti_2_and_a_trailing_axis_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti2Image(ct_array((6, 5, 4))[..., None], AFFINE), path)

    assert check_header(path).shape == (6, 5, 4)


def test_grid_of_a_dicom_series(tmp_path: Path) -> None:
    header = check_header(write_dicom(tmp_path / "series", ct_array((6, 5, 4))))

    assert header.shape == (6, 5, 4)
    np.testing.assert_allclose(header.spacing, (0.8, 0.7, 2.5))
    np.testing.assert_allclose(header.affine, dicom_affine())


def test_nothing_is_decoded(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", ct_array((32, 32, 32)))
    path.write_bytes(path.read_bytes()[:2000])  # the header survives

    assert check_header(path).shape == (32, 32, 32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.nii.gz", "no such file. Check the path"),
        ("empty", "a folder without DICOM files. Give a NIfTI file or a folder that holds one DICOM series"),
        ("volume.nrrd", "neither NIfTI .* nor DICOM. Convert it to NIfTI"),
        ("series/000.dcm", "a single DICOM file. Give the folder that holds its whole series, .*series"),
    ],
)
def test_what_is_not_a_volume(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "volume.nrrd").write_text("NRRD0004")
    write_dicom(tmp_path / "series", ct_array((4, 4, 2)))

    with pytest.raises(InputError, match=f"{name}: {message}"):
        check_header(tmp_path / name)


def test_hidden_files_are_not_volumes() -> None:
    assert is_nifti("folder/CT.NII.GZ")
    assert not is_nifti("folder/._ct.nii.gz")
    assert not is_nifti("folder/ct.nii.gz.part")
