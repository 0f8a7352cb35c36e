"""Masked ("sparse") passes of ordinary convolutional networks: what is hidden is 0 and reaches nothing that is visible.

A convolution whose input is 0 at hidden places, followed by a normalisation over the visible places that writes 0 at
the hidden ones, computes exactly what a submanifold sparse convolution would (SparK, arXiv 2301.03580, section 3.2).
Visibility is an argument of every call: nothing is stored in modules or globals, so that recomputing a block in the
backward pass (activation checkpointing) sees the mask that the forward pass saw, and the modules keep their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def visible_voxels(visible: Tensor, shape: Sequence[int]) -> Tensor:
    """Patches as voxels of a map of any resolution: bool (B, *grid) -> float32 (B, 1, *shape), 1 = visible.

    Args:
        visible: bool (B, *grid).
        shape: spatial size of the map, a multiple of the grid on every axis.

    Raises:
        ValueError: when a patch has no whole number of voxels in the map.
    """
    factors = [size // patches for size, patches in zip(shape, visible.shape[1:], strict=True)]
    if any(f < 1 or f * n != s for f, n, s in zip(factors, visible.shape[1:], shape, strict=True)):
        raise ValueError(
            f"visible: {tuple(visible.shape[1:])} patches do not divide a map of {tuple(shape)}. Give a patch size that "
            "is a multiple of the network's total stride, and divides the image."
        )
    voxels = visible.float()
    for axis, factor in enumerate(factors, start=1):
        voxels = voxels.repeat_interleave(factor, axis)
    return voxels.unsqueeze(1)


class InstanceNorm(nn.Module):
    """Instance normalisation with learnt scale and offset, of all places or of the visible ones only.

    Args:
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, visible: Tensor | None = None, batch_pooled: bool = False) -> Tensor:
        """Normalise ``x`` (B, C, *S).

        Args:
            x: the map.
            visible: float (B, 1, *S), 1 = visible, at least one place in every sample; ``None``: everything is.
            batch_pooled: statistics of the whole batch instead of each sample (released AnatoMask code).
        """
        if visible is not None:
            result: Tensor = _MaskedNorm.apply(x, visible, self.weight, self.bias, self.eps, batch_pooled)
            return result
        if not torch.jit.is_tracing() and len(x) == 1 and x.device.type == "cpu":
            # the same numbers; keeps channels-last memory, which F.instance_norm leaves
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        """Channels, for ``print(network)``."""
        return f"{len(self.weight)}, eps={self.eps}"


class _MaskedNorm(torch.autograd.Function):
    """Normalisation over visible places, 0 elsewhere, with its gradient written out; statistics in float32.

    Nothing is gathered, so that nothing waits for the number of visible places, and the input is all that is kept. With
    ``v`` the visibility, N the visible places, ``h = (x - mean) r`` and ``g`` the gradient of the result::

        dx = v w r (g - sum(v g) / N - h sum(v g h) / N)

    which is ``w r v g + v (b x + c)`` with two numbers per sample and channel.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, visible: Tensor, weight: Tensor, bias: Tensor, eps: float, batch_pooled: bool
    ) -> Tensor:
        axes = tuple(range(2, x.ndim))
        over = (0, *axes) if batch_pooled else axes
        values = x.float() * visible
        n = visible.sum(over, keepdim=True)
        mean = values.sum(over, keepdim=True) / n
        # a norm reads the map once and makes no copy of it, the mean of squares would
        power = torch.linalg.vector_norm(values, 2, over, keepdim=True).square() / n
        scale = (power - mean * mean).clamp_(min=0).add_(eps).rsqrt_()
        w, b = (p.float().view(1, -1, *[1] * len(axes)) for p in (weight, bias))
        ctx.save_for_backward(x, visible, weight, mean, scale, n)
        ctx.over = over
        return torch.addcmul(b - mean * scale * w, values, scale * w).mul_(visible).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, visible, weight, mean, scale, n = ctx.saved_tensors
        w = weight.float().view(1, -1, *[1] * (x.ndim - 2))
        g, values = grad.float() * visible, x.float()
        sum_g = g.sum(ctx.over, keepdim=True)
        sum_gh = ((g * values).sum(ctx.over, keepdim=True) - mean * sum_g) * scale
        by_h = -w * scale * scale * sum_gh / n
        dx = torch.addcmul(-by_h * mean - w * scale * sum_g / n, values, by_h).mul_(visible).addcmul_(g, w * scale)
        by_weight, by_bias = (s.sum(0).flatten().to(weight.dtype) for s in (sum_gh, sum_g))
        return dx.to(x.dtype), None, by_weight, by_bias, None, None
