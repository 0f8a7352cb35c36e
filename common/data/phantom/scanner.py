"""What the scanner adds: blur, noise and its correlation, streaks at the shoulders, a slow bias, the field of view."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from common.data.phantom.scene import Scene
from common.data.phantom.space import SmoothField


def draw_slice_thickness(rng: np.random.Generator) -> float:
    """Slice thickness in mm, as protocols set it."""
    return float(rng.choice((2.0, 2.5, 3.0, 4.0, 5.0), p=(0.2, 0.25, 0.3, 0.15, 0.1)))


def scan(scene: Scene, rng: np.random.Generator, thickness: float) -> tuple[np.ndarray, dict[str, Any]]:
    """Turn the painted anatomy into a CT image.

    Noise has a standard deviation of 7 to 26 HU in the middle of the trunk at 3 mm, less in the air; part of it is
    correlated in plane as reconstruction kernels do, and the thick, bony shoulders get horizontal streaks.

    Args:
        scene: the finished drawing.
        rng: the scanner's random stream.
        thickness: slice thickness in mm; blurs along z when it exceeds the grid's spacing.

    Returns:
        int16 HU in [-1024, 3071] and a description of the scan.
    """
    hu, grid = scene.canvas.hu, scene.grid
    in_plane = rng.uniform(0.5, 1.2) / np.array(grid.spacing[:2])  # mm to voxels
    along = 0.3 * thickness / grid.spacing[2]
    for axis, sigma in enumerate((*in_plane, along)):
        if sigma > 0.2:
            hu = ndimage.gaussian_filter1d(hu, sigma, axis=axis, truncate=2.5, mode="nearest")

    sd = float(np.exp(rng.uniform(np.log(7), np.log(26))))
    sigma = float(rng.uniform(0.35, 0.75))
    noise = rng.standard_normal(grid.shape, dtype=np.float32)
    streaks = ndimage.gaussian_filter1d(noise[:, ::-1], 5.0, axis=0, truncate=2.0)
    streaks /= max(float(streaks[::2, ::2, ::2].std()), 1e-6)
    for axis in (0, 1):
        noise = ndimage.gaussian_filter1d(noise, sigma, axis=axis, truncate=2.5)
    noise /= max(float(noise[::2, ::2, ::2].std()), 1e-6)

    # the more tissue a ray crosses from side to side, the fewer photons arrive
    water = np.clip(hu + 1000, 0, 2000) / 1000
    path = water.mean(axis=0) * grid.shape[0] * grid.spacing[0] / 300  # (Y, Z), about 1 in the chest
    path = ndimage.gaussian_filter(path, 2.0)
    quanta = np.exp(0.45 * (np.clip(path, 0, 2.2) - 0.8))[None]
    air = np.where(hu < -950, np.float32(0.55), np.float32(1))
    hu = hu + noise * (sd * quanta * air)
    if path.max() > 1.15:
        hu += streaks * (sd * 0.9 * np.clip(path - 1.15, 0, 1))[None]
    hu += rng.uniform(1, 5) * scene.fine(SmoothField(rng, 110.0).on(scene.space.coarse))
    round_view = bool(rng.random() < 0.3)
    if round_view:
        x, y = (grid.axis(d) / max(abs(grid.origin[0]), abs(grid.origin[1])) for d in (0, 1))
        hu[np.hypot(x[:, None], y[None]) > 1] = -1024
    description = {
        "noise_hu": round(sd, 1),
        "noise_sigma_voxel": round(sigma, 2),
        "slice_thickness_mm": thickness,
        "round_view": round_view,
    }
    return np.rint(np.clip(hu, -1024, 3071)).astype(np.int16), description
