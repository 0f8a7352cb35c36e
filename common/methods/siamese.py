"""What SimCLR, MoCo v2, BYOL, DINO and SwAV share: two random views of an image, embedded; also by a slow copy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from common.losses.contrastive import embedding_spread
from common.masking.generator import MaskGenerator
from common.methods.distortion import RandomView
from common.methods.teacher import EMATeacher
from common.networks.heads import Embedder, ProjectionHead
from common.networks.mit_unet import MixTransformerUNet


class Siamese(nn.Module):
    """Two views and their embeddings; the encoder alone learns, so transfer the encoder alone.

    The views go through the encoder one after the other, and through the head together: its batch norm, where it has
    one, takes off what all cases and views have in common. The encoder's norms are those of layers.

    Args:
        network: its encoder is trained; the decoder is saved as it was initialised.
        embedding_features: E, length of the embeddings.
        hidden_features: width of the projection head's hidden layer; 0 is as wide as the encoder's deepest map.
        norm: of that layer, see :func:`common.networks.heads.hidden_layer`.
        out_norm: of the embedding.
        projector: a head in place of the one that these four describe.
        view: how views are made; ``None`` is :class:`~common.methods.distortion.RandomView` as it is.
        mask_seed: start of the views' random stream; :meth:`seed_masks` starts it anew.
    """

    view_names: tuple[str, str] = ("view 1", "view 2")

    def __init__(
        self,
        network: MixTransformerUNet,
        *,
        embedding_features: int = 128,
        hidden_features: int = 0,
        norm: str = "batch",
        out_norm: str = "none",
        projector: nn.Module | None = None,
        view: RandomView | None = None,
        mask_seed: int = 0,
    ) -> None:
        super().__init__()
        if embedding_features < 1 or hidden_features < 0:
            raise ValueError(
                f"embedding_features, hidden_features: got {embedding_features} and {hidden_features}. "
                "Give at least 1 and at least 0."
            )
        channels = network.encoder.channels[-1]
        self.network = network
        network.freeze_decoder()
        self.projector = (
            ProjectionHead(
                spatial_dims=network.spatial_dims,
                in_channels=channels,
                out_features=embedding_features,
                hidden_features=hidden_features or channels,
                norm=norm,
                out_norm=out_norm,
            )
            if projector is None
            else projector
        )
        self.view = RandomView() if view is None else view
        self.masks = MaskGenerator(mask_seed)

    def seed_masks(self, seed: int) -> None:
        """Start the views' random stream anew."""
        self.masks.seed(seed)

    def draw_views(self, image: Tensor) -> Tensor:
        """Two views (2, B, C, *S) of ``image`` (B, C, *S), values in [0, 1], drawn one after the other."""
        generator = self.masks.on(image.device)
        return torch.stack([self.view(image, generator) for _ in self.view_names])

    def embed(self, *views: Tensor) -> Tensor:
        """Embeddings float32 (V * B, E) of V views (B, C, *S), view by view."""
        return self.projector(*(self.network.encode(view)[-1] for view in views)).float()

    def outputs(self, image: Tensor, views: Tensor, embeddings: Tensor, **further: Any) -> dict[str, Any]:
        """The dictionary of :mod:`common.methods`.

        Among the ``stats`` is ``embedding_spread``, over the cases of each view: 0 when all are alike, or for a single
        case.
        """
        spread = torch.stack([embedding_spread(of_view) for of_view in embeddings]).mean()
        stats = {"embedding_spread": spread, **further.pop("stats", {})}
        return {"image": image.expand_as(views), "views": views, "embeddings": embeddings, "stats": stats, **further}


class SlowSiamese(Siamese):
    """With a teacher: the moving average of encoder and projection head.

    Args:
        momentum_start: share of the teacher that an update keeps, at the start.
        momentum_end: the same at the end; in between, half a cosine.
        further arguments: see :class:`Siamese`.
    """

    def __init__(
        self, network: MixTransformerUNet, *, momentum_start: float, momentum_end: float, **further: Any
    ) -> None:
        super().__init__(network, **further)
        self.teacher = EMATeacher(
            self._student(), momentum_start=momentum_start, momentum_end=momentum_end, ramp=1.0, shape="cosine"
        )
        self.progress = 0.0

    def _student(self) -> Embedder:
        """A view of the weights that learn, not a copy; no child of this module, which would save them twice."""
        return Embedder(self.network.encoder, self.projector)

    def set_progress(self, progress: float) -> None:
        """How much of the training is done, in [0, 1]; the momentum follows."""
        self.progress = progress

    def update_teacher(self) -> None:
        """Let the teacher follow, after a step of the optimizer."""
        self.teacher.update(self._student(), self.progress)

    def outputs(self, image: Tensor, views: Tensor, embeddings: Tensor, **further: Any) -> dict[str, Any]:
        """That of :meth:`Siamese.outputs`, and the momentum among the ``stats``."""
        momentum = torch.full((), self.teacher.momentum(self.progress), device=image.device)
        return super().outputs(image, views, embeddings, stats={"teacher_momentum": momentum}, **further)
