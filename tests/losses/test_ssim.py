"""SSIM: MONAI's value and gradient, and what must hold for any similarity (METHODS 1.11)."""

from __future__ import annotations

import time

import monai
import pytest
import torch
from monai.losses.ssim_loss import SSIMLoss as MonaiSSIMLoss

from common.losses.ssim import SSIMLoss, ssim

SHAPES = {2: (2, 3, 34, 21), 3: (2, 3, 20, 13, 17)}


def pair(spatial_dims: int, *, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(spatial_dims)
    x = torch.rand(SHAPES[spatial_dims], generator=generator, dtype=dtype)
    y = 0.7 * x + 0.3 * torch.rand(SHAPES[spatial_dims], generator=generator, dtype=dtype)
    return x, y


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(("window", "sigma", "data_range"), [(7, 1.5, 1.0), (11, 1.5, 1.0), (5, 0.8, 2.0)])
def test_equals_monai_forward_and_gradient(spatial_dims, window, sigma, data_range):
    gradients, losses = [], []
    for loss in (
        SSIMLoss(spatial_dims=spatial_dims, window_size=window, sigma=sigma, data_range=data_range, padding="valid"),
        MonaiSSIMLoss(spatial_dims, win_size=window, kernel_sigma=sigma, data_range=data_range),
    ):
        x, y = (image.requires_grad_() for image in pair(spatial_dims))
        value = loss(x, y)
        value.backward()
        losses.append(value.detach())
        gradients.append((x.grad, y.grad))
    assert torch.allclose(*losses, atol=1e-5, rtol=0)
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5 * theirs.abs().max().item(), rtol=0)


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("padding", ["zero", "valid"])
@pytest.mark.parametrize("shape", [(2, 2, 7, 5), (2, 1, 5, 4, 6)])
def test_gradient_of_either_argument(shape, padding, wanted):
    torch.manual_seed(0)
    x, y = (torch.rand(shape, dtype=torch.float64, requires_grad=w) for w in wanted)
    loss = SSIMLoss(spatial_dims=len(shape) - 2, window_size=3, padding=padding, reduction="none")
    assert torch.autograd.gradcheck(loss, (x, y))


def test_default_windows():
    assert SSIMLoss(spatial_dims=2).window_size == 15
    assert SSIMLoss(spatial_dims=3).window_size == 7


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("padding", ["zero", "valid"])
def test_identity_symmetry_and_range(spatial_dims, padding):
    x, y = pair(spatial_dims)
    kwargs = {"spatial_dims": spatial_dims, "window_size": 7, "padding": padding}
    assert torch.equal(ssim(x, x, **kwargs), torch.ones(2))
    assert torch.allclose(ssim(x, y, **kwargs), ssim(y, x, **kwargs), atol=1e-6)
    assert (ssim(x, y, **kwargs) < 1).all()
    worst = SSIMLoss(**kwargs)((x > 0.5).float(), (x <= 0.5).float())
    assert 1 < worst <= 2


def test_noise_and_flat_images_are_worse_than_identity():
    """The released 3D window sums to 7: there noise beats the identity and a constant scores 0.986 (METHODS 1.5)."""
    smooth = torch.nn.functional.interpolate(torch.rand(1, 1, 4, 4, 4), 24, mode="trilinear")
    noisy = ssim(smooth, smooth + 0.05 * torch.randn_like(smooth))
    flat = ssim(smooth, torch.full_like(smooth, 0.5))
    assert noisy < 0.95
    assert flat < 0.9


def test_value_by_hand():
    """Constant images: variances are 0, so SSIM is (2 a b + C1) / (a^2 + b^2 + C1) where no border is near."""
    a, b = 0.2, 0.6
    x, y = torch.full((1, 1, 9, 9, 9), a), torch.full((1, 1, 9, 9, 9), b)
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert ssim(x, y, window_size=7, padding="valid").item() == pytest.approx(expected, abs=1e-5)


def test_reductions_and_functional_agree():
    x, y = pair(3)
    each = SSIMLoss(reduction="none")(x, y)
    assert each.shape == (2,)
    assert torch.equal(each, 1 - ssim(x, y))
    assert SSIMLoss()(x, y).item() == pytest.approx(each.mean().item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x, y = (image.to(dtype).requires_grad_() for image in pair(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = SSIMLoss()(x, y)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(SSIMLoss()(x.detach().float(), y.detach().float()).item(), abs=1e-6)
    assert x.grad.dtype == dtype


def test_near_constant_images_give_finite_gradients():
    """Rounding makes their variance negative: it is clamped."""
    x = (torch.full((1, 1, 12, 12, 12), 0.9) + 1e-7 * torch.randn(1, 1, 12, 12, 12)).requires_grad_()
    value = SSIMLoss()(x, torch.full_like(x, 0.9))
    value.backward()
    assert 0 <= value.item() < 1e-4
    assert x.grad.isfinite().all()


def test_metatensor_and_no_grad():
    x, y = pair(3)
    value = SSIMLoss()(monai.data.MetaTensor(x), y)
    assert type(value) is torch.Tensor
    with torch.inference_mode():
        assert SSIMLoss()(x, y).item() == pytest.approx(value.item())
    x.requires_grad_()
    SSIMLoss()(x, y).backward()  # the filters cached in inference mode serve training


def test_several_times_as_fast_as_monai():
    """Smaller than the stated size and with room for a noisy machine; scripts/benchmark.py measures (1, 3, 96^3)."""
    x, y = torch.rand(1, 1, 56, 56, 56, requires_grad=True), torch.rand(1, 1, 56, 56, 56)
    times = []
    for loss in (SSIMLoss(window_size=7, padding="valid"), MonaiSSIMLoss(3, win_size=7)):
        fastest = float("inf")
        for _ in range(2):
            start = time.perf_counter()
            loss(x, y).backward()
            fastest = min(fastest, time.perf_counter() - start)
        times.append(fastest)
    assert times[1] > 5 * times[0]


def test_bad_arguments_are_refused():
    x, y = pair(3)
    with pytest.raises(ValueError, match="window_size: got 6"):
        SSIMLoss(window_size=6)
    with pytest.raises(ValueError, match="spatial_dims: got 4"):
        SSIMLoss(spatial_dims=4)
    with pytest.raises(ValueError, match="'zero', 'valid'"):
        SSIMLoss(padding="same")
    with pytest.raises(ValueError, match="'mean', 'none'"):
        SSIMLoss(reduction="sum")
    with pytest.raises(ValueError, match="must be positive"):
        SSIMLoss(sigma=0)
    with pytest.raises(ValueError, match="same shape"):
        ssim(x, y[:, :1])
    with pytest.raises(ValueError, match="holds no window of 15"):
        ssim(x, y, window_size=15, padding="valid")
