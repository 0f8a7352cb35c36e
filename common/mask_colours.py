"""The colour of every structure, the same in every picture, and masks in these colours."""

from __future__ import annotations

import numpy as np

# One colour per structure id; ids that touch each other in a chest differ clearly.
_COLOURS = (
    *("#4fc3f7", "#1e88e5", "#ef5350", "#ffa726", "#7e57c2", "#00e5c3", "#ffee58", "#b2ff59"),
    *("#d7ccc8", "#a1887f", "#c0a040", "#2e9e5b", "#ff8a65", "#d84315", "#9ccc65", "#ffcc80"),
    *("#26a69a", "#ce93d8", "#ffd54f", "#5c6bc0", "#b71c1c", "#90a4ae", "#80deea", "#ff2bd6"),
)


def mask_overlay(ids: np.ndarray) -> np.ndarray:
    """RGBA of a slice of structure ids: see-through inside, opaque along borders."""
    palette = np.zeros((int(ids.max()) + 1, 4), dtype=np.float32)
    for i in range(1, len(palette)):
        palette[i] = (*structure_colour(i), 0.42)
    result = palette[ids]
    padded = np.pad(ids, 1, mode="edge")
    centre = padded[1:-1, 1:-1]
    sides = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    border = np.any([centre != side for side in sides], axis=0) & (ids > 0)
    result[border, 3] = 0.95
    return result


def structure_colour(structure_id: int) -> tuple[float, float, float]:
    """Red, green and blue in [0, 1]."""
    code = _COLOURS[(structure_id - 1) % len(_COLOURS)]
    return (int(code[1:3], 16) / 255, int(code[3:5], 16) / 255, int(code[5:7], 16) / 255)
