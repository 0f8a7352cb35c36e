"""Sobel edges, and the mistakes of the papers and the released code that they do not share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from common.transforms.sobel import SobelEdges, SobelEdgesd, sobel_magnitude


def test_unit_steps_give_one():
    for axis in (0, 1):
        step = torch.zeros(1, 8, 8)
        step.narrow(axis + 1, 4, 4).fill_(1)
        edges = SobelEdges(spatial_dims=2)(step)
        assert torch.equal(edges.narrow(axis + 1, 3, 2), torch.ones_like(edges.narrow(axis + 1, 3, 2)))
        assert edges.sum() == 16
    for axis in range(3):
        step = torch.zeros(1, 6, 6, 6)
        step.narrow(axis + 1, 3, 3).fill_(1)
        edges = SobelEdges(edge="volume")(step)
        assert torch.allclose(edges.narrow(axis + 1, 2, 2), torch.ones(1))
        assert edges.sum().item() == pytest.approx(72)


@pytest.mark.parametrize("n_dims", [2, 3])
def test_equals_scipy_with_reflected_borders(n_dims):
    image = torch.rand((7, 6, 5)[:n_dims], dtype=torch.float64) * 0.2
    parts = [ndimage.sobel(image.numpy(), axis=axis, mode="mirror") for axis in range(n_dims)]
    expected = np.sqrt(sum(p**2 for p in parts)) / 4 ** (n_dims - 1)
    assert np.allclose(sobel_magnitude(image, range(n_dims)).numpy(), np.minimum(expected, 1))


def test_unscaled_horizontal_step_is_four():
    """METHODS 2.11: the kernel y answers 4 to a unit step."""
    step = torch.zeros(1, 6, 6)
    step[:, 3:] = 0.1
    assert SobelEdges(spatial_dims=2)(step)[0, 3, 3].item() * 4 == pytest.approx(4 * 0.1)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_constant_images_have_no_edges(value):
    """The paper's misprinted kernel, -1 -2 +1, sums to 2: it would answer twice the constant."""
    assert SobelEdges(spatial_dims=2)(torch.full((1, 5, 5), value)).abs().max() == 0
    assert SobelEdges(edge="volume")(torch.full((1, 5, 5, 5), value)).abs().max() == 0


def test_bytes_do_not_wrap():
    """cv2.Sobel on uint8 cuts negative slopes off and wraps squares at 256: a 200-gray step gives 4 to 6."""
    step = torch.zeros(1, 8, 8, dtype=torch.uint8)
    step[:, :, 4:] = 200
    falling, rising = SobelEdges(spatial_dims=2)(step.flip(2)), SobelEdges(spatial_dims=2)(step)
    assert torch.equal(falling.flip(2), rising)
    scaled = SobelEdges(spatial_dims=2)(step / 255)
    assert scaled.max().item() == pytest.approx(200 / 255)


def test_strong_diagonal_edges_are_clipped():
    image = torch.zeros(1, 6, 6)
    image[:, :3, :3] = 1  # its corner's magnitude is sqrt(18) / 4 = 1.06
    assert SobelEdges(spatial_dims=2)(image).max() == 1


@pytest.mark.parametrize("slice_axis", [-1, 0, 1])
def test_slices_never_mix(slice_axis):
    volume = torch.rand(2, 6, 7, 5)
    edges = SobelEdges(slice_axis=slice_axis)(volume)
    axis = slice_axis % 3 + 1
    for k in range(volume.shape[axis]):
        assert torch.allclose(edges.select(axis, k), SobelEdges(spatial_dims=2)(volume.select(axis, k)))
    alternating = torch.zeros(1, 4, 4, 4)
    alternating.select(axis, 1).fill_(1)
    assert SobelEdges(slice_axis=slice_axis)(alternating).max() == 0
    assert SobelEdges(edge="volume")(alternating).max() > 0


def test_thin_images_and_half_precision():
    assert SobelEdges(edge="volume")(torch.rand(1, 4, 4, 1)).shape == (1, 4, 4, 1)
    image = torch.rand(1, 5, 5).half()
    edges = SobelEdges(spatial_dims=2)(image)
    assert edges.dtype == torch.float32
    assert torch.equal(edges, SobelEdges(spatial_dims=2)(image.float()))


def test_dictionary_keeps_metadata():
    image = MetaTensor(torch.rand(1, 4, 4, 4), affine=torch.eye(4) * 2)
    result = SobelEdgesd("image")({"image": image, "case": "a"})
    assert isinstance(result["image"], MetaTensor)
    assert torch.equal(result["image"].affine, image.affine)
    assert torch.equal(result["image"].as_tensor(), SobelEdges()(image).as_tensor())
    assert result["case"] == "a"


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="spatial_dims: got 1"):
        SobelEdges(spatial_dims=1)
    with pytest.raises(ValueError, match="'slice', 'volume'"):
        SobelEdges(edge="2d")
    with pytest.raises(ValueError, match="slice_axis: got 3"):
        SobelEdges(slice_axis=3)
    with pytest.raises(ValueError, match="EnsureChannelFirst"):
        SobelEdges()(torch.rand(4, 4, 4))


@pytest.mark.parametrize("shape", [(1, 5), (2, 5), (3, 2)])
def test_thin_images_equal_scipy_and_stay_as_they_are(shape):
    image = torch.rand(shape, dtype=torch.float64) * 0.2
    before = image.clone()
    parts = [ndimage.sobel(image.numpy(), axis=axis, mode="mirror") for axis in (0, 1)]
    assert np.allclose(sobel_magnitude(image, (0, 1)).numpy(), np.hypot(*parts) / 4)
    assert torch.equal(image, before)


def test_no_axes_are_refused():
    with pytest.raises(ValueError, match="axes: got none"):
        sobel_magnitude(torch.zeros(3, 3), ())
