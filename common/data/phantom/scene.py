"""What the parts of the anatomy share while one phantom is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.data.phantom.cage import WALL_MM, Cage
from common.data.phantom.canvas import Canvas
from common.data.phantom.space import FULL, Box, Grid, Space
from common.data.phantom.tissue import Tissue


@dataclass
class Scene:
    """One patient in one scan.

    Attributes:
        texture: smooth random field of SD 1 on the scan's grid, the unevenness of tissues.
        body: distance to the skin on the coarse grid.
        lung: distance to the lungs' surface on the coarse grid.
        side: positive in the right half of the chest, negative in the left, on the coarse grid.
        lung_fine: the same on the scan's grid.
        info: what a user may want to know about this phantom.
    """

    grid: Grid
    space: Space
    canvas: Canvas
    cage: Cage
    tissue: Tissue
    texture: np.ndarray
    body: np.ndarray = field(default_factory=lambda: np.empty(0))
    lung: np.ndarray = field(default_factory=lambda: np.empty(0))
    side: np.ndarray = field(default_factory=lambda: np.empty(0))
    lung_fine: np.ndarray = field(default_factory=lambda: np.empty(0))
    info: dict[str, Any] = field(default_factory=dict)

    def fine(self, values: np.ndarray, box: Box = FULL) -> np.ndarray:
        """Interpolate from the coarse grid to the scan's."""
        return self.space.fine(values, box)

    def cavity_fat(self) -> None:
        """Fill the inside of the cage with fat, which stays where no organ is painted."""
        coverage = self.canvas.coverage(self.fine(self.cage.outer + WALL_MM - 1))
        self.canvas.paint(coverage, self.tissue.fat + 4 + 8 * self.texture, "none")
