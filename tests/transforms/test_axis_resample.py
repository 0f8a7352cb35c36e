"""Resampling along the axes: the same as MONAI's general one, in values, grid and memory of what was done."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, set_track_meta
from monai.transforms import Spacing, Spacingd, SpatialResample

from common.transforms.axis_resample import AxisResample, resample_axes
from common.transforms.restore import restore_grid
from common.transforms.spacing import SafeSpacingd


def volume(shape: tuple[int, ...] = (1, 13, 10, 7), *, angle: float = 0.0, shear: float = 0.0) -> MetaTensor:
    """Noise of a few hundred HU at 0.8 x 0.8 x 2.5 mm, turned about the last axis."""
    n = len(shape) - 1
    affine = torch.diag(torch.tensor([*[0.8, -0.8, 2.5][:n], 1.0], dtype=torch.float64))
    affine[0, 1] = shear
    turn = torch.eye(n + 1, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    affine = turn @ affine
    affine[:n, n] = torch.tensor([-100.0, 50.0, 30.0])[:n]
    return MetaTensor(torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 300, affine=affine)


def both(image: MetaTensor, pixdim: tuple[float, ...], **options: Any) -> tuple[MetaTensor, MetaTensor]:
    """Ours, which must not have gone MONAI's way, and MONAI's in double precision."""
    arguments = {"mode": "bilinear", "padding_mode": "border", **options}
    ours = SafeSpacingd(keys="image", pixdim=pixdim, dtype="float32", **arguments)
    with patch.object(SpatialResample, "__call__", side_effect=AssertionError("MONAI's way")):
        result = ours({"image": image})["image"]
    return result, Spacing(pixdim=pixdim, dtype=np.float64, **arguments)(image)


@pytest.mark.parametrize("angle", [0.0, 0.4])
@pytest.mark.parametrize("pixdim", [(1.5, 1.5, 1.5), (0.5, 0.7, 5.0), (0.8, 0.8, 1.0), (3.1, 2.9, 0.9)])
def test_linear_values_and_grid_are_those_of_monai(pixdim: tuple[float, ...], angle: float) -> None:
    ours, expected = both(volume((2, 13, 10, 7), angle=angle), pixdim)
    assert ours.shape == expected.shape
    torch.testing.assert_close(ours.affine, expected.affine, rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.as_tensor(), expected.as_tensor(), rtol=0, atol=1e-3)  # of some 1000 HU
    assert ours.dtype == torch.float32


def test_nearest_values_are_those_of_monai() -> None:
    """On planes that no two voxels have their middle in."""
    image = volume()
    image = MetaTensor((image.as_tensor() / 100).round().to(torch.uint8), affine=image.affine)
    target = image.affine @ torch.diag(torch.tensor([1.4, 1.7, 0.6, 1.0], dtype=torch.float64))
    target[:3, 3] += torch.tensor([0.13, -0.17, 0.31])
    arguments = {"mode": "nearest", "padding_mode": "border", "dtype": np.float64}
    ours, expected = (kind(**arguments)(image, target, (9, 6, 11)) for kind in (AxisResample, SpatialResample))
    torch.testing.assert_close(ours.as_tensor(), expected.as_tensor(), rtol=0, atol=0)


def test_two_dimensions() -> None:
    ours, expected = both(volume((1, 13, 10)), (1.1, 1.9))
    torch.testing.assert_close(ours.as_tensor(), expected.as_tensor(), rtol=0, atol=1e-3)


def test_by_hand() -> None:
    """Halfway is the mean, a quarter the weighted one; beyond the border its value is repeated."""
    line = torch.tensor([[10.0, 20.0, 40.0]])
    places = [np.array([-1.0, 0.0, 0.5, 1.25, 2.0, 2.7])]
    assert resample_axes(line, places).tolist() == [[10, 10, 15, 25, 40, 40]]
    assert resample_axes(line, places, nearest=True).tolist() == [[10, 10, 10, 20, 40, 40]]
    assert line.tolist() == [[10, 20, 40]]


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.float16, torch.float64])
def test_linear_values_of_other_types_are_those_of_monai(dtype: torch.dtype) -> None:
    noise = volume()
    image = MetaTensor(noise.as_tensor().clamp(0, 255).to(dtype), affine=noise.affine)
    ours, expected = both(image, (1.1, 1.3, 1.7))
    torch.testing.assert_close(ours.as_tensor(), expected.as_tensor(), rtol=0, atol=1e-3)


def test_whole_numbers_are_not_interpolated() -> None:
    with pytest.raises(ValueError, match=r"torch.int16\. Give floating-point numbers"):
        resample_axes(torch.zeros((1, 3), dtype=torch.int16), [np.array([0.5])])


def test_labels_at_twice_the_resolution_use_every_voxel_twice() -> None:
    """Every place lies in the middle between two voxels, or on one."""
    label = MetaTensor(torch.arange(6.0)[None, :, None, None], affine=torch.diag(torch.tensor([0.7, 1, 1, 1.0])))
    fine = SafeSpacingd(keys="image", pixdim=(0.35, 1, 1), mode="nearest", padding_mode="border")({"image": label})
    counts = fine["image"].as_tensor().unique(return_counts=True)[1].tolist()
    assert counts[1:-1] == [2] * 4


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_way_back_is_that_of_monai(dtype: str) -> None:
    arguments: dict[str, Any] = {"keys": "image", "pixdim": (1.5, 1.5, 1.5), "padding_mode": "border", "dtype": dtype}
    image = volume(angle=0.2)
    ways = [kind(**arguments) for kind in (SafeSpacingd, Spacingd)]
    there = [way({"image": image}) for way in ways]
    steps = [resampled["image"].applied_operations[-1] for resampled in there]
    assert [step["class"] for step in steps] == ["AxisResample", "SpatialResample"]
    ours, monai = (step["extra_info"] for step in steps)
    assert {name: ours[name] for name in ("mode", "padding_mode", "align_corners", "dtype")} == {
        name: monai[name] for name in ("mode", "padding_mode", "align_corners", "dtype")
    }
    back, expected = (way.inverse(resampled)["image"] for way, resampled in zip(ways, there, strict=True))
    assert back.shape == image.shape
    torch.testing.assert_close(back.affine, image.affine)
    torch.testing.assert_close(back.as_tensor(), expected.as_tensor(), rtol=0, atol=0.5 if dtype == "float32" else 1e-3)


def test_a_size_that_is_not_given_is_found_by_monai() -> None:
    image = volume()
    target = torch.diag(torch.tensor([1.0, -1.0, 2.0, 1.0], dtype=torch.float64))
    ours, expected = (kind(dtype=np.float64)(image, target) for kind in (AxisResample, SpatialResample))
    torch.testing.assert_close(ours.as_tensor(), expected.as_tensor())


def test_without_metadata_the_result_has_none() -> None:
    image = volume()
    set_track_meta(False)
    try:
        result = AxisResample()(image, image.affine * 2, (5, 5, 5))
    finally:
        set_track_meta(True)
    assert not isinstance(result, MetaTensor)


@pytest.mark.parametrize("options", [{"padding_mode": "zeros"}, {"mode": 3}])
def test_other_ways_are_left_to_monai(options: dict[str, Any]) -> None:
    image = volume()
    arguments = {"mode": "bilinear", "padding_mode": "border", "dtype": np.float64, **options}
    target = torch.diag(torch.tensor([1.0, -1.0, 2.0, 1.0], dtype=torch.float64))
    target[:3, 3] = image.affine[:3, 3]
    ours, expected = (kind(**arguments)(image, target, (9, 8, 8)) for kind in (AxisResample, SpatialResample))
    torch.testing.assert_close(ours.as_tensor(), expected.as_tensor(), rtol=0, atol=1e-3)


def test_axes_that_are_not_parallel_are_left_to_monai() -> None:
    image = volume(shear=0.2)
    target = torch.diag(torch.tensor([1.0, -1.0, 2.0, 1.0], dtype=torch.float64))
    target[:3, 3] = image.affine[:3, 3]
    arguments = {"mode": "bilinear", "padding_mode": "border", "dtype": np.float64}
    ours, expected = (kind(**arguments)(image, target, (9, 8, 8)) for kind in (AxisResample, SpatialResample))
    torch.testing.assert_close(ours.as_tensor(), expected.as_tensor(), rtol=0, atol=1e-6)


def test_a_volume_of_the_wanted_spacing_is_left_as_it_is() -> None:
    image = volume()
    same = SafeSpacingd(keys="image", pixdim=(0.8, 0.8, 2.5), padding_mode="border")({"image": image})["image"]
    torch.testing.assert_close(same.as_tensor(), image.as_tensor(), rtol=0, atol=0)


def test_a_label_that_lies_between_the_voxels_comes_back_where_it_was() -> None:
    """A grid shifted by half a voxel: there and back is where it began."""
    label = torch.arange(6.0)[None]
    shifted = resample_axes(label, [np.arange(6) + 0.5], nearest=True)
    affine = np.diag([1.0, 1.0])
    there = np.array([[1.0, 0.5], [0.0, 1.0]])
    assert restore_grid(shifted, there, (6,), affine).tolist() == label.tolist()
