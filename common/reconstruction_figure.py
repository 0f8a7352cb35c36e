"""Pictures of what a network sees of its input and makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from common.preview import PLANES, plane_view


def reconstruction_figure(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Figure:
    """A row per view and plane, a column per image, of what a masked autoencoder sees and makes of it.

    Three channels are shown as red, green and blue, otherwise the first one in grey. Columns whose name contains
    ``error`` show the mean over channels in false colours, full scale at half of the input's range; those whose name
    contains ``map`` a quantity of another kind (such as a difficulty), each from its lowest to its highest value, empty
    where it is NaN.

    Args:
        rows: title and named images ``(C, H, W)`` or ``(C, H, W, D)``, RAS; the first image is the input and sets the
            range of the others. Of a volume, the middle axial and coronal slices are drawn.
    """
    named = [(title, {name: _as_array(image) for name, image in images.items()}) for title, images in rows]
    first = next(iter(named[0][1].values()))
    planes = ["axial", "coronal"] if first.ndim == 4 else [""]
    lines = [(title, plane, images) for title, images in named for plane in planes]
    n_columns = max(len(images) for _, images in named)
    figure = Figure(figsize=(2.3 * n_columns + 0.9, 2.3 * len(lines) + 0.3), dpi=110, layout="constrained")
    axes = figure.subplots(len(lines), n_columns, squeeze=False)
    colours = None
    for r, (title, plane, images) in enumerate(lines):
        source = next(iter(images.values()))
        low, high = (0.0, 1.0) if source.min() >= 0 and source.max() <= 1 else (source.min(), source.max())
        for c, (name, image) in enumerate(images.items()):
            cell = axes[r, c]
            shown = _middle_slice(image, plane)
            if "error" in name:
                shown = shown.mean(-1)
                colours = cell.imshow(shown, cmap="magma", vmin=0, vmax=max(high - low, 1e-6) / 2)
            elif "map" in name:
                cell.imshow(shown[..., 0], cmap="viridis", interpolation="nearest")
            else:
                shown = np.clip((shown - low) / max(high - low, 1e-6), 0, 1)
                shown = shown if shown.shape[-1] == 3 else shown[..., 0]
                cell.imshow(shown, cmap="gray", vmin=0, vmax=1)
            cell.set_title(name if r == 0 else "", fontsize=9)
            cell.set_ylabel(f"{title}\n{plane}".strip() if c == 0 else "", fontsize=9)
        for cell in axes[r]:
            cell.set_xticks([])
            cell.set_yticks([])
    if colours is not None:
        figure.colorbar(colours, ax=axes, shrink=0.5, pad=0.01).ax.tick_params(labelsize=8)
    return figure


def _as_array(image: Any) -> np.ndarray:
    """Image (C, *S) of any float type as float32 (*S, C)."""
    array = image.detach().float().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image, np.float32)
    return np.moveaxis(array, 0, -1)


def _middle_slice(image: np.ndarray, plane: str) -> np.ndarray:
    """Picture (rows, columns, C) of an image (X, Y, C) or of the middle slice of a volume (X, Y, Z, C)."""
    volume = image if plane else image[:, :, None]
    plane = plane or "axial"
    return plane_view(volume, plane, volume.shape[PLANES[plane][0]] // 2)
