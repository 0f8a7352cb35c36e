"""AMLP's two terms beside the reconstruction: attention to the hard patches, and consistent categories.

AMLP (arXiv 2309.04312), Eq. 6 and 7. As printed, neither has a gradient: the first is a ratio whose mean is always 1,
the second compares labels with labels. Both are kept as ``literal``; the defaults are the readings of METHODS rows 15
and 16.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DISAGREEMENTS = ("coin", "half")
_XI = 1e-10  # of Eq. 7


def mean_over_hidden(values: Tensor, hidden: Tensor) -> Tensor:
    """Mean (B, 1) of values (B, n) over the hidden patches of each sample; 0 with its graph where none is."""
    weight = hidden.to(values.dtype)
    return (values * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)


def attention_reconstruction_loss(losses: Tensor, hidden: Tensor, *, literal: bool = False) -> Tensor:
    """Each hidden patch's error, weighted by how large it is among the hidden patches of its sample.

    ``mean_i sg(L_i / mean L) L_i = mean(L^2) / mean(L)``. Without the stop-gradient, easy patches would be made worse.

    Args:
        losses: error of every patch (B, n).
        hidden: bool (B, n), ``True`` = hidden.
        literal: the mean of Eq. 6 itself: 1, with zero gradient.

    Returns:
        float32 scalar.
    """
    losses = losses.float()
    ratio = losses / mean_over_hidden(losses, hidden).clamp(min=1e-12)
    weighted = ratio if literal else ratio.detach() * losses
    return mean_over_hidden(weighted, hidden).mean()


@torch.no_grad()
def update_categories(
    losses: Tensor, hidden: Tensor, foreground: Tensor, coin: Tensor, *, disagreement: str = "coin"
) -> Tensor:
    """New category of each patch: the old one where the reconstruction error agrees with it, else undecided.

    A patch agrees when it is foreground and hard, or background and easy; hard means an error of at least the mean
    over the sample's hidden patches. (The paper compares the ratio of Eq. 6 with the mean error; METHODS 4.5.)

    Args:
        losses: error of every patch (B, n).
        hidden: bool (B, n).
        foreground: bool (B, n), what clustering said.
        coin: bool (B, n), taken where the two disagree.
        disagreement: ``"coin"`` (paper) or ``"half"``: 0.5 there, the coin's mean, with less noise.

    Returns:
        (B, n) float32; means something where ``hidden``.

    Raises:
        ValueError: for an unknown ``disagreement``.
    """
    if disagreement not in DISAGREEMENTS:
        raise ValueError(f"disagreement: got {disagreement!r}. Allowed are {', '.join(map(repr, DISAGREEMENTS))}.")
    losses = losses.float()
    hard = losses >= mean_over_hidden(losses, hidden)
    undecided = coin.float() if disagreement == "coin" else torch.full_like(losses, 0.5)
    return torch.where(hard == foreground, foreground.float(), undecided)


def foreground_logit(patches: Tensor, centroids: Tensor, *, scale: float = 1.0, temperature: float = 1.0) -> Tensor:
    """Log-odds of belonging to the foreground's centroid, ``softmax_k(-|y - c_k|^2 / (t D scale^2))`` (METHODS 4.5).

    Args:
        patches: (B, n, D), with gradient.
        centroids: (B, K, D), the foreground's first; no gradient goes there.
        scale: standard deviation of the images, in their units: distances count in it.
        temperature: t.

    Returns:
        (B, n), float32.
    """
    with torch.autocast(device_type=patches.device.type, enabled=False):
        y, c = patches.float(), centroids.detach().float()
        # |y|^2 is the same for all centroids and cancels
        similarity = (2 * torch.bmm(y, c.mT) - c.square().sum(-1)[:, None]) / (temperature * y.shape[-1] * scale**2)
        return similarity[..., 0] - similarity[..., 1:].logsumexp(-1)


def category_consistency_loss(
    logit: Tensor, foreground: Tensor, category: Tensor, hidden: Tensor, *, literal: bool = False
) -> Tensor:
    """How far the reconstructed patches are from their updated categories.

    Args:
        logit: log-odds of the reconstructed patches (B, n), see :func:`foreground_logit`.
        foreground: bool (B, n), what clustering said of the original patches.
        category: (B, n) in [0, 1], see :func:`update_categories`.
        hidden: bool (B, n): patches that count.
        literal: Eq. 7 itself, where the two labels differ: ``-ln(1e-10) = 23.03`` for each such patch, and zero
            gradient. Written in float32: 1e-10 is 0 in half precision.

    Returns:
        float32 scalar, the mean over the hidden patches.
    """
    if literal:
        old = foreground.float()
        bce = -(category * (old + _XI).log() + (1 - category) * (1 - old + _XI).log())
        # keeps the graph, so that a zero gradient is shown and not an error
        bce = torch.where(category != old, bce, 0.0) + 0.0 * logit.float()
    else:
        with torch.autocast(device_type=logit.device.type, enabled=False):
            bce = F.binary_cross_entropy_with_logits(logit.float(), category.float(), reduction="none")
    return mean_over_hidden(bce, hidden).mean()
