"""What DINO and SwAV share: two views and several small ones, each scored against prototypes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from common.methods.distortion import RandomView
from common.methods.siamese import Siamese
from common.networks.heads import PrototypeHead
from common.networks.mit_unet import MixTransformerUNet

_LOCAL_EDGE = 96 / 224  # both papers' small views and large ones, in pixels


class MultiCrop(Siamese):
    """Large views show a large part of the image at its size, small ones a small part at less than half of it.

    Args:
        network, further: see :class:`~common.methods.siamese.Siamese`.
        head: the encoder's deepest map to an embedding and its scores.
        local_views: L, small views of each image; 0 for none.
        local_share: smallest share of the image that a small view shows; the largest is the smallest of a large view,
            as in both papers.
        freeze: share of the training, from its start, in which the prototypes are held still.

    Raises:
        ValueError: for an argument out of range.
    """

    projector: PrototypeHead

    def __init__(
        self,
        network: MixTransformerUNet,
        *,
        head: PrototypeHead,
        local_views: int,
        local_share: float = 0.05,
        freeze: float,
        **further: Any,
    ) -> None:
        super().__init__(network, projector=head, **further)
        if local_views < 0 or not 0 <= freeze <= 1:
            raise ValueError(f"local_views, freeze: got {local_views} and {freeze}. Give at least 0, and a share.")
        view_share = self.view.min_share
        if local_views and not 0 < local_share <= view_share:
            raise ValueError(
                f"local_share, view_share: got {local_share} and {view_share}. Small views show from the first to the "
                "second: give one above 0 and one at least as large, or local_views 0."
            )
        self.local_views = local_views
        self.local_view = RandomView(min_share=local_share, max_share=view_share) if local_views else None
        self.freeze = freeze
        self.projector.prototypes.frozen = freeze > 0

    def set_progress(self, progress: float) -> None:
        """How much of the training is done, in [0, 1]; tells whether the prototypes are held still."""
        self.projector.prototypes.frozen = progress < self.freeze

    def embed(self, *views: Tensor) -> Tensor:
        """Embeddings float32 (V * B, E) of V views (B, C, *S), view by view, before they are scored."""
        return self.projector.projection(*(self.network.encode(view)[-1] for view in views)).float()

    def draw_local_views(self, image: Tensor) -> Tensor | None:
        """L small views of ``image`` (B, C, *S) in one batch (L * B, C, *s), view by view; ``None`` for no views.

        s is 96 / 224 of S, rounded to what the network takes.
        """
        if self.local_view is None:
            return None
        stride, generator = self.network.total_stride, self.masks.on(image.device)
        shape = [max(1, round(_LOCAL_EDGE * size / stride)) * stride for size in image.shape[2:]]
        return torch.cat([self.local_view(image, generator, shape=shape) for _ in range(self.local_views)])

    def score(self, image: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (2, B, E) of the large ``views`` (2, B, C, *S), and scores (2 + L, B, K), theirs first."""
        local = self.draw_local_views(image)
        embeddings = self.embed(*views, *([] if local is None else [local])).unflatten(0, (-1, len(image)))
        return embeddings[: len(views)], self.projector.prototypes(embeddings)
