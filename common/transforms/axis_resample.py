"""Resampling along the axes of a volume, one after the other: what changing the voxel size amounts to.

A general resampling evaluates eight neighbours at every point of a dense grid of coordinates. Between two voxel sizes
of one orientation the same trilinear interpolation is three linear ones, each with a table of places per axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from monai.config import DtypeLike
from monai.data import MetaTensor
from monai.data.meta_obj import get_track_meta
from monai.data.utils import to_affine_nd
from monai.transforms import SpatialResample, TraceableTransform
from monai.utils import fall_back_tuple, get_equivalent_dtype

# places this close to the middle between two voxels count as the middle: affines are rounded to float32 in files
TIE = 1e-3
# voxels by which a map that counts as one along the axes may miss a voxel at the far end of another axis
_MAX_MISS = 1e-3


class AxisResample(SpatialResample):
    """MONAI's ``SpatialResample``, along the axes where the two grids' axes are parallel and in the same order.

    Results are the same up to rounding: here places are float64, there coordinates have the type of the volume.
    Whatever is not linear or nearest with repeated borders, is lazy, or has no affine goes MONAI's way.
    """

    def __call__(
        self,
        img: torch.Tensor,
        dst_affine: torch.Tensor | None = None,
        spatial_size: Sequence[int] | torch.Tensor | int | None = None,
        mode: str | int | None = None,
        padding_mode: str | None = None,
        align_corners: bool | None = None,
        dtype: DtypeLike = None,
        lazy: bool | None = None,
    ) -> torch.Tensor:
        """See ``SpatialResample``; the result is float32."""
        kind = _name(self.mode if mode is None else mode)
        border = _name(self.padding_mode if padding_mode is None else padding_mode) == "border"
        eager = not (self.lazy if lazy is None else lazy)
        general = partial(
            super().__call__, img, dst_affine, spatial_size, mode, padding_mode, align_corners, dtype, lazy
        )
        if kind not in ("bilinear", "nearest") or not border or not eager or not get_track_meta():
            return general()
        if not isinstance(img, MetaTensor) or img.pending_operations or dst_affine is None or spatial_size is None:
            return general()
        size = [int(n) for n in fall_back_tuple(spatial_size, img.shape[1:], lambda n: n >= 0)]
        xform = _index_map(img, dst_affine)
        places = None if xform is None else _places(xform, img.shape[1:], size)
        if places is None:
            return general()
        working = get_equivalent_dtype(dtype or self.dtype or img.dtype, torch.Tensor)
        values = img.as_tensor()
        if kind == "bilinear":
            values = values.to(working if working.is_floating_point else torch.float32)
        corners = self.align_corners if align_corners is None else align_corners
        extra = {"mode": kind, "padding_mode": "border", "align_corners": corners, "src_affine": img.affine}
        meta = TraceableTransform.track_transform_meta(
            img,
            sp_size=size,
            affine=xform,
            extra_info={**extra, "dtype": str(working).removeprefix("torch.")},
            orig_size=img.shape[1:],
            transform_info=self.get_transform_info(),
            lazy=False,
        )
        resampled = resample_axes(values, places, nearest=kind == "nearest")
        return MetaTensor(resampled.to(torch.float32)).copy_meta_from(meta)


def resample_axes(volume: torch.Tensor, places: Sequence[np.ndarray], *, nearest: bool = False) -> torch.Tensor:
    """Values of a volume at the points of a rectangular grid.

    Args:
        volume: ``(C, *S)``; a floating-point type unless ``nearest``.
        places: per spatial axis, where the grid's planes lie, in voxels of the volume. Beyond the first or last voxel
            its value is repeated.
        nearest: take the nearest voxel instead of interpolating linearly; in the middle between two the earlier one, as
            a mask on its way back (:mod:`common.transforms.restore`) takes the later one, so that both ways cancel.

    Returns:
        ``(C, *(len(p) for p in places))``, type and device of the volume.

    Raises:
        ValueError: for linear interpolation of whole numbers.
    """
    if not nearest and not volume.is_floating_point():
        raise ValueError(f"volume: got {volume.dtype}. Give floating-point numbers, or take the nearest voxels.")
    # the axis that shrinks most comes first: the others have less to do then
    order = sorted(range(len(places)), key=lambda axis: len(places[axis]) / volume.shape[axis + 1])
    for axis in order:
        size = volume.shape[axis + 1]
        place = np.clip(places[axis], 0, size - 1)
        lower = np.ceil(place - 0.5 - TIE) if nearest else np.floor(place)
        below = volume.index_select(axis + 1, torch.as_tensor(lower.astype(np.int64), device=volume.device))
        share = torch.as_tensor(place - lower, dtype=volume.dtype, device=volume.device)
        if not nearest and share.any():
            upper = np.minimum(lower + 1, size - 1).astype(np.int64)
            above = volume.index_select(axis + 1, torch.as_tensor(upper, device=volume.device))
            below.lerp_(above, share.reshape(-1, *[1] * (volume.ndim - axis - 2)))
        volume = below
    return volume


def _index_map(img: MetaTensor, dst_affine: torch.Tensor) -> np.ndarray | None:
    """From voxel indices of the result to those of the volume, ``(n + 1, n + 1)``; ``None`` of a singular affine."""
    n = img.ndim - 1
    src, dst = (to_affine_nd(n, np.asarray(a.cpu(), dtype=np.float64)) for a in (img.affine, dst_affine))
    try:
        return np.asarray(np.linalg.solve(src, dst))
    except np.linalg.LinAlgError:
        return None


def _places(xform: np.ndarray, shape: Sequence[int], size: Sequence[int]) -> list[np.ndarray] | None:
    """Places on every axis; ``None`` where an axis runs along several, or nothing changes."""
    n = len(shape)
    linear, offset = xform[:n, :n], xform[:n, n]
    miss = np.abs(linear - np.diag(np.diag(linear))) @ np.asarray(size, dtype=float)
    if miss.max() > _MAX_MISS or (list(shape) == list(size) and np.allclose(xform, np.eye(n + 1), atol=1e-3)):
        return None
    return [offset[axis] + linear[axis, axis] * np.arange(size[axis]) for axis in range(n)]


def _name(mode: object) -> str:
    return str(getattr(mode, "value", mode))
