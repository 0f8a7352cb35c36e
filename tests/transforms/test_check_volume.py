from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.errors import InputError
from common.transforms.check_volume import CheckLabeld, CheckVolumed
from tests.volumes import AFFINE, ct_array, label_array


def _loaded(array: np.ndarray, name: str, affine: np.ndarray = AFFINE) -> MetaTensor:
    return MetaTensor(torch.as_tensor(array)[None], affine=torch.as_tensor(affine), meta={"filename_or_obj": name})


def test_a_sound_pair_passes_unchanged() -> None:
    d = {"image": _loaded(ct_array(), "a.nii.gz"), "label": _loaded(label_array(), "b.nii.gz"), "case": "a"}

    out = CheckLabeld(known_ids=[1, 2])(CheckVolumed(keys="image")(d))

    assert out == d
    assert out["image"] is d["image"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int16])
def test_names_the_file(dtype: torch.dtype) -> None:
    image = _loaded(ct_array(), "folder/a.nii.gz").to(dtype) * 0

    with pytest.raises(InputError, match=r"^folder/a\.nii\.gz: all voxels have the value 0"):
        CheckVolumed(keys="image")({"image": image})


def test_names_the_key_of_a_plain_tensor() -> None:
    with pytest.raises(InputError, match=r"^image: all voxels"):
        CheckVolumed(keys="image")({"image": torch.zeros(1, 4, 4, 4)})


def test_shear_is_refused_before_a_network_works() -> None:
    sheared = AFFINE.copy()
    sheared[1, 2] = 0.3  # gantry tilt

    with pytest.raises(InputError, match=r"^a\.nii\.gz: sheared: .* gantry tilt .* Resample the volume"):
        CheckVolumed(keys="image")({"image": _loaded(ct_array(), "a.nii.gz", sheared)})


def test_label_on_another_grid() -> None:
    check = CheckLabeld()
    image = _loaded(ct_array(), "a.nii.gz")
    shifted = AFFINE + 5 * np.eye(4, k=3)

    with pytest.raises(InputError, match=r"^b\.nii\.gz: label on another grid: .* grid of a\.nii\.gz"):
        check({"image": image, "label": _loaded(label_array(), "b.nii.gz", shifted)})
    with pytest.raises(InputError, match=r"^b\.nii\.gz: label on another grid"):
        check({"image": image, "label": _loaded(label_array((12, 10, 7)), "b.nii.gz")})
    check({"label": _loaded(label_array((12, 10, 7)), "b.nii.gz")})  # no image to compare with


def test_missing_labels() -> None:
    image = _loaded(ct_array(), "a.nii.gz")

    assert CheckLabeld(allow_missing_keys=True)({"image": image}) == {"image": image}
    with pytest.raises(KeyError):
        CheckLabeld()({"image": image})
