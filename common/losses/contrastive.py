"""Pulling the embeddings of two views of a case together, and telling when they collapse."""

from __future__ import annotations

import logging
import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from common.losses.embedding_queue import EmbeddingQueue

logger = logging.getLogger(__name__)

_EPS = 1e-8
_MAX_LOG_SCALE = math.log(100)


def _normalised(*embeddings: Tensor) -> list[Tensor]:
    return [F.normalize(e.float(), dim=-1, eps=_EPS) for e in embeddings]


def clip_loss(
    a: Tensor,
    b: Tensor,
    scale: float | Tensor,
    *,
    negatives_a: Tensor | None = None,
    negatives_b: Tensor | None = None,
    filled: Tensor | None = None,
    symmetric: bool = True,
) -> Tensor:
    """Symmetric cross entropy over the similarities of two views (ISD-MAE, arXiv 2411.13198; CLIP's form).

    ``S = scale * a b^T`` of the normalised embeddings, ``0.5 (CE(S, i) + CE(S^T, i))``. Swapping ``a`` and ``b``
    changes nothing; a single pair without further negatives gives 0.

    Args:
        a: embeddings (N, E) of one view.
        b: embeddings (N, E) of the other view; row ``i`` belongs to row ``i`` of ``a``.
        scale: factor of the cosines, the inverse temperature.
        negatives_a: (Q, E), further negatives for ``b``: embeddings of the first view of other cases.
        negatives_b: (Q, E), further negatives for ``a``.
        filled: bool (Q,), which of the negatives count; ``None`` is all.
        symmetric: ``False`` lets ``a`` look for its partners in ``b`` and not the other way round: InfoNCE, as in CMAE.

    Returns:
        scalar, float32.
    """
    with torch.autocast(device_type=a.device.type, enabled=False):
        a, b = _normalised(a, b)
        similarity = scale * (a @ b.t())
        loss = _one_way(similarity, a, negatives_b, filled, scale)
        if not symmetric:
            return loss
        return (loss + _one_way(similarity.t(), b, negatives_a, filled, scale)) / 2


def _one_way(
    similarity: Tensor, anchors: Tensor, negatives: Tensor | None, filled: Tensor | None, scale: float | Tensor
) -> Tensor:
    """Cross entropy of finding each anchor's partner on the diagonal of (N, N), among (Q, E) negatives too."""
    if negatives is not None:
        extra = scale * (anchors @ _normalised(negatives)[0].t())
        if filled is not None:
            extra = extra.masked_fill(~filled, -torch.inf)
        similarity = torch.cat([similarity, extra], dim=1)
    return F.cross_entropy(similarity, torch.arange(similarity.shape[0], device=similarity.device))


def ntxent(a: Tensor, b: Tensor, temperature: float | Tensor) -> Tensor:
    """NT-Xent over 2N embeddings: all others are negatives, the positive stays in the denominator.

    Sources: SimCLR (Chen et al. 2020) Eq. 1; TCS-MAE (arXiv 2407.08961) Eq. 17 without its misprint, which takes the
    positive out of the denominator and so has no lower bound.

    Args:
        a: embeddings (N, E) of one view.
        b: embeddings (N, E) of the other view.
        temperature: divides the cosines.

    Returns:
        scalar, float32, the mean over all 2N anchors.
    """
    with torch.autocast(device_type=a.device.type, enabled=False):
        both = torch.cat(_normalised(a, b))
        n = a.shape[0]
        similarity = both @ both.t() / temperature
        oneself = torch.eye(2 * n, dtype=torch.bool, device=both.device)
        partner = torch.arange(2 * n, device=both.device).roll(n)
        return F.cross_entropy(similarity.masked_fill(oneself, -torch.inf), partner)


def cosine_loss(a: Tensor, b: Tensor) -> Tensor:
    """``mean(1 - cos(a_i, b_i))`` of embeddings (N, E): no negatives, so a constant embedding is a solution.

    The released TCS-MAE code uses 1000 times this, summed over three scales.
    """
    with torch.autocast(device_type=a.device.type, enabled=False):
        a, b = _normalised(a, b)
        return (1 - (a * b).sum(dim=-1)).mean()


@torch.no_grad()
def embedding_spread(embeddings: Tensor) -> Tensor:
    """Standard deviation over the samples of each normalised dimension, averaged: 0 when embeddings collapse.

    Directions spread evenly over the sphere give ``1 / sqrt(E)`` (SimSiam, Chen & He 2021, section 4.1); raise the
    alarm below a tenth of that.

    Args:
        embeddings: (..., E), all leading axes are samples.

    Returns:
        0-d tensor without gradient.
    """
    (e,) = _normalised(embeddings.detach().flatten(0, -2))
    return e.std(dim=0, correction=0).mean()


def gather_embeddings(embeddings: Tensor) -> Tensor:
    """Embeddings of all ranks (W * N, E), with the gradient of this rank's own; as they are outside of DDP.

    Every rank computes the loss of the whole batch and differentiates it by its own part, times W. The mean over ranks
    that DDP takes is then exactly the gradient of the whole batch. All ranks must hold equally many.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return embeddings
    world_size = dist.get_world_size()
    parts = [torch.empty_like(embeddings) for _ in range(world_size)]
    dist.all_gather(parts, embeddings.detach().contiguous())
    own = embeddings
    # exactly the value of `own`, so that all ranks hold the same, with `world_size` times its gradient
    parts[dist.get_rank()] = own + (world_size - 1) * (own - own.detach())
    return torch.cat(parts)


def own_rows(n: int) -> slice:
    """Where this rank's ``n`` embeddings stand in what :func:`gather_embeddings` returns."""
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    return slice(rank * n, (rank + 1) * n)


class SymmetricContrastiveLoss(nn.Module):
    """ISD-MAE's contrast of the two views, :func:`clip_loss`, with what small batches need.

    A single pair has no negatives and its loss is 0 whatever the network does. Then either a queue of the last
    embeddings supplies negatives, or the term is skipped (logged once), or it is an error. Under DDP the pairs of all
    ranks count.

    Args:
        logit_scale: factor of the cosines. 2.6593 = ln(1/0.07) is the paper's and the code's (temperature 0.376);
            14.2857 = 1/0.07 is CLIP's.
        learnable: train the factor, stored as its logarithm and kept at 100 or below. Give this module's parameters to
            the optimizer then.
        queue_size: embeddings of each view to keep as negatives; 0 for none.
        single_pair: ``"skip"`` or ``"raise"``, what to do with one pair when there is no queue.
        embedding_features: E, the length of the embeddings in the queue.

    Raises:
        ValueError: for arguments out of range, or a single pair where that is an error.
    """

    def __init__(
        self,
        *,
        logit_scale: float = 2.6593,
        learnable: bool = False,
        queue_size: int = 0,
        single_pair: str = "skip",
        embedding_features: int = 128,
    ) -> None:
        super().__init__()
        if not 0 < logit_scale <= 100:
            raise ValueError(f"logit_scale: got {logit_scale}. Give a factor above 0 and at most 100.")
        if queue_size < 0 or embedding_features < 1:
            raise ValueError(
                f"queue_size, embedding_features: got {queue_size} and {embedding_features}. "
                "Give at least 0 and at least 1."
            )
        if single_pair not in ("skip", "raise"):
            raise ValueError(f"single_pair: got {single_pair!r}. Allowed are 'skip' and 'raise'.")
        self.single_pair = single_pair
        self._warned = False
        self._constant_scale = float(logit_scale)
        self.log_scale = nn.Parameter(torch.tensor(math.log(logit_scale))) if learnable else None
        self.queue = EmbeddingQueue(size=queue_size, features=embedding_features, views=2) if queue_size else None

    @property
    def scale(self) -> float | Tensor:
        """Factor of the cosines: a number, or a 0-d tensor when it is learnt."""
        if self.log_scale is None:
            return self._constant_scale
        return self.log_scale.clamp(max=_MAX_LOG_SCALE).exp()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Loss of the views ``a`` and ``b``, both (N, E): a float32 scalar."""
        a, b = gather_embeddings(a.float()), gather_embeddings(b.float())
        if self.queue is not None:
            (first, second), filled = self.queue.read()
            loss = clip_loss(a, b, self.scale, negatives_a=first, negatives_b=second, filled=filled)
            if self.training:
                self.queue.write(torch.stack([a, b]))
            return loss
        if a.shape[0] == 1:
            return self._without_negatives(a, b)
        return clip_loss(a, b, self.scale)

    def _without_negatives(self, a: Tensor, b: Tensor) -> Tensor:
        """Zero that keeps the graph, so that every parameter still gets a gradient."""
        message = "A single pair has no negatives. Use a larger batch or a queue_size above 0"
        if self.single_pair == "raise":
            raise ValueError(f"{message}.")
        if not self._warned:
            self._warned = True
            logger.warning("%s; until then the contrastive term is 0.", message)
        return clip_loss(a, b, self.scale) * 0
