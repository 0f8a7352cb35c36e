"""One loss at several resolutions of a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class DeepSupervisionLoss(nn.Module):
    """Weighted mean of a loss of the scores at several resolutions; each coarser one counts half as much (nnU-Net;
    it gives the coarsest no weight, here that one counts too).

    MONAI's class of this name resizes plain tensors; this one takes the dictionaries of
    :class:`common.losses.segmentation.PartialDiceCELoss`. A coarse voxel gets the label at its centre.

    Args:
        loss: called with scores (B, C, *S) and a target of the same resolution.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, scores: Tensor | Sequence[Tensor], target: Tensor | dict[str, Any]) -> Tensor:
        """Loss of ``scores``: one tensor, or several from fine to coarse.

        Args:
            scores: (B, C, *S), (B, C, *S / s), ...; resolutions may repeat.
            target: label (B, 1, *S), or a dictionary with it as ``label``.

        Raises:
            ValueError: when a resolution is no whole fraction of the label's.
        """
        several = [scores] if isinstance(scores, Tensor) else list(scores)
        weights = [0.5**i for i in range(len(several))]
        losses = [w * self.loss(s, _coarser(target, s)) for w, s in zip(weights, several, strict=True)]
        total: Tensor = sum(losses[1:], losses[0]) / sum(weights)
        return total


def _coarser(target: Tensor | dict[str, Any], like: Tensor) -> Tensor | dict[str, Any]:
    if isinstance(target, dict):
        return {**target, "label": _coarser(target["label"], like)}
    steps = [s // max(c, 1) for s, c in zip(target.shape[2:], like.shape[2:], strict=True)]
    if any(step * c != s for step, c, s in zip(steps, like.shape[2:], target.shape[2:], strict=True)):
        raise ValueError(
            f"scores: got a map of {tuple(like.shape[2:])} for a label of {tuple(target.shape[2:])}. Give whole "
            "fractions of the label's size."
        )
    return target[(slice(None), slice(None), *(slice(step // 2, None, step) for step in steps))]
