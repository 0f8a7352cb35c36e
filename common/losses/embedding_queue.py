"""The embeddings of earlier batches, kept as negatives for batches that are small."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EmbeddingQueue(nn.Module):
    """A ring of the newest embeddings; buffers, so that it is saved and moves to the device.

    Nothing in it asks the device where the ring stands. In distributed training, give every rank the embeddings of
    all of them, and all rings stay the same.

    Args:
        size: embeddings that are kept.
        features: E, the length of an embedding.
        views: V, rings that are written together.

    Raises:
        ValueError: for an argument below 1.
    """

    embeddings: Tensor
    next: Tensor
    filled: Tensor

    def __init__(self, *, size: int, features: int, views: int = 1) -> None:
        super().__init__()
        if min(size, features, views) < 1:
            raise ValueError(f"size, features, views: got {size}, {features} and {views}. Give at least 1 of each.")
        self.size = size
        self.register_buffer("embeddings", torch.zeros(views, size, features))
        self.register_buffer("next", torch.zeros((), dtype=torch.long))
        self.register_buffer("filled", torch.zeros(size, dtype=torch.bool))

    def read(self) -> tuple[Tensor, Tensor]:
        """Embeddings (V, size, E) as they are now, and bool (size,), which of them have been written."""
        # autograd needs the values of now, and the ring is written before the backward pass
        return self.embeddings.clone(), self.filled.clone()

    @torch.no_grad()
    def write(self, embeddings: Tensor) -> None:
        """Put embeddings (V, N, E) over the oldest ones; of more than ``size``, the last ones."""
        newest = embeddings.detach()[:, -self.size :]
        place = (self.next + torch.arange(newest.shape[1], device=newest.device)) % self.size
        self.embeddings.index_copy_(1, place, newest.to(self.embeddings.dtype))
        self.filled.index_fill_(0, place, True)
        self.next.add_(newest.shape[1]).remainder_(self.size)
