"""Histograms of oriented gradients: scikit-image's, by hand, in space, and drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.feature import hog

from common.losses.hog import draw_gradients, oriented_gradients


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n_bins", [9, 4])
def test_each_channel_of_each_slice_is_scikit_image_s(n_bins: int) -> None:
    x = image(2, 2, 16, 24, 3)
    made = oriented_gradients(x, cell_size=(8, 8, 1), n_bins=n_bins, gradient="difference")
    assert made.shape == (2, 2 * n_bins, 2, 3, 3)
    for b, c, k in np.ndindex(2, 2, 3):
        expected = hog(
            x[b, c, :, :, k].numpy(),
            orientations=n_bins,
            pixels_per_cell=(8, 8),
            cells_per_block=(1, 1),
            block_norm="L2",
            feature_vector=False,
        )[:, :, 0, 0]
        found = made[b, c * n_bins : (c + 1) * n_bins, :, :, k].movedim(0, -1)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_2d_image_is_a_slice() -> None:
    x = image(1, 3, 16, 16)
    volume = oriented_gradients(x[..., None], cell_size=(8, 8, 1))
    assert torch.equal(oriented_gradients(x), volume[..., 0])


def test_a_cell_of_several_slices_adds_up_their_gradients() -> None:
    """A strong slice counts for more than a weak one: gradients are added before the length becomes 1."""
    weak, strong = 0.01 * image(1, 1, 8, 8), image(2, 1, 8, 8)[1:]
    both = oriented_gradients(torch.stack([weak, strong], dim=4), cell_size=(8, 8, 2))[..., 0]
    torch.testing.assert_close(both, oriented_gradients(strong), atol=0.05, rtol=0)
    assert (both - oriented_gradients(weak)).abs().max() > 0.1


@pytest.mark.parametrize(("along_rows", "along_columns", "bin_"), [(0, 1, 0), (0, -1, 0), (1, 0, 4), (1, -1, 6)])
def test_a_ramp_has_the_one_direction_that_it_rises_in(along_rows: int, along_columns: int, bin_: int) -> None:
    """0 degrees along the columns, either way; 90 along the rows: bin 4 of 9; 135: bin 6."""
    row, column = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    ramp = (along_rows * row + along_columns * column) / 32
    cell = oriented_gradients(ramp[None, None])[0, :, 1, 1]  # away from the border
    expected = torch.zeros(9)
    expected[bin_] = 1
    torch.testing.assert_close(cell, expected, atol=1e-5, rtol=0)


def test_sobel_is_scipy_s() -> None:
    x = image(1, 1, 8, 8)
    rows, columns = (ndimage.sobel(x[0, 0].double().numpy(), axis=a, mode="mirror") for a in (0, 1))
    bins = np.floor(np.arctan2(rows, columns) / np.pi * 9).astype(int) % 9
    votes = np.bincount(bins.ravel(), np.hypot(rows, columns).ravel(), minlength=9)
    made = oriented_gradients(x)[0, :, 0, 0]
    np.testing.assert_allclose(made, votes / np.linalg.norm(votes), atol=1e-5)


def test_length_is_one_where_there_are_gradients_and_zero_elsewhere() -> None:
    x = image(1, 1, 16, 16)
    x[..., 8:] = 0.3
    lengths = oriented_gradients(0.2 * x, gradient="difference").square().sum(1).sqrt()
    assert lengths[0, :, 0].tolist() == pytest.approx([1, 1], abs=1e-4)
    assert oriented_gradients(torch.full((1, 1, 16, 16), 0.7)).abs().max() == 0


def test_float32_and_no_gradient_under_autocast() -> None:
    x = image(1, 1, 8, 8).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        made = oriented_gradients(x)
    assert made.dtype == torch.float32
    assert not made.requires_grad
    assert torch.equal(made, oriented_gradients(x))


def test_strokes_lie_along_the_edge() -> None:
    """A gradient along the columns is an edge along the rows, so the stroke fills the middle columns of its cell."""
    histogram = torch.zeros(1, 18, 1, 2)
    histogram[0, 9 + 0, 0, 1] = 1.0  # second channel, second cell, 10 degrees
    drawn = draw_gradients(histogram, cell_size=8)
    assert drawn.shape == (1, 2, 8, 16)
    assert drawn[0, 0].max() == 0
    cell = drawn[0, 1, :, 8:]
    assert drawn[0, 1, :, :8].max() == 0
    assert cell[:, 2:6].sum() > 0.95 * cell.sum()
    assert cell.sum(1).min() > 0.5  # in every row
    assert torch.equal(draw_gradients(2 * histogram, cell_size=8), 2 * drawn)


def test_a_cell_s_stroke_goes_through_all_its_slices() -> None:
    histogram = image(1, 9, 1, 2, 2)
    drawn = draw_gradients(histogram, cell_size=(4, 4, 3))
    assert drawn.shape == (1, 1, 4, 8, 6)
    for k in range(6):
        torch.testing.assert_close(drawn[..., k], draw_gradients(histogram[..., k // 3], cell_size=4))


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="'sobel', 'difference'"):
        oriented_gradients(image(1, 1, 8, 8), gradient="scharr")
    with pytest.raises(ValueError, match="does not divide"):
        oriented_gradients(image(1, 1, 12, 8))
