"""Vertebrae with discs, arches and processes, and the canal with the cord."""

from __future__ import annotations

import numpy as np

from common.data.phantom.scene import Scene
from common.data.phantom.shapes import smooth_union


def spine_region(scene: Scene) -> np.ndarray:
    """Distance to the spine's outline on the coarse grid: what keeps the lungs off it."""
    x, y, z = scene.space.canonical
    sx, sy = scene.cage.spine(z)
    u, v = np.abs(x - sx), y - sy
    body = np.sqrt((u / 1.12) ** 2 + v**2) - 17.5
    arch = np.maximum(np.hypot(np.maximum(u - 22, 0), np.maximum(np.abs(v + 26) - 12, 0)) - 5, v - 4)
    return smooth_union(body, arch, 10).astype(np.float32)


def draw_spine(scene: Scene, rng: np.random.Generator) -> None:
    """Paint the spine inside the box it reaches, at the scan's resolution."""
    box = scene.space.box_where(spine_region(scene) < 16)
    if 0 in scene.canvas.hu[box].shape:
        return
    x, y, z = (scene.fine(c, box) for c in scene.space.canonical)
    cage, canvas, tissue = scene.cage, scene.canvas, scene.tissue
    sx, sy = cage.spine(z)
    u, v = (x - sx).astype(np.float32), (y - sy).astype(np.float32)
    au = np.abs(u)
    period = np.float32(cage.vertebra_period)
    phase = (z - np.float32(cage.vertebra_top)) / period
    w = (phase - np.round(phase)) * period  # mm above the middle of the nearest vertebral body
    size = (1 + np.clip(-z - 20, -110, 120) * 0.0016).astype(np.float32)  # thoracic bodies grow downwards
    disc_half = np.float32(rng.uniform(0.085, 0.12)) * period
    texture = scene.texture[box]

    # waist in the middle, concave towards the canal
    radial = np.sqrt((u / 1.15) ** 2 + v**2) - (15.2 * size - 1.4 * np.cos(2 * np.pi * w / period))
    radial = np.maximum(radial, -(np.sqrt(u**2 + (v + 24 * size) ** 2) - 11.0 * size))
    body = np.maximum(radial, np.abs(w) - (period / 2 - disc_half))
    column = canvas.coverage(np.maximum(radial, np.abs(w) - period / 2 - 2))
    canvas.paint(column, tissue.disc, "none", box)

    canal_centre = v + 21.5 * size
    canal = np.sqrt((u / 1.12) ** 2 + canal_centre**2) - 8.6
    # pedicles and laminae ring the canal in the upper half of each vertebra; the gaps between are ligament and fat
    ring = np.abs(np.sqrt((u / 1.1) ** 2 + (canal_centre + 1) ** 2) - 11.5) - 3.0
    lamina = np.maximum(ring, np.abs(w - 1) - 0.40 * period)
    slope = w + 0.55 * (canal_centre + 12)  # spinous processes point down and back
    spinous = np.maximum(np.maximum(au - 3.2, np.abs(canal_centre + 21) - 12), np.abs(slope - 4) - 6.5)
    transverse = np.sqrt((w - 4) ** 2 + (canal_centre + 5 + 0.42 * (au - 12)) ** 2) - 4.8
    transverse = np.maximum(transverse, np.maximum(8 - au, au - 33))
    posterior = smooth_union(smooth_union(lamina, spinous, 4), transverse, 4)
    bone = np.minimum(body, posterior)
    canvas.paint(canvas.coverage(bone), tissue.cortical * 0.85, "vertebrae", box)
    inner = canvas.coverage(np.minimum(body + 1.9, posterior + 1.7))
    canvas.paint(inner, tissue.trabecular + 22 * texture, None, box)

    epidural = np.maximum(canal, -canal - 4)
    canvas.paint(canvas.coverage(canal), tissue.canal, "spinal_cord", box)
    canvas.paint(canvas.coverage(epidural) * (canal_centre < -5), 0.6 * tissue.fat, None, box)
    cord = np.sqrt((u / 1.2) ** 2 + (canal_centre - 1) ** 2) - 4.3
    canvas.paint(canvas.coverage(cord), tissue.cord, None, box)
    _osteophytes(scene, rng)


def _osteophytes(scene: Scene, rng: np.random.Generator) -> None:
    """Small bone spurs at the front edges of some bodies, on the right where the aorta does not hold them back."""
    count = int(rng.integers(0, 7))
    if count == 0:
        return
    level = rng.integers(4, 11, count) + 0.5
    z = scene.cage.vertebra_top - scene.cage.vertebra_period * level
    angle = rng.uniform(0.5, 1.5, count)
    sx, sy = scene.cage.spine(z)
    points = np.stack([sx + 19 * np.cos(angle), sy + 16 * np.sin(angle), z], axis=1)
    scene.canvas.paint_balls(scene.space.to_world(points), rng.uniform(2, 4.5, count), 450.0, "vertebrae")
