"""Agreement of two views on prototypes: balanced codes (SwAV) and cross entropy across views (DINO, SwAV)."""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-30


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float = 0.05, iterations: int = 3, counted: Tensor | None = None) -> Tensor:
    """Codes that share the cases out evenly among prototypes, by Sinkhorn and Knopp's iteration.

    Starting with ``exp(scores / epsilon)``, each prototype's codes are scaled to 1 / K of the whole and then each
    case's to 1 / N, again and again (Caron et al., arXiv 2006.09882, Eq. 3 to 5).

    Args:
        scores: cosines (N, K) of cases and prototypes.
        epsilon: smaller is closer to a single prototype per case.
        iterations: of the two scalings.
        counted: bool (N,), which of the cases take part; the codes of the others are 0. ``None`` is all.

    Returns:
        codes float32 (N, K), each case's sum is 1.
    """
    with torch.autocast(device_type=scores.device.type, enabled=False):
        scores = scores.float()
        codes = ((scores - scores.amax()) / epsilon).exp()
        if counted is not None:
            codes = codes * counted[:, None]
        for _ in range(iterations):
            # the totals 1 / K and 1 / N cancel out: the last scaling alone tells how large the codes are
            codes = codes / codes.sum(0).clamp(min=_TINY)
            codes = codes / codes.sum(1, keepdim=True).clamp(min=_TINY)
        return codes


def across_views(targets: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Cross entropy of each view's scores and the targets of every other view, averaged over pairs and cases.

    Args:
        targets: (T, B, K), distributions over K prototypes that the first T views stand for.
        scores: (V, B, K) of all views, those T first.
        temperature: divides the scores.

    Returns:
        scalar, float32.
    """
    with torch.autocast(device_type=scores.device.type, enabled=False):
        logarithms = (scores.float() / temperature).log_softmax(-1)
        entropies = -torch.einsum("tbk,vbk->tv", targets.float(), logarithms) / scores.shape[1]
        pairs = entropies.numel() - len(targets)
        return (entropies.sum() - entropies.diagonal().sum()) / pairs
