"""HU window: values, types, inverse, metadata."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from common.transforms.hu_window import HUWindow, HUWindowd


@pytest.mark.parametrize(("level", "width"), [(-500, 1200), (30, 300)])
def test_level_and_borders(level, width):
    hu = torch.tensor([[level - width, level - width / 2, level - width / 4, level, level + width / 2, level + width]])
    assert torch.allclose(HUWindow(level=level, width=width)(hu), torch.tensor([[0, 0, 0.25, 0.5, 1, 1]]))


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_promoted_before_subtracting(dtype):
    hu = torch.tensor([[-1024, -500, 0, 96, 3000]])
    expected = HUWindow(level=-500, width=1200)(hu.to(dtype).float())
    windowed = HUWindow(level=-500, width=1200)(hu.to(dtype))
    assert windowed.dtype == torch.float32
    assert torch.allclose(windowed, expected)


def test_unsigned_bytes_do_not_wrap():
    """x - (l - w/2) in uint8 would wrap: 0 - 30 is 226."""
    windowed = HUWindow(level=130, width=200)(torch.tensor([[0, 30, 130, 230]], dtype=torch.uint8))
    assert torch.allclose(windowed, torch.tensor([[0, 0, 0.5, 1.0]]))


def test_numpy_in():
    windowed = HUWindow(level=0, width=100)(np.array([[-50, 0, 25]], dtype=np.int16))
    assert torch.allclose(windowed, torch.tensor([[0, 0.5, 0.75]]))


def test_nan_and_infinity_become_finite():
    windowed = HUWindow(level=0, width=100)(torch.tensor([[torch.nan, -torch.inf, torch.inf]]))
    assert windowed.tolist() == [[0.0, 0.0, 1.0]]


@pytest.mark.parametrize("shape", [(1, 4, 5), (2, 3, 4, 5)])
def test_inverse_gives_back_what_was_inside(shape):
    window = HUWindow(level=30, width=300)
    hu = torch.empty(shape).uniform_(-120, 180)
    assert torch.allclose(window.inverse(window(hu)), hu, atol=1e-3)
    assert window.inverse(window(torch.full(shape, 900.0))).unique().item() == pytest.approx(180)


def test_metadata_stays_and_the_input_too():
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0]))
    hu = MetaTensor(torch.zeros(1, 3, 3, 3, dtype=torch.int16), affine=affine, meta={"filename_or_obj": "case"})
    data = {"image": hu, "label": hu.clone()}
    result = HUWindowd("image", level=0, width=100)(data)
    assert isinstance(result["image"], MetaTensor)
    assert torch.equal(result["image"].affine, affine.to(result["image"].affine.dtype))
    assert result["image"].meta["filename_or_obj"] == "case"
    assert result["image"].unique().item() == 0.5
    assert result["label"].dtype == torch.int16
    assert data["image"].dtype == torch.int16


def test_dictionary_inverse_and_missing_keys():
    twin = HUWindowd(["image", "absent"], level=0, width=100, allow_missing_keys=True)
    back = twin.inverse(twin({"image": torch.tensor([[20.0]])}))
    assert back["image"].item() == pytest.approx(20)
    with pytest.raises(KeyError):
        HUWindowd("absent", level=0, width=100)({"image": torch.zeros(1)})


def test_predictions_that_are_taken_back_to_the_grid_keep_their_values():
    """MONAI inverts every invertible transform of a pipeline; a mask must not come back in HU."""
    twin = HUWindowd("image", level=0, width=100)
    assert Compose([twin]).inverse({"image": torch.tensor([[1.0]])})["image"].item() == 1


@pytest.mark.parametrize("width", [0, -100, float("nan")])
def test_a_window_needs_width(width):
    with pytest.raises(ValueError, match="width: got"):
        HUWindow(level=0, width=width)
