"""BYOL: from one view of an image, the embedding of another is predicted, made by a slow copy; no negatives.

Source: Grill et al., NeurIPS 2020 (arXiv 2006.07733) and its released code: heads with a hidden layer of 4096 with a
batch norm and 256 at the end, a predictor of the same shape after the trained one, the normalised squared error of both
directions, momentum from 0.996 to 1 along half a cosine (from 0.99 in trainings of 100 and 300 epochs, 0.97 of 40).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from common.losses.contrastive import cosine_loss
from common.methods.siamese import SlowSiamese
from common.networks.heads import mlp
from common.networks.mit_unet import MixTransformerUNet


class BYOL(SlowSiamese):
    """Embeds both views with the network and with its teacher, and predicts the one from the other.

    A constant embedding would be a solution; what keeps the network from it is the predictor, the slow teacher, and the
    batch norms. Look at ``embedding_spread``: below a tenth of ``1 / sqrt(E)`` it has collapsed. A batch of one image
    has its own two views to compare, and nothing to learn from them.

    Args:
        momentum: share of the teacher that an update keeps at the start; at the end it keeps all.
        network, embedding_features, hidden_features, norm, further: see :class:`~common.methods.siamese.Siamese`; the
            predictor's hidden layer is that of the projection head.
    """

    def __init__(
        self,
        network: MixTransformerUNet,
        *,
        momentum: float = 0.996,
        embedding_features: int = 256,
        hidden_features: int = 4096,
        norm: str = "batch",
        **further: Any,
    ) -> None:
        heads: dict[str, Any] = {"embedding_features": embedding_features, "hidden_features": hidden_features}
        super().__init__(network, momentum_start=momentum, momentum_end=1.0, norm=norm, **heads, **further)
        width = hidden_features or network.encoder.channels[-1]
        self.predictor = mlp(embedding_features, width, embedding_features, norm=norm)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Embed two views of ``image`` (B, C, *S), values in [0, 1], and predict each from the other.

        Returns:
            ``image`` and ``views`` (2, B, C, *S); ``embeddings`` float32 (2, B, E) by the network;
            ``predicted_embeddings`` and ``teacher_embeddings`` (2, B, E), each from the view of its index, the latter
            without gradient; ``stats``.
        """
        image = image.as_subclass(Tensor).float()
        views = self.draw_views(image)
        embeddings = self.embed(*views)
        return self.outputs(
            image,
            views,
            embeddings.unflatten(0, (2, -1)),
            predicted_embeddings=self.predictor(embeddings).float().unflatten(0, (2, -1)),
            teacher_embeddings=self.teacher(*views).unflatten(0, (2, -1)),
        )


class BYOLLoss(nn.Module):
    """``2 - 2 cos`` of each prediction and the other view's embedding by the teacher, summed over both (Eq. 2)."""

    def forward(self, outputs: dict[str, Any], target: Tensor | None = None) -> Tensor:
        """Scalar loss of what :class:`BYOL` returns; it also goes into ``outputs["losses"]``.

        Args:
            outputs: see :meth:`BYOL.forward`.
            target: what MONAI's trainer passes; unused.
        """
        del target
        pairs = zip(outputs["predicted_embeddings"], outputs["teacher_embeddings"].flip(0), strict=True)
        loss = 2 * torch.stack([cosine_loss(made, wanted) for made, wanted in pairs]).sum()
        outputs["losses"] = {"prediction": loss.detach()}
        return loss
