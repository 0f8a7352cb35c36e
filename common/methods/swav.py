"""SwAV: from one view of an image, the prototypes are predicted that another is assigned to, all used equally.

Source: Caron et al., NeurIPS 2020 (arXiv 2006.09882) and its released code: a head with a hidden layer of 2048 and 128
at the end; 3000 prototypes of length 1, held still in the first of 200 epochs; temperature 0.1; codes by three
iterations of Sinkhorn and Knopp at epsilon 0.05, over the batch and, for batches of 256, the last 3840 embeddings of
either view; 6 small views.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.losses.contrastive import gather_embeddings, own_rows
from common.losses.embedding_queue import EmbeddingQueue
from common.losses.prototypes import across_views, sinkhorn
from common.methods.multi_crop import MultiCrop
from common.networks.heads import ProjectionHead, PrototypeHead, Prototypes
from common.networks.mit_unet import MixTransformerUNet


class SwAV(MultiCrop):
    """Scores all views with the network.

    Args:
        embedding_features: E, length of the embeddings.
        hidden_features: width of the head's hidden layer.
        n_prototypes: K.
        norm: of the head's hidden layer, see :func:`common.networks.heads.hidden_layer`.
        network, local_views, freeze, further: see :class:`~common.methods.multi_crop.MultiCrop`.
    """

    def __init__(
        self,
        network: MixTransformerUNet,
        *,
        embedding_features: int = 128,
        hidden_features: int = 2048,
        n_prototypes: int = 512,
        local_views: int = 6,
        freeze: float = 0.005,
        norm: str = "batch",
        **further: Any,
    ) -> None:
        projection = ProjectionHead(
            spatial_dims=network.spatial_dims,
            in_channels=network.encoder.channels[-1],
            out_features=embedding_features,
            hidden_features=hidden_features,
            norm=norm,
        )
        head = PrototypeHead(projection, Prototypes(features=embedding_features, n_prototypes=n_prototypes))
        super().__init__(network, head=head, local_views=local_views, freeze=freeze, **further)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Score views of ``image`` (B, C, *S), values in [0, 1].

        Returns:
            ``image`` and ``views`` (2, B, C, *S), the large ones; their ``embeddings`` float32 (2, B, E); ``scores``
            (2 + L, B, K) of all views; ``prototypes`` (K, E), without gradient; ``stats``.
        """
        image = image.as_subclass(Tensor).float()
        views = self.draw_views(image)
        embeddings, scores = self.score(image, views)
        prototypes = self.projector.prototypes.directions().detach()
        return self.outputs(image, views, embeddings, scores=scores, prototypes=prototypes)


class SwAVLoss(nn.Module):
    """Cross entropy of each view's distribution and the codes of every other large view.

    Codes are shared out among the cases of all processes and a queue of earlier ones, once it is full: a batch of a few
    has too few for every prototype to get its share. The queue is part of this module's state: save it with the method.

    Args:
        temperature: divides the scores in the prediction.
        epsilon, iterations: see :func:`common.losses.prototypes.sinkhorn`.
        queue_size: embeddings of each large view that are kept; 0 for none.
        embedding_features: E.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        queue_size: int = 1024,
        embedding_features: int = 128,
    ) -> None:
        super().__init__()
        if min(temperature, epsilon) <= 0 or iterations < 1 or queue_size < 0:
            raise ValueError(
                f"temperature, epsilon, iterations, queue_size: got {temperature}, {epsilon}, {iterations} and "
                f"{queue_size}. Give numbers above 0; a queue_size of 0 is no queue."
            )
        self.temperature = temperature
        self.epsilon = epsilon
        self.iterations = iterations
        self.queue = EmbeddingQueue(size=queue_size, features=embedding_features, views=2) if queue_size else None

    def forward(self, outputs: dict[str, Any], target: Tensor | None = None) -> Tensor:
        """Scalar loss of what :class:`SwAV` returns, also in ``outputs["losses"]``. In training, the queue moves on.

        Args:
            outputs: see :meth:`SwAV.forward`.
            target: what MONAI's trainer passes; unused.
        """
        del target
        codes = self.codes(F.normalize(outputs["embeddings"].detach().float(), dim=-1), outputs["prototypes"])
        loss = across_views(codes, outputs["scores"], self.temperature)
        outputs["losses"] = {"prediction": loss.detach()}
        return loss

    @torch.no_grad()
    def codes(self, embeddings: Tensor, prototypes: Tensor) -> Tensor:
        """Codes (2, B, K) of embeddings (2, B, E) among prototypes (K, E), all of length 1."""
        batch = gather_embeddings(embeddings.transpose(0, 1)).transpose(0, 1)
        shared = batch.shape[1]
        everything, counted = batch, None
        if self.queue is not None:
            earlier, filled = self.queue.read()
            everything = torch.cat([earlier, batch], dim=1)
            counted = torch.cat([filled & filled.all(), filled.new_ones(shared)])
            if self.training:
                self.queue.write(batch)
        with torch.autocast(device_type=embeddings.device.type, enabled=False):
            scores = everything @ prototypes.t()
        codes = [sinkhorn(s, epsilon=self.epsilon, iterations=self.iterations, counted=counted) for s in scores]
        return torch.stack(codes)[:, -shared:][:, own_rows(embeddings.shape[1])]
