"""What a volume and a label file hold, checked voxel by voxel: one clear error per bad file.

:func:`common.data.headers.check_header` is the quick check that decodes nothing.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from monai.data import ITKReader

from common.data.headers import READ_ERRORS, check_header
from common.data.nifti_reader import NiftiReader
from common.errors import InputError

_GRID_TOLERANCE_MM = 1e-3
_SAMPLED_VOXELS = 10**6  # enough for percentiles


def read_volume(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (H, W, D) in the file's own number type (rescaled as its header says), and affine (4, 4) to RAS mm.

    Raises:
        InputError: see :func:`common.data.headers.check_header`; also when the voxels cannot be decoded.
    """
    path = Path(path).expanduser()
    header = check_header(path)
    reader = ITKReader() if path.is_dir() else NiftiReader()
    try:
        _verify_checksum(path)
        array, meta = reader.get_data(reader.read(os.fspath(path)))
    except READ_ERRORS as error:
        raise unreadable(path, error) from error
    return np.asarray(array).reshape(header.shape), np.asarray(meta["affine"], dtype=np.float64)


def _verify_checksum(path: Path) -> None:
    """Read a ``.gz`` to its end, where the checksum is: loaders stop at the last voxel and never compare it."""
    if path.suffix.lower() == ".gz":
        with gzip.open(path) as file:
            while file.read(2**24):
                pass


def unreadable(path: str | os.PathLike, error: BaseException) -> InputError:
    """The error for a file whose header is fine and whose voxels are not."""
    reason = (" ".join(str(error).split()) or type(error).__name__)[-160:]
    return InputError(
        f"{path}: truncated or damaged, its voxels cannot be decoded ({reason}). Copy or export it again."
    )


def check_volume(volume: str | os.PathLike | tuple[np.ndarray, np.ndarray, str]) -> None:
    """Refuse what is not a CT volume in HU.

    Args:
        volume: a path, or what is loaded already: voxels (H, W, D), affine and the name to use in the message.

    Raises:
        InputError: see :func:`read_volume`; NaN or infinite values, all voxels equal, values that are not HU.
    """
    if isinstance(volume, tuple):
        array, _, name = volume
    else:
        (array, _), name = read_volume(volume), os.fspath(volume)
    low, high = float(array.min()), float(array.max())  # both are NaN when one voxel is
    if not np.isfinite([low, high]).all():
        bad = int(array.size - np.isfinite(array).sum())
        remedy = "Export the volume again, with air (-1000 HU) where nothing was measured"
        raise InputError(f"{name}: {bad} voxels are NaN or infinite. {remedy}.")
    if low == high:
        raise InputError(f"{name}: all voxels have the value {low + 0:g}. Export the volume again.")
    reason = _why_not_hu(array, low, high)
    if reason is not None:
        msg = (
            f"{name}: the values are not Hounsfield units (HU): {reason}. CT has air near -1000 and water at 0: "
            "apply the DICOM rescale slope and intercept, give the scan before windowing, leave other modalities out."
        )
        raise InputError(msg)


def _why_not_hu(array: np.ndarray, low: float, high: float) -> str | None:
    """Reason why values cannot be HU, or ``None``.

    Air alone cannot decide: of random crops of 48 mm from seven real CT scans, a quarter hold nothing below -200 HU.
    But body crops of that size always hold fat, fluid or noise below 0 HU (one of 1700 did not), and span far more
    than 30 HU; so each rule below names something that no scan and no sensible crop of one shows.
    """
    if high - low < 30:
        return f"they span only {low:g} to {high:g}, as normalised images do"
    if high < -200:
        return f"the largest is {high:g}, so there is no soft tissue (is the offset of -1024 applied twice?)"
    step = max(1, int(np.ceil((array.size / _SAMPLED_VOXELS) ** (1 / 3))))
    sample = array[(slice(None, None, step),) * array.ndim]
    median, p95 = np.percentile(sample, [50, 95])
    if low >= 0 and (low < 1 or median > 300):
        # a small crop inside one organ may have no value below 0, but then its median is that of the organ
        return f"none is negative ({low:g} to {high:g}), as in MR, 8-bit or unscaled images"
    if low > -200 and p95 > 1000:
        return f"there is no air (smallest {low:g}) and a twentieth of the voxels is denser than bone (above {p95:g})"
    zeros = float(np.mean(sample == 0))
    if low > -200 and zeros > 0.2:
        return f"the background is 0 ({zeros:.0%} of the voxels) and there is no air (smallest {low:g})"
    return None


def check_label(label: str | os.PathLike, image: str | os.PathLike, known_ids: Collection[int] | None = None) -> None:
    """Refuse a label file that does not belong to its image.

    Args:
        label: path of the label file.
        image: path of the image that it labels.
        known_ids: ids that the file may hold besides 0; ``None``: any.

    Raises:
        InputError: unreadable, another grid than the image, values that are not integers, unknown ids.
    """
    header = check_header(image)
    array, affine = read_volume(label)
    check_same_grid((array.shape, affine, os.fspath(label)), (header.shape, header.affine, os.fspath(image)))
    check_label_values(array, os.fspath(label), known_ids)


def check_same_grid(
    label: tuple[tuple[int, ...], np.ndarray, str], image: tuple[tuple[int, ...], np.ndarray, str]
) -> None:
    """Refuse two volumes, each given as (shape, affine, name), whose voxels do not coincide.

    Raises:
        InputError: other shapes, or affines that differ by more than 0.001 mm in an entry.
    """
    (shape, affine, name), (image_shape, image_affine, image_name) = label, image
    remedy = f"Resample the label to the grid of {image_name} (nearest neighbour)"
    if tuple(shape) != tuple(image_shape):
        msg = f"{name}: label on another grid: shape {tuple(shape)}, its image has {tuple(image_shape)}. {remedy}."
        raise InputError(msg)
    difference = float(np.abs(np.asarray(affine) - np.asarray(image_affine)).max())
    if not difference <= _GRID_TOLERANCE_MM:
        msg = f"{name}: label on another grid: its affine differs from the image's by {difference:.3g} mm. {remedy}."
        raise InputError(msg)


def check_label_values(array: np.ndarray, name: str, known_ids: Collection[int] | None = None) -> dict[int, int]:
    """Ids of a label map and how many voxels each has.

    Raises:
        InputError: values that are not integers from 0 to 65535; ids that are not in ``known_ids`` (0 always is).
    """
    counts = np.zeros(2**16, dtype=np.int64)
    for chunk in _chunks(array):
        # NaN and infinity fail the comparisons too
        if not ((chunk >= 0) & (chunk < 2**16) & (chunk == np.floor(chunk))).all():
            msg = (
                f"{name}: label values that are not integers of 0 and above ({_range(array)}). "
                "Labels are ids, not probabilities or HU: export them as uint8, without interpolation."
            )
            raise InputError(msg)
        counts += np.bincount(chunk.astype(np.uint16).ravel(), minlength=2**16)
    voxels = {int(i): int(counts[i]) for i in np.flatnonzero(counts)}
    if known_ids is not None:
        check_known_ids(voxels, name, known_ids)
    return voxels


def check_known_ids(ids: Collection[int], name: str, known_ids: Collection[int]) -> None:
    """Refuse ids in a label that are neither 0 nor in ``known_ids``.

    Raises:
        InputError: naming them.
    """
    unknown = sorted(set(ids) - set(known_ids) - {0})
    if unknown:
        msg = (
            f"{name}: unknown label ids {_short(unknown)} (known: {_short(sorted(known_ids))}). "
            "Name them under 'labels' in dataset.json, or in structures where there is no dataset.json, or remove them."
        )
        raise InputError(msg)


def _chunks(array: np.ndarray, n: int = 16) -> Iterator[np.ndarray]:
    """Slabs of ``n`` slices: temporaries of a whole volume would take eight times its memory."""
    for start in range(0, array.shape[-1], n):
        yield array[..., start : start + n]


def _range(array: np.ndarray) -> str:
    return f"{float(array.min()):g} to {float(array.max()):g}"


def _short(ids: Collection[int]) -> str:
    shown = ", ".join(str(i) for i in list(ids)[:30])
    return shown + (", ..." if len(ids) > 30 else "")
