"""Pictures of a volume with its mask in three planes.

Planes are shown as radiologists see them: axial from the feet, coronal from the front (the patient's right on the left
of the picture), sagittal from the left (front on the left). Only matplotlib's Figure is used, none of pyplot's global
state, so pictures can be drawn in any thread.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from common.data.contents import check_label_values, check_same_grid, read_volume
from common.files import written_beside
from common.mask_colours import mask_overlay, structure_colour

# plane -> RAS axis along its normal, letters at the left, right, top and bottom of the picture (H head, F feet)
PLANES: dict[str, tuple[int, str]] = {"axial": (2, "RLAP"), "coronal": (1, "RLHF"), "sagittal": (0, "APHF")}
WINDOWS: dict[str, tuple[float, float]] = {"soft tissue": (-160, 240), "lung": (-1350, 150)}  # HU
_MAX_PIXELS = 640  # per picture edge
_MAX_SEARCH = 96  # voxels per axis among which slices are chosen


def preview(
    image_path: str | os.PathLike,
    mask_path: str | os.PathLike | None,
    out_path: str | os.PathLike,
    *,
    structures: Mapping[str, int],
) -> None:
    """Draw a CT volume in soft-tissue and lung windows, and a mask over it, to a PNG.

    The slices shown are those in which the mask's structures are largest relative to themselves; without a mask, those
    through the middle of the body.

    Args:
        image_path: NIfTI file or DICOM series folder, in HU.
        mask_path: NIfTI file of structure ids on the same grid, or ``None``.
        out_path: the PNG, complete or absent.
        structures: names and ids for the legend; other ids in the mask are named by their number.

    Raises:
        InputError: when a file cannot be read or written, or the mask is on another grid.
    """
    hu, affine = read_volume(image_path)
    mask = None
    if mask_path is not None:
        mask, mask_affine = read_volume(mask_path)
        check_same_grid((mask.shape, mask_affine, str(mask_path)), (hu.shape, affine, str(image_path)))
        check_label_values(mask, str(mask_path))
        mask = mask.astype(np.uint16, copy=False)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    size, mm = " × ".join(map(str, hu.shape)), " × ".join(f"{s:.3g}" for s in spacing)
    title = f"{Path(image_path).name}    {size} voxels    {mm} mm    {''.join(nib.aff2axcodes(affine))}"
    save_figure(volume_figure(hu, affine, mask, structures=structures, title=title), out_path)


def volume_figure(
    hu: np.ndarray,
    affine: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    structures: Mapping[str, int],
    title: str = "",
) -> Figure:
    """The picture of :func:`preview`: a row per window, and one for the mask; a column per plane.

    Args:
        hu: ``(H, W, D)`` in any orientation.
        affine: voxel index to RAS mm ``(4, 4)``.
        mask: structure ids ``(H, W, D)``.
        structures: names and ids.
        title: one line.
    """
    ornt = nib.orientations.io_orientation(affine)
    to_axis = ornt[:, 0].astype(int)
    spacing = np.empty(3)
    spacing[to_axis] = np.linalg.norm(affine[:3, :3], axis=0)
    hu = nib.orientations.apply_orientation(hu, ornt)  # views: nothing of the volume is copied
    mask = None if mask is None else nib.orientations.apply_orientation(mask, ornt)
    ids = {} if mask is None else _voxels_by_id(mask)
    where = _slices(hu, mask, list(ids))

    extents = np.array(hu.shape) * spacing
    rows = [*WINDOWS, *(["mask"] if mask is not None else [])]
    widths = [extents[0], extents[0], extents[1]]
    heights = [max(extents[1], extents[2])] * len(rows)
    legend = 0.21 * sum(widths) if ids else 0.0
    inch = 10 / sum(widths)
    figure = Figure(figsize=((sum(widths) + legend) * inch, sum(heights) * inch + 0.4), dpi=110, facecolor="black")
    top = 1 - 0.4 / figure.get_figheight()
    grid = figure.add_gridspec(
        len(rows),
        3,
        width_ratios=widths,
        left=0.002,
        right=sum(widths) / (sum(widths) + legend) - 0.002,
        bottom=0.002,
        top=top,
        wspace=0.01,
        hspace=0.01,
    )
    for r, row in enumerate(rows):
        for c, plane in enumerate(PLANES):
            axes = figure.add_subplot(grid[r, c])
            window = WINDOWS.get(row, WINDOWS["soft tissue"])
            overlay = mask if row == "mask" else None
            _draw_plane(axes, hu, overlay, plane, where[PLANES[plane][0]], spacing, window)
            if c == 0:
                _write(axes, (0.02, 0.98), row, color="white", va="top")
    figure.text(0.006, top + (1 - top) / 2, title, color="white", fontsize=9, va="center", parse_math=False)
    if ids:
        _draw_legend(figure, ids, structures, float(np.prod(spacing)) / 1000)
    return figure


def plane_view(volume: np.ndarray, plane: str, index: int) -> np.ndarray:
    """A slice as it is shown: rows from top to bottom, columns from left to right.

    Args:
        volume: ``(X, Y, Z, ...)`` with RAS axes; further axes, e.g. colours, are kept.
        plane: ``axial``, ``coronal`` or ``sagittal``.
        index: position along the plane's normal.
    """
    view = np.moveaxis(volume, PLANES[plane][0], 0)[index]
    # RAS axes run to the right, front and head; the picture's columns run to the patient's left (back), its rows to the
    # back (feet): both are reversed
    return np.swapaxes(view, 0, 1)[::-1, ::-1]


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure, complete or not at all; the suffix of ``path`` chooses the format.

    Raises:
        InputError: when the file cannot be written.
    """
    FigureCanvasAgg(figure)
    with written_beside(path) as part:
        figure.savefig(part, facecolor=figure.get_facecolor())


def _voxels_by_id(mask: np.ndarray) -> dict[int, int]:
    counts: dict[int, int] = {}
    for k in range(mask.shape[2]):  # a slice at a time: np.unique copies what it gets
        for i, n in zip(*np.unique(mask[..., k], return_counts=True), strict=True):
            if i:
                counts[int(i)] = counts.get(int(i), 0) + int(n)
    return dict(sorted(counts.items()))


def _slices(hu: np.ndarray, mask: np.ndarray | None, ids: Sequence[int]) -> list[int]:
    """Index along each axis of the slice to show."""
    steps = [math.ceil(n / _MAX_SEARCH) for n in hu.shape]
    coarse = tuple(slice(step // 2, None, step) for step in steps)
    shown = hu[coarse] > -500 if mask is None else mask[coarse]
    where = []
    for axis, step in enumerate(steps):
        others = tuple(a for a in range(3) if a != axis)
        if mask is None or not ids:
            area = np.count_nonzero(hu[coarse] > -500, axis=others).astype(float)
            middle = np.searchsorted(area.cumsum(), area.sum() / 2) if area.any() else len(area) // 2
            best = int(min(middle, len(area) - 1))
        else:
            areas = np.array([np.count_nonzero(shown == i, axis=others) for i in ids], dtype=float)
            best = int((areas / np.maximum(areas.max(axis=1, keepdims=True), 1)).sum(axis=0).argmax())
        where.append(min(step // 2 + best * step, hu.shape[axis] - 1))
    return where


def _draw_plane(
    axes: Axes,
    hu: np.ndarray,
    mask: np.ndarray | None,
    plane: str,
    index: int,
    spacing: np.ndarray,
    window: tuple[float, float],
) -> None:
    normal, letters = PLANES[plane]
    columns_mm, rows_mm = np.delete(spacing, normal)
    step = math.ceil(max(n for axis, n in enumerate(hu.shape) if axis != normal) / _MAX_PIXELS)
    view = plane_view(hu, plane, index)
    extent = (0.0, view.shape[1] * columns_mm, view.shape[0] * rows_mm, 0.0)
    low, high = window
    axes.imshow(view[::step, ::step], cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear")
    if mask is not None:
        axes.imshow(
            mask_overlay(plane_view(mask, plane, index)[::step, ::step]), extent=extent, interpolation="nearest"
        )
    places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))
    for letter, (x, y), across, along in zip(
        letters, places, ("left", "right", "center", "center"), ("center", "center", "top", "bottom"), strict=True
    ):
        _write(axes, (x, y), letter, color="#ffd54f", ha=across, va=along)
    axes.set_axis_off()


def _write(axes: Axes, place: tuple[float, float], text: str, **options: Any) -> None:
    """Text that is readable over air and over bone."""
    written = axes.text(*place, text, transform=axes.transAxes, fontsize=9, **options)
    written.set_path_effects([withStroke(linewidth=2, foreground="black")])


def _draw_legend(figure: Figure, ids: Mapping[int, int], structures: Mapping[str, int], ml: float) -> None:
    names = {i: name for name, i in structures.items()}
    patches = [
        Patch(color=structure_colour(i), label=f"{names.get(i, f'id {i}')}   {_volume(voxels * ml)}")
        for i, voxels in ids.items()
    ]
    figure.legend(
        handles=patches, loc="center right", fontsize=8, labelcolor="white", facecolor="black", edgecolor="none"
    )


def _volume(ml: float) -> str:
    return f"{ml / 1000:.2f} l" if ml >= 1000 else f"{ml:.3g} ml"
