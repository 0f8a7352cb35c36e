"""Dice and cross entropy for cases in which not every structure has been annotated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# MONAI's DiceLoss smooths numerator and denominator by as much
_SMOOTH = 1e-5


def merge_unannotated(logits: Tensor, annotated: Tensor) -> Tensor:
    """Logits in which the background stands for itself and every structure not annotated in the case.

    The softmax of the result has ``p_background + sum of unannotated p`` as background and 0 for the unannotated:
    exactly the marginal probability (marginal loss, Shi et al., Medical Image Analysis 70, 2021).

    Args:
        logits: (B, N + 1, *S), channel 0 is the background.
        annotated: bool (B, N + 1); the background's entry does not matter.

    Returns:
        logits (B, N + 1, *S), -inf in unannotated channels.
    """
    own = annotated.clone()
    own[:, 0] = False
    own = own.view(*own.shape, *[1] * (logits.ndim - 2))
    background = logits.masked_fill(own, -torch.inf).logsumexp(dim=1, keepdim=True)
    return torch.cat([background, logits[:, 1:].masked_fill(~own[:, 1:], -torch.inf)], dim=1)


class PartialDiceCELoss(nn.Module):
    """Soft Dice plus cross entropy, softmax inside, over the structures annotated in each case.

    A structure that nobody annotated in a case is one with the background there: predicting it is neither rewarded nor
    punished. Dice is averaged over the annotated foreground structures that are present in the label (of the sample, or
    of the batch); the Dice of an absent structure is 0 whatever little of it is predicted and its gradient pushes all
    voxels alike, so false positives of annotated but absent structures are left to the cross entropy, which punishes
    each. With every structure annotated and present the value is that of MONAI's ``DiceCELoss(to_onehot_y=True,
    softmax=True, include_background=False)``.

    Args:
        n_classes: channels of the logits, N structures and the background.
        dice_weight: factor of the Dice term.
        ce_weight: factor of the cross entropy.
        batch: sum intersections and volumes over the batch before dividing. A structure then counts only in the samples
            in which it is annotated.

    Raises:
        ValueError: for arguments out of range or shapes that do not fit.
    """

    def __init__(
        self, *, n_classes: int, dice_weight: float = 1.0, ce_weight: float = 1.0, batch: bool = False
    ) -> None:
        super().__init__()
        if n_classes < 2:
            raise ValueError(f"n_classes: got {n_classes}. Give the background and at least one structure, 2 or more.")
        if dice_weight < 0 or ce_weight < 0 or dice_weight + ce_weight == 0:
            raise ValueError(
                f"dice_weight, ce_weight: got {dice_weight} and {ce_weight}. Give two of at least 0, not both 0."
            )
        self.n_classes = n_classes
        self.dice_weight = dice_weight
        self.ce_weight = ce_weight
        self.batch = batch

    def forward(self, logits: Tensor, target: Tensor | dict[str, Any]) -> Tensor:
        """Loss of logits (B, N + 1, *S).

        Args:
            logits: raw output of the network.
            target: channel indices (B, 1, *S) of any integer or floating type, or a dictionary with them as ``label``
                and, where not everything is annotated, bool (B, N + 1) as ``annotated``.

        Returns:
            float32 scalar.
        """
        label, annotated = (target["label"], target.get("annotated")) if isinstance(target, dict) else (target, None)
        if logits.shape[1] != self.n_classes or label.shape != (logits.shape[0], 1, *logits.shape[2:]):
            raise ValueError(
                f"logits, label: got shapes {tuple(logits.shape)} and {tuple(label.shape)}. "
                f"Give (B, {self.n_classes}, *S) and (B, 1, *S)."
            )
        logits, label = logits.as_subclass(Tensor), label.as_subclass(Tensor)
        with torch.autocast(device_type=logits.device.type, enabled=False):
            # classes lead and voxels are contiguous: a softmax over a trailing axis is several times as slow
            scores, index = logits.float().flatten(2), label.flatten(2).long()
            counted = torch.ones_like(scores[:, :, 0], dtype=torch.bool)
            if annotated is not None:
                counted = torch.as_tensor(annotated, device=scores.device).bool()
                if counted.shape != scores.shape[:2]:
                    raise ValueError(
                        f"annotated: got shape {tuple(counted.shape)}. Give one flag per sample and channel, "
                        f"{tuple(scores.shape[:2])}."
                    )
                scores = merge_unannotated(scores, counted)
                # a labelled voxel of a structure that does not count is background
                index = index.masked_fill(~counted.gather(1, index.flatten(1)).view_as(index), 0)
            log_p = scores.log_softmax(dim=1)
            log_p_label = log_p.gather(1, index)
            loss = logits.new_zeros((), dtype=torch.float32)
            if self.ce_weight:
                loss = loss - self.ce_weight * log_p_label.mean()
            if self.dice_weight:
                loss = loss + self.dice_weight * self._dice(log_p.exp(), log_p_label.exp(), index, counted)
            return loss

    def _dice(self, p: Tensor, p_label: Tensor, index: Tensor, counted: Tensor) -> Tensor:
        """Mean soft Dice loss of the foreground, from sums by label instead of a one-hot copy of it."""
        index, p_label = index[:, 0], p_label[:, 0]
        predicted = p.sum(dim=2) * counted
        overlap = torch.zeros_like(predicted).scatter_add(1, index, p_label)
        volume = torch.zeros_like(predicted).scatter_add(1, index, torch.ones_like(p_label))
        sums = torch.stack([overlap, predicted, volume])[:, :, 1:]
        if self.batch:
            sums = sums.sum(dim=1, keepdim=True)
        overlap, predicted, volume = sums
        dice = 1 - (2 * overlap + _SMOOTH) / (predicted + volume + _SMOOTH)
        present = volume > 0
        return (dice * present).sum() / present.sum().clamp(min=1)
