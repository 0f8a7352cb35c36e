"""The upper abdomen under the diaphragm: liver, spleen, stomach, colon, kidneys, and fat between them."""

from __future__ import annotations

import numpy as np

from common.data.phantom.cage import WALL_MM
from common.data.phantom.scene import Scene
from common.data.phantom.shapes import ellipsoid, smooth_union, tilted_ellipsoid
from common.data.phantom.space import SmoothField
from common.data.phantom.trees import Tree, balls, grow
from common.data.phantom.tubes import centre_line, coverage_of_balls


def draw_abdomen(scene: Scene, rng: np.random.Generator) -> None:
    """Paint the abdominal organs; the diaphragm is the muscle sheet that stays above them."""
    u = rng.uniform
    points = scene.space.canonical
    x, y, z = points
    canvas, tissue, cage = scene.canvas, scene.tissue, scene.cage
    d, top = cage.depth_scale, cage.dome
    cavity = np.maximum(cage.abdomen, cage.outer + WALL_MM - 2)
    box = scene.space.box_where(cavity < 0)
    if 0 in canvas.hu[box].shape:
        return
    texture = scene.texture[box]
    coverage = canvas.coverage(scene.fine(cavity, box))
    canvas.paint(coverage, tissue.muscle, "none", box)
    room = np.maximum(cage.abdomen + 3, cage.outer + WALL_MM + 1)
    canvas.paint(canvas.coverage(scene.fine(room, box)), tissue.fat + 10 * texture, None, box)

    sx, sy = cage.spine(z)
    retro = np.sqrt(((x - sx) / 1.25) ** 2 + (y - sy - 6) ** 2) - 36  # spine, aorta and crura keep organs away
    wobble = 3 * SmoothField(rng, 34.0).on(scene.space.coarse)

    stomach = ellipsoid(points, (-58, 4 * d, top - 44), (u(30, 40), u(38, 50) * d, u(26, 34)))
    body = tilted_ellipsoid(points, (-42, 42 * d, top - 66), (u(44, 56), 30, 30), (0.6, 0.3, -0.6))
    stomach = np.maximum(smooth_union(stomach, body, 14) + wobble, room + 2)
    spleen = tilted_ellipsoid(points, (-98, -34 * d, top - 46), (u(44, 60), 38 * d, u(24, 32)), (-0.25, -0.4, -0.85))
    spleen = np.maximum(np.maximum(spleen + 0.7 * wobble, room - 0.5), -(stomach - 3))
    liver = ellipsoid(points, (62, 0, top - 66), (84, 104 * d, 82))
    liver = smooth_union(liver, ellipsoid(points, (-14, 42 * d, top - 34), (u(52, 78), 50 * d, u(30, 42))), 24)
    liver = np.maximum(np.maximum(liver + wobble, room - 1), -retro)
    liver = np.maximum(liver, -(stomach - 4))
    liver = np.maximum(liver, -(spleen - 3))
    for side, name in ((1, "kidney_right"), (-1, "kidney_left")):
        low = top - (104 if side > 0 else 92) + u(-8, 8)
        kidney = tilted_ellipsoid(
            points, (side * u(58, 68), -46 * d, low), (u(48, 58), u(25, 30), 25), (side * 0.25, 0.2, -0.9)
        )
        around = ellipsoid(points, (side * 62, -46 * d, low), (40, 38, 62))
        liver, spleen = np.maximum(liver, -around), np.maximum(spleen, -(kidney - 6))
        kidney = np.maximum(kidney, room + 3)
        fine = scene.fine(kidney, box)
        canvas.paint(canvas.coverage(fine), tissue.kidney_cortex, name, box)
        canvas.paint(canvas.coverage(fine + 7 + 3 * texture), tissue.kidney_medulla, None, box)
        sinus = ellipsoid(points, (side * 54, -42 * d, low), (13, 11, 28))
        canvas.paint(canvas.coverage(scene.fine(sinus, box)), tissue.fat + 20, None, box)

    _colon(scene, rng)
    _stomach(scene, rng, stomach, box)
    canvas.paint(canvas.coverage(scene.fine(liver, box)), tissue.liver + 2 * texture, "liver", box)
    mottle = 0.35 * tissue.spleen * np.sin(2.2 * texture) if tissue.phase == "arterial" else 2 * texture
    canvas.paint(canvas.coverage(scene.fine(spleen, box)), tissue.spleen + mottle, "spleen", box)
    _liver_vessels(scene, rng, liver)
    crura = np.maximum(
        np.abs(np.sqrt((x - sx) ** 2 + (y - sy - 4) ** 2) - 27) - 3.2, np.maximum(sy - y + 6, z - (top - 22))
    )
    crura = np.maximum(crura, 5 - np.abs(x))
    canvas.paint(canvas.coverage(scene.fine(crura, box)), tissue.muscle, None, box)


def _stomach(scene: Scene, rng: np.random.Generator, stomach: np.ndarray, box: tuple) -> None:
    """Wall, fluid or food, and the air that has risen to the front."""
    canvas, tissue = scene.canvas, scene.tissue
    fine = scene.fine(stomach, box)
    canvas.paint(canvas.coverage(fine), tissue.gut, "stomach", box)
    lumen = canvas.coverage(fine + rng.uniform(4, 8) + 1.5 * scene.texture[box])
    food = rng.uniform(5, 60)
    canvas.paint(lumen, food + rng.uniform(2, 30) * scene.texture[box], None, box)
    inside = np.argwhere(lumen > 0.5)
    if len(inside) and rng.random() < 0.85:
        ys = scene.grid.axis(1)[box[1]]
        level = np.quantile(ys[inside[:, 1]], rng.uniform(0.35, 0.95))
        air = lumen * canvas.coverage((level - ys).astype(np.float32))[None, :, None]
        canvas.paint(air, -985.0, None, box)


def _colon(scene: Scene, rng: np.random.Generator) -> None:
    """Splenic flexure and transverse colon with gas and stool in front, loops of small bowel between."""
    top, d, canvas, tissue = scene.cage.dome, scene.cage.depth_scale, scene.canvas, scene.tissue
    lift = rng.uniform(-14, 12)
    colon = [
        (-104, -8, top - 96),
        (-100, 26, top - 62 + lift),
        (-86, 52, top - 52 + lift),
        (-56, 72, top - 72 + lift),
        (-14, 80, top - 92),
        (40, 78, top - 98),
    ]
    loops = [
        (-84, 12, top - 90),
        (-60, -14, top - 92),
        (-38, -6, top - 84),
        (-58, 24, top - 100),
        (-30, 26, top - 104),
        (-14, 10, top - 98),
    ]
    for points, radius, gas in ((colon, rng.uniform(13, 20), 0.7), (loops, rng.uniform(9, 13), 0.15)):
        p = np.array(points, dtype=float) * (1, d, 1) + rng.normal(0, 4, (len(points), 3))
        line, r = centre_line(p, radius * rng.uniform(0.75, 1.15, len(p)))
        world = scene.space.to_world(line)
        r = r * (1 + 0.12 * np.sin(np.arange(len(r)) * 1.1))
        canvas.paint_balls(world, r, tissue.gut, "bowel")
        content = rng.random(len(line) // 12 + 1).repeat(12)[: len(line)]
        for chosen, value in ((content < gas, -930.0), (content >= gas, rng.uniform(-20, 40))):
            if chosen.any():
                canvas.paint_balls(world[chosen], r[chosen] - 3.5, value)


def _liver_vessels(scene: Scene, rng: np.random.Generator, liver: np.ndarray) -> None:
    """Hepatic and portal veins: brighter than the liver after contrast, a little darker without."""
    x, y, z = scene.space.canonical
    where = liver < -7
    inside = np.stack([x[where], y[where], z[where]], axis=1).astype(float)
    if len(inside) < 100:
        return
    top = scene.cage.dome
    change = {"unenhanced": -12.0, "venous": rng.uniform(25, 55), "arterial": -6.0}[scene.tissue.phase]
    fine = None
    for root in ((26, -6, top - 16), (22, 4, top - 74)):
        tree = grow(
            Tree(np.array([root], dtype=float), np.array([-1])),
            inside[rng.integers(0, len(inside), 28)],
            rng,
            balance=0.5,
        )
        c, r = balls(scene.space.to_world(tree.nodes), tree.parents, tree.radii(1.0, 2.6, 6.0))
        box, coverage = coverage_of_balls(scene.grid, c, r)
        if coverage.size:
            fine = canvas_inside(scene, liver, box)
            scene.canvas.paint(coverage * fine, scene.tissue.liver + change, None, box)


def canvas_inside(scene: Scene, distance: np.ndarray, box: tuple) -> np.ndarray:
    """Coverage of a solid of the coarse grid within a box of the scan."""
    return scene.canvas.coverage(scene.fine(distance, box))
