"""Signed distances in mm (negative inside) of the solids that organs are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ellipsoid(points: Sequence[np.ndarray], centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """Approximate distance to an axis-aligned ellipsoid: exact at the surface, of the right slope nearby."""
    p = [(x - np.float32(c)) / np.float32(r) for x, c, r in zip(points, centre, radii, strict=True)]
    k0 = np.sqrt(p[0] ** 2 + p[1] ** 2 + p[2] ** 2)
    k1 = np.sqrt(sum((x / np.float32(r)) ** 2 for x, r in zip(p, radii, strict=True)))
    return k0 * (k0 - 1) / np.maximum(k1, np.float32(1e-4))


def tilted_ellipsoid(
    points: Sequence[np.ndarray], centre: Sequence[float], radii: Sequence[float], axis: Sequence[float]
) -> np.ndarray:
    """An ellipsoid whose first radius lies along ``axis``; the third stays as upright as it can."""
    u = np.array(axis, dtype=float)
    u /= np.linalg.norm(u)
    v = np.cross((0.0, 0.0, 1.0), u)
    v /= np.linalg.norm(v)
    frame = np.stack([u, v, np.cross(u, v)]).astype(np.float32)
    moved = [x - np.float32(c) for x, c in zip(points, centre, strict=True)]
    turned = [row[0] * moved[0] + row[1] * moved[1] + row[2] * moved[2] for row in frame]
    return ellipsoid(turned, (0, 0, 0), radii)


def smooth_union(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """Minimum of two distances with a fillet about ``width`` mm wide."""
    h = np.maximum(width - np.abs(a - b), 0) / np.float32(width)
    return np.minimum(a, b) - h * h * np.float32(width / 4)


def as_distance(field: np.ndarray, spacing: float, limit: float = 60.0) -> np.ndarray:
    """Turn any smooth level-set function on an isotropic grid into an approximate distance: ``f / |grad f|``."""
    gradient = np.gradient(field, spacing)
    slope = np.sqrt(sum(g * g for g in gradient))
    return np.clip(field / np.maximum(slope, 1e-3), -limit, limit).astype(np.float32)


def bump(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    """A bell from 0 to 1 at ``centre``: 0.6 at ``width`` from it."""
    return np.exp(-0.5 * ((values - np.float32(centre)) / np.float32(width)) ** 2)


def ramp(values: np.ndarray, start: float, stop: float) -> np.ndarray:
    """Smooth step from 0 at ``start`` to 1 at ``stop`` (either may be the larger)."""
    t = np.clip((values - np.float32(start)) / np.float32(stop - start), 0, 1)
    return t * t * (3 - 2 * t)
