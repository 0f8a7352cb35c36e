"""MaskFeat: hide patches, predict their histograms of oriented gradients from the deepest features by one linear layer.

Source: Wei et al., CVPR 2022 (arXiv 2112.09133) and the code released with it in SlowFast: histograms of 9 orientations
in cells of 8 x 8, per channel and with length 1 (:mod:`common.losses.hog`), a learnt token in the place of hidden
patches, 40 % of them, a linear head, the squared error of the hidden patches alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from common.losses.hog import draw_gradients, oriented_gradients
from common.losses.reconstruction import mean_error
from common.masking.patches import as_patch_size
from common.methods.encoder_prediction import EncoderPrediction
from common.networks.mit_unet import MixTransformerUNet


class MaskFeat(EncoderPrediction):
    """Predicts histograms; see :class:`common.methods.encoder_prediction.EncoderPrediction`.

    Args:
        network: its encoder is trained.
        patch_size: edge of a patch in voxels, or one per axis: whole cells.
        mask_ratio: hidden share of the patches, above 0.
        cell_size: edge of a cell in voxels; must divide the network's stride.
        n_bins: orientations.
        gradient: see :func:`common.losses.hog.oriented_gradients`.
        mask_seed: start of the masks' random stream; :meth:`seed_masks` starts it anew.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        network: MixTransformerUNet,
        *,
        patch_size: int | Sequence[int] = 16,
        mask_ratio: float = 0.4,
        cell_size: int = 8,
        n_bins: int = 9,
        gradient: str = "sobel",
        mask_seed: int = 0,
    ) -> None:
        super().__init__(
            network,
            features=network.in_channels * n_bins,
            cell_size=cell_size,
            patch_size=patch_size,
            mask_ratio=mask_ratio,
            mask_seed=mask_seed,
        )
        edges = as_patch_size(patch_size, network.spatial_dims)
        if any(edge % cell_size for edge in edges):
            raise ValueError(f"patch_size: got {patch_size}. Give a multiple of the histograms' cells, {cell_size}.")
        self.cell_size = cell_size
        self.n_bins = n_bins
        self.gradient = gradient

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Predict the histograms of ``image`` (B, C, *S), values in [0, 1].

        Returns:
            ``image``, ``mask`` and ``fill`` of :mod:`common.methods`, V = 1, and what is trained: ``histograms``
            (B, C * n_bins, *cells), ``predicted_histograms`` of the same shape, and bool ``cell_mask`` (B, 1, *cells),
            ``True`` = hidden. :meth:`draw` adds ``target`` and ``reconstruction``.
        """
        image = image.as_subclass(Tensor).float()
        histograms = oriented_gradients(image, cell_size=self.cell_size, n_bins=self.n_bins, gradient=self.gradient)
        mask, predicted = self.predict(image)
        # a cell is wholly hidden or wholly visible, so one voxel of it tells
        one_per_cell = [slice(None, None, self.cell_size)] * self.network.spatial_dims
        cell_mask = mask[tuple([slice(None)] * 2 + one_per_cell)]
        return {
            "histograms": histograms,
            "predicted_histograms": predicted,
            "cell_mask": cell_mask,
            "image": image.unsqueeze(0),
            "mask": mask.unsqueeze(0),
            "fill": self.token.detach(),
            "stats": {"mask_share": mask.float().mean()},
        }

    def draw(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """``outputs`` of :meth:`forward` with histograms drawn as ``target`` and ``reconstruction`` (1, B, C, *S)."""
        target, made = (
            draw_gradients(outputs[name], cell_size=self.cell_size, n_bins=self.n_bins).unsqueeze(0)
            for name in ("histograms", "predicted_histograms")
        )
        return {**outputs, "target": target, "reconstruction": made}


class MaskFeatLoss(nn.Module):
    """Mean squared error of the hidden cells' histograms."""

    def forward(self, outputs: dict[str, Any], target: Tensor | None = None) -> Tensor:
        """Scalar loss of what :class:`MaskFeat` returns, and its part in ``outputs["losses"]``.

        Args:
            outputs: see :meth:`MaskFeat.forward`.
            target: what MONAI's trainer passes; unused, ``outputs`` holds the target.
        """
        del target
        loss = mean_error(outputs["predicted_histograms"], outputs["histograms"], outputs["cell_mask"], kind="mse")
        outputs["losses"] = {"histograms": loss.detach()}
        return loss
