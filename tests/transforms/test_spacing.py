from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Spacingd

from common.transforms.load import LoadVolumed
from common.transforms.spacing import SafeSpacingd
from tests.volumes import ct_array, label_array, write_nifti


@pytest.fixture
def loaded(tmp_path: Path) -> dict:
    paths = {
        "image": write_nifti(tmp_path / "a.nii.gz", ct_array()),
        "label": write_nifti(tmp_path / "b.nii.gz", label_array()),
    }
    return LoadVolumed(keys=["image", "label"])(paths)


def _spacing(**options: object) -> SafeSpacingd:
    return SafeSpacingd(keys=["image", "label"], pixdim=(3, 3, 3), mode=["bilinear", "nearest"], **options)


def test_entries_named_like_an_image_are_left_alone(loaded: dict) -> None:
    """What MONAI Label passes: with MONAI 1.6's own transform this fails with AttributeError."""
    extra = {"image_path": "/data/a.nii.gz", "label_names": ["lung"], "image_size": torch.ones(3), "other": 1}

    out = _spacing()({**loaded, **extra})

    assert {name: out[name] for name in extra} == extra
    assert out["image"].shape == out["label"].shape == (1, 8, 7, 8)
    np.testing.assert_allclose(out["image"].pixdim, (3, 3, 3))


def test_same_as_monai_otherwise(loaded: dict) -> None:
    out = _spacing()(loaded)
    expected = Spacingd(keys=["image", "label"], pixdim=(3, 3, 3), mode=["bilinear", "nearest"])(loaded)

    torch.testing.assert_close(out["image"], expected["image"])
    # planes that lie in the middle between two voxels may take either
    assert (out["label"] == expected["label"]).float().mean() > 0.85
    for key in ("image", "label"):
        np.testing.assert_allclose(out[key].affine, expected[key].affine)


def test_inverse_returns_to_the_grid(loaded: dict) -> None:
    spacing = _spacing()

    back = spacing.inverse(spacing({**loaded, "image_path": "a"}))

    assert isinstance(back["image"], MetaTensor)
    assert back["image"].shape == loaded["image"].shape
    np.testing.assert_allclose(back["image"].affine, loaded["image"].affine)


def test_keys_that_share_a_beginning_are_all_resampled(loaded: dict) -> None:
    d = {"image": loaded["image"].as_tensor(), "image_low": loaded["image"].as_tensor()}

    out = SafeSpacingd(keys=["image", "image_low"], pixdim=(2, 2, 2))(d)

    assert out["image_low"].shape == out["image"].shape == (1, 6, 6, 4)
