"""Each query against its own key and a queue of keys of earlier batches (MoCo)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.losses.contrastive import gather_embeddings
from common.losses.embedding_queue import EmbeddingQueue

_EPS = 1e-8


def info_nce(
    queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float, *, filled: Tensor | None = None
) -> Tensor:
    """InfoNCE of normalised embeddings, the positive first among 1 + Q (He et al., arXiv 1911.05722, Eq. 1).

    ``mean_i -log(exp(q_i k_i / t) / (exp(q_i k_i / t) + sum_j exp(q_i n_j / t)))``; the other keys of the batch do not
    count.

    Args:
        queries: (N, E).
        keys: (N, E); row ``i`` belongs to row ``i`` of ``queries``.
        negatives: (Q, E).
        temperature: t, divides the cosines.
        filled: bool (Q,), which of the negatives count; ``None`` is all. Without any, the loss is 0.

    Returns:
        scalar, float32.
    """
    with torch.autocast(device_type=queries.device.type, enabled=False):
        q, k, n = (F.normalize(e.float(), dim=-1, eps=_EPS) for e in (queries, keys, negatives))
        against = q @ n.t()
        if filled is not None:
            against = against.masked_fill(~filled, -torch.inf)
        logits = torch.cat([(q * k).sum(1, keepdim=True), against], dim=1) / temperature
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))


class QueueContrast(nn.Module):
    """:func:`info_nce` against the keys of earlier batches; then this batch's keys join them.

    The queue starts empty and not with random vectors as in the released code, so that no step learns to tell keys
    from noise; in the first step the loss is 0. Under DDP, the keys of all ranks join the queue of each.

    Args:
        temperature: divides the cosines; 0.2 in MoCo v2, 0.07 in MoCo v1.
        queue_size: keys that are kept. 65536 in the papers, the last 256 batches of 256.
        embedding_features: E, the length of the embeddings.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(self, *, temperature: float = 0.2, queue_size: int = 1024, embedding_features: int = 128) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature: got {temperature}. Give a number above 0.")
        if queue_size < 1:
            raise ValueError(f"queue_size: got {queue_size}. Give 1 or more: the queue holds all negatives.")
        self.temperature = temperature
        self.queue = EmbeddingQueue(size=queue_size, features=embedding_features)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Loss of ``queries`` and their ``keys``, both (N, E): a float32 scalar. In training, the queue moves on."""
        keys = keys.detach().float()
        (negatives,), filled = self.queue.read()
        loss = info_nce(queries, keys, negatives, self.temperature, filled=filled)
        if self.training:
            self.queue.write(gather_embeddings(keys).unsqueeze(0))
        return loss
