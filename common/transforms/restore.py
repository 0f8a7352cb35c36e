"""A mask's way back from the network's grid to exactly the grid of the input file.

Reorienting and resampling only permute, flip and scale the axes of a volume, whatever its position in the scanner, so
the way back is one table of indices per axis. A dense grid of coordinates, which general resampling needs, would take
gigabytes at 512 x 512 x 1000.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import MapTransform
from monai.utils import TransformBackends, ensure_tuple_rep

from common.data.headers import MAX_DRIFT
from common.errors import InputError
from common.transforms.axis_resample import TIE


def axis_tables(
    pred_shape: Sequence[int], pred_affine: np.ndarray, shape: Sequence[int], affine: np.ndarray
) -> list[tuple[int, np.ndarray]]:
    """For every axis of the grid ``(shape, affine)``: the axis of the mask that runs along it, and its nearest indices.

    A voxel in the middle between two voxels of the mask takes the one with the higher index, on every axis and for
    every orientation of the input, so that each voxel of the mask is used equally often.

    Args:
        pred_shape, pred_affine: the mask's grid; affine ``(n + 1, n + 1)``, voxel index to mm.
        shape, affine: the grid to fill.

    Returns:
        per axis of ``shape``: the axis of the mask, and int64 indices into it; -1 outside the mask, that is where the
        voxel neither touches the mask nor is within one of its voxels.

    Raises:
        InputError: when the map between the grids is more than flips, permutations and scalings.
    """
    n = len(shape)
    to_pred = np.linalg.solve(to_affine_nd(n, pred_affine), to_affine_nd(n, affine))
    linear, offset = to_pred[:n, :n], to_pred[:n, n]
    middle = (np.asarray(shape, dtype=float) - 1) / 2
    mask_axes = np.abs(linear).argmax(axis=0)  # of each axis to fill
    if len(set(mask_axes.tolist())) < n:
        raise InputError(_not_aligned("their axes are not parallel"))
    tables = []
    for axis, mask_axis in enumerate(mask_axes.tolist()):
        others = np.arange(n) != axis
        # in voxels of the grid to fill, as check_shear measures it, so that a volume it accepts comes back
        drift = float((np.abs(linear[mask_axis]) * middle)[others].sum() / abs(linear[mask_axis, axis]))
        if drift > MAX_DRIFT + TIE:
            raise InputError(_not_aligned(f"their axes part by {drift:.2f} voxels towards the corners"))
        start = offset[mask_axis] + (linear[mask_axis] * middle)[others].sum()
        place = start + linear[mask_axis, axis] * np.arange(shape[axis])
        size = pred_shape[mask_axis]
        nearest = np.clip(np.floor(place + 0.5 + TIE).astype(np.int64), 0, size - 1)
        # MONAI's Spacing rounds the mask's size, and may centre it: the file's outermost voxels can lie beyond its edge
        reach = max(1.0, (1 + abs(linear[mask_axis, axis])) / 2) - TIE
        outside = (place <= -reach) | (place >= size - 1 + reach)
        tables.append((mask_axis, np.where(outside, -1, nearest)))
    return tables


def restore_grid(
    pred: torch.Tensor, pred_affine: np.ndarray, shape: Sequence[int], affine: np.ndarray, fill: int = 0
) -> torch.Tensor:
    """Nearest-neighbour copy of a mask onto another grid with the same axes up to flips, permutations and scalings.

    Args:
        pred: ``(C, *S)``, any type and device; needs no more memory than the result and its last step together.
        pred_affine: voxel index of ``pred`` to mm, ``(n + 1, n + 1)``.
        shape: spatial shape of the result.
        affine: voxel index of the result to mm.
        fill: value of voxels outside ``pred``.

    Returns:
        ``(C, *shape)``, type and device of ``pred``, contiguous.

    Raises:
        InputError: when the axes of the two grids are not parallel (a sheared, e.g. gantry-tilted, volume).
        ValueError: when the numbers of axes differ.
    """
    n = len(shape)
    if pred.ndim != n + 1:
        msg = f"the mask has shape {tuple(pred.shape)}; expected (C, *S) with {n} spatial axes, as {tuple(shape)} has."
        raise ValueError(msg)
    tables = axis_tables(pred.shape[1:], np.asarray(pred_affine, float), shape, np.asarray(affine, float))
    result = pred.permute(0, *(1 + mask_axis for mask_axis, _ in tables))
    # The last axis first, while the volume is small: there elements are copied one by one, later whole rows are.
    for axis in reversed(range(n)):
        index = torch.as_tensor(tables[axis][1], device=pred.device)
        result = result.index_select(axis + 1, index.clamp_min(0))
        result.index_fill_(axis + 1, torch.nonzero(index < 0).flatten(), fill)
    return result


class RestoreGridd(MapTransform):
    """Bring integer masks back to the grid of the file that the network's input was loaded from.

    MONAI's ``Invertd`` does the same with a dense coordinate grid. The two differ only where a voxel lies in the middle
    between two voxels of the mask: ``Invertd`` rounds to even, this transform up.

    Args:
        keys: masks ``(1, *S)`` on the grid of the reference, e.g. ``pred``.
        ref_keys: MetaTensors ``(C, *S)``, the network's input: ``affine`` is the mask's grid, ``original_affine`` and
            ``spatial_shape`` of ``meta`` (from MONAI's readers) are the file's.
        fill: value outside the mask, where preprocessing has cropped.
        allow_missing_keys: skip keys that are not there.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 (MONAI's attribute)

    def __init__(
        self,
        keys: KeysCollection = "pred",
        ref_keys: KeysCollection = "image",
        fill: int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.ref_keys = ensure_tuple_rep(ref_keys, len(self.keys))
        self.fill = fill

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Replace each mask by a MetaTensor ``(1, *file shape)`` with the file's affine and the reference's metadata.

        Raises:
            InputError: see :func:`restore_grid`; the message names the file.
            ValueError: when the mask is not on the reference's grid, or the reference does not know its file's grid.
        """
        result = dict(data)
        for key, ref_key in self.key_iterator(result, self.ref_keys):
            result[key] = self._restore(result[key], result[ref_key], str(key), str(ref_key))
        return result

    def _restore(self, pred: torch.Tensor, ref: torch.Tensor, key: str, ref_key: str) -> MetaTensor:
        if not isinstance(ref, MetaTensor) or not {"original_affine", "spatial_shape"} <= ref.meta.keys():
            msg = f"'{ref_key}' does not know its file's grid; expected the MetaTensor that LoadImaged returned."
            raise ValueError(msg)
        if pred.shape[1:] != ref.shape[1:]:
            msg = (
                f"'{key}' has shape {tuple(pred.shape)}, '{ref_key}' {tuple(ref.shape)}; "
                "expected both on the network's grid."
            )
            raise ValueError(msg)
        # np.array takes tensors and arrays: collating turns one into the other
        affine = np.array(ref.meta["original_affine"], dtype=np.float64)
        shape = [int(size) for size in ref.meta["spatial_shape"]][: pred.ndim - 1]
        plain = pred.as_tensor() if isinstance(pred, MetaTensor) else pred
        try:
            restored = restore_grid(plain, np.array(ref.affine.cpu()), shape, affine, self.fill)
        except InputError as error:
            msg = f"{ref.meta.get('filename_or_obj', ref_key)}: {error}"
            raise InputError(msg) from error
        meta = {**ref.meta, "affine": torch.as_tensor(affine)}
        return MetaTensor(restored, meta=meta)


def _not_aligned(what: str) -> str:
    return (
        f"the grid of the mask and that of the file do not line up ({what}), as after gantry tilt. "
        "Resample the volume to perpendicular axes first."
    )
