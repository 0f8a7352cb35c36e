"""Where the body is: lets maskers leave air around the patient alone. For data preparation, not a training step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

# Air and lung lie below, fat and all other tissue above.
BODY_THRESHOLD = -500.0  # HU
TABLE_THICKNESS = 6.0  # mm, of its shell and of what it touches the body with


def body_mask(hu: Tensor) -> Tensor:
    """Body of each sample: above -500 HU, the largest connected component, filled.

    Lungs and airways reach the first and last slice of a chest CT, where they are no closed holes; so holes are closed
    in each axial slice too.

    Args:
        hu: image in HU, (B, 1, H, W) or (B, 1, H, W, D) with axial slices ``x[..., k]``.

    Returns:
        bool of the same shape, on the same device; all ``False`` where nothing is above the threshold.

    Raises:
        ValueError: unless there is one channel and two or three spatial axes.
    """
    if hu.ndim not in (4, 5) or hu.shape[1] != 1:
        raise ValueError(f"hu: got shape {tuple(hu.shape)}. Give (B, 1, H, W) or (B, 1, H, W, D).")
    bodies = [_body(image[0]) for image in (hu.detach().float() > BODY_THRESHOLD).cpu().numpy()]
    return torch.from_numpy(np.stack(bodies)[:, None]).to(hu.device)


def largest_component(tissue: np.ndarray) -> np.ndarray:
    """Largest connected component of a bool array (H, W[, D]): the body without the table that it lies on."""
    components, n = ndimage.label(tissue)
    if n == 0:
        return np.zeros_like(tissue)
    return components == np.bincount(components[tissue]).argmax()


def without_table(tissue: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The body of a bool array (H, W, D), even where it touches the table: both hang together by thin bridges alone.

    What is at most 6 mm thin, as a table's shell is, goes; the largest component of the rest is the body's core; and
    what was thin at the body itself, such as skin, grows back. Where less than half of all tissue is left, as of thin
    walls around a lung that fills the image, the body is the largest component as it is.

    Args:
        tissue: what is no air.
        spacing: of its voxels, mm.
    """
    thin = [int(TABLE_THICKNESS / size + 1e-3) for size in spacing]  # voxels; sizes are rounded to float32 in files
    radius = [(voxels + 1) // 2 for voxels in thin]
    core = tissue
    for cross, times in _crosses(radius):
        core = ndimage.binary_erosion(core, cross, iterations=times, border_value=1)
    core = largest_component(_grown(core, radius, tissue))
    body = _grown(core, [2 * voxels for voxels in radius], tissue)
    return body if 2 * np.count_nonzero(body) >= np.count_nonzero(tissue) else largest_component(tissue)


def _grown(core: np.ndarray, radius: Sequence[int], tissue: np.ndarray) -> np.ndarray:
    """``core`` and what can be reached from it within ``tissue``."""
    for cross, times in _crosses(radius):
        core = ndimage.binary_dilation(core, cross, iterations=times, mask=tissue)
    return core


def _crosses(radius: Sequence[int]) -> Iterator[tuple[np.ndarray, int]]:
    """Neighbourhoods (3, 3, 3), and how often each, that reach ``radius`` voxels along the axes."""
    done = 0
    for reach in sorted(set(radius)):
        if reach > done:
            cross = ndimage.generate_binary_structure(len(radius), 1)
            for axis in (axis for axis, voxels in enumerate(radius) if voxels < reach):
                np.moveaxis(cross, axis, 0)[[0, 2]] = False
            yield cross, reach - done
            done = reach


def _body(tissue: np.ndarray) -> np.ndarray:
    """Largest component of a bool array (H, W[, D]), filled."""
    body = largest_component(tissue)
    if body.ndim == 3 and body.any():
        in_plane = ndimage.generate_binary_structure(3, 1)
        in_plane[:, :, [0, 2]] = False
        body = ndimage.binary_fill_holes(body, structure=in_plane)
    return ndimage.binary_fill_holes(body)
