"""Products and depthwise convolutions filter as a convolution does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from common.losses.gaussian_filter import Window, full_float32, gaussian_window, smooth


def test_window_is_a_gaussian_with_sum_one():
    window = gaussian_window(7, 1.5)
    assert window.sum().item() == pytest.approx(1)
    assert torch.equal(window, window.flip(0))
    assert (window[3] / window[4]).item() == pytest.approx(2.718281828 ** (0.5 / 1.5**2))


@pytest.mark.parametrize("padding", ["zero", "valid"])
@pytest.mark.parametrize("shape", [(2, 40, 19), (3, 9, 35, 17)])
def test_equals_a_convolution_and_its_transpose(shape, padding):
    maps = torch.randn(shape, dtype=torch.float64)
    weights = gaussian_window(5, 1.5)
    kernel = torch.ones((), dtype=torch.float64)
    for _ in shape[1:]:
        kernel = kernel[..., None] * weights
    d = len(shape) - 1
    convolve, back = (F.conv2d, F.conv_transpose2d) if d == 2 else (F.conv3d, F.conv_transpose3d)
    margin = 2 if padding == "zero" else 0
    window = Window(5, 1.5, padding)
    expected = convolve(maps[:, None], kernel[None, None], padding=margin)[:, 0]
    assert torch.allclose(smooth(maps, window), expected)
    expected_back = back(expected[:, None], kernel[None, None], padding=margin)[:, 0]
    assert torch.allclose(smooth(expected, window, transposed=True), expected_back)
    # in float32 by convolutions, above by products
    torch.testing.assert_close(smooth(maps.float(), window), expected.float())
    torch.testing.assert_close(smooth(expected.float(), window, transposed=True), expected_back.float())


def test_an_image_smaller_than_the_window_is_filtered_with_zeros_around():
    maps = torch.randn(1, 3, 2, dtype=torch.float64)
    kernel = gaussian_window(15, 1.5)
    expected = F.conv2d(maps[:, None], (kernel[:, None] * kernel)[None, None], padding=7)[:, 0]
    window = Window(15, 1.5, "zero")
    assert torch.allclose(smooth(maps, window), expected)
    torch.testing.assert_close(smooth(maps.float(), window), expected.float())


def test_tensor_cores_keep_out_and_the_setting_comes_back():
    settings = torch.backends.cuda.matmul
    before = settings.allow_tf32
    try:
        settings.allow_tf32 = True
        with full_float32():
            inside = torch.backends.cuda.matmul.fp32_precision if hasattr(settings, "fp32_precision") else "ieee"
        assert inside == "ieee"
        assert settings.allow_tf32
    finally:
        settings.allow_tf32 = before
