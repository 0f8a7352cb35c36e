"""The rib cage: the frame on which chest wall, lungs and abdomen are built, in canonical mm."""

from __future__ import annotations

import numpy as np

from common.data.phantom.shapes import as_distance, smooth_union
from common.data.phantom.space import COARSE_MM, Space

WALL_MM = 8.0
"""From the outer surface of the ribs to the pleura."""


class Cage:
    """A superelliptic cage that tapers to the lungs' apex, its spine, and the domes of the diaphragm.

    Attributes:
        outer: distance to the ribs' outer surface on the coarse grid.
        trunk: the same without the taper: what shoulders, muscles and skin follow.
        abdomen: distance to the diaphragm, negative below it.
    """

    def __init__(self, rng: np.random.Generator, space: Space) -> None:
        u = rng.uniform
        self.half_width, self.half_depth, self.exponent = u(124, 138), u(77, 92), u(2.3, 2.8)
        self.apex = u(106, 116)
        self.kyphosis, self.scoliosis, self.scoliosis_phase = u(8, 18), u(-5, 5), u(0, 2 * np.pi)
        self.vertebra_period, self.vertebra_top = u(22, 24.5), u(112, 120)
        self.depth_scale = self.half_depth / 90
        x, y, z = space.canonical
        self.chest_scale = (2 * self.half_depth - 60) / 120
        self.outer = self._surface(x, y, z, taper=True)
        self.trunk = self._surface(x, y, z, taper=False)
        self.abdomen = self._diaphragm(rng, x, y, z)

    def half_axes(self, z: np.ndarray, *, taper: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Half width, half depth and the centre's y of the cage at height ``z`` (mm)."""
        low = np.clip((60 - z) / 120, 0, 1)
        a, b, yc = self.half_width * (0.88 + 0.12 * low), self.half_depth * (0.8 + 0.2 * low), -7 * (1 - low)
        belly = np.clip((-70 - z) / 90, 0, 1)
        a, b = a * (1 - 0.05 * belly), b * (1 + 0.03 * belly)
        if taper:
            t = np.clip((z - 25) / (self.apex - 25), 0, 1)
            f = np.maximum(1 - t**2.2, 0) ** 0.7
            a, b, yc = a * np.maximum(f, 0.04), b * np.maximum(f**0.75, 0.04), yc - 14 * t
        return a, b, yc

    def chest_depth(self, y: float | np.ndarray) -> float | np.ndarray:
        """y of a point between spine and sternum, given as in a chest of 90 mm half depth (spine -42, sternum 78)."""
        return 48 - self.half_depth + (y + 42) * self.chest_scale

    def spine(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and y of the vertebral bodies' centres at height ``z`` (mm)."""
        x = self.scoliosis * np.sin(z / 75 + self.scoliosis_phase)
        y = -self.half_depth + 32 + self.kyphosis * ((z + 15) / 120) ** 2
        return x, y

    def around(
        self, angle: np.ndarray, z: np.ndarray, side: int, depth: float, *, taper: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Points on the cage and their outward normals.

        Args:
            angle: from the spine (0) over the side (pi / 2) to the sternum (pi).
            z: heights in mm.
            side: 1 right, -1 left.
            depth: distance below the outer surface in mm (negative: above).
            taper: follow the apex.
        """
        a, b, yc = self.half_axes(np.maximum(z, -200) if not taper else np.minimum(z, self.apex - 12), taper=taper)
        power = 2 / self.exponent
        s, c = np.sin(angle), -np.cos(angle)
        x = a * np.sign(s) * np.abs(s) ** power * side
        y = b * np.sign(c) * np.abs(c) ** power
        normal = np.stack(
            [
                np.sign(x) * np.abs(x / a) ** (self.exponent - 1) / a,
                np.sign(y) * np.abs(y / b) ** (self.exponent - 1) / b,
                0 * z,
            ],
            axis=1,
        )
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        return np.stack([x, y + yc, z], axis=1) - depth * normal, normal

    def _surface(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, *, taper: bool) -> np.ndarray:
        a, b, yc = (v.astype(np.float32) for v in self.half_axes(z, taper=taper))
        n = np.float32(self.exponent)
        level = ((np.abs(x) / a) ** n + (np.abs(y - yc) / b) ** n) ** (1 / n) - 1
        distance = as_distance(level, COARSE_MM)
        return np.maximum(distance, z - np.float32(self.apex)) if taper else distance

    def _diaphragm(self, rng: np.random.Generator, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        u = rng.uniform
        height, difference, reach = u(-78, -62), u(2, 12), u(66, 86)
        self.dome = height

        def dome(cx: float, cy: float, top: float, wx: float, wy: float) -> np.ndarray:
            rho = ((x - cx) / wx) ** 2 + ((y - cy) / wy) ** 2
            return top - reach * (1 - np.sqrt(np.maximum(1 - rho, 0.0))) - 12 * np.maximum(rho - 1, 0)

        d = self.depth_scale
        right = dome(58, 4 * d, height, 82, 98 * d)
        left = dome(-62, 2 * d, height - difference, 78, 98 * d)
        # the central tendon, on which the heart rests, joins the domes a little lower
        middle = dome(-6, 30 * d, height - difference - u(2, 7), 100, 72 * d)
        top = -smooth_union(smooth_union(-right, -left, 16), -middle, 16)
        return as_distance(z - top, COARSE_MM)
