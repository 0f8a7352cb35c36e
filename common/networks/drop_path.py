"""Stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Skips a residual branch for randomly chosen samples in training (stochastic depth, Huang et al. 2016).

    Args:
        rate: probability of skipping, in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Zero, or ``x`` over the share that is kept, per sample of (B, ...)."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        noise = torch.rand([x.shape[0]] + [1] * (x.dim() - 1), device=x.device)
        return x * ((noise < keep).to(x.dtype) / keep)

    def extra_repr(self) -> str:
        """Rate, for ``print(network)``."""
        return f"rate={self.rate:.3f}"
