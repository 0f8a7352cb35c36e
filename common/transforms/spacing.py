"""Resampling to a voxel size: along the axes, and safe beside entries whose names start like an image's."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import Spacingd

from common.transforms.axis_resample import AxisResample


class SafeSpacingd(Spacingd):
    """MONAI's ``Spacingd`` that works along the axes and leaves entries such as ``image_path`` alone.

    ``Spacingd`` of MONAI 1.6.0 and 1.6.1 calls ``.update()`` on every entry named ``<key>_*``, taking it for a
    metadata dictionary; MONAI Label adds ``image_path``, a string, and inference fails. Such entries are set aside
    for the call unless they are dictionaries or transformed themselves. Arguments are those of ``Spacingd``; values
    are the same up to rounding, several times as fast (:mod:`common.transforms.axis_resample`).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        general = self.spacing_transform.sp_resample
        self.spacing_transform.sp_resample = AxisResample(
            mode=general.mode,
            padding_mode=general.padding_mode,
            align_corners=general.align_corners,
            dtype=general.dtype,
            lazy=general.lazy,
        )

    def __call__(self, data: Mapping[Hashable, torch.Tensor], lazy: bool | None = None) -> dict[Hashable, torch.Tensor]:
        aside = {name: value for name, value in data.items() if self._sets_aside(name, value)}
        d = super().__call__({name: value for name, value in data.items() if name not in aside}, lazy=lazy)
        return {**d, **aside}

    def _sets_aside(self, name: Hashable, value: object) -> bool:
        if not isinstance(name, str) or isinstance(value, dict) or name in self.keys:
            return False
        return any(name.startswith(f"{key}_") for key in self.keys)
