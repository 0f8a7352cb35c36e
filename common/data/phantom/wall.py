"""Chest wall: skin, fat, muscles, ribs with cartilage, sternum, shoulder girdle, and the table below."""

from __future__ import annotations

import numpy as np

from common.data.phantom.scene import Scene
from common.data.phantom.shapes import bump, ellipsoid, ramp, smooth_union
from common.data.phantom.space import SmoothField
from common.data.phantom.tubes import centre_line

_RIB_DROP = (34, 54, 74, 90, 100, 106, 108, 104, 94, 78, 50, 28)
_RIB_END = (150, 146, 140, 136, 132, 128, 124, 118, 112, 104, 82, 58)  # degrees from the spine
_STERNAL_JOINT = (74, 46, 24, 6, -12, -26, -36)


def draw_soft_wall(scene: Scene, rng: np.random.Generator) -> None:
    """Paint fat, skin and muscles of the trunk; sets ``scene.body``, the distance to the skin."""
    x, y, z = scene.space.canonical
    cage, u = scene.cage, rng.uniform
    back = ramp(y, 10, -50)
    side = 1 - np.clip(np.abs(y + 5) / 85, 0, 1)
    strength = u(0.75, 1.25)
    pectoral = 15 * strength * ramp(y, 10, 40) * bump(np.abs(x), 70, 34) * ramp(z, 5, 45)
    latissimus = 13 * strength * back * bump(np.abs(x), 100, 34) * ramp(z, -110, 0)
    scapular = 26 * strength * back * bump(np.abs(x), 92, 30) * ramp(z, -30, 55)
    thick = 3 + 6 * strength * side * ramp(z, 20, -60) + pectoral + latissimus + scapular
    spinal = 27 * ramp(y, -30, -60) * bump(x, 0, 62)  # room for the long muscles of the back
    fat = u(4, 22)
    female = rng.random() < 0.45
    fat_here = fat * (0.45 + 0.55 * ramp(y, -70, 10)) + 3
    shoulders = [ellipsoid((x, y, z), (s * u(118, 128), -26, 124), (72 + fat / 2, 58 + fat / 2, 66)) for s in (1, -1)]
    neck = ellipsoid((x, y, z), (0, -26, 150), (90, 74, 66))
    body = cage.trunk - np.maximum(thick, spinal) - fat_here
    for part in (*shoulders, neck):
        body = smooth_union(body, part, 40)
    if female:
        size, low = u(28, 48), u(-30, 0)
        for s in (1, -1):
            breast = ellipsoid((x, y, z), (s * 72, 78 * cage.depth_scale + fat * 0.6, low), (58, size, 55))
            body = smooth_union(body, breast, 24)
    table_y = float(-cage.half_depth - 27 - 0.4 * fat)
    body = np.maximum(body, np.float32(table_y) - y)  # the back is flat where it lies on the table
    scene.body = body

    canvas, tissue = scene.canvas, scene.tissue
    fine_body = scene.fine(body)
    inside = canvas.coverage(fine_body)
    canvas.paint(inside, tissue.fat + 8 * scene.texture)
    canvas.paint(inside * canvas.coverage(-fine_body - 2.2), tissue.skin)
    if female:
        _glands(scene, rng)

    muscle = np.maximum(cage.trunk - thick, -(cage.trunk + 12))
    shoulder = [ellipsoid((x, y, z), (s * 130, -32, 122), (54, 36, 50)) for s in (1, -1)]
    neck_muscle = ellipsoid((x, y, z), (0, -42, 150), (58, 42, 62))
    apical = np.maximum(cage.outer - 16, 40 - z)  # scalene and intercostal muscles over the apex
    for part in (*shoulder, neck_muscle, apical):
        muscle = np.minimum(muscle, part)
    muscle = np.minimum(muscle, np.maximum(cage.outer - 2, -(cage.outer + WALL_INNER)))
    # fat planes: between the muscles' layers, and where a smooth random field crosses zero
    planes = SmoothField(rng, 24.0).on(scene.space.coarse)
    sheet = np.abs(planes) * 8 - u(1.2, 2.4) * ramp(thick + 30 * ramp(z, 60, 90), 8, 20)
    layer = np.abs(cage.trunk - 0.5 * thick) - 1.3 * ramp(thick, 12, 20)
    muscle = np.maximum(muscle, -np.minimum(sheet, layer))
    muscle = np.maximum(muscle, body + 3.5)
    streaks = 1 - tissue.muscle_fat * np.clip(scene.texture - 0.6, 0, 1)
    canvas.paint(canvas.coverage(scene.fine(muscle)) * streaks, tissue.muscle)
    _erectors(scene)


WALL_INNER = 7.0


def _glands(scene: Scene, rng: np.random.Generator) -> None:
    """Strands of gland in the fat in front of the chest muscles."""
    x, y, z = scene.space.canonical
    strands = SmoothField(rng, 16.0).on(scene.space.coarse)
    where = np.maximum(np.abs(strands) * 9 - rng.uniform(1.0, 4.0), 8 - scene.cage.trunk + 14)
    for_box = np.maximum(where, np.maximum(40 - y, np.abs(np.abs(x) - 72) - 40))
    region = np.maximum(for_box, np.maximum(scene.body + 6, np.abs(z + 15) - 40))
    scene.canvas.paint(scene.canvas.coverage(scene.fine(region)), scene.tissue.muscle - 12)


def _erectors(scene: Scene) -> None:
    """The long muscles on both sides of the spinous processes, labelled as muscle."""
    x, y, z = scene.space.canonical
    sx, sy = scene.cage.spine(z)
    distance = None
    for side in (1, -1):
        half = ellipsoid((x - sx, y - sy, 0 * z), (side * 28, -40, 0), (26, 14, 1e3))
        distance = half if distance is None else np.minimum(distance, half)
    assert distance is not None
    distance = np.maximum(distance, np.maximum(scene.body + 6, 2 - np.abs(x - sx)))
    box = scene.space.box_where(distance < 0)
    streaks = 1 - scene.tissue.muscle_fat * np.clip(0.7 * np.abs(scene.texture[box]) - 0.2, 0, 0.8)
    scene.canvas.paint(scene.canvas.coverage(scene.fine(distance, box)) * streaks, scene.tissue.muscle, "muscle", box)


def draw_bones(scene: Scene, rng: np.random.Generator) -> None:
    """Paint ribs with their cartilages, sternum, clavicles, scapulae and humeral heads."""
    tissue = scene.tissue
    thickness = rng.uniform(5.8, 7.2)
    points, normals, radii, gristle = [], [], [], []
    for side in (1, -1):
        for k in range(12):
            p, n, r, end = _rib(scene, k, side, thickness, rng)
            points.append(p)
            normals.append(n)
            radii.append(r)
            gristle.append(np.arange(len(p)) >= end)
    p, n, r, g = (np.concatenate(v) for v in (points, normals, radii, gristle))
    world, normal = scene.space.to_world(p), scene.space.directions_to_world(n)
    scene.canvas.paint_balls(world[g], 0.95 * r[g], tissue.cartilage, "ribs_cartilage", normals=normal[g], flatten=1.5)
    _bone(scene, world[~g], r[~g], "ribs_cartilage", marrow=0.9, normals=normal[~g], flatten=1.75)

    front = np.array([80, 62, 44, 20, -5, -30, -52], dtype=float)
    sternum, normal_front = scene.cage.around(np.full(7, np.pi), front, 1, 3.0, taper=False)
    sternum[:, 1] -= 0.12 * np.clip(front - 20, 0, 80)
    line, radius = centre_line(sternum, np.array([19, 18, 12, 13, 15, 14, 7]))
    flat = np.tile(normal_front[:1], (len(line), 1))
    _bone(
        scene,
        scene.space.to_world(line),
        radius,
        "none",
        marrow=0.6,
        normals=scene.space.directions_to_world(flat),
        flatten=2.6,
    )
    for side in (1, -1):
        _shoulder_girdle(scene, rng, side, sternum[0])


def _rib(
    scene: Scene, k: int, side: int, thickness: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Centre line, normals and radii of rib ``k`` (0 to 11) and the index where its cartilage begins."""
    cage = scene.cage
    top = cage.vertebra_top - cage.vertebra_period * k + 4
    end_angle = np.deg2rad(_RIB_END[k] + rng.normal(0, 1.5))
    angle = np.linspace(0.44, end_angle, 26)
    share = (angle - angle[0]) / (np.pi - angle[0])
    z = top - 6 - (_RIB_DROP[k] + rng.normal(0, 2)) * share**0.9 * (1 + 0.12 * np.sin(np.pi * share))
    if k == 0:  # the first rib lies flat around the apex
        z = np.minimum(z, cage.apex - 8)
    curve, normal = cage.around(angle, z, side, 4.2)
    sx, sy = cage.spine(np.array([top]))
    neck = np.array([[sx[0] + side * 17, sy[0] - 8, top], [sx[0] + side * 30, sy[0] - 19, top - 2]])
    curve, normal = np.concatenate([neck, curve]), np.concatenate([np.tile([[0, -1.0, 0]], (2, 1)), normal])
    radius = thickness * np.interp(np.arange(len(curve)), [0, 2, 8, 27], [0.75, 0.8, 1.0, 1.0])
    if k < 10:
        joint = _STERNAL_JOINT[min(k, 6)] - (3 * (k - 6) if k > 6 else 0)
        last = np.pi - np.arctan2(18 + 2.5 * max(k - 6, 0), cage.half_depth) * 1.3
        a = np.linspace(end_angle, last, 9)[1:]
        t = (a - end_angle) / (last - end_angle)
        sag = 4 if k < 4 else 10
        zc = z[-1] + (joint - z[-1]) * t**1.4 - sag * np.sin(np.pi * t)
        more, more_normal = cage.around(a, zc, side, 4.2, taper=k < 2)
        if k < 2:
            t = t[:, None]
            straight = (
                curve[-1]
                + (
                    np.array(
                        [
                            side * 20,
                            cage.around(np.array([np.pi]), np.array([float(joint)]), 1, 4, taper=False)[0][0, 1] - 4,
                            joint,
                        ]
                    )
                    - curve[-1]
                )
                * t
            )
            more = straight
        curve, normal = np.concatenate([curve, more]), np.concatenate([normal, more_normal])
        radius = np.concatenate([radius, np.full(len(more), thickness * 0.95)])
    line, r = centre_line(curve, radius)
    at = np.linspace(0, len(curve) - 1, len(line))
    dense_normal = np.stack([np.interp(at, np.arange(len(curve)), normal[:, i]) for i in range(3)], axis=1)
    dense_normal /= np.maximum(np.linalg.norm(dense_normal, axis=1, keepdims=True), 1e-6)
    return line, dense_normal, r, int(np.argmin(np.linalg.norm(line - curve[27], axis=1)))


def _bone(scene: Scene, centres: np.ndarray, radii: np.ndarray, label: str, *, marrow: float, **shape: object) -> None:
    """A cortical shell around marrow; ``marrow`` scales the trabecular HU."""
    canvas, tissue = scene.canvas, scene.tissue
    box, distance = canvas.paint_balls(centres, radii, tissue.cortical, label, **shape)
    if distance.size:
        canvas.paint(canvas.coverage(distance + 2.2), tissue.trabecular * marrow + 15 * scene.texture[box], None, box)


def _shoulder_girdle(scene: Scene, rng: np.random.Generator, side: int, manubrium: np.ndarray) -> None:
    space, cage = scene.space, scene.cage
    start = manubrium + np.array([side * 20, -2, 8])
    clavicle = np.array(
        [start, (side * 52, start[1] + 2, 94), (side * 88, 22, 106), (side * 124, -8, 124), (side * 150, -28, 134)]
    )
    line, r = centre_line(clavicle + rng.normal(0, 2, clavicle.shape), np.array([8, 6, 5.5, 5.5, 6]))
    _bone(scene, space.to_world(line), r, "none", marrow=0.9)

    # the blade: a triangle on the cage, from the upper corner and the socket down to the tip
    corners = np.array([[0.62, 92.0], [1.38, 88.0], [0.98, -42.0]]) + rng.normal(0, (0.03, 4), (3, 2))
    s, t = (v.ravel() for v in np.meshgrid(np.linspace(0, 1, 26), np.linspace(0, 1, 44), indexing="ij"))
    flat = (corners[0] + (corners[1] - corners[0]) * s[:, None]) * (1 - t[:, None]) + corners[2] * t[:, None]
    sheet, normal = cage.around(flat[:, 0], flat[:, 1], side, -13.0, taper=False)
    edge = np.minimum(np.minimum(s, 1 - s), 1 - t)
    radius = np.where(edge < 0.1, 5.0, 3.2)
    _bone(
        scene, space.to_world(sheet), radius, "none", marrow=1.5, normals=space.directions_to_world(normal), flatten=1.3
    )
    ridge = np.stack([np.linspace(0.66, 1.42, 6), np.linspace(62, 104, 6)], axis=1)
    spine, _ = cage.around(ridge[:, 0], ridge[:, 1], side, -24.0, taper=False)
    line, r = centre_line(spine, np.linspace(4, 6, 6))
    _bone(scene, space.to_world(line), r, "none", marrow=1.0)
    head = np.array([[side * 146.0, -30.0, 122.0]]) + rng.normal(0, 3, 3)
    _bone(scene, space.to_world(head), np.array([22.0]), "none", marrow=0.8, reach=8.0)


def draw_table(scene: Scene, rng: np.random.Generator) -> None:
    """A thin curved shell with a foam core under the patient."""
    if rng.random() < 0.15:
        return
    xs, ys, _ = (
        scene.grid.axis(d)[s].astype(np.float32)
        for d, s in zip(range(3), ((slice(None), None), (None, slice(None)), (None, None)), strict=True)
    )
    below = scene.space.to_world(
        np.array([[0.0, -scene.cage.half_depth - 36 - rng.uniform(4, 16), scene.space.centre[2]]])
    )[0, 1]
    top = below + rng.uniform(0, 0.0004) * xs**2 - 2
    depth = np.abs(ys - top + 11) - 11
    depth = np.maximum(depth, np.abs(xs) - 215)
    plate = scene.canvas.coverage(depth)[:, :, None]
    shell = plate * scene.canvas.coverage(np.abs(depth) - 1.2)[:, :, None]
    free = np.clip((-300 - scene.canvas.hu) / 500, 0, 1)
    scene.canvas.paint(np.broadcast_to(plate, scene.grid.shape) * free, -940.0)
    scene.canvas.paint(np.broadcast_to(shell, scene.grid.shape) * free, rng.uniform(-500, -100))
