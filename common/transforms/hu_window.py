"""Hounsfield window: HU to [0, 1]."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data.meta_obj import get_track_meta
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor
from torch import Tensor


def check_window(level: float, width: float) -> tuple[float, float]:
    """Window as floats.

    Raises:
        ValueError: for a width that is not positive.
    """
    if not width > 0:
        raise ValueError(f"width: got {width}. Give the width of the window in HU, above 0.")
    return float(level), float(width)


def hu_window(hu: Tensor, level: float, width: float) -> Tensor:
    """``clip((hu - (level - width / 2)) / width, 0, 1)`` as float32 or float64; NaN becomes 0, as air is.

    Integers and half precision are promoted before subtracting, so that nothing wraps around or is rounded.
    """
    x = hu if hu.dtype in (torch.float32, torch.float64) else hu.float()
    return (x - (level - width / 2)).div_(width).clamp_(0, 1).nan_to_num_(nan=0.0)


class HUWindow(Transform):
    """Map the HU window around ``level`` to [0, 1] and clip what lies outside (METHODS 6.1).

    The papers' formula has no clip, their code has one: without it bone and air leave [0, 1].

    Args:
        level: centre of the window in HU.
        width: width of the window in HU.

    Example:
        >>> HUWindow(level=-500, width=1200)(torch.tensor([[-1100, -500, 100]])).tolist()
        [[0.0, 0.5, 1.0]]
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  # MONAI's convention

    def __init__(self, *, level: float, width: float) -> None:
        self.level, self.width = check_window(level, width)

    def __call__(self, img: NdarrayOrTensor) -> Tensor:
        """Window an image in HU of any shape; float32 of the same shape."""
        image = convert_to_tensor(img, track_meta=get_track_meta())
        windowed = hu_window(convert_to_tensor(image, track_meta=False), self.level, self.width)
        return convert_to_dst_type(windowed, dst=image, dtype=torch.float32)[0]

    # Not MONAI's InvertibleTransform: `Invertd` would then scale predictions to HU when it takes them back to the grid.
    def inverse(self, img: NdarrayOrTensor) -> Tensor:
        """HU of a windowed image. What had been clipped comes back as the border of the window."""
        image = convert_to_tensor(img, track_meta=get_track_meta())
        hu = convert_to_tensor(image, track_meta=False).float() * self.width + (self.level - self.width / 2)
        return convert_to_dst_type(hu, dst=image, dtype=torch.float32)[0]


class HUWindowd(MapTransform):
    """Dictionary twin of :class:`HUWindow`.

    Args:
        keys: images in HU.
        level: centre of the window in HU.
        width: width of the window in HU.
        allow_missing_keys: leave absent keys alone instead of raising.
    """

    backend = HUWindow.backend

    def __init__(self, keys: KeysCollection, *, level: float, width: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.window = HUWindow(level=level, width=width)

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, Any]:
        """The dictionary with its images windowed."""
        d: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.window(d[key])
        return d

    def inverse(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, Any]:
        """The dictionary with its images back in HU."""
        d: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.window.inverse(d[key])
        return d
