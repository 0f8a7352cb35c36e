"""DINO: each view of an image predicts how a slow copy shares another view out among prototypes; no negatives.

Source: Caron et al., ICCV 2021 (arXiv 2104.14294) and its released code: a head of three layers with GELU, 2048 wide
and 256 at the end, with batch norms only if asked for (``use_bn_in_head``); 65536 prototypes of length 1, held still in
the first of 100 epochs; temperatures 0.1 and, of the copy, 0.04, or from there to 0.07 in 30 epochs; the copy's scores
less their running mean, of momentum 0.9; the copy's own momentum from 0.996 to 1 along half a cosine; 8 small views.
Batch norms are the default here: without them, embeddings collapse (docs/baselines.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from common.losses.contrastive import gather_embeddings
from common.losses.prototypes import across_views
from common.masking.schedules import linear
from common.methods.multi_crop import MultiCrop
from common.methods.siamese import SlowSiamese
from common.networks.heads import ProjectionHead, PrototypeHead, Prototypes
from common.networks.mit_unet import MixTransformerUNet


class DINO(MultiCrop, SlowSiamese):
    """Scores all views with the network, and the large ones with its teacher.

    Args:
        momentum: share of the teacher that an update keeps at the start; at the end it keeps all.
        embedding_features: E, length of the embeddings.
        hidden_features: width of the head's two hidden layers.
        n_prototypes: K.
        teacher_temperature: of the teacher's distribution, at the start and after ``warm_up``.
        warm_up: share of the training in which it rises.
        norm: of the head's hidden layers, see :func:`common.networks.heads.hidden_layer`.
        network, local_views, freeze, further: see :class:`~common.methods.multi_crop.MultiCrop`.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        network: MixTransformerUNet,
        *,
        momentum: float = 0.996,
        embedding_features: int = 256,
        hidden_features: int = 2048,
        n_prototypes: int = 4096,
        local_views: int = 8,
        teacher_temperature: tuple[float, float] = (0.04, 0.07),
        warm_up: float = 0.1,
        freeze: float = 0.01,
        norm: str = "batch",
        **further: Any,
    ) -> None:
        if not (len(teacher_temperature) == 2 and min(teacher_temperature) > 0 and 0 <= warm_up <= 1):
            raise ValueError(
                f"teacher_temperature, warm_up: got {teacher_temperature} and {warm_up}. Give two numbers above 0, "
                "and a share of the training."
            )
        projection = ProjectionHead(
            spatial_dims=network.spatial_dims,
            in_channels=network.encoder.channels[-1],
            out_features=embedding_features,
            hidden_features=hidden_features,
            hidden_layers=2,
            norm=norm,
            activation="gelu",
        )
        for layer in projection.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        head = PrototypeHead(projection, Prototypes(features=embedding_features, n_prototypes=n_prototypes))
        super().__init__(
            network,
            head=head,
            local_views=local_views,
            freeze=freeze,
            momentum_start=momentum,
            momentum_end=1.0,
            **further,
        )
        self.temperatures = tuple(teacher_temperature)
        self.warm_up = warm_up

    def set_progress(self, progress: float) -> None:
        """How much of the training is done, in [0, 1]: momentum, the teacher's temperature, and frozen prototypes."""
        MultiCrop.set_progress(self, progress)
        SlowSiamese.set_progress(self, progress)

    def teacher_temperature(self) -> float:
        """Of the teacher's distribution, now."""
        return linear(self.progress / self.warm_up if self.warm_up else 1.0, *self.temperatures)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Score views of ``image`` (B, C, *S), values in [0, 1].

        Returns:
            ``image`` and ``views`` (2, B, C, *S), the large ones; their ``embeddings`` float32 (2, B, E) by the
            network; ``scores`` (2 + L, B, K) of all views and ``teacher_scores`` (2, B, K), the latter without
            gradient; ``teacher_temperature``, a number; ``stats``.
        """
        image = image.as_subclass(Tensor).float()
        views = self.draw_views(image)
        embeddings, scores = self.score(image, views)
        return self.outputs(
            image,
            views,
            embeddings,
            scores=scores,
            teacher_scores=self.teacher(*views).unflatten(0, (2, -1)),
            teacher_temperature=self.teacher_temperature(),
        )


class DINOLoss(nn.Module):
    """Cross entropy of each view's distribution and the teacher's of every other large view, centred and sharpened.

    Without the centre one prototype would win all cases, without the sharpening all would share them equally. The
    centre is part of this module's state: save it with the method.

    Args:
        temperature: divides the network's scores.
        n_prototypes: K.
        center_momentum: share of the centre that an update keeps.

    Raises:
        ValueError: for an argument out of range.
    """

    center: Tensor

    def __init__(self, *, temperature: float = 0.1, n_prototypes: int = 4096, center_momentum: float = 0.9) -> None:
        super().__init__()
        if not (temperature > 0 and 0 <= center_momentum < 1):
            raise ValueError(
                f"temperature, center_momentum: got {temperature} and {center_momentum}. Give a number above 0, and a "
                "share below 1."
            )
        self.temperature = temperature
        self.center_momentum = center_momentum
        self.register_buffer("center", torch.zeros(n_prototypes))

    def forward(self, outputs: dict[str, Any], target: Tensor | None = None) -> Tensor:
        """Scalar loss of what :class:`DINO` returns, also in ``outputs["losses"]``. In training, the centre moves on.

        Args:
            outputs: see :meth:`DINO.forward`.
            target: what MONAI's trainer passes; unused.
        """
        del target
        found = outputs["teacher_scores"].float()
        wanted = ((found - self.center) / outputs["teacher_temperature"]).softmax(-1)
        loss = across_views(wanted, outputs["scores"], self.temperature)
        if self.training:
            mean = gather_embeddings(found.transpose(0, 1)).mean((0, 1))
            self.center.lerp_(mean, 1 - self.center_momentum)
        outputs["losses"] = {"prediction": loss.detach()}
        return loss
