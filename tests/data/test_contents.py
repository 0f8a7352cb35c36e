from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data.contents import check_label, check_label_values, check_volume, read_volume
from common.errors import InputError
from tests.volumes import AFFINE, ct_array, dicom_affine, label_array, write_dicom, write_nifti

RNG = np.random.default_rng(0)

LEGAL_CT = {
    "body in air": ct_array(),
    "extended range, padding of -3024": np.where(ct_array() < -1010, -3024, ct_array()) + (ct_array() > 90) * 20000,
    "soft tissue and fat, no air": RNG.normal(30, 60, (16, 16, 16)),
    "inside the liver, noise": RNG.normal(110, 12, (16, 16, 16)).clip(40, 190),
    "contrast-filled vessels": RNG.normal(500, 150, (16, 16, 16)),
    "lung only": np.where(RNG.random((16, 16, 16)) < 0.02, 20, RNG.normal(-850, 40, (16, 16, 16))),
    "soft tissue in a window of -160 to 240 HU": RNG.normal(20, 80, (16, 16, 16)).clip(-160, 240),
}


@pytest.mark.parametrize("array", LEGAL_CT.values(), ids=LEGAL_CT.keys())
def test_ct_and_crops_of_it_are_accepted(array: np.ndarray) -> None:
    check_volume((array.astype(np.float32), AFFINE, "a.nii.gz"))


def test_voxels_come_in_the_files_own_type_and_scale(tmp_path: Path) -> None:
    array = ct_array((6, 5, 4))

    voxels, affine = read_volume(write_nifti(tmp_path / "a.nii.gz", array[..., None]))

    assert voxels.dtype == np.int16
    np.testing.assert_array_equal(voxels, array)
    np.testing.assert_allclose(affine, AFFINE)


def test_dicom_is_read_like_its_nifti_twin(tmp_path: Path) -> None:
    array = ct_array((6, 5, 4))
    voxels, affine = read_volume(write_dicom(tmp_path / "series", array))
    twin, twin_affine = read_volume(write_nifti(tmp_path / "a.nii.gz", array, dicom_affine()))

    np.testing.assert_array_equal(voxels, twin)
    np.testing.assert_allclose(affine, twin_affine, atol=1e-6)


def test_a_wrong_checksum_is_noticed(tmp_path: Path) -> None:
    """Changed bytes often decode to other voxels without an error."""
    path = write_nifti(tmp_path / "a.nii.gz", ct_array((24, 24, 24)))
    content = bytearray(path.read_bytes())
    content[-6] ^= 255  # in the checksum
    path.write_bytes(bytes(content))

    with pytest.raises(InputError, match=r"a\.nii\.gz: truncated or damaged, .*CRC.*\. Copy or export it again"):
        read_volume(path)


def test_voxels_per_label_id() -> None:
    assert check_label_values(label_array(ids=(3, 24)), "a", [3, 24, 25]) == {0: 12 * 80 - 160, 3: 80, 24: 80}
    assert check_label_values(label_array(ids=(3, 300)[:1]).astype(np.float32), "a") == {0: 960 - 80, 3: 80}


def test_rounding_of_an_affine_is_not_another_grid(tmp_path: Path) -> None:
    image = write_nifti(tmp_path / "a.nii.gz", ct_array())
    label = write_nifti(tmp_path / "b.nii.gz", label_array(), AFFINE + 5e-4)

    check_label(label, image)
