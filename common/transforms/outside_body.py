"""Nothing that can be segmented lies in the air around the patient: what labels may say without an annotation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import TransformBackends

from common.masking.enclosed import CERTAIN_BACKGROUND, enclosed_by_tissue


class MarkOutsideBodyd(MapTransform):
    """Marks the background outside the body as certain in labels (1, H, W, D) of channel indices.

    Where a structure was not annotated, a loss for partial labels cannot know that it is absent, and a network trained
    on few annotations finds it anywhere. Outside the body, everybody knows. What has tissue on both sides along some
    axis counts as inside, so nothing is claimed of lungs that a narrow field of view cuts open.

    Args:
        keys: labels of type uint8.
        image_key: the image, HU.
        level: HU above which a voxel is tissue.
        allow_missing_keys: whether labels may be missing.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - MONAI's way

    def __init__(
        self,
        keys: KeysCollection = "label",
        *,
        image_key: str = "image",
        level: float = -500.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.level = level

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            outside = ~enclosed_by_tissue(torch.as_tensor(d[self.image_key])[None] > self.level)[0]
            d[key] = d[key].masked_fill(outside & (d[key] == 0), CERTAIN_BACKGROUND)
        return d
