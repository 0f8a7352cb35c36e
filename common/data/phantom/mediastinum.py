"""Heart, great vessels, airways and esophagus, and the outline they give the lungs."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from common.data.phantom.scene import Scene
from common.data.phantom.shapes import ellipsoid, ramp, smooth_union, tilted_ellipsoid
from common.data.phantom.space import SmoothField
from common.data.phantom.spine import spine_region
from common.data.phantom.tubes import distance_to_balls
from common.data.phantom.vessels import Tube, large_tubes


class Mediastinum:
    """Shapes of one patient's mediastinum on the coarse grid; :meth:`draw` paints them.

    Attributes:
        outline: distance to everything that the lungs lie against.
        side: zero on the sheet between the lungs, positive to its right.
    """

    def __init__(self, rng: np.random.Generator, scene: Scene) -> None:
        self.scene = scene
        self.tubes: list[Tube] = large_tubes(rng, scene.cage)
        self.world = [scene.space.to_world(t.points) for t in self.tubes]
        self.front = np.tile(scene.space.directions_to_world(np.array([[0.0, 1.0, 0.0]])), (1, 1))
        self.chambers, self.heart = self._heart(rng)
        # the heart rests on the diaphragm
        self.heart = np.maximum(self.heart, 3 - scene.cage.abdomen)
        self.chambers = {k: np.maximum(v, 9 - scene.cage.abdomen) for k, v in self.chambers.items()}
        self.outline = self._outline(rng)

    def _heart(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
        points = self.scene.space.canonical
        size = rng.uniform(0.9, 1.14)
        sink = rng.uniform(-10, 0)
        cage = self.scene.cage
        d = cage.chest_scale**0.5  # shallow chests have wide hearts
        wall = rng.uniform(8, 11)

        def place(x: float, y: float, z: float) -> tuple[float, float, float]:
            jitter = rng.normal(0, 1.8, 3)
            return (
                -8 + (x + 8) * size + jitter[0],
                float(cage.chest_depth(8 + (y - 8) * size)) + jitter[1],
                -20 + (z + 20) * size + sink + jitter[2],
            )

        def radii(*r: float) -> tuple[float, ...]:
            return tuple(v * size * k * rng.uniform(0.94, 1.06) for v, k in zip(r, (1 / d**0.5, d, 1), strict=True))

        axis = (-0.76, 0.46, -0.46 + rng.uniform(-0.12, 0.12))
        left = tilted_ellipsoid(points, place(-42, 14, -52), radii(43, 25, 25), axis)
        right = tilted_ellipsoid(points, place(-14, 44, -50), radii(42, 19, 29), (-0.8, 0.12, -0.45))
        chambers = {
            "left_ventricle": left,
            "right_ventricle": np.maximum(right, -(left - wall)),
            "right_atrium": ellipsoid(points, place(33, 20, -42), radii(21, 25, 30)),
            "left_atrium": ellipsoid(points, place(-6, -13, -22), radii(31, 17, 22)),
        }
        muscle = smooth_union(left - wall, right - 3.5, 6)
        atria = smooth_union(chambers["right_atrium"] - 2.5, chambers["left_atrium"] - 2.5, 8)
        return chambers, smooth_union(muscle, atria, 10)

    def _outline(self, rng: np.random.Generator) -> np.ndarray:
        scene = self.scene
        x, y, z = scene.space.canonical
        margin, fat = rng.uniform(1.5, 5.5), rng.uniform(2.0, 5.0)
        outline = np.minimum(self.heart - margin, spine_region(scene) - 2.5)
        for tube, world in zip(self.tubes, self.world, strict=True):
            if "subclavian" in tube.name:
                continue
            # airways and vessels inside the lungs' roots are surrounded by little tissue
            inner = np.interp(np.abs(tube.points[:, 0]), [36, 50], [fat, 0.3])
            box, distance = distance_to_balls(scene.space.coarse, world, tube.radii + inner, reach=25.0)
            if distance.size:
                outline[box] = np.minimum(outline[box], distance)
        # fat fills the notches between neighbours
        outline = ndimage.gaussian_filter(np.clip(outline, -12, 24), 1.5) - 1.5
        shift = 4 * SmoothField(rng, 70.0).on(scene.space.coarse)
        self.side = x + shift
        septum = np.abs(self.side) - (
            2.5 + (10 * ramp(z, -5, 45) + 9 * ramp(z, 55, 100)) * (0.3 + 0.7 * ramp(y, 60, 15))
        )
        fat_pad = np.maximum(ellipsoid((x, y, z), (-46, 52, -88), (50, 30, 20)), scene.cage.outer + 6)
        behind = np.maximum(np.maximum(np.abs(x) - 13, y + 36), -120 - z)  # vessels and fat beside the bodies
        outline = smooth_union(outline, septum, 9)
        outline = smooth_union(outline, fat_pad, 12)
        return np.minimum(outline, behind)

    def draw(self, rng: np.random.Generator) -> None:
        """Paint heart, vessels, airways and esophagus into the scan."""
        scene, tissue, canvas = self.scene, self.scene.tissue, self.scene.canvas
        box = scene.space.box_where(self.heart < 4)
        if 0 not in canvas.hu[box].shape:
            texture = scene.texture[box]
            canvas.paint(canvas.coverage(scene.fine(self.heart, box)), tissue.myocardium + 4 * texture, "heart", box)
            for name, shape in self.chambers.items():
                blood = tissue.right_heart if name.startswith("right") else tissue.left_heart
                mixing = 0.06 * blood if tissue.phase == "arterial" and name.startswith("right") else 2.0
                canvas.paint(canvas.coverage(scene.fine(shape, box)), blood + mixing * texture, None, box)
        veins_first = sorted(range(len(self.tubes)), key=lambda i: _ORDER.index(self.tubes[i].label))
        for tube, world in zip(self.tubes, self.world, strict=True):
            if tube.label == "trachea_airway":  # all walls before all lumens, which join
                canvas.paint_balls(world, tube.radii + np.interp(tube.radii, [2, 8], [0.8, 1.6]), tissue.wall)
        for i in veins_first:
            self._draw_tube(rng, self.tubes[i], self.world[i])
        self._nodes(rng)
        self._plaques(rng)

    def _draw_tube(self, rng: np.random.Generator, tube: Tube, world: np.ndarray) -> None:
        canvas, tissue = self.scene.canvas, self.scene.tissue
        if tube.label == "trachea_airway":
            canvas.paint_balls(world, tube.radii, -1000.0 + rng.uniform(0, 25), tube.label)
        elif tube.label == "esophagus":
            front = np.repeat(self.front, len(world), axis=0)
            canvas.paint_balls(world, tube.radii, tissue.esophagus, tube.label, normals=front, flatten=tube.flatten)
            self._esophageal_content(rng, tube, world)
        else:
            canvas.paint_balls(world, tube.radii, getattr(tissue, tube.blood), tube.label)

    def _esophageal_content(self, rng: np.random.Generator, tube: Tube, world: np.ndarray) -> None:
        """Pockets of air or fluid in a tube that is mostly collapsed."""
        if rng.random() < 0.4:
            return
        for _ in range(int(rng.integers(1, 4))):
            middle, length = int(rng.integers(0, len(world))), int(rng.integers(3, 14))
            piece = slice(max(middle - length, 0), middle + length)
            value = -850.0 if rng.random() < 0.7 else 8.0
            self.scene.canvas.paint_balls(world[piece], tube.radii[piece] * rng.uniform(0.25, 0.5), value)

    def _nodes(self, rng: np.random.Generator) -> None:
        """Small lymph nodes in the fat: paratracheal, subcarinal, prevascular; not labelled."""
        places = np.array(
            [
                (16, -8, 40),
                (14, -4, 55),
                (-18, 6, 30),
                (4, -26, 4),
                (-10, 34, 40),
                (36, -16, 2),
                (-38, -12, 8),
                (-8, -4, 70),
            ]
        )
        chosen = places[rng.choice(len(places), int(rng.integers(3, 8)), replace=False)] + rng.normal(0, 3, 3)
        radii = rng.uniform(2, 5.5, len(chosen))
        world = self.scene.space.to_world(chosen.astype(float))
        box, distance = distance_to_balls(self.scene.grid, world, radii)
        if distance.size:
            canvas = self.scene.canvas
            free = (canvas.label[box] == 0) & (canvas.hu[box] > -200)
            canvas.paint(canvas.coverage(distance) * free, self.scene.tissue.node, None, box)

    def _plaques(self, rng: np.random.Generator) -> None:
        """Calcified plaques in the aortic wall of some patients, and in a coronary artery."""
        if rng.random() < 0.6:
            return
        tube, world = next((t, w) for t, w in zip(self.tubes, self.world, strict=True) if t.name == "aorta")
        count = int(rng.integers(2, 14))
        at = rng.integers(len(world) // 4, len(world), count)
        direction = rng.normal(0, 1, (count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        centres = world[at] + direction * tube.radii[at, None] * 0.93
        self.scene.canvas.paint_balls(centres, rng.uniform(1, 2.6, count), rng.uniform(400, 900))


# later covers earlier where two meet
_ORDER = ("other_vessels", "pulmonary_artery", "aorta", "esophagus", "trachea_airway")
