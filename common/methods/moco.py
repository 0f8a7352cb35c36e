"""MoCo v2: each view finds its partner, embedded by a slow copy, among the embeddings of earlier batches.

Source: He et al., CVPR 2020 (arXiv 1911.05722), Chen et al., 2020 (arXiv 2003.04297) and their released code: a head of
two layers without norms, as wide as the encoder's output and 128 at the end, momentum 0.999, temperature 0.2, a queue
of 65536 keys. There, the encoder is full of batch norms, and batches are shuffled between GPUs before the keys are
made, so that a query does not recognise its key by their statistics. Here the encoder has none, and the head's hidden
layer has one instead, over all queries or all keys of a step: without it, embeddings collapse (docs/baselines.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from common.losses.queue_contrast import QueueContrast
from common.methods.siamese import SlowSiamese
from common.networks.mit_unet import MixTransformerUNet


class MoCo(SlowSiamese):
    """Embeds one view, the query, with the network and the other, the key, with its teacher.

    Args:
        momentum: share of the teacher that an update keeps.
        network, further: see :class:`~common.methods.siamese.Siamese`.
    """

    view_names = ("query", "key")

    def __init__(self, network: MixTransformerUNet, *, momentum: float = 0.999, **further: Any) -> None:
        super().__init__(network, momentum_start=momentum, momentum_end=momentum, **further)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Embed a query and a key of ``image`` (B, C, *S), values in [0, 1].

        Returns:
            ``image`` and ``views`` (2, B, C, *S); ``embeddings`` float32 (2, B, E), no gradient to keys; ``stats``.
        """
        image = image.as_subclass(Tensor).float()
        views = self.draw_views(image)
        embeddings = torch.stack([self.embed(views[0]), self.teacher(views[1])])
        return self.outputs(image, views, embeddings)


class MoCoLoss(nn.Module):
    """InfoNCE of queries against their keys and a queue, see :class:`common.losses.queue_contrast.QueueContrast`.

    The queue is part of this module's state: save it with the method.

    Args:
        temperature: divides the cosines.
        queue_size: keys of earlier batches that serve as negatives. 1024 is the paper's age, 256 batches, at a batch
            of 4: older keys were made by another teacher.
        embedding_features: E, length of the embeddings.
    """

    def __init__(self, *, temperature: float = 0.2, queue_size: int = 1024, embedding_features: int = 128) -> None:
        super().__init__()
        self.contrast = QueueContrast(
            temperature=temperature, queue_size=queue_size, embedding_features=embedding_features
        )

    def forward(self, outputs: dict[str, Any], target: Tensor | None = None) -> Tensor:
        """Scalar loss of what :class:`MoCo` returns; it also goes into ``outputs["losses"]``.

        Args:
            outputs: see :meth:`MoCo.forward`.
            target: what MONAI's trainer passes; unused.
        """
        del target
        loss = self.contrast(*outputs["embeddings"])
        outputs["losses"] = {"contrastive": loss.detach()}
        return loss
