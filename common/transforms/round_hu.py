"""HU as 16-bit integers: what a cache of volumes holds."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data.meta_obj import get_track_meta
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_tensor
from torch import Tensor

_LOWEST, _HIGHEST = torch.iinfo(torch.int16).min, torch.iinfo(torch.int16).max


class RoundHU(Transform):
    """Nearest int16; what lies beyond its range becomes its border.

    A plain cast truncates towards 0, which shifts air up and tissue down, and wraps around: metal of 40000 HU would
    become -25536, darker than air.

    Example:
        >>> RoundHU()(torch.tensor([[-999.6, 40.5001, 40000.0]])).tolist()
        [[-1000, 41, 32767]]
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  # MONAI's convention

    def __call__(self, img: NdarrayOrTensor) -> Tensor:
        """Round an image in HU of any shape."""
        image = convert_to_tensor(img, track_meta=get_track_meta())
        whole = image.round() if image.is_floating_point() else image.long()  # the range does not fit bytes
        return whole.clamp(_LOWEST, _HIGHEST).to(torch.int16)


class RoundHUd(MapTransform):
    """Dictionary twin of :class:`RoundHU`.

    Args:
        keys: images in HU.
        allow_missing_keys: leave absent keys alone instead of raising.
    """

    backend = RoundHU.backend

    def __init__(self, keys: KeysCollection, *, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.round = RoundHU()

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, Any]:
        """The dictionary with its images rounded."""
        d: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.round(d[key])
        return d
