"""The affine of a NIfTI file is the one its header states, also where ``pixdim`` says otherwise."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.data.contents import read_volume
from common.data.headers import check_header
from common.data.nifti_reader import NiftiReader, in_c_order
from common.transforms.load import LoadVolumed
from tests.volumes import ct_array

LPS = np.array([[-6.0, 0, 0, 90], [0, -6, 0, 80], [0, 0, 6, -70], [0, 0, 0, 1]])


def write_sform_only(path: Path, pixdim: tuple[float, float, float]) -> Path:
    image = nib.Nifti1Image(ct_array((6, 5, 4)), None)
    image.header.set_sform(LPS, code=1)
    image.header.set_qform(None, code=0)
    image.header.set_zooms(pixdim)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("pixdim", [(6.0, 6.0, 6.0), (6.0003, 6.0, 6.0), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_sform_counts_whatever_pixdim_says(tmp_path: Path, pixdim: tuple[float, float, float], suffix: str) -> None:
    path = write_sform_only(tmp_path / f"a{suffix}", pixdim)
    np.testing.assert_array_equal(nib.load(path).affine, LPS)
    np.testing.assert_allclose(nib.load(path).header.get_zooms(), pixdim)

    image = LoadVolumed(keys="image")({"image": path})["image"]
    array, affine = read_volume(path)

    for loaded in (image.affine, image.meta["original_affine"], affine, check_header(path).affine):
        np.testing.assert_array_equal(np.asarray(loaded), LPS)
    np.testing.assert_array_equal(array, ct_array((6, 5, 4)))
    np.testing.assert_array_equal(image[0], ct_array((6, 5, 4)))


@pytest.mark.parametrize("shape", [(33, 17, 5), (16, 32, 48), (33, 17, 5, 1), (7, 40), (1, 1, 50)])
def test_c_order_keeps_every_voxel_in_its_place(shape: tuple[int, ...]) -> None:
    array = np.asfortranarray(np.random.default_rng(0).integers(-1024, 3000, shape).astype(np.int16))
    ordered = in_c_order(array)
    assert ordered.flags.c_contiguous
    assert ordered.dtype == np.int16
    np.testing.assert_array_equal(ordered, array)
    assert in_c_order(ordered) is ordered


def test_what_is_loaded_was_in_c_order_before_monai_copies(tmp_path: Path) -> None:
    """Else MONAI turns the whole volume around in one go, which takes longer than to unpack it."""
    path = write_sform_only(tmp_path / "a.nii.gz", (6.0, 6.0, 6.0))
    reader = NiftiReader()
    array, _ = reader.get_data(reader.read(path))
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, ct_array((6, 5, 4)))
