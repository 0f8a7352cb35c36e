"""The hardest patches by a given score, the rest at random (AnatoMask, HPM). ``True`` = hidden."""

from __future__ import annotations

import math

import torch
from torch import Tensor

COUNTS = ("text", "alg1")
_NEVER = float("-inf")


def n_hard_patches(n: int, n_masked: int, share: float, counts: str = "text") -> int:
    """Patches that AnatoMask chooses by their score among ``n_masked`` hidden ones out of ``n``.

    Args:
        n: patches of the grid.
        n_masked: hidden patches.
        share: r_t, in [0, 1].
        counts: ``"text"`` takes ``floor(r n_masked)`` (section 3.3 and code), ``"alg1"`` ``ceil(r n)``, at most all of
            them (Algorithm 1).
    """
    if counts == "text":
        return math.floor(n_masked * share + 1e-9)
    return min(math.ceil(n * share - 1e-9), n_masked)


def hard_patch_mask(
    scores: Tensor,
    *,
    n_masked: int,
    n_hard: int,
    candidates: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Hide the ``n_hard`` patches of the highest score, and random others up to ``n_masked``.

    Sources: AnatoMask, section 3.3 (candidates are the patches that the teacher had to reconstruct), and HPM (all of
    them are). Every sample hides exactly ``n_masked`` patches; nothing is copied to the host.

    Args:
        scores: difficulty of every patch, (B, n); give the negative for the easiest first.
        n_masked: hidden patches of every sample, at least 1 and below n.
        n_hard: how many of them are chosen by score. Where a sample has fewer candidates, random patches take their
            place.
        candidates: bool (B, n); only these are chosen by score. Random patches come from everywhere.
        generator: random stream on the device of ``scores``.

    Returns:
        Two bool (B, n): what is hidden, and which part of it was chosen by score.

    Raises:
        ValueError: for numbers out of range.
    """
    n = scores.shape[1]
    if not 0 < n_masked < n or not 0 <= n_hard <= n_masked:
        raise ValueError(
            f"n_masked, n_hard: got {n_masked} and {n_hard} for {n} patches. Give at least one hidden and one visible "
            "patch, and not more hard patches than hidden ones."
        )
    ranked = scores.detach().float()
    if candidates is not None:
        ranked = ranked.masked_fill(~candidates, _NEVER)
    best = ranked.topk(n_hard, dim=1)
    hard = torch.zeros_like(ranked, dtype=torch.bool).scatter_(1, best.indices, best.values > _NEVER)
    noise = torch.rand(scores.shape, generator=generator, device=scores.device).masked_fill_(hard, 2.0)
    hidden = torch.zeros_like(hard).scatter_(1, noise.topk(n_masked, dim=1).indices, True)
    return hidden, hard
