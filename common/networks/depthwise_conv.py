"""Depthwise 3x3(x3) convolution that CPUs and GPUs compute quickly, forwards and backwards."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class DepthwiseConv(nn.Module):
    """One 3x3(x3) filter per channel, stride 1, zero padding: (B, C, *S) -> (B, C, *S).

    The same numbers as ``nn.Conv2d`` and ``nn.Conv3d`` with ``groups=channels``. In 3D on a CPU the gradient is written
    out (:class:`_DepthwiseConv3d`): torch's takes 140 ms for 128 channels at 32^3 in bf16 where the forward pass takes
    1 ms, and made up most of a training step of a Mix Transformer. On a GPU maps are copied to channels-first memory:
    cuDNN's gradient of the filters took 64 ms in bf16 and channels-last for 2 x 256 channels at 24^3 (H200), torch's
    own kernel, which channels-first gets, 0.3 ms.

    Args:
        spatial_dims: 2 or 3.
        channels: C.
    """

    def __init__(self, *, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.weight = nn.Parameter(torch.empty(channels, 1, *[3] * spatial_dims))
        self.bias = nn.Parameter(torch.zeros(channels))
        # SegFormer's initialisation: fan-out of a filter that feeds one channel
        nn.init.normal_(self.weight, std=(2.0 / 3**spatial_dims) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Filter each channel of ``x`` (B, C, *S)."""
        if self.spatial_dims == 2:
            return F.conv2d(x, self.weight, self.bias, padding=1, groups=x.shape[1])
        if not torch.jit.is_scripting() and not torch.jit.is_tracing() and x.device.type == "cpu":
            return _fast_on_cpu(x, self.weight, self.bias)
        return F.conv3d(_channels_first(x), _channels_first(self.weight), self.bias, padding=1, groups=x.shape[1])

    def extra_repr(self) -> str:
        """Channels, for ``print(network)``."""
        return f"spatial_dims={self.spatial_dims}, channels={self.weight.shape[0]}"


def _channels_first(x: Tensor) -> Tensor:
    """``x`` in channels-first memory, also by the strides of axes of size 1.

    A filter's axis of size 1 keeps the stride that channels-last memory gave it, since it is contiguous either way; but
    cuDNN's layout follows from that stride.
    """
    return x.contiguous().flatten().view(x.shape)


def _fast_on_cpu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        # autocast does not look into a custom function
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    result: Tensor = _DepthwiseConv3d.apply(x, weight, bias)
    return result


class _DepthwiseConv3d(torch.autograd.Function):
    """``F.conv3d(x, weight, bias, padding=1, groups=C)`` with a gradient made of fast CPU operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv3d(x, weight, bias, padding=1, groups=x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        channels = x.shape[1]
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        by_x = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            # correlation with a filter, transposed = correlation with the mirrored filter
            by_x = F.conv3d(grad, weight.flip(2, 3, 4), padding=1, groups=channels)
        if ctx.needs_input_grad[1]:
            by_weight = _weight_gradient(x.contiguous(memory_format=torch.channels_last_3d), grad, weight)
        if ctx.needs_input_grad[2]:
            by_bias = grad.movedim(1, -1).reshape(-1, channels).sum(0)
        return by_x, by_weight, by_bias


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient (C, 1, 3, 3, 3) of the filters: per plane of the filter a 2D depthwise convolution over all slices."""
    channels, size = x.shape[1:3]
    # slices (B, H, C, W, D) as views: channels-last memory keeps the channels innermost
    x_slices, grad_slices = x.transpose(1, 2), grad.transpose(1, 2)
    planes = []
    for k in range(3):
        # slice i of the output saw slice i + k - 1 of the input through plane k of the filter
        first, last = max(0, 1 - k), size - max(0, k - 1)
        if first >= last:
            planes.append(torch.zeros_like(weight[:, :, k]))
            continue
        seen = x_slices[:, first + k - 1 : last + k - 1].flatten(0, 1)
        given = grad_slices[:, first:last].flatten(0, 1)
        planes.append(
            torch.ops.aten.convolution_backward(
                given,
                seen,
                weight[:, :, k].contiguous(),
                None,
                [1, 1],
                [1, 1],
                [1, 1],
                False,
                [0, 0],
                channels,
                [False, True, False],
            )[1]
        )
    return torch.stack(planes, dim=2)
