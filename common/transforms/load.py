"""Loading CT volumes and labels, with one clear error per bad file."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import DtypeLike, KeysCollection
from monai.data import ImageReader, ITKReader, MetaTensor
from monai.transforms import LoadImaged

from common.data.contents import unreadable
from common.data.headers import READ_ERRORS, check_header
from common.data.nifti_reader import NiftiReader

# the rest of a header differs between NIfTI and DICOM, and between NIfTI files, and would break batches
_KEPT_META = ("affine", "original_affine", "spatial_shape", "space", "filename_or_obj")


class LoadVolumed(LoadImaged):
    """MONAI's ``LoadImaged`` for NIfTI files and DICOM series folders, with checked headers.

    Loads a ``MetaTensor`` (1, H, W, D) whose affine maps voxels to RAS mm. A trailing fourth axis of length 1 is
    dropped. It is a subclass because MONAI Label looks for ``LoadImaged`` in a bundle's preprocessing.

    Args:
        keys: entries that hold a path.
        dtype: number type of the loaded tensor.
        allow_missing_keys: whether entries may be missing.

    Raises:
        InputError: on a bad file; see :func:`common.data.headers.check_header`.
    """

    def __init__(
        self, keys: KeysCollection, *, dtype: DtypeLike = np.float32, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(
            keys, dtype=dtype, image_only=True, ensure_channel_first=True, allow_missing_keys=allow_missing_keys
        )

    def __call__(self, data: Mapping[Hashable, Any], reader: ImageReader | None = None) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self._load(d[key], reader)
        return d

    def _load(self, source: Any, reader: ImageReader | None) -> MetaTensor:
        if not isinstance(source, str | os.PathLike):
            return self._image(source, reader)  # a list of files, say: MONAI's own ways
        path = Path(source).expanduser()
        check_header(path)
        if reader is None:
            reader = ITKReader() if path.is_dir() else NiftiReader()
        try:
            image = self._image(os.fspath(path), reader)
        except READ_ERRORS as error:
            raise unreadable(path, error) from error
        image.meta = {key: image.meta[key] for key in _KEPT_META if key in image.meta}
        image.meta["original_channel_dim"] = "no_channel"
        return image

    def _image(self, source: Any, reader: ImageReader | None) -> MetaTensor:
        loaded = self._loader(source, reader)
        # MONAI Label sets image_only to False; the image holds all of its metadata nevertheless
        return loaded[0] if isinstance(loaded, tuple) else loaded
