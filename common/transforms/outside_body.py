"""Nothing that can be segmented lies in the air around the patient: what labels and masks may say of themselves."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import TransformBackends

from common.masking.body import without_table
from common.masking.enclosed import CERTAIN_BACKGROUND, enclosed_by_tissue


def inside_body(image: torch.Tensor, level: float) -> torch.Tensor:
    """All tissue, and air that has the body on both sides along some axis, such as the lungs: bool of the same shape.

    The table is tissue to a threshold, too, but the air above it is outside, also where the back touches it, see
    :func:`common.masking.body.without_table`; an arm beside the body is no air.

    Args:
        image: MetaTensor (1, H, W, D), HU.
        level: HU above which a voxel is tissue.

    Raises:
        ValueError: for a tensor without an affine.
    """
    if not isinstance(image, MetaTensor):
        msg = "image: got a tensor without an affine, which says how large a voxel is. Drop it after this transform."
        raise ValueError(msg)
    tissue = image.as_tensor() > level
    body = torch.from_numpy(without_table(tissue[0].cpu().numpy(), image.pixdim.tolist()))
    return enclosed_by_tissue(body[None, None])[0].to(tissue.device) | tissue


class MarkOutsideBodyd(MapTransform):
    """Marks the background outside the body as certain in labels (1, H, W, D) of channel indices.

    Where a structure was not annotated, a loss for partial labels cannot know that it is absent, and a network trained
    on few annotations finds it anywhere. Outside the body, everybody knows. What has the body on both sides along some
    axis counts as inside, so nothing is claimed of lungs that a narrow field of view cuts open.

    Args:
        keys: labels of type uint8.
        image_key: the image, HU, a MetaTensor.
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
            outside = ~inside_body(d[self.image_key], self.level)
            d[key] = d[key].masked_fill(outside & (d[key] == 0), CERTAIN_BACKGROUND)
        return d


class BodyMaskd(MapTransform):
    """Adds the entry ``body``, bool (1, H, W, D), see :func:`inside_body`.

    Args:
        keys: one image, HU, a MetaTensor.
        level: HU above which a voxel is tissue.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - MONAI's way

    def __init__(self, keys: KeysCollection = "image", *, level: float = -500.0) -> None:
        super().__init__(keys)
        self.level = level

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d["body"] = inside_body(d[key], self.level)
        return d


class ClearOutsideBodyd(MapTransform):
    """Makes masks (1, H, W, D) background outside the entry ``body`` of :class:`BodyMaskd`, where there is one.

    A network that has trained for a short time leaves islands in the air beside the patient.

    Args:
        keys: masks on the grid of ``body``.
        allow_missing_keys: whether masks may be missing.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - MONAI's way

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if "body" not in d:
            return d
        for key in self.key_iterator(d):
            d[key] = d[key].masked_fill(~d["body"].to(d[key].device), 0)
        return d
