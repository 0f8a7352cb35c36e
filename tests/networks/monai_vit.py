"""MONAI's ViT and UNETR without einops, which this project does not need."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from functorch.einops.rearrange import rearrange
from torch import nn


class Rearrange(nn.Module):
    """What MONAI takes from ``einops.layers.torch``, by torch's own ``rearrange``."""

    def __init__(self, pattern: str, **sizes: int) -> None:
        super().__init__()
        self.pattern = pattern
        self.sizes = sizes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rearrange(x, self.pattern, **self.sizes)


def allow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MONAI's attention be constructed."""
    monkeypatch.setattr("monai.networks.blocks.selfattention.Rearrange", Rearrange)


def load_into(theirs: nn.Module, ours: nn.Module) -> None:
    """Weights of ``ours`` into ``theirs``; left out are only the norms of a cross attention that MONAI does not use."""
    result: Any = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert result.unexpected_keys == []
    assert all("norm_cross_attn" in name for name in result.missing_keys)
    for module in theirs.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
