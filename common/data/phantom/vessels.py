"""Centre lines of the large tubes of the mediastinum, in canonical mm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.data.phantom.cage import Cage
from common.data.phantom.tubes import centre_line


@dataclass(frozen=True)
class Tube:
    """One stretch of a vessel, airway or gut: balls along its centre line in canonical mm."""

    name: str
    label: str
    blood: str
    points: np.ndarray
    radii: np.ndarray
    flatten: float = 1.0


def large_tubes(rng: np.random.Generator, cage: Cage) -> list[Tube]:
    """Draw the course and calibre of every large tube of one patient.

    ``blood`` names the field of :class:`~common.data.phantom.tissue.Tissue` that fills it.
    """
    u = rng.uniform
    behind = lambda height, gap: (cage.spine(np.array([height]))[1][0] + gap - cage.chest_depth(0)) / cage.chest_scale  # noqa: E731
    tubes: list[Tube] = []

    def add(
        name: str,
        label: str,
        blood: str,
        points: list[tuple],
        radii: list[float],
        sd: float = 1.5,
        flatten: float = 1.0,
    ) -> None:
        p = np.array(points, dtype=float)
        p[:, 1] = cage.chest_depth(p[:, 1])
        p[1:-1] += rng.normal(0, sd, (len(p) - 2, 3)) if len(p) > 2 else 0
        line, radius = centre_line(p, np.array(radii, dtype=float))
        tubes.append(Tube(name, label, blood, line, radius, flatten))

    r = u(11.5, 16)
    arch = u(-6, 8)
    low = -34 + u(-4, 3)
    knob = u(-4, 5)
    asc = [(-2, 16, -24), (10, 25, -6), (15, 26, 14), (13, 20, 33 + arch / 2)]
    over = [
        (2, 2, 47 + arch),
        (-14 - knob / 2, -16, 47 + arch),
        (-24 - knob, -32, 34 + arch / 2),
        (-27 - knob / 2, -39, 14),
    ]
    down = [(-26, -40, -15), (-23, low - 6, -50), (-17, low - 4, -85), (-10, low - 2, -120), (-6, low, -190)]
    add(
        "aorta",
        "aorta",
        "aorta",
        asc + over + down,
        [1.2 * r, 1.2 * r, 1.15 * r, 1.1 * r, *[r] * 2, 0.95 * r, 0.88 * r, *[0.83 * r] * 2, *[0.78 * r] * 3],
        1.6,
    )
    top = 44 + arch + r
    rb = u(3.2, 4.4)
    branches: list[list[tuple]] = [
        [(9, 9, top - 8), (15, 8, top + 10), (22, 2, 96), (24, -6, 112), (46, -10, 122), (78, -16, 120)],
        [(22, 2, 98), (22, -4, 122), (24, -8, 160)],
        [(-3, -3, top - 6), (-11, 0, 82), (-17, -4, 108), (-22, -8, 160)],
        [(-14, -14, top - 6), (-22, -14, 82), (-27, -18, 104), (-48, -20, 118), (-80, -20, 118)],
    ]
    for k, branch in enumerate(branches):
        width = rb * (1.5 if k == 0 else 1.0)
        add(f"arch branch {k}", "other_vessels", "aorta", branch, [width, width, *[rb] * (len(branch) - 2)], 1.5)

    p = u(10, 14)
    add(
        "pulmonary trunk",
        "pulmonary_artery",
        "pulmonary",
        [(-16, 46, -22), (-22, 40, -4), (-25, 24, 10), (-24, 6, 12)],
        [1.05 * p, 1.05 * p, p, p],
    )
    add(
        "right pulmonary artery",
        "pulmonary_artery",
        "pulmonary",
        [(-22, 6, 10), (0, -3, 5), (22, -5, 2), (42, -8, -2), (50, -14, -14), (50, -22, -34)],
        [0.95 * p, 0.82 * p, 0.8 * p, 0.68 * p, 0.58 * p, 0.45 * p],
    )
    add(
        "left pulmonary artery",
        "pulmonary_artery",
        "pulmonary",
        [(-24, 8, 12), (-36, -8, 17), (-47, -21, 10), (-51, -29, -8), (-53, -35, -30)],
        [0.9 * p, 0.82 * p, 0.7 * p, 0.6 * p, 0.45 * p],
    )

    v = u(7.5, 10)
    add(
        "superior vena cava",
        "other_vessels",
        "superior_veins",
        [(27, 20, 58), (29, 14, 34), (29, 10, 8), (30, 10, -16)],
        [v * 0.95, v, v, 1.1 * v],
        1.2,
    )
    add(
        "left brachiocephalic",
        "other_vessels",
        "superior_veins",
        [(-46, 8, 108), (-30, 24, 92), (-8, 32, 76 + arch / 3), (14, 28, 66), (27, 20, 58)],
        [0.6 * v, 0.65 * v, 0.7 * v, 0.72 * v, 0.8 * v],
    )
    add(
        "right brachiocephalic",
        "other_vessels",
        "superior_veins",
        [(52, 4, 114), (38, 14, 100), (31, 20, 78), (27, 20, 58)],
        [0.6 * v, 0.75 * v, 0.8 * v, 0.9 * v],
    )
    for s in (1, -1):
        add(
            "subclavian vein",
            "other_vessels",
            "superior_veins",
            [(s * 50, 6, 110), (s * 80, 2, 116), (s * 118, -14, 118)],
            [4.5, 4.5, 4],
        )
        add(
            "jugular vein",
            "other_vessels",
            "superior_veins",
            [(s * 40, 6, 108), (s * 32, -2, 128), (s * 30, -6, 160)],
            [5.5, 5.5, 5],
        )
    add(
        "inferior vena cava",
        "other_vessels",
        "inferior_veins",
        [(28, 6, -52), (26, -6, -78), (25, -18, -105), (22, -26, -130), (19, -30, -190)],
        [1.35 * v, 1.3 * v, 1.25 * v, 1.2 * v, 1.2 * v],
        1.2,
    )
    front = [behind(h, 19) for h in (-150, -80, -20, 22)]
    z4 = u(2.2, 4)
    add(
        "azygos",
        "other_vessels",
        "superior_veins",
        [
            (9, front[0], -150),
            (10, front[1], -80),
            (9, front[2], -20),
            (11, front[3], 18),
            (24, -26, 31),
            (29, -4, 32),
            (29, 8, 26),
        ],
        [0.8 * z4, z4, z4, 1.1 * z4, 1.2 * z4, 1.2 * z4, 1.2 * z4],
        0.8,
    )
    w = u(4.5, 6.5)
    veins = [
        [(14, -12, -16), (32, -6, -12), (50, 2, -6)],
        [(14, -20, -28), (34, -26, -34), (52, -34, -42)],
        [(-22, -12, -10), (-38, -2, -6), (-54, 6, 2)],
        [(-22, -20, -24), (-38, -28, -32), (-54, -36, -38)],
    ]
    for vein in veins:
        add("pulmonary vein", "other_vessels", "left_heart", vein, [1.25 * w, w, 0.7 * w])

    t = u(7, 9.5)
    carina = u(14, 24)
    mid = u(0, 4)
    add(
        "trachea",
        "trachea_airway",
        "",
        [(0, 2, 165), (1, -4, 125), (mid, -10, 90), (mid + 1, -15, 55), (mid, -20, carina + 8), (mid - 1, -21, carina)],
        [t, t, t, t, 1.02 * t, 0.9 * t],
        1.2,
    )
    b = t * u(0.72, 0.86)
    add(
        "right bronchus",
        "trachea_airway",
        "",
        [
            (mid, -21, carina + 3),
            (16, -23, carina - 10),
            (32, -26, carina - 22),
            (42, -29, carina - 38),
            (47, -34, carina - 62),
        ],
        [b, b, 0.88 * b, 0.68 * b, 0.5 * b],
        1.0,
    )
    add(
        "right upper bronchus",
        "trachea_airway",
        "",
        [(24, -24, carina - 13), (42, -22, carina - 8), (54, -20, carina - 2)],
        [0.62 * b, 0.6 * b, 0.5 * b],
    )
    add(
        "middle lobe bronchus",
        "trachea_airway",
        "",
        [(41, -28, carina - 36), (52, -12, carina - 44), (60, 0, carina - 52)],
        [0.5 * b, 0.45 * b, 0.4 * b],
    )
    add(
        "left bronchus",
        "trachea_airway",
        "",
        [
            (mid - 1, -21, carina + 3),
            (-18, -24, carina - 14),
            (-36, -29, carina - 25),
            (-46, -34, carina - 40),
            (-50, -40, carina - 62),
        ],
        [0.85 * b, 0.85 * b, 0.8 * b, 0.6 * b, 0.45 * b],
        1.0,
    )
    add(
        "left upper bronchus",
        "trachea_airway",
        "",
        [(-38, -29, carina - 25), (-50, -20, carina - 24), (-58, -10, carina - 18)],
        [0.6 * b, 0.55 * b, 0.45 * b],
    )

    e = u(5.5, 8)
    edge = [behind(h, 17 + e) for h in (160, 90, 40, 12, -12, -40)]
    ripple = rng.uniform(0.8, 1.15, 9) * e
    add(
        "esophagus",
        "esophagus",
        "",
        [
            (-3, edge[0], 160),
            (-4, min(edge[1], -19 - e), 90),
            (-6, min(edge[2], -25 - e), 45),
            (-5, max(edge[3], -36), 12),
            (-4, max(edge[4], -38), -12),
            (-7, max(edge[5], -37), -40),
            (-13, -31, -68),
            (-24, -22, -90),
            (-36, -14, -100),
        ],
        list(ripple),
        1.0,
        flatten=u(1.0, 1.45),
    )
    return tubes
