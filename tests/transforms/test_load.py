from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import LoadImaged

from common.errors import InputError
from common.transforms.load import LoadVolumed
from tests.volumes import AFFINE, ct_array, dicom_affine, write_dicom, write_nifti


def test_loads_channel_first_with_its_affine(tmp_path: Path) -> None:
    array = ct_array((6, 5, 4))
    image = LoadVolumed(keys="image")({"image": write_nifti(tmp_path / "a.nii.gz", array)})["image"]

    assert image.shape == (1, 6, 5, 4)
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image[0], array)
    np.testing.assert_allclose(image.affine, AFFINE)
    assert image.meta["filename_or_obj"] == str(tmp_path / "a.nii.gz")


def test_a_trailing_axis_is_dropped(tmp_path: Path) -> None:
    array = ct_array((6, 5, 4))
    image = LoadVolumed(keys="image")({"image": write_nifti(tmp_path / "a.nii.gz", array[..., None])})["image"]

    np.testing.assert_array_equal(image[0], array)
    assert tuple(image.meta["spatial_shape"]) == (6, 5, 4)


def test_loads_the_same_when_monai_label_asks_for_metadata_too(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", ct_array((6, 5, 4)))
    load = LoadVolumed(keys="image")
    before = load({"image": path})
    load._loader.image_only = False  # what MONAI Label's BundleInferTask does to every LoadImaged
    after = load({"image": path})

    assert after.keys() == before.keys()
    assert torch.equal(after["image"], before["image"])
    assert after["image"].meta.keys() == before["image"].meta.keys()


def test_dicom_series_equals_its_nifti_twin(tmp_path: Path) -> None:
    array = ct_array((6, 5, 4))
    load = LoadVolumed(keys=["image", "twin"])

    d = load(
        {
            "image": str(write_dicom(tmp_path / "series", array)),
            "twin": str(write_nifti(tmp_path / "a.nii.gz", array, dicom_affine())),
        }
    )

    np.testing.assert_array_equal(d["image"], d["twin"])
    np.testing.assert_allclose(d["image"].affine, d["twin"].affine, atol=1e-6)


def test_files_of_all_kinds_make_a_batch(tmp_path: Path) -> None:
    """Headers differ between NIfTI files, and between NIfTI and DICOM; what is kept of them does not."""
    array = ct_array((6, 5, 4))
    paths = [
        write_nifti(tmp_path / "a.nii.gz", array),
        write_nifti(tmp_path / "b.nii", array[..., None]),
        write_dicom(tmp_path / "series", array),
    ]
    items = [{"image": str(p)} for p in paths]

    (batch,) = DataLoader(Dataset(items, LoadVolumed(keys="image")), batch_size=3)

    assert batch["image"].shape == (3, 1, 6, 5, 4)


def test_monai_label_recognises_it(tmp_path: Path) -> None:
    load = LoadVolumed(keys=["image", "label"], allow_missing_keys=True)

    assert isinstance(load, LoadImaged)
    assert set(load({"image": write_nifti(tmp_path / "a.nii.gz", ct_array())})) == {"image"}


def test_damaged_files_are_the_users_not_the_programs(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", ct_array((24, 24, 24)))
    path.write_bytes(path.read_bytes()[:5000])

    with pytest.raises(InputError, match=r"a\.nii\.gz: truncated or damaged"):
        LoadVolumed(keys="image")({"image": path})
