"""Lesions: solid nodules, ground glass, consolidations, mediastinal masses; all labelled as tumor."""

from __future__ import annotations

from typing import Any

import numpy as np

from common.data.phantom.scene import Scene
from common.data.phantom.tubes import centre_line, coverage_of_balls, distance_to_balls
from common.data.structures import ALL_STRUCTURES

KINDS = ("nodule", "ground_glass", "consolidation", "mediastinal_mass")
_SHARES = (0.5, 0.2, 0.15, 0.15)


def draw_lesions(scene: Scene, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Paint one to three lesions and describe them.

    Returns:
        Per lesion: ``type``, ``centre_mm`` (world, as the image's affine counts), ``radius_mm``, ``hu`` (mean change
        or value).
    """
    lesions: list[dict[str, Any]] = []
    kinds = rng.choice(4, int(rng.choice((1, 2, 3), p=(0.45, 0.35, 0.2))), p=_SHARES)
    # nodules at the end in case nothing else could be placed
    for attempt, kind in enumerate([*kinds, 0, 0, 0]):
        if attempt >= len(kinds) and lesions:
            break
        name = KINDS[int(kind)]
        lesion = _mass(scene, rng) if name == "mediastinal_mass" else _in_lung(scene, rng, name)
        if lesion:
            lesions.append(lesion)
    return lesions


def _in_lung(scene: Scene, rng: np.random.Generator, kind: str) -> dict[str, Any] | None:
    radius = {"nodule": (3.5, 14), "ground_glass": (9, 24), "consolidation": (15, 32)}[kind]
    r = float(np.exp(rng.uniform(*np.log(radius))))
    centre = _place(scene, rng, kind, r)
    if centre is None:
        return None
    canvas = scene.canvas
    if kind == "nodule":
        value = scene.tissue.node + rng.uniform(-10, 25) if rng.random() > 0.12 else rng.uniform(200, 500)
        box, distance = _lumpy(scene, rng, centre, r, lumps=0.25)
        inside = np.clip(1 - (scene.lung_fine[box] - 1) / 3, 0, 1)
        coverage = canvas.coverage(distance) * inside
        _spicules(scene, rng, centre, r, value)
    else:
        box, distance = _lumpy(scene, rng, centre, r, lumps=0.45)
        soft = np.float32(2.0 if kind == "consolidation" else 4.0)
        inside = canvas.coverage(scene.lung_fine[box])
        coverage = np.clip(0.5 - distance / (canvas.grid.voxel + soft), 0, 1) * inside
        value = rng.uniform(15, 50) if kind == "consolidation" else rng.uniform(180, 380)
    hu = canvas.hu[box]
    airway = canvas.label[box] == ALL_STRUCTURES["trachea_airway"]
    texture = scene.texture[box]
    if kind == "ground_glass":  # adds to what is there, vessels stay visible
        hu += coverage * (value + 50 * texture) * (hu < -300) * ~airway
    else:
        noise = {"nodule": 6.0, "consolidation": 25.0}[kind]
        target = np.where(airway | (hu > value), hu, value + noise * texture)
        hu += coverage * (target - hu)
    return _label(scene, kind, box, coverage, centre, r, float(value))


def _place(scene: Scene, rng: np.random.Generator, kind: str, r: float) -> np.ndarray | None:
    """World position of a lesion of radius ``r`` in a lung and inside the scan, or None where there is none."""
    where = scene.lung < (-min(r, 8.0) if kind == "nodule" else -4.0)
    if kind == "consolidation":
        where &= scene.space.canonical[1] < 10  # more often in the dependent parts
    places = np.argwhere(where)
    if not len(places):
        return None
    chosen = places[rng.integers(0, len(places), 200)] + rng.uniform(-0.4, 0.4, (200, 3))
    world = scene.space.coarse.origin + chosen * np.array(scene.space.coarse.spacing)
    inside = (np.abs(world) < -scene.grid.origin - min(r, 10.0)).all(axis=1)
    return world[int(np.argmax(inside))] if inside.any() else None


def _mass(scene: Scene, rng: np.random.Generator) -> dict[str, Any] | None:
    """A mass in the front, middle or back of the mediastinum that displaces nothing but covers fat and lung."""
    places = np.array(
        [(8, 46, 42), (-14, 44, 30), (24, -6, 44), (4, -30, -2), (26, -40, 20), (-34, 20, 26)], dtype=float
    )
    centre = scene.space.to_world(places[rng.integers(len(places))][None] + rng.normal(0, 4, 3))[0]
    r = float(rng.uniform(11, 22))
    box, distance = _lumpy(scene, rng, centre, r, lumps=0.3)
    if not distance.size or min(distance.shape) < 2:
        return None
    canvas = scene.canvas
    keep = [
        ALL_STRUCTURES[n]
        for n in (
            "aorta",
            "pulmonary_artery",
            "trachea_airway",
            "esophagus",
            "heart",
            "vertebrae",
            "ribs_cartilage",
            "other_vessels",
            "spinal_cord",
        )
    ]
    coverage = canvas.coverage(distance) * ~np.isin(canvas.label[box], keep)
    value = scene.tissue.node + rng.uniform(0, 15)
    hu = canvas.hu[box]
    hu += coverage * (value + 5 * scene.texture[box] - hu)
    return _label(scene, "mediastinal_mass", box, coverage, centre, r, float(value))


def _lumpy(scene: Scene, rng: np.random.Generator, centre: np.ndarray, r: float, *, lumps: float) -> tuple:
    """A ball with smaller balls on its surface, blurred into one lobulated shape."""
    n = 9
    direction = rng.normal(0, 1, (n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    size = r * rng.uniform(0.35, 0.35 + lumps, n)
    centres = np.concatenate([centre[None], centre + direction * (r * 0.95 - size * 0.75)[:, None]])
    return distance_to_balls(scene.grid, centres, np.concatenate([[0.85 * r], size]), reach=6.0)


def _spicules(scene: Scene, rng: np.random.Generator, centre: np.ndarray, r: float, value: float) -> None:
    if r < 5 or rng.random() < 0.4:
        return
    for _ in range(int(rng.integers(5, 12))):
        direction = rng.normal(0, 1, 3)
        direction /= np.linalg.norm(direction)
        tip = centre + direction * r * rng.uniform(1.5, 2.3)
        line, radius = centre_line([centre, (centre + tip) / 2 + rng.normal(0, 1, 3), tip], [1.3, 0.9, 0.5])
        box, coverage = coverage_of_balls(scene.grid, line, radius)
        if coverage.size:
            scene.canvas.paint(coverage * scene.canvas.coverage(scene.lung_fine[box]), value, None, box)


def _label(
    scene: Scene, kind: str, box: tuple, coverage: np.ndarray, centre: np.ndarray, r: float, value: float
) -> dict[str, Any] | None:
    inside = coverage >= 0.5
    if not inside.any():
        if coverage.size == 0 or coverage.max() < 0.2:
            return None
        inside = coverage == coverage.max()  # smaller than a voxel: the one it fills most
    scene.canvas.label[box][inside] = ALL_STRUCTURES["tumor"]
    return {
        "type": kind,
        "centre_mm": [round(float(c), 1) for c in centre],
        "radius_mm": round(r, 1),
        "hu": round(value),
        "voxels": int(inside.sum()),
    }
