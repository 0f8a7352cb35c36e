"""Classes of a whole image on top of a pretrained encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.errors import InputError


class Classifier(nn.Module):
    """The encoder's deepest map, averaged over space, and one linear output per class.

    The child ``encoder`` has the names of the same encoder in a segmentation network, so its pretrained weights load as
    they are. A 2D encoder reads a volume slice by slice, and the average is over the slices too. Average and outputs
    are float32 under autocast: in half precision many cases would share one score, which an AUC counts as ties.

    Args:
        encoder: image (B, C, *S) -> maps, finest first; has ``channels`` and ``strides`` of the maps.
        n_classes: outputs, which do not exclude each other.
        spatial_dims: of the encoder, 2 or 3.
        dropout: share of the averaged features that a training step leaves out, in [0, 1).

    Raises:
        ValueError: for arguments out of range.
    """

    def __init__(self, encoder: nn.Module, *, n_classes: int, spatial_dims: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        if n_classes < 1:
            raise ValueError(f"n_classes: got {n_classes}. Give at least 1.")
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims: got {spatial_dims}. Allowed are 2 and 3.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: got {dropout}. Give a share, at least 0 and below 1.")
        channels: Sequence[int] = encoder.channels  # type: ignore[assignment]
        strides: Sequence[int] = encoder.strides  # type: ignore[assignment]
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels[-1], n_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.spatial_dims = spatial_dims
        self.total_stride = strides[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, C, *S) -> logits (B, n_classes), float32."""
        features = self.features(x)
        with torch.autocast(device_type=x.device.type, enabled=False):
            return self.head(self.dropout(features))

    def features(self, x: Tensor) -> Tensor:
        """Image (B, C, *S) -> averaged features (B, F), float32.

        Raises:
            InputError: when the total stride does not divide a size of the image.
        """
        n_axes = x.dim() - 2
        if n_axes not in (self.spatial_dims, 3) or any(
            n % self.total_stride for n in x.shape[2 : 2 + self.spatial_dims]
        ):
            msg = (
                f"image: got shape {list(x.shape)}. Give (B, C, *S) whose first {self.spatial_dims} spatial sizes are "
                f"multiples of {self.total_stride}: choose another classify_size."
            )
            raise InputError(msg)
        slices = n_axes > self.spatial_dims
        batch = x.shape[0]
        if slices:
            x = x.movedim(-1, 1).flatten(0, 1)
        pooled = self.encoder(x)[-1].float().flatten(2).mean(2)
        return pooled.unflatten(0, (batch, -1)).mean(1) if slices else pooled
