"""Lungs: what the cage leaves free of mediastinum and abdomen, filled with parenchyma, vessels, airways, fissures."""

from __future__ import annotations

import numpy as np

from common.data.phantom.cage import WALL_MM
from common.data.phantom.scene import Scene
from common.data.phantom.shapes import smooth_union
from common.data.phantom.space import SmoothField
from common.data.phantom.trees import Tree, balls, grow
from common.data.phantom.tubes import coverage_of_balls
from common.data.structures import ALL_STRUCTURES

SIDES = {"lung_left": -1, "lung_right": 1}

# where branches leave the roots of the right lung: bronchi, arteries, veins (canonical mm; the left side has its own)
_BRONCHI = {1: [(54, -20, 16), (47, -34, -43), (60, 0, -33)], -1: [(-58, -10, 1), (-50, -40, -43)]}
_ARTERIES = {1: [(50, -22, -34), (48, -10, -8), (42, -8, -2)], -1: [(-53, -35, -30), (-51, -29, -8), (-47, -21, 10)]}
_VEINS = {1: [(50, 2, -6), (52, -34, -42)], -1: [(-54, 6, 2), (-54, -36, -38)]}


def shape_lungs(scene: Scene, outline: np.ndarray, side: np.ndarray) -> None:
    """Set ``scene.lung``, the distance to the surface of both lungs on the coarse grid, and ``scene.side``."""
    scene.side = side
    cavity = -smooth_union(-(scene.cage.outer + WALL_MM), scene.cage.abdomen - 2.5, 4)
    scene.lung = -smooth_union(-cavity, outline, 5)


def draw_parenchyma(scene: Scene, rng: np.random.Generator) -> None:
    """Paint and label both lungs."""
    tissue, canvas = scene.tissue, scene.canvas
    _, y, z = scene.space.canonical
    coarse = scene.space.coarse
    hu = tissue.lung - tissue.lung_gradient * y  # the patient lies on the back: denser behind
    hu = hu + 18 * SmoothField(rng, 30.0).on(coarse) + 22 * rng.standard_normal(coarse.shape, dtype=np.float32)
    if tissue.emphysema:
        holes = SmoothField(rng, 22.0).on(coarse)
        hu -= tissue.emphysema * 90 * np.clip(holes - 0.5, 0, 1.5) * np.clip(1 + z / 100, 0.3, 1.4)
    if rng.random() < 0.4:  # dependent density at the back
        hu += rng.uniform(60, 220) * np.exp((scene.lung + 1) / 7) * (scene.lung < 0) * np.clip((-40 - y) / 40, 0, 1)
    for start, up, side in ((-46.0, 0.85, -1), (-50.0, 0.8, 1)):  # the oblique fissures
        d = (z - start - up * -y + 6 * np.sin(y / 30)) * np.float32(0.76)
        hu += 55 * np.exp(-((d / 3.5) ** 2)) * (side * scene.side > 0)
    fine = scene.fine(scene.lung)
    canvas.paint(canvas.coverage(fine), np.clip(scene.fine(hu), -985, -400), "lung_right")
    left = (fine < 0) & (scene.fine(scene.side) < 0)
    canvas.label[left & (canvas.label == 2)] = 1
    scene.lung_fine = fine


def draw_trees(scene: Scene, rng: np.random.Generator) -> None:
    """Paint arteries, veins and airways of both lungs; what lies outside the lungs is left out."""
    density = rng.uniform(0.75, 1.25)
    tissue, space = scene.tissue, scene.space
    for side in (1, -1):
        inside = _points_in_lung(scene, side, -3.0)
        if len(inside) < 50:
            continue
        bronchi, arteries_at, veins_at = (_roots(scene, table[side]) for table in (_BRONCHI, _ARTERIES, _VEINS))
        airways = grow(bronchi, _targets(rng, inside, 34 * density), rng, balance=0.5)
        accompany = _beside(airways, arteries_at.nodes, rng)
        arteries = grow(accompany, _targets(rng, inside, 1100 * density), rng, balance=0.5)
        veins = grow(veins_at, _targets(rng, inside, 800 * density), rng, balance=0.5)
        for tree, value, tip in ((arteries, tissue.pulmonary, 0.78), (veins, tissue.left_heart, 0.72)):
            c, r = balls(space.to_world(tree.nodes), tree.parents, tree.radii(tip, 2.9, 5.0))
            _paint_inside(scene, c, r, min(value, 250.0) - 10)
        radii = airways.radii(1.15, 2.6, 4.0)
        c, r = balls(space.to_world(airways.nodes), airways.parents, radii)
        _paint_inside(scene, c, r + 0.8, -150.0)
        _paint_inside(scene, c, 0.9 * r, -985.0, "trachea_airway")


def _roots(scene: Scene, points: list[tuple[int, int, int]]) -> Tree:
    nodes = np.array(points, dtype=float)
    nodes[:, 1] = scene.cage.chest_depth(nodes[:, 1])
    return Tree(nodes, np.full(len(nodes), -1))


def _targets(rng: np.random.Generator, inside: np.ndarray, n: float) -> np.ndarray:
    """About ``n`` points at random, evenly over a region given by the coarse grid's points."""
    return inside[rng.integers(0, len(inside), int(n))] + rng.uniform(-2.5, 2.5, (int(n), 3))


def _points_in_lung(scene: Scene, side: int, depth: float) -> np.ndarray:
    """Canonical positions (N, 3) of the coarse grid's points at least ``-depth`` mm inside one lung."""
    x, y, z = scene.space.canonical
    where = (scene.lung < depth) & (side * scene.side > 0)
    return np.stack([x[where], y[where], z[where]], axis=1).astype(float)


def _beside(airways: Tree, roots: np.ndarray, rng: np.random.Generator) -> Tree:
    """The skeleton of an arterial tree: the airways' branches, one bronchus' width aside."""
    aside = rng.normal(0, 1, 3)
    aside *= 4.0 / np.linalg.norm(aside)
    nodes = np.concatenate([roots, airways.nodes + aside])
    parents = np.concatenate([np.full(len(roots), -1), airways.parents + len(roots)])
    for i in np.flatnonzero(airways.parents < 0):
        parents[len(roots) + i] = int(np.argmin(np.linalg.norm(roots - nodes[len(roots) + i], axis=1)))
    return Tree(nodes, parents)


def _paint_inside(scene: Scene, centres: np.ndarray, radii: np.ndarray, value: float, label: str | None = None) -> None:
    box, coverage = coverage_of_balls(scene.grid, centres, radii)
    if coverage.size:
        coverage *= scene.canvas.label[box] != ALL_STRUCTURES["trachea_airway"]  # large bronchi stay open
        inside = np.clip(0.5 - scene.lung_fine[box] / 2, 0, 1)
        scene.canvas.paint(coverage * inside, value, label, box)
