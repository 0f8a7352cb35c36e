"""The picture under construction: HU and labels, painted with the share of each voxel that a structure fills."""

from __future__ import annotations

import numpy as np

from common.data.phantom.space import FULL, Box, Grid
from common.data.phantom.tubes import distance_to_balls
from common.data.structures import ALL_STRUCTURES


class Canvas:
    """Air to begin with; each structure covers what was painted before it."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.hu = np.full(grid.shape, -1000, dtype=np.float32)
        self.label = np.zeros(grid.shape, dtype=np.uint8)

    def coverage(self, distance: np.ndarray) -> np.ndarray:
        """Share of a voxel inside a surface at signed ``distance`` mm (negative inside)."""
        return np.clip(np.float32(0.5) - distance / np.float32(self.grid.voxel), 0, 1)

    def paint(self, coverage: np.ndarray, value: np.ndarray | float, label: str | None = None, box: Box = FULL) -> None:
        """Blend ``value`` HU in by ``coverage``; where it fills at least half a voxel, that voxel gets the label.

        ``label`` None leaves labels as they are, ``"none"`` takes them away.
        """
        hu = self.hu[box]
        hu += coverage * (np.asarray(value, dtype=np.float32) - hu)
        if label is not None:
            self.label[box][coverage >= 0.5] = ALL_STRUCTURES.get(label, 0)

    def paint_balls(
        self, centres: np.ndarray, radii: np.ndarray, value: float, label: str | None = None, **shape: object
    ) -> tuple[Box, np.ndarray]:
        """Paint a tube or plate given by its balls in world mm; returns its box and distances for finer detail."""
        box, distance = distance_to_balls(self.grid, centres, radii, **shape)  # type: ignore[arg-type]
        if distance.size:
            self.paint(self.coverage(distance), value, label, box)
        return box, distance
