"""The depthwise convolution equals torch's, forwards and backwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from common.networks.depthwise_conv import DepthwiseConv


@pytest.mark.parametrize("shape", [(2, 5, 6, 7, 4), (1, 3, 1, 2, 5), (2, 4, 2, 3, 1)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_are_those_of_conv3d(shape: tuple[int, ...], channels_last: bool) -> None:
    torch.manual_seed(0)
    conv = DepthwiseConv(spatial_dims=3, channels=shape[1]).double()
    torch.nn.init.normal_(conv.bias)
    x = torch.randn(shape, dtype=torch.double, requires_grad=True)
    given = x.contiguous(memory_format=torch.channels_last_3d) if channels_last else x
    upstream = torch.randn(shape, dtype=torch.double)
    sources = (x, conv.weight, conv.bias)

    ours = conv(given)
    torchs = F.conv3d(x, conv.weight, conv.bias, padding=1, groups=shape[1])

    torch.testing.assert_close(ours, torchs)
    for by_ours, by_torchs in zip(
        torch.autograd.grad(ours, sources, upstream), torch.autograd.grad(torchs, sources, upstream), strict=True
    ):
        torch.testing.assert_close(by_ours, by_torchs)


@pytest.mark.parametrize("channels", [4, 1])
def test_a_gpu_gets_channels_first_maps(monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    """In channels-last memory cuDNN's gradient is 200 times as slow (docs/benchmarks.md).

    The strides themselves: to ``is_contiguous`` an axis of size 1 may have any.
    """
    given: list[torch.Tensor] = []
    conv3d = F.conv3d

    def recorded(x: torch.Tensor, weight: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        given.extend([x, weight])
        return conv3d(x, weight, *args, **kwargs)

    monkeypatch.setattr(F, "conv3d", recorded)
    conv = DepthwiseConv(spatial_dims=3, channels=channels)
    conv = conv.to("meta").to(memory_format=torch.channels_last_3d)  # any device but the CPU
    x = torch.empty(2, channels, 3, 3, 3, device="meta").to(memory_format=torch.channels_last_3d)
    assert conv(x).shape == x.shape
    assert conv.weight.stride() == (27, 1, 9, 3, 1)
    assert [tensor.stride() for tensor in given] == [(27 * channels, 27, 9, 3, 1), (27, 27, 9, 3, 1)]


def test_2d_is_conv2d() -> None:
    conv = DepthwiseConv(spatial_dims=2, channels=3)
    x = torch.randn(2, 3, 5, 6)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1, groups=3))


def test_autocast_computes_in_bf16_and_keeps_float32_gradients() -> None:
    conv = DepthwiseConv(spatial_dims=3, channels=4)
    x = torch.randn(1, 4, 4, 4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is not None
    assert x.grad.dtype == conv.weight.grad.dtype == torch.float32


def test_frozen_filters_get_no_gradient() -> None:
    conv = DepthwiseConv(spatial_dims=3, channels=2).requires_grad_(False)
    x = torch.randn(1, 2, 3, 3, 3, requires_grad=True)
    conv(x).sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is None
