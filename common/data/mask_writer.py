"""Masks and class probabilities as NIfTI files that are complete or absent.

Used as the ``writer`` of MONAI's ``SaveImaged`` (which MONAI Label knows how to leave out)::

    {"_target_": "SaveImaged", "keys": "pred", "writer": "common.data.mask_writer.MaskWriter",
     "folder_layout": {"_target_": "common.data.mask_writer.CaseLayout", "output_dir": "@output_dir", "postfix": "seg"},
     "output_dtype": "uint8", "resample": false, "print_log": false}

For probabilities, the same with ``ProbabilityWriter`` and ``"postfix": "prob"``, placed before the argmax.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import torch
from monai.config import DtypeLike, NdarrayOrTensor, PathLike
from monai.data import FolderLayoutBase, NibabelWriter
from monai.data.utils import to_affine_nd

from common.data.cases import image_case_id
from common.errors import InputError
from common.files import written_beside

logger = logging.getLogger(__name__)

_GEOMETRY = (
    *("qform_code", "sform_code", "xyzt_units"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)


class CaseLayout(FolderLayoutBase):
    """One flat folder: ``<output_dir>/<case>_<postfix>.nii.gz``.

    The case is the input's file name without ``.nii`` or ``.nii.gz`` and without nnU-Net's ``_0000`` (see
    :func:`common.data.cases.image_case_id`), or the name of a DICOM series' folder, dots included: MONAI's own layout
    shortens ``1.2.840.17`` and ``1.2.840.18`` both to ``1``.
    """

    def __init__(self, output_dir: PathLike, postfix: str = "seg", extension: str = ".nii.gz") -> None:
        self.output_dir = Path(output_dir)
        self.postfix = postfix
        self.extension = extension

    def filename(self, subject: PathLike = "case", idx: int | None = None, **_: Any) -> str:
        """Path of the output for the input file ``subject``."""
        number = "" if idx is None else f"_{idx}"
        return str(self.output_dir / f"{image_case_id(subject)}_{self.postfix}{number}{self.extension}")


class MaskWriter(NibabelWriter):
    """Writes integer masks on the grid of the file they belong to.

    Beside shape and affine, the coordinate codes (sform, qform), units and voxel sizes in the header are those of the
    input, bit for bit, when that was a NIfTI file; after DICOM the affine is stored in both forms. Nothing else of the
    input's header is copied: descriptions may name patients.

    Args:
        output_dtype: integer type of the file.
        kwargs: taken from ``SaveImage`` and not used (masks are never scaled).
    """

    def __init__(self, output_dtype: DtypeLike = np.uint8, **kwargs: Any) -> None:
        super().__init__(output_dtype=output_dtype, **kwargs)
        self.meta: Mapping[str, Any] = {}

    def set_data_array(self, data_array: NdarrayOrTensor, channel_dim: int | None = 0, *_: Any, **__: Any) -> None:
        """Take a mask ``(1, *S)``, or ``(*S)`` with ``channel_dim=None``; a third axis of length 1 stays."""
        array = _as_numpy(data_array)
        if channel_dim is not None:
            array = np.moveaxis(array, channel_dim, -1)
            if array.shape[-1] == 1:
                array = array[..., 0]
        self.data_obj = array

    def set_metadata(self, meta_dict: Mapping | None, resample: bool = False, **_: Any) -> None:
        """Take affine, original affine and file name; masks are on their grid already and never resampled here.

        Raises:
            ValueError: for ``resample=True``.
        """
        if resample:
            msg = (
                "resample=True: RestoreGridd brings masks back to the input's grid. Set SaveImaged's resample to false."
            )
            raise ValueError(msg)
        self.meta = {} if meta_dict is None else meta_dict
        affine = self.meta.get("affine")
        self.affine = np.eye(4) if affine is None else to_affine_nd(3, _as_numpy(affine).astype(np.float64))

    def write(self, filename: PathLike, verbose: bool = False, **_: Any) -> None:
        """Write beside ``filename`` and rename.

        Raises:
            InputError: when the file cannot be written; what was there before stays.
            ValueError: when a value does not fit ``output_dtype``.
        """
        array = self._stored(np.asarray(self.data_obj))
        header = self._header(array)
        with written_beside(filename) as part:
            self._save(array, header, part)
        if verbose:
            logger.info("wrote %s", filename)

    def _stored(self, array: np.ndarray) -> np.ndarray:
        stored = array.astype(self.output_dtype, copy=False)
        if stored.dtype != array.dtype and not np.array_equal(stored, array):
            msg = f"the mask holds values that are not {np.dtype(self.output_dtype).name}; expected structure ids."
            raise ValueError(msg)
        return stored

    def _save(self, array: np.ndarray, header: nib.Nifti1Header, path: Path) -> None:
        image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        nib.save(image_class(array, header.get_best_affine(), header), path)

    def _header(self, array: np.ndarray) -> nib.Nifti1Header:
        source = self._source_header(array.shape[:3])
        header = nib.Nifti1Header() if source is None else type(source)()
        header.set_data_dtype(array.dtype)
        header.set_data_shape(array.shape)
        if source is None:
            header.set_sform(self.affine, code=1)
            # the rotation of a sheared affine fits the sform only
            header.set_qform(self.affine, code=1, strip_shears=True)
            header.set_xyzt_units("mm")
        else:
            for field in _GEOMETRY:
                header[field] = source[field]
            header["pixdim"][:4] = source["pixdim"][:4]
        return header

    def _source_header(self, shape: tuple[int, ...]) -> nib.Nifti1Header | None:
        """Header of the input file, when that is a NIfTI volume and the mask is on its grid."""
        path, original = self.meta.get("filename_or_obj"), self.meta.get("original_affine")
        if path is None or original is None or not str(path).endswith((".nii", ".nii.gz")):
            return None
        if not np.array_equal(to_affine_nd(3, _as_numpy(original).astype(np.float64)), self.affine):
            return None
        try:
            header = cast("nib.Nifti1Header", nib.load(path).header)
        except (OSError, nib.filebasedimages.ImageFileError) as error:
            msg = f"{path}: cannot be read any more ({error}). Keep the input where it is until its mask is written."
            raise InputError(msg) from error
        return header if header.get_data_shape()[:3] == shape else None


class ProbabilityWriter(MaskWriter):
    """Writes class probabilities from scores ``(C, *S)``, one byte per class and voxel, on the network's own grid.

    Softmax over channels in 255 steps; the file's ``scl_slope`` of 1/255 lets every reader show values from 0 to 1.
    Float32 on a 512 x 512 x 1000 input's grid would take 14 GB for 14 classes; on the network's grid the file's affine
    places it over the scan just as well.
    """

    def set_data_array(self, data_array: NdarrayOrTensor, *_: Any, **__: Any) -> None:
        """Take scores ``(C, *S)``, C >= 2."""
        scores = torch.as_tensor(data_array)
        result = torch.empty(scores.shape, dtype=torch.uint8)
        for i in range(scores.shape[1]):  # slab by slab: no float copy of the whole volume
            result[:, i] = scores[:, i].float().softmax(0).mul_(255).round_().to(torch.uint8).cpu()
        self.data_obj = np.moveaxis(result.numpy(), 0, -1)

    def _save(self, array: np.ndarray, header: nib.Nifti1Header, path: Path) -> None:
        # nibabel divides by the slope what it is given; these bytes are divided already
        header.set_slope_inter(1 / 255, 0)
        with nib.openers.Opener(str(path), "wb") as file:
            header.write_to(file)
            for channel in range(array.shape[-1]):
                for k in range(array.shape[-2]):
                    file.write(array[..., k, channel].tobytes(order="F"))


def _as_numpy(data: NdarrayOrTensor) -> np.ndarray:
    return data.detach().cpu().numpy() if isinstance(data, torch.Tensor) else np.asarray(data)
