"""Two views of the same cases compared at several levels of an encoder (TCS-MAE, arXiv 2407.08961, Eq. 16-17)."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor, nn

from common.losses.contrastive import cosine_loss, gather_embeddings, ntxent

logger = logging.getLogger(__name__)

CONTRASTS = ("ntxent", "cosine_x1000", "none")
_MAX_LOG_SCALE = math.log(100)


class LevelContrast(nn.Module):
    """The contrast of each level, summed over levels.

    Under DDP the cases of all ranks are each other's negatives. A single case has none: the term is then 0, and says
    so once.

    Args:
        kind: ``"ntxent"`` (paper, Eq. 17 without its misprint, see :func:`common.losses.contrastive.ntxent`),
            ``"cosine_x1000"`` (released code: 1000 times the cosine distance, no negatives), or ``"none"``.
        temperature: g at the start.
        learnable: train it, stored as ln(1/g) and kept at 0.01 or above. Then give this module's parameters to the
            optimizer.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(self, *, kind: str = "ntxent", temperature: float = 0.07, learnable: bool = True) -> None:
        super().__init__()
        if kind not in CONTRASTS:
            raise ValueError(f"contrast: got {kind!r}. Allowed are {', '.join(map(repr, CONTRASTS))}.")
        if not temperature >= 0.01:
            raise ValueError(f"temperature: got {temperature}. Give 0.01 or more.")
        self.kind = kind
        self._warned = False
        log_scale = torch.tensor(math.log(1 / temperature))
        # a parameter without a use would stall distributed training
        if kind == "ntxent" and learnable:
            self.log_scale: Tensor = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    @property
    def temperature(self) -> Tensor:
        """g, a 0-d tensor."""
        return (-self.log_scale.clamp(max=_MAX_LOG_SCALE)).exp()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Loss of the embeddings ``a`` and ``b`` (N, L, E) of two views: a float32 scalar."""
        if self.kind == "none":
            return a.new_zeros((), dtype=torch.float32)
        if self.kind == "cosine_x1000":
            return torch.stack([1000 * cosine_loss(x, y) for x, y in zip(a.unbind(1), b.unbind(1), strict=True)]).sum()
        a, b = gather_embeddings(a.float()), gather_embeddings(b.float())
        if a.shape[0] == 1 and not self._warned:
            self._warned = True
            logger.warning("A single case per batch has no negatives; the contrastive term is 0. Use a larger batch.")
        levels = zip(a.unbind(1), b.unbind(1), strict=True)
        return torch.stack([ntxent(x, y, self.temperature) for x, y in levels]).sum()
