"""Pictures of a comparison."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.compare.statistics import Summary
from common.data.contents import read_volume
from common.mask_colours import mask_overlay
from common.preview import plane_view

Curve = tuple[list[float], list[float]]

# its reader tells of every file that it opens
logging.getLogger("tensorboard").setLevel(logging.WARNING)

_WINDOW = (-160.0, 240.0)  # HU, soft tissue


def read_curve(folder: Path, tag: str) -> Curve:
    """Steps and values of a TensorBoard scalar; empty where it was not written."""
    if not list(folder.glob("events.out.tfevents.*")):
        return [], []
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    if tag not in events.Tags()["scalars"]:
        return [], []
    # an interrupted epoch was done again: its later values count
    points = {event.step: event.value for event in events.Scalars(tag)}
    return [float(step) for step in sorted(points)], [points[step] for step in sorted(points)]


def curves_figure(curves: Mapping[str, Sequence[Curve]], *, title: str, x: str, y: str) -> Figure:
    """One colour per arm, one line per curve."""
    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for i, (name, lines) in enumerate(curves.items()):
        for j, (steps, values) in enumerate(lines):
            axes.plot(steps, values, color=f"C{i % 10}", ls=_style(i), lw=1.2, label=name if j == 0 else None)
    _finish(axes, title, x, y)
    return figure


def fractions_figure(lines: Mapping[str, Mapping[int, Summary]], *, title: str, y: str) -> Figure:
    """Mean and interval against the number of labelled cases, one line per arm."""
    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for i, (name, points) in enumerate(lines.items()):
        numbers = sorted(points)
        means = [points[n].mean for n in numbers]
        spread = [points[n].sd or 0.0 for n in numbers]
        axes.errorbar(numbers, means, yerr=spread, color=f"C{i % 10}", ls=_style(i), marker="o", capsize=3, label=name)
    _finish(axes, title, "labelled cases", y)
    return figure


def seconds_figure(points: Mapping[str, tuple[float, float, Summary]], *, title: str) -> Figure:
    """Dice against seconds: a dot where the training ends, an arrow over what pretraining adds.

    Args:
        points: arm -> seconds of pretraining, of training, Dice.
        title: one line.
    """
    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for i, (name, (pretraining, training, summary)) in enumerate(points.items()):
        colour = f"C{i % 10}"
        axes.errorbar(
            pretraining + training,
            summary.mean,
            yerr=summary.sd or 0.0,
            color=colour,
            marker="o",
            capsize=3,
            label=name,
        )
        if pretraining:
            axes.plot([training, pretraining + training], [summary.mean] * 2, color=colour, lw=1, ls=":")
    _finish(axes, title, "seconds of one model (dotted: pretraining, shared by all models)", "test Dice")
    return figure


def masks_figure(image: str, masks: Mapping[str, str]) -> Figure:
    """Axial and coronal slices of a volume with one mask per column; the first one decides which slices.

    Args:
        image: volume.
        masks: title -> file of structure ids on its grid.
    """
    hu, affine = read_volume(image)
    orientation = nib.orientations.io_orientation(affine)
    to_axis = orientation[:, 0].astype(int)
    spacing = np.empty(3)
    spacing[to_axis] = np.linalg.norm(affine[:3, :3], axis=0)
    volume = nib.orientations.apply_orientation(hu, orientation)
    ids = {
        name: nib.orientations.apply_orientation(read_volume(path)[0].astype(np.uint16), orientation)
        for name, path in masks.items()
    }
    first = next(iter(ids.values()))
    planes = {"axial": 2, "coronal": 1}
    figure = Figure(figsize=(2.6 * len(ids), 5.4), dpi=110, facecolor="black", layout="constrained")
    grid = figure.subplots(len(planes), len(ids), squeeze=False)
    for (r, (plane, axis)), (c, (name, mask)) in itertools.product(enumerate(planes.items()), enumerate(ids.items())):
        index = _fullest(first, axis)
        view = plane_view(volume, plane, index)
        columns, rows = np.delete(spacing, axis)
        extent = (0.0, view.shape[1] * columns, view.shape[0] * rows, 0.0)
        cell = grid[r, c]
        cell.imshow(view, cmap="gray", vmin=_WINDOW[0], vmax=_WINDOW[1], extent=extent)
        cell.imshow(mask_overlay(plane_view(mask, plane, index)), extent=extent, interpolation="nearest")
        cell.set_title(name if r == 0 else "", fontsize=8, color="white", parse_math=False)
        cell.set_axis_off()
    return figure


def _fullest(mask: np.ndarray, axis: int) -> int:
    """Slice with the most structures, and among those the most labelled voxels."""
    slices = np.moveaxis(mask, axis, 0)
    return max(range(len(slices)), key=lambda i: (len(np.unique(slices[i])), np.count_nonzero(slices[i])))


def _style(i: int) -> str:
    return ("-", "--", "-.", ":")[i // 10 % 4]


def _finish(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
