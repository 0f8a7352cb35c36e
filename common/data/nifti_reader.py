"""NIfTI files read with the affine that their header states, into the memory order that torch works in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import NibabelReader
from monai.utils import ensure_tuple


class NiftiReader(NibabelReader):
    """MONAI's ``NibabelReader`` that never replaces one affine of a header by another.

    Where ``pixdim`` and the sform differ by more than 1e-5, MONAI's reader silently takes the qform instead, even one
    whose code says that it is not set: the patient is then flipped or has another size, and a mask no longer lies where
    other programs show it. Here ``affine`` and ``original_affine`` are nibabel's, by the NIfTI standard's own order
    (sform, then qform, then ``pixdim``), as in :func:`common.data.headers.check_header`.

    Voxels come in C order. MONAI copies them there later, in one go, which takes longer than unpacking the file.
    """

    def read(self, data: Sequence[str | os.PathLike] | str | os.PathLike, **kwargs: Any) -> Any:
        """The nibabel image of a file, or a list of them; ``kwargs`` as for ``nibabel.load``."""
        self.filenames = ensure_tuple(data)
        images = [nib.load(name, **{**self.kwargs, **kwargs}) for name in self.filenames]
        return images if len(images) > 1 else images[0]

    def _get_array_data(self, img: Any, filename: str | os.PathLike) -> Any:
        array = super()._get_array_data(img, filename)
        return in_c_order(array) if isinstance(array, np.ndarray) else array


def in_c_order(array: np.ndarray, block: int = 16) -> np.ndarray:
    """The array with its last axis contiguous in memory; itself where it is so.

    Args:
        array: any; of three axes in the order of a NIfTI file, the first contiguous, it is copied in blocks that stay
            in the cache.
        block: edge of a block along the last two axes.
    """
    if array.flags.c_contiguous:
        return array
    if array.ndim == 4 and array.shape[3] == 1:
        return in_c_order(array[..., 0], block)[..., None]
    if array.ndim != 3:
        return np.ascontiguousarray(array)
    result = np.empty(array.shape, array.dtype)
    for j in range(0, array.shape[1], block):
        for k in range(0, array.shape[2], block):
            result[:, j : j + block, k : k + block] = array[:, j : j + block, k : k + block]
    return result
