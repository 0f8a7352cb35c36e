"""Lung window, mediastinal window, edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.transforms.chest_channels import ChestChannels, ChestChannelsd
from common.transforms.hu_window import HUWindow
from common.transforms.sobel import SobelEdges


def hu_image(*shape: int) -> torch.Tensor:
    return torch.empty(shape).uniform_(-1200, 1500, generator=torch.Generator().manual_seed(0)).round()


@pytest.mark.parametrize("edge", ["slice", "volume"])
def test_channels_are_the_windows_and_the_larger_of_their_edges(edge):
    hu = hu_image(1, 7, 6, 5)
    lung, mediastinum = HUWindow(level=-500, width=1200)(hu), HUWindow(level=30, width=300)(hu)
    sobel = SobelEdges(edge=edge)
    expected = torch.cat([lung, mediastinum, torch.maximum(sobel(lung), sobel(mediastinum))])
    channels = ChestChannels(edge=edge)(hu)
    assert channels.shape == (3, 7, 6, 5)
    assert channels.dtype == torch.float32
    assert torch.allclose(channels, expected)
    assert channels.min() >= 0
    assert channels.max() <= 1


def test_tissues():
    """METHODS 6.1: lung window [-1100, 100] HU, mediastinal window [-120, 180] HU; 1.12: air is (0.08, 0, 0)."""
    for hu, lung, mediastinum in ((-1000, 1 / 12, 0), (-500, 0.5, 0), (30, 1130 / 1200, 0.5), (1000, 1, 1)):
        channels = ChestChannels()(torch.full((1, 4, 4, 4), hu, dtype=torch.int16))
        assert channels[:, 1, 1, 1].tolist() == pytest.approx([lung, mediastinum, 0], abs=1e-6)


def test_a_2d_image_is_a_slice_of_the_volume():
    hu = hu_image(1, 7, 6, 5)
    volume = ChestChannels()(hu)
    for k in range(5):
        assert torch.allclose(ChestChannels(spatial_dims=2)(hu[..., k]), volume[..., k])
    across = ChestChannels(slice_axis=0)(hu)
    assert torch.allclose(ChestChannels(spatial_dims=2)(hu[:, 3]), across[:, 3])


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.float16, torch.float64])
def test_integers_and_half_precision(dtype):
    hu = hu_image(1, 5, 5, 5).to(dtype)
    channels = ChestChannels()(hu)
    assert channels.dtype == torch.float32
    assert torch.allclose(channels, ChestChannels()(hu.float()), atol=1e-6)


def test_other_windows():
    hu = torch.full((1, 3, 3), 50.0)
    channels = ChestChannels(spatial_dims=2, lung=(0, 200), mediastinum=(50, 10))(hu)
    assert channels[:, 0, 0].tolist() == pytest.approx([0.75, 0.5, 0])


def test_dictionary_keeps_metadata():
    hu = MetaTensor(hu_image(1, 5, 5, 5).to(torch.int16), affine=np.diag([2.0, 2.0, 3.0, 1.0]))
    result = ChestChannelsd("image")({"image": hu, "label": hu})
    assert isinstance(result["image"], MetaTensor)
    assert torch.equal(result["image"].affine, hu.affine)
    assert torch.equal(result["image"].as_tensor(), ChestChannels()(hu.as_tensor()).as_tensor())
    assert result["label"] is hu


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"Give \(1, \*S\)"):
        ChestChannels()(torch.zeros(2, 4, 4, 4))
    with pytest.raises(ValueError, match="width: got 0"):
        ChestChannels(lung=(0, 0))
    with pytest.raises(ValueError, match="'slice', 'volume'"):
        ChestChannels(edge="both")
