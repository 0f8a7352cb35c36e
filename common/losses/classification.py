"""Binary cross entropy for classes that are not known of every case."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class KnownBCELoss(nn.Module):
    """Binary cross entropy of logits, averaged over the labels that are known, in float32 (ISD-MAE, section IV.B).

    What is not known has no gradient; a batch of which nothing is known has the loss 0.

    Example:
        >>> KnownBCELoss()(torch.zeros(1, 2), torch.tensor([[1.0, float("nan")]]))  # ln 2
        tensor(0.6931)
    """

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Loss of logits (B, N) for labels (B, N): 1, 0, or NaN where the class is not known.

        Raises:
            ValueError: for shapes that differ.
        """
        if logits.shape != label.shape:
            msg = f"logits, label: got shapes {tuple(logits.shape)} and {tuple(label.shape)}. Give two of (B, N)."
            raise ValueError(msg)
        with torch.autocast(device_type=logits.device.type, enabled=False):
            known = ~label.isnan()
            # the gradient at NaN would be NaN, whatever its weight
            target = label.float().nan_to_num(nan=0.0)
            each = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
            return (each * known).sum() / known.sum().clamp(min=1)
