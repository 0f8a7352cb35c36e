"""Checks on loaded volumes, right after loading: what a header cannot tell."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from common.data.contents import check_label_values, check_same_grid, check_volume
from common.data.headers import check_shear


class CheckVolumed(MapTransform):
    """Refuse volumes (1, H, W, D) with NaN or infinite values, one value only, values that are not HU, or shear.

    Args:
        keys: images.
        allow_missing_keys: whether entries may be missing.

    Raises:
        InputError: naming the file; see :func:`common.data.contents.check_volume` and
            :func:`common.data.headers.check_shear`.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            check_shear(_affine(d[key]), d[key].shape[1:], file_name(d[key], key))
            check_volume((_voxels(d[key]), _affine(d[key]), file_name(d[key], key)))
        return d


class CheckLabeld(MapTransform):
    """Refuse labels (1, H, W, D) on another grid than their image, with values that are not ids, or with unknown ids.

    Args:
        keys: labels.
        image_key: the image that they label; where it is missing, grids are not compared.
        known_ids: ids that may occur besides 0; ``None``: any.
        allow_missing_keys: whether entries may be missing.

    Raises:
        InputError: naming the file; see :func:`common.data.contents.check_label`.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        *,
        image_key: str = "image",
        known_ids: Collection[int] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.known_ids = None if known_ids is None else frozenset(known_ids)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            check_loaded_label(d[key], key, d.get(self.image_key), self.known_ids)
        return d


def check_loaded_label(label: Any, key: Hashable, image: Any, known_ids: Collection[int] | None) -> None:
    """The checks of :class:`CheckLabeld` on one label and, unless it is ``None`` or carries no affine, its image."""
    name = file_name(label, key)
    if isinstance(label, MetaTensor) and isinstance(image, MetaTensor):
        check_same_grid(
            (tuple(label.shape[1:]), _affine(label), name), (tuple(image.shape[1:]), _affine(image), file_name(image))
        )
    check_label_values(_voxels(label), name, known_ids)


def file_name(volume: Any, key: Hashable = "image") -> str:
    """File that a loaded volume comes from, or its key where that is unknown."""
    meta = volume.meta if isinstance(volume, MetaTensor) else {}
    return str(meta.get("filename_or_obj") or key)


def _voxels(volume: Any) -> np.ndarray:
    voxels = torch.as_tensor(volume).detach().cpu()
    # sums and bounds of the checks overflow in half precision
    return (voxels.float() if voxels.dtype in (torch.float16, torch.bfloat16) else voxels).numpy()


def _affine(volume: Any) -> np.ndarray:
    return np.asarray(volume.affine) if isinstance(volume, MetaTensor) else np.eye(4)
