"""Learning an order: the pairwise ranking loss of hard patches mining, and how well an order is known.

Source: HPM (arXiv 2304.05919), taken over by selfMedHPM (arXiv 2504.02524), Eq. 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

REDUCTIONS = ("mean", "sum")


def pairwise_ranking_loss(scores: Tensor, losses: Tensor, *, reduction: str = "mean") -> Tensor:
    """Binary cross entropy of "patch i is harder than patch j" over all ordered pairs of a sample.

    A pair costs ``softplus(-(s_i - s_j) sign(L_i - L_j))``, which is both lines of Eq. 1 in one and cannot saturate;
    i, j and j, i cost the same. Pairs of equal losses do not count. Only differences of scores matter.

    Args:
        scores: predicted difficulty of the hidden patches, (B, M), of any unit.
        losses: their measured reconstruction losses, (B, M); a constant here.
        reduction: ``"mean"`` over the pairs of the whole batch (HPM's code), or ``"sum"`` over the pairs of a sample,
            as Eq. 1 is printed, and the mean over samples: in the order of M^2 ln 2.

    Returns:
        float32 scalar; 0 with its graph where there is no pair.

    Raises:
        ValueError: for shapes that differ or an unknown reduction.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: got {reduction!r}. Allowed are {', '.join(map(repr, REDUCTIONS))}.")
    with torch.autocast(device_type=scores.device.type, enabled=False):
        order = _order(losses.detach(), scores)
        cost = F.softplus(-_differences(scores.float()) * order) * order.abs()
        if reduction == "sum":
            return cost.sum() / len(scores)
        return cost.sum() / order.abs().sum().clamp(min=1)


@torch.no_grad()
def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Kendall's tau-b of two quantities of M patches, mean over samples: 1 the same order, -1 the reverse, 0 none.

    Args:
        a: (B, M).
        b: (B, M).

    Returns:
        float32 scalar on the device of ``a``; a sample in which all values of ``a`` or of ``b`` are equal counts as 0.

    Raises:
        ValueError: for shapes that differ.
    """
    first, second = _order(a, b), _order(b, a)
    agreement = (first * second).sum((1, 2))
    pairs = (first.abs().sum((1, 2)) * second.abs().sum((1, 2))).sqrt()
    return (agreement / pairs.clamp(min=1)).mean()


def _differences(x: Tensor) -> Tensor:
    """x_i - x_j: (B, M) -> (B, M, M)."""
    return x[:, :, None] - x[:, None, :]


def _order(x: Tensor, other: Tensor) -> Tensor:
    """Sign of all differences, float32 (B, M, M)."""
    if x.ndim != 2 or x.shape != other.shape:
        raise ValueError(
            f"scores, losses: got shapes {tuple(x.shape)} and {tuple(other.shape)}. Give two values (B, M) per patch."
        )
    return _differences(x.float()).sign()
