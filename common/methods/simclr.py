"""SimCLR: the embeddings of two views of an image are more alike than those of different images.

Source: Chen et al., ICML 2020 (arXiv 2002.05709) and its released code: a head of two layers with batch norms, as wide
as the encoder's output and 128 at the end, NT-Xent with temperature 0.1 on ImageNet (0.5 on CIFAR-10), all other
embeddings of the batch as negatives, of 8192 there.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from common.losses.level_contrast import LevelContrast
from common.methods.siamese import Siamese
from common.networks.mit_unet import MixTransformerUNet


class SimCLR(Siamese):
    """Embeds two views with one network.

    Args:
        network, out_norm, further: see :class:`~common.methods.siamese.Siamese`.
    """

    def __init__(self, network: MixTransformerUNet, *, out_norm: str = "batch", **further: Any) -> None:
        super().__init__(network, out_norm=out_norm, **further)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Embed two views of ``image`` (B, C, *S), values in [0, 1].

        Returns:
            ``image`` and ``views`` (2, B, C, *S); ``embeddings`` float32 (2, B, E); ``stats``.
        """
        image = image.as_subclass(Tensor).float()
        views = self.draw_views(image)
        return self.outputs(image, views, self.embed(*views).unflatten(0, (2, -1)))


class SimCLRLoss(nn.Module):
    """NT-Xent of the two views (Eq. 1), over the cases of all processes.

    Args:
        temperature: divides the cosines.
    """

    def __init__(self, *, temperature: float = 0.1) -> None:
        super().__init__()
        self.contrast = LevelContrast(kind="ntxent", temperature=temperature, learnable=False)

    def forward(self, outputs: dict[str, Any], target: Tensor | None = None) -> Tensor:
        """Scalar loss of what :class:`SimCLR` returns; it also goes into ``outputs["losses"]``.

        Args:
            outputs: see :meth:`SimCLR.forward`.
            target: what MONAI's trainer passes; unused.
        """
        del target
        a, b = outputs["embeddings"].unsqueeze(2)  # the encoder's deepest level is the only one
        loss = self.contrast(a, b)
        outputs["losses"] = {"contrastive": loss.detach()}
        return loss
