"""SimMIM: hide patches, predict their voxels from the deepest features by one linear layer.

Source: Xie et al., CVPR 2022 (arXiv 2111.09886) and its released code: a learnt token in the place of hidden patches,
60 % of patches of 32 pixels (the stride of its Swin Transformer), a one-layer head, L1 over the hidden voxels alone
(:class:`common.methods.autoencoder.ReconstructionLoss`), targets not normalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from common.methods.encoder_prediction import EncoderPrediction
from common.networks.mit_unet import MixTransformerUNet


class SimMIM(EncoderPrediction):
    """Predicts voxels; see :class:`common.methods.encoder_prediction.EncoderPrediction`.

    Args:
        network: its encoder is trained.
        patch_size: edge of a patch in voxels, or one per axis.
        mask_ratio: hidden share of the patches, above 0.
        mask_seed: start of the masks' random stream; :meth:`seed_masks` starts it anew.
    """

    def __init__(
        self,
        network: MixTransformerUNet,
        *,
        patch_size: int | Sequence[int] = 32,
        mask_ratio: float = 0.6,
        mask_seed: int = 0,
    ) -> None:
        super().__init__(
            network,
            features=network.in_channels,
            cell_size=1,
            patch_size=patch_size,
            mask_ratio=mask_ratio,
            mask_seed=mask_seed,
        )

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Predict ``image`` (B, C, *S), values in [0, 1], every axis a multiple of the network's stride.

        Returns:
            ``reconstruction`` float32 (1, B, C, *S), ``target`` (1, B, C, *S), ``mask`` bool (1, B, 1, *S), ``True`` =
            hidden, ``fill`` (C, 1, ...), the token, and ``stats``: ``mask_share``.
        """
        image = image.as_subclass(Tensor).float()
        mask, predicted = self.predict(image)
        return {
            "reconstruction": predicted.unsqueeze(0),
            "target": image.unsqueeze(0),
            "mask": mask.unsqueeze(0),
            "fill": self.token.detach(),
            "stats": {"mask_share": mask.float().mean()},
        }
