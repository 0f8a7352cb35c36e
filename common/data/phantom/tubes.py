"""Tubes and plates: smooth centre lines, drawn as rows of balls into the part of a grid they reach."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from common.data.phantom.space import Box, Grid

_CHUNK = 4_000_000  # ball x voxel pairs at a time, which bounds the memory


def centre_line(points: ArrayLike, radii: ArrayLike, step: float = 0.45) -> tuple[np.ndarray, np.ndarray]:
    """Catmull-Rom curve through control points, sampled every ``step`` radii.

    Returns:
        Points (N, 3) and radii (N,), both in mm.
    """
    p, r = np.asarray(points, dtype=float), np.asarray(radii, dtype=float)
    if len(p) == 1:
        return p, r
    padded = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    out_points, out_radii = [], []
    for i in range(len(p) - 1):
        length = float(np.linalg.norm(p[i + 1] - p[i]))
        n = max(int(np.ceil(length / max(step * min(r[i], r[i + 1]), 0.7))), 1)
        t = (np.arange(n) / n)[:, None]
        a, b, c, d = padded[i : i + 4]
        curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        out_points.append(curve)
        out_radii.append(r[i] + (r[i + 1] - r[i]) * t[:, 0])
    return np.concatenate([*out_points, p[-1:]]), np.concatenate([*out_radii, r[-1:]])


def distance_to_balls(
    grid: Grid,
    centres: np.ndarray,
    radii: np.ndarray,
    *,
    reach: float = 6.0,
    normals: np.ndarray | None = None,
    flatten: float = 1.0,
) -> tuple[Box, np.ndarray]:
    """Signed distance to a union of balls within ``reach`` mm of it.

    Args:
        grid: where to draw.
        centres: (N, 3) world positions in mm.
        radii: (N,) in mm.
        reach: distances are cut off here, in mm.
        normals: (N, 3) unit vectors along which the balls are thinner by the factor ``flatten``.
        flatten: see ``normals``.

    Returns:
        The box of the grid that the balls reach, and the float32 distances in it (empty when they lie outside).
    """
    return _draw(grid, centres, radii, reach, normals, flatten, partial_volume=False)


def coverage_of_balls(grid: Grid, centres: np.ndarray, radii: np.ndarray) -> tuple[Box, np.ndarray]:
    """Share of each voxel that a union of balls fills, also for tubes thinner than a voxel.

    A tube of radius r below half a voxel h covers at most pi r^2 / h^2 of the voxels it runs through.
    """
    return _draw(grid, centres, radii, 0.5 * grid.voxel, None, 1.0, partial_volume=True)


def _draw(
    grid: Grid,
    centres: np.ndarray,
    radii: np.ndarray,
    reach: float,
    normals: np.ndarray | None,
    flatten: float,
    *,
    partial_volume: bool,
) -> tuple[Box, np.ndarray]:
    spacing = np.array(grid.spacing)
    drawn_radii = np.maximum(radii, grid.voxel / 2) if partial_volume else radii
    half = np.ceil((drawn_radii[:, None] + reach) / spacing).astype(int)
    index = (centres - grid.origin) / spacing
    near = ((index > -half) & (index < np.array(grid.shape) - 1 + half)).all(axis=1)
    fill = np.float32(0 if partial_volume else reach)
    if not near.any():
        return (slice(0, 0),) * 3, np.full((0, 0, 0), fill)
    index, half, drawn_radii, radii = index[near], half[near], drawn_radii[near], radii[near]
    normals = None if normals is None else normals[near]
    base = np.rint(index).astype(int)
    low, high = (base - half).min(axis=0), (base + half).max(axis=0) + 1
    shape = tuple(high - low)
    canvas = np.full(shape, fill, dtype=np.float32)
    flat = canvas.reshape(-1)
    for cube in np.unique(half, axis=0):
        members = np.flatnonzero((half == cube).all(axis=1))
        per_chunk = max(int(_CHUNK / np.prod(2 * cube + 1)), 1)
        for start in range(0, len(members), per_chunk):
            m = members[start : start + per_chunk]
            offsets, places = [], []
            for d in range(3):
                steps = base[m, d][:, None] + np.arange(-cube[d], cube[d] + 1)
                offset = ((steps - index[m, d][:, None]) * spacing[d]).astype(np.float32)
                view = [len(m), 1, 1, 1]
                view[d + 1] = steps.shape[1]
                offsets.append(offset.reshape(view))
                places.append((steps - low[d]).reshape(view))
            squared = offsets[0] ** 2 + offsets[1] ** 2 + offsets[2] ** 2
            if normals is not None:
                n = normals[m].astype(np.float32)[:, :, None, None, None]
                along = offsets[0] * n[:, 0] + offsets[1] * n[:, 1] + offsets[2] * n[:, 2]
                squared = squared + np.float32(flatten**2 - 1) * along**2
            value = np.sqrt(squared) - drawn_radii[m].astype(np.float32)[:, None, None, None]
            place = (places[0] * shape[1] + places[1]) * shape[2] + places[2]
            if partial_volume:
                share = np.minimum(np.pi * (radii[m] / grid.voxel) ** 2, 1).astype(np.float32)[:, None, None, None]
                value = np.clip(0.5 - value / np.float32(grid.voxel), 0, 1) * share
                np.maximum.at(flat, place.reshape(-1), value.reshape(-1))
            else:
                np.minimum.at(flat, place.reshape(-1), value.reshape(-1))
    start_index = np.maximum(low, 0)
    stop_index = np.minimum(high, grid.shape)
    box: Box = tuple(slice(int(a), int(b)) for a, b in zip(start_index, stop_index, strict=True))  # type: ignore[assignment]
    inner = tuple(slice(int(a - o), int(b - o)) for a, b, o in zip(start_index, stop_index, low, strict=True))
    return box, canvas[inner]
