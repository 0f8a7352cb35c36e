"""NIfTI files read with the affine that their header states."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import nibabel as nib
from monai.data import NibabelReader
from monai.utils import ensure_tuple


class NiftiReader(NibabelReader):
    """MONAI's ``NibabelReader`` that never replaces one affine of a header by another.

    Where ``pixdim`` and the sform differ by more than 1e-5, MONAI's reader silently takes the qform instead, even one
    whose code says that it is not set: the patient is then flipped or has another size, and a mask no longer lies where
    other programs show it. Here ``affine`` and ``original_affine`` are nibabel's, by the NIfTI standard's own order
    (sform, then qform, then ``pixdim``), as in :func:`common.data.headers.check_header`.
    """

    def read(self, data: Sequence[str | os.PathLike] | str | os.PathLike, **kwargs: Any) -> Any:
        """The nibabel image of a file, or a list of them; ``kwargs`` as for ``nibabel.load``."""
        self.filenames = ensure_tuple(data)
        images = [nib.load(name, **{**self.kwargs, **kwargs}) for name in self.filenames]
        return images if len(images) > 1 else images[0]
