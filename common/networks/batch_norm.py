"""Batch norm by the statistics of the batch at hand, over all processes, in training and evaluation alike."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _Total(torch.autograd.Function):
    """Sum over all processes; each one's loss depends on what every process put in, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _Total.forward(ctx, gradient)


@torch.compiler.disable
def _total(x: Tensor) -> Tensor:
    return _Total.apply(x)


class BatchNorm(nn.Module):
    """Features of mean 0 and variance 1 over the batch, scaled and shifted by learnt values, in float32.

    Contrastive methods learn by comparing the cases of a batch, and are judged by nothing else: nobody needs running
    statistics of their heads. A slow copy, always in evaluation mode, therefore takes its own batch's too, as in the
    code published with BYOL; means that lag behind would be further off than the cases are apart. ``SyncBatchNorm``
    shares no statistics in evaluation mode, and wants a GPU. Equally many cases in every process make a large batch.

    Args:
        features: F.
        eps: added to the variance.
    """

    def __init__(self, features: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """(N, F) -> float32 (N, F)."""
        with torch.autocast(device_type=x.device.type, enabled=False):
            x = x.float()
            # the mean first: what all cases share is much larger than what sets them apart
            deviation = x - self._mean(x)
            variance = self._mean(deviation.square())
            return deviation * (variance + self.eps).rsqrt() * self.weight + self.bias

    @staticmethod
    def _mean(x: Tensor) -> Tensor:
        """(F,), over the cases of all processes."""
        mean = x.mean(0)
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return mean
        return _total(mean) / dist.get_world_size()
