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
            f"visible: {tuple(visible.shape[1:])} patches do not divide a map of {tuple(shape)}. Give a patch size "
            "that is a multiple of the network's total stride, and divides the image."
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
            visible: float (B, 1, *S) or (B, C, *S), 1 = visible, at least one place in every sample; hidden places
                become 0. ``None``: everything is visible.
            batch_pooled: statistics of the whole batch instead of each sample (released AnatoMask code).
        """
        if visible is None and (torch.jit.is_tracing() or x.is_contiguous()):
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        # without a mask for the sake of channels-last memory, which F.instance_norm leaves
        pooled = batch_pooled and visible is not None
        result: Tensor = _MaskedNorm.apply(x, visible, self.weight, self.bias, self.eps, pooled)
        return result

    def extra_repr(self) -> str:
        """Channels, for ``print(network)``."""
        return f"{len(self.weight)}, eps={self.eps}"


class _MaskedNorm(torch.autograd.Function):
    """Normalisation over visible places, 0 elsewhere, with its gradient written out; statistics in float32.

    Nothing is gathered, so that nothing waits for the number of visible places. The passes over the map are torch's
    batch norm kernels on one sample at a time, which read half precision and compute in float32: statistics of all
    places, hidden ones 0 among them, give those of the visible ones. With ``v`` the visibility, N the visible places,
    ``h = (x - mean) r`` and ``g`` the gradient of the result::

        dx = v (w r g - w r (h sum(v g h) + sum(v g)) / N)
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, visible: Tensor | None, weight: Tensor, bias: Tensor, eps: float, batch_pooled: bool
    ) -> Tensor:
        x = x.contiguous(memory_format=_memory_format(x))
        if visible is not None:
            visible = visible.to(x.dtype)
            x = x * visible
        exact = torch.float64 if x.dtype == torch.float64 else torch.float32
        w, b = weight.to(exact), bias.to(exact)
        n_all = x[0, 0].numel()
        if visible is None:
            n = w.new_full((len(x), 1), n_all)
        else:
            n = visible[:, :1].sum(tuple(range(1, x.ndim)), dtype=exact)[:, None]
        mean_all, variance_all = _statistics(x, exact)
        total, power = mean_all * n_all, (variance_all + mean_all.square()) * n_all
        if batch_pooled:
            total, power, n = (s.sum(0, keepdim=True).expand_as(s) for s in (total, power, n))
        mean = total / n
        variance = (power / n - mean.square()).clamp_(min=0)
        rate = (variance + eps).rsqrt()
        ctx.save_for_backward(x, visible, w, mean, rate, n)
        ctx.batch_pooled = batch_pooled
        made = _affine(x, rate * w, b - mean * rate * w)
        return made if visible is None else made.mul_(visible)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, visible, w, mean, rate, n = ctx.saved_tensors
        g = grad.to(x.dtype).contiguous(memory_format=_memory_format(x))
        if visible is not None:
            g = g * visible
        sum_gh, sum_g = _gradient_sums(g, x, mean, rate)
        by_weight, by_bias = sum_gh.sum(0), sum_g.sum(0)
        if ctx.batch_pooled:
            sum_gh, sum_g = (s.sum(0, keepdim=True).expand_as(s) for s in (sum_gh, sum_g))
        slope = -w * rate * rate * sum_gh / n
        through_statistics = _affine(x, slope, -slope * mean - w * rate * sum_g / n)
        direct = _affine(g, w * rate, torch.zeros_like(mean))
        dx = direct.add_(through_statistics) if visible is None else direct.addcmul_(through_statistics, visible)
        return dx, None, by_weight, by_bias, None, None


def _memory_format(x: Tensor) -> torch.memory_format:
    last = torch.channels_last_3d if x.ndim == 5 else torch.channels_last
    return last if not x.is_contiguous() and x.is_contiguous(memory_format=last) else torch.contiguous_format


def _slabs(x: Tensor) -> list[Tensor]:
    """The map (B, C, *S) as maps of one sample: (1, B C, *S) where memory allows, else B of (1, C, *S)."""
    return [x.view(1, -1, *x.shape[2:])] if x.is_contiguous() else list(x.split(1))


def _rows(numbers: Tensor, slabs: list[Tensor]) -> list[Tensor]:
    """Numbers (B, C) for each of :func:`_slabs`."""
    return list(numbers.reshape(len(slabs), -1))


def _statistics(x: Tensor, exact: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and variance (B, C) over all places."""
    slabs = _slabs(x)
    # buffers in full precision ask the kernel for results in full precision
    zeros = x.new_zeros(slabs[0].shape[1], dtype=exact)
    found = [torch.batch_norm_update_stats(slab, zeros.clone(), zeros.clone(), 0.0) for slab in slabs]
    mean, variance = (torch.stack(s).view(x.shape[:2]) for s in zip(*found, strict=True))
    return mean, variance


def _affine(x: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """``slope x + offset`` with numbers (B, C), computed in their precision."""
    made = torch.empty_like(x)  # its own memory: a result that is a view could not be changed in place
    slabs, outs = _slabs(x), _slabs(made)
    for slab, out, a, b in zip(slabs, outs, _rows(slope, slabs), _rows(offset, slabs), strict=True):
        zeros, none = torch.zeros_like(a), a.new_empty(0)
        torch.ops.aten.native_batch_norm.out(
            slab, a, b, zeros, torch.ones_like(a), False, 0.0, 0.0, out=out, save_mean=none, save_invstd=none.clone()
        )
    return made


def _gradient_sums(g: Tensor, x: Tensor, mean: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """Sums (B, C) over all places of ``g h`` and of ``g``."""
    gs, xs = _slabs(g), _slabs(x)
    found = []
    for g_slab, x_slab, m, r in zip(gs, xs, _rows(mean, xs), _rows(rate, xs), strict=True):
        found.append(
            torch.ops.aten.native_batch_norm_backward(
                g_slab, x_slab, torch.ones_like(m), None, None, m, r, True, 0.0, [False, True, True]
            )[1:]
        )
    sum_gh, sum_g = (torch.stack(s).view(x.shape[:2]) for s in zip(*found, strict=True))
    return sum_gh, sum_g
