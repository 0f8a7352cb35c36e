"""Dice and cross entropy for cases in which not every structure has been annotated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from common.masking.enclosed import CERTAIN_BACKGROUND

# MONAI's DiceLoss smooths numerator and denominator by as much
_SMOOTH = 1e-5


class _PartialDiceCE(torch.autograd.Function):
    """The loss with its gradient written out, found on the way forward: one softmax, no one-hot label, one map kept.

    ``P`` are the probabilities after merging (where the background is certain, without), ``t`` the label of a voxel,
    ``w`` its weight in the cross entropy, ``A`` and ``D`` the derivatives of the Dice term by a structure's predicted
    volume and by its overlap. For the logit of channel c, which counts as k (itself, or 0 when merged)::

        p_c (A_k - sum_j A_j P_j - D_t P_t + w)  +  [k = t] (D_t p_c - w p_c / P_t)
    """

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, label: Tensor, own: Tensor, dice_weight: float, ce_weight: float, batch: bool
    ) -> Tensor:
        """Loss of scores (B, C, V) for labels (B, 1, V); ``own`` (B, C) are the foreground channels that count."""
        certain = label == CERTAIN_BACKGROUND
        index = label.masked_fill(certain, 0)
        # a labelled voxel of a structure that does not count is background
        index = index * own.gather(1, index[:, 0])[:, None]
        log_p = scores.log_softmax(dim=1)
        log_p_label, log_p_first = log_p.gather(1, index), log_p[:, :1].clone()
        p = log_p.exp_()
        merged = (~own).to(p.dtype)[:, None]  # (B, 1, C): what counts as background
        p_background = torch.where(certain, p[:, :1], merged @ p)
        on_background = index == 0

        # far below every other class the background's probability underflows, its own channel's logarithm does not
        smallest = torch.finfo(p.dtype).tiny
        lost = p_background < smallest
        p_background = p_background.clamp(min=smallest)
        log_p_background = torch.where(lost, log_p_first, p_background.log())
        ce = -torch.where(on_background, log_p_background, log_p_label).mean()

        p_label = log_p_label.exp_()
        dice, by_volume, by_overlap = _dice(p.sum(dim=2) * own, p_label, index, own, batch)
        loss = dice_weight * dice + ce_weight * ce
        if not ctx.needs_input_grad[0]:
            return loss

        by_volume, by_overlap = dice_weight * by_volume, dice_weight * by_overlap
        w = ce_weight / index.numel()
        at_label = by_overlap.gather(1, index[:, 0])[:, None] * p_label  # 0 on the background
        common = by_volume[:, None] @ p + at_label - w  # (B, 1, V)
        background_pull = on_background * (w / p_background)
        # p_c (A_c - common - [c = 0] pull - [c merged] uncertain pull): the bracket is a product of (C, 4) with (4, V)
        first = torch.zeros_like(by_volume)
        first[:, 0] = 1
        left = torch.stack([by_volume, -torch.ones_like(by_volume), -first, first - merged[:, 0]], dim=2)
        right = torch.cat([torch.ones_like(common), common, background_pull, ~certain * background_pull], dim=1)
        gradient = torch.bmm(left, right).mul_(p)
        gradient.scatter_add_(1, index, torch.where(on_background, -w * lost.to(p.dtype), at_label - w))
        ctx.gradient = gradient
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.gradient * grad, None, None, None, None, None


def _dice(predicted: Tensor, p_label: Tensor, index: Tensor, own: Tensor, batch: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mean soft Dice loss of the foreground, and its derivatives (B, C) by predicted volume and overlap.

    The overlap and the volume of the label are sums by label, so that no one-hot copy of it is needed.
    """
    overlap = torch.zeros_like(predicted).scatter_add(1, index[:, 0], p_label[:, 0]) * own
    volume = torch.zeros_like(predicted).scatter_add(1, index[:, 0], torch.ones_like(p_label[:, 0])) * own
    if batch:
        overlap, predicted, volume = (x.sum(dim=0, keepdim=True) for x in (overlap, predicted, volume))
    above, below = 2 * overlap + _SMOOTH, predicted + volume + _SMOOTH
    present = (volume > 0).to(below.dtype)
    share = present / present.sum().clamp(min=1)
    loss = ((1 - above / below) * share).sum()
    return loss, above / below.square() * share * own, -2 / below * share * own


class PartialDiceCELoss(nn.Module):
    """Soft Dice plus cross entropy, softmax inside, over the structures annotated in each case.

    A structure that was not annotated in a case is one with the background there: their probabilities are added up
    (marginal loss, Shi et al., Medical Image Analysis 70, 2021), so predicting it is neither rewarded nor punished.
    Dice is averaged over the annotated foreground structures that are present in the label (of the sample, or of the
    batch). Absent ones are left to the cross entropy, which punishes each false positive: their Dice is 0 whatever is
    predicted. With every structure annotated and present, the value is that of MONAI's
    ``DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)``. A voxel of the label 255 is background
    whatever was annotated (:class:`common.transforms.outside_body.MarkOutsideBodyd` sets it in the air around the
    patient), so that structures annotated in few cases are not found there.

    Args:
        n_classes: channels of the logits, N structures and the background.
        dice_weight: factor of the Dice term.
        ce_weight: factor of the cross entropy.
        batch: sum overlaps and volumes over the batch before dividing. A structure then counts only in the samples
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
            target: channel indices (B, 1, *S) of any type, 255 for certain background, or a dictionary with them as
                ``label`` and, where not everything is annotated, bool (B, N + 1) as ``annotated`` (the background's
                entry does not matter).

        Returns:
            float32 scalar (float64 for float64 logits).
        """
        label, annotated = (target["label"], target.get("annotated")) if isinstance(target, dict) else (target, None)
        if logits.shape[1] != self.n_classes or label.shape != (logits.shape[0], 1, *logits.shape[2:]):
            raise ValueError(
                f"logits, label: got shapes {tuple(logits.shape)} and {tuple(label.shape)}. "
                f"Give (B, {self.n_classes}, *S) and (B, 1, *S)."
            )
        own = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
        if annotated is not None:
            if annotated.shape != own.shape:
                raise ValueError(
                    f"annotated: got shape {tuple(annotated.shape)}. Give one flag per sample and channel, "
                    f"{tuple(own.shape)}."
                )
            own = annotated.as_subclass(Tensor).to(own.device, torch.bool).clone()
        own[:, 0] = False
        scores = logits.as_subclass(Tensor)
        scores = scores if scores.dtype == torch.float64 else scores.float()
        index = label.as_subclass(Tensor).flatten(2).long()
        with torch.autocast(device_type=scores.device.type, enabled=False):
            # classes lead and voxels are contiguous: a softmax over a trailing axis is several times as slow
            loss: Tensor = _PartialDiceCE.apply(
                scores.flatten(2).contiguous(), index, own, self.dice_weight, self.ce_weight, self.batch
            )
        return loss
