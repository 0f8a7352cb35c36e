"""HU are rounded to int16, and never wrap around."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.recipes import cached_volume
from common.transforms.round_hu import RoundHU, RoundHUd
from tests.volumes import ct_array, write_nifti


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_and_within_range(dtype: torch.dtype) -> None:
    hu = torch.tensor([[-1e6, -32768.4, -999.6, -0.4, 0.6, 40.9, 32767.4, 40000.0, 1e9]], dtype=dtype)
    rounded = RoundHU()(hu)
    assert rounded.dtype == torch.int16
    assert rounded.tolist() == [[-32768, -32768, -1000, 0, 1, 41, 32767, 32767, 32767]]
    assert float(hu[0, 2]) == pytest.approx(-999.6)  # the input stays


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.uint8])
def test_integers_stay(dtype: torch.dtype) -> None:
    assert RoundHU()(torch.tensor([[0, 1, 200]], dtype=dtype)).tolist() == [[0, 1, 200]]
    assert RoundHU()(np.array([[70000]])).tolist() == [[32767]]


def test_twin_keeps_the_affine_and_other_entries() -> None:
    image = MetaTensor(torch.full((1, 2, 2, 2), 1.5001), affine=torch.diag(torch.tensor([2.0, 2, 3, 1])))
    result = RoundHUd("image")({"image": image, "label": image})
    assert result["label"] is image
    assert torch.equal(result["image"].affine, image.affine)
    assert int(result["image"].max()) == 2


def test_cached_metal_stays_the_brightest(tmp_path: Path) -> None:
    hu = np.where(ct_array() < -500, -999.6, 40.75).astype(np.float32)
    hu[5, 4, 3] = 40000
    path = write_nifti(tmp_path / "a.nii.gz", hu)
    cached = cached_volume(spacing=(0, 0, 0), roi_size=(4, 4, 4))({"image": str(path)})["image"]
    assert sorted(cached.unique().tolist()) == [-1000, 41, 32767]
