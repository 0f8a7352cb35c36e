"""Where a point of the textbook patient lies in this patient and in this scan.

Three frames, all in mm, x to the right, y to the front, z to the head:

- canonical: the textbook patient, in which every organ is described;
- world: the scan, the origin in the middle of the volume; pose, size and a smooth warp lie between the two;
- grids of the world frame: the scan's own, and a coarse one of 5 mm on which smooth shapes are computed. A signed
  distance is nearly linear at its zero, so interpolating it loses little, and the anatomy does not depend on the scan's
  grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

COARSE_MM = 5.0
EXTENT_MM = (392.0, 300.0, 290.0)
"""What a scan covers unless told otherwise; the coarse grid covers at least this."""

Box = tuple[slice, slice, slice]
FULL: Box = (slice(None), slice(None), slice(None))


@dataclass(frozen=True)
class Grid:
    """A regular grid in the world frame, centred on its origin."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def origin(self) -> np.ndarray:
        """World position of voxel (0, 0, 0) in mm."""
        return -(np.array(self.shape) - 1) / 2 * np.array(self.spacing)

    @property
    def voxel(self) -> float:
        """Edge of a cube of a voxel's volume in mm."""
        return float(np.prod(self.spacing) ** (1 / 3))

    def axis(self, dim: int) -> np.ndarray:
        """World coordinates of the voxels along one axis in mm."""
        return self.origin[dim] + np.arange(self.shape[dim]) * self.spacing[dim]


class SmoothField:
    """A random scalar field of standard deviation 1: cubic B-splines on a lattice of ``spacing`` mm."""

    # square root of the integral of the squared cubic B-spline, 151/315, once per axis
    _SD = (151 / 315) ** 1.5

    def __init__(self, rng: np.random.Generator, spacing: float, reach: float = 320.0) -> None:
        n = int(np.ceil(2 * reach / spacing)) + 4
        self.spacing, self.reach = spacing, reach
        self.coefficients = rng.standard_normal((n, n, n), dtype=np.float32) / np.float32(self._SD)

    def _matrix(self, coordinates: np.ndarray) -> np.ndarray:
        t = np.clip((coordinates + self.reach) / self.spacing, 0, self.coefficients.shape[0] - 4.001)
        i = np.floor(t).astype(int)
        u = t - i
        weights = [(1 - u) ** 3 / 6, (3 * u**3 - 6 * u**2 + 4) / 6, (-3 * u**3 + 3 * u**2 + 3 * u + 1) / 6, u**3 / 6]
        return _rows(len(t), self.coefficients.shape[0], [i + k for k in range(4)], weights)

    def on(self, grid: Grid) -> np.ndarray:
        """The field on a grid, float32 (X, Y, Z)."""
        return separable(self.coefficients, *(self._matrix(grid.axis(d)) for d in range(3)))


class Space:
    """Pose, size and warp of one patient.

    Args:
        rng: the anatomy's random stream.
        grid: the scan's grid.
    """

    def __init__(self, rng: np.random.Generator, grid: Grid) -> None:
        self.grid = grid
        half = [max(e, n * s) / 2 + 10 for e, n, s in zip(EXTENT_MM, grid.shape, grid.spacing, strict=True)]
        self.coarse = Grid(tuple(2 * int(np.ceil(h / COARSE_MM)) + 1 for h in half), (COARSE_MM,) * 3)  # type: ignore[arg-type]
        size = rng.uniform(0.92, 1.09)
        scale = size * np.array([rng.uniform(0.95, 1.06), rng.uniform(0.95, 1.06), rng.uniform(0.93, 1.07)])
        angles = np.deg2rad(np.clip(rng.normal(0, 3.5, 3), -8, 8))
        self.matrix = _rotation(angles) / scale[:, None]
        self.shift = np.clip(rng.normal(0, (6, 6, 8)), -14, 14)
        self.centre = np.array([0.0, -4.0, -22.0])  # canonical point in the middle of the scan
        self.size = float(size)
        amplitude = rng.uniform(2.0, 4.5)
        self._warp = [np.clip(SmoothField(rng, 60.0).on(self.coarse), -2.2, 2.2) * amplitude for _ in range(3)]
        world = np.meshgrid(*(self.coarse.axis(d).astype(np.float32) - self.shift[d] for d in range(3)), indexing="ij")
        m = self.matrix.astype(np.float32)
        self.canonical = [
            m[i, 0] * world[0] + m[i, 1] * world[1] + m[i, 2] * world[2] + np.float32(self.centre[i]) + self._warp[i]
            for i in range(3)
        ]
        """Canonical x, y, z at the coarse grid's points, float32 each."""

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """World positions (N, 3) of canonical points (N, 3), in mm; the warp is inverted by fixed-point iteration."""
        inverse = np.linalg.inv(self.matrix)
        world = (points - self.centre) @ inverse.T + self.shift
        for _ in range(4):
            index = ((world - self.coarse.origin) / COARSE_MM).T
            warp = np.stack([ndimage.map_coordinates(w, index, order=1, mode="nearest") for w in self._warp], axis=1)
            world = (points - self.centre - warp) @ inverse.T + self.shift
        return world

    def directions_to_world(self, directions: np.ndarray) -> np.ndarray:
        """Unit normals (N, 3) turned from the canonical to the world frame; the warp's small tilt is left out."""
        turned = directions @ self.matrix
        return turned / np.linalg.norm(turned, axis=1, keepdims=True)

    def fine(self, field: np.ndarray, box: Box = FULL) -> np.ndarray:
        """Interpolate a field of the coarse grid to the scan's grid, or a box of it (Catmull-Rom, separable)."""
        return separable(field, *(self._upsampling(d)[box[d]] for d in range(3)))

    def _upsampling(self, dim: int) -> np.ndarray:
        t = np.clip((self.grid.axis(dim) - self.coarse.origin[dim]) / COARSE_MM, 1, self.coarse.shape[dim] - 2.001)
        i = np.floor(t).astype(int)
        u = t - i
        weights = [
            0.5 * (-u + 2 * u**2 - u**3),
            0.5 * (2 - 5 * u**2 + 3 * u**3),
            0.5 * (u + 4 * u**2 - 3 * u**3),
            0.5 * (u**3 - u**2),
        ]
        return _rows(
            len(t), self.coarse.shape[dim], [i - 1, i, i + 1, np.minimum(i + 2, self.coarse.shape[dim] - 1)], weights
        )

    def box_where(self, inside: np.ndarray) -> Box:
        """The box of the scan's grid around the coarse voxels that are ``inside``, with a margin of two of them."""
        slices = []
        for d in range(3):
            hit = np.flatnonzero(inside.any(axis=tuple(k for k in range(3) if k != d)))
            if hit.size == 0:
                return (slice(0, 0),) * 3
            low, high = self.coarse.axis(d)[hit[[0, -1]]] + (-2 * COARSE_MM, 2 * COARSE_MM)
            index = (np.array([low, high]) - self.grid.origin[d]) / self.grid.spacing[d]
            start, stop = int(np.floor(index[0])), int(np.ceil(index[1])) + 1
            slices.append(slice(max(start, 0), max(min(stop, self.grid.shape[d]), 0)))
        return tuple(slices)  # type: ignore[return-value]


def separable(field: np.ndarray, mx: np.ndarray, my: np.ndarray, mz: np.ndarray) -> np.ndarray:
    """Apply one matrix per axis to a (X, Y, Z) array."""
    x, y, z = field.shape
    out = field.reshape(x * y, z) @ mz.T
    out = my @ out.reshape(x, y, -1)
    return (mx @ out.reshape(x, -1)).reshape(mx.shape[0], my.shape[0], mz.shape[0])


def _rows(n: int, m: int, columns: list[np.ndarray], weights: list[np.ndarray]) -> np.ndarray:
    matrix = np.zeros((n, m), dtype=np.float32)
    for column, weight in zip(columns, weights, strict=True):
        np.add.at(matrix, (np.arange(n), column), weight.astype(np.float32))
    return matrix


def _rotation(angles: np.ndarray) -> np.ndarray:
    (a, b, c), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    rx = np.array([[1, 0, 0], [0, a, -sa], [0, sa, a]])
    ry = np.array([[b, 0, sb], [0, 1, 0], [-sb, 0, b]])
    rz = np.array([[c, -sc, 0], [sc, c, 0], [0, 0, 1]])
    return rz @ ry @ rx
