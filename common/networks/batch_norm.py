"""Batch norm by the statistics of the batch at hand, over all processes, in training and evaluation alike."""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class _Total(torch.autograd.Function):
    """Sum over all processes; each one's loss depends on what every process put in, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Total.forward(ctx, gradient)


@torch.compiler.disable
def _total(x: Tensor) -> Tensor:
    return _Total.apply(x)


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class BatchNorm(nn.Module):
    """Features of mean 0 and variance 1 over the batch, scaled and shifted by learnt values, in float32.

    Contrastive methods learn by comparing the cases of a batch, and are judged by nothing else: nobody needs running
    statistics of their heads. A slow copy, always in evaluation mode, therefore takes its own batch's too, as in the
    code published with BYOL; means that lag behind would be further off than the cases are apart. ``SyncBatchNorm``
    shares no statistics in evaluation mode, and wants a GPU. All processes must hold equally many cases.

    A single case becomes ``bias``, whatever it is; that is said once.

    Args:
        features: F.
        eps: added to the variance.
    """

    def __init__(self, features: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self._warned = False
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """(N, F) -> float32 (N, F)."""
        if len(x) * _processes() == 1 and not self._warned:
            self._warned = True
            logger.warning("A batch norm of a single case takes all of it away. Use a larger batch, or another norm.")
        with torch.autocast(device_type=x.device.type, enabled=False):
            x = x.float()
            # the mean first: what all cases share is much larger than what sets them apart
            deviation = x - self._mean(x)
            variance = self._mean(deviation.square())
            return deviation * (variance + self.eps).rsqrt() * self.weight + self.bias

    @staticmethod
    def _mean(x: Tensor) -> Tensor:
        """(F,), over the cases of all processes."""
        mean, processes = x.mean(0), _processes()
        return mean if processes == 1 else _total(mean) / processes
