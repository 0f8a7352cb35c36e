"""Upsampling and convolution in one step equal the two steps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from common.networks.upsample_conv import UpsampleConv


@pytest.mark.parametrize(("spatial_dims", "size"), [(2, (5, 4)), (3, (3, 4, 2))])
def test_equals_nearest_upsampling_then_convolution(spatial_dims: int, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    conv = UpsampleConv(spatial_dims=spatial_dims, in_channels=3, out_channels=2).double()
    x = torch.randn(2, 3, *size, dtype=torch.double, requires_grad=True)
    convolve = F.conv2d if spatial_dims == 2 else F.conv3d

    ours = conv(x)
    two_steps = convolve(F.interpolate(x, scale_factor=2.0, mode="nearest"), conv.weight, padding=1)

    torch.testing.assert_close(ours, two_steps)
    upstream = torch.randn_like(ours)
    for by_ours, by_two in zip(
        torch.autograd.grad(ours, (x, conv.weight), upstream),
        torch.autograd.grad(two_steps, (x, conv.weight), upstream),
        strict=True,
    ):
        torch.testing.assert_close(by_ours, by_two)
