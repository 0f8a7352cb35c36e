"""One phantom: anatomy, tissue values, lesions and scan drawn from one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.data.phantom.abdomen import draw_abdomen
from common.data.phantom.cage import Cage
from common.data.phantom.canvas import Canvas
from common.data.phantom.lesions import draw_lesions
from common.data.phantom.lungs import draw_parenchyma, draw_trees, shape_lungs
from common.data.phantom.mediastinum import Mediastinum
from common.data.phantom.scanner import draw_slice_thickness, scan
from common.data.phantom.scene import Scene
from common.data.phantom.space import EXTENT_MM, Grid, SmoothField, Space
from common.data.phantom.spine import draw_spine
from common.data.phantom.tissue import draw_tissue
from common.data.phantom.wall import draw_bones, draw_soft_wall, draw_table
from common.errors import InputError

MIN_SIZE = 16


@dataclass(frozen=True)
class Phantom:
    """A generated chest CT.

    Attributes:
        hu: int16 Hounsfield units (X, Y, Z), RAS: x to the patient's right, y to the front, z to the head.
        label: uint8 ids of :data:`common.data.structures.ALL_STRUCTURES`, same shape.
        spacing: voxel size in mm along each axis.
        affine: 4 x 4, voxel index to RAS mm; the origin lies in the volume's middle.
        info: ``phase``, ``lesions`` (type, centre_mm, radius_mm, ...), ``scan`` and the seed.
    """

    hu: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float, float]
    affine: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)


def phantom(
    seed: int, *, shape: Sequence[int] | None = None, spacing: Sequence[float] | None = None, lesions: bool = True
) -> Phantom:
    """Generate one chest CT with labels.

    Anatomy, tissue values and noise level depend on the seed only: the same seed at another spacing is the same
    patient, as long as the volume covers the chest.

    Args:
        seed: same seed and grid, same volume.
        shape: voxels along x, y, z. Default: what the spacing needs for the whole chest (392 x 300 x 290 mm).
        spacing: voxel size in mm along x, y, z. Default: drawn per seed (2.5 to 3.2 mm in plane, slices as thick as
            the protocol says) or, when ``shape`` is given, what the whole chest needs.
        lesions: False leaves tumors out.

    Raises:
        InputError: when seed, shape or spacing cannot be used.
    """
    check_seed(seed)
    streams = [np.random.default_rng([int(seed), part]) for part in range(13)]
    thickness = draw_slice_thickness(streams[0])
    grid = grid_of(streams[0].uniform(2.5, 3.2), shape, spacing, thickness)

    space = Space(streams[1], grid)
    cage = Cage(streams[1], space)
    texture = space.fine(0.9 * SmoothField(streams[2], 14.0).on(space.coarse))
    scene = Scene(
        grid=grid, space=space, canvas=Canvas(grid), cage=cage, tissue=draw_tissue(streams[3]), texture=texture
    )
    mediastinum = Mediastinum(streams[1], scene)
    shape_lungs(scene, mediastinum.outline, mediastinum.side)

    draw_soft_wall(scene, streams[4])
    scene.cavity_fat()
    draw_abdomen(scene, streams[8])
    draw_parenchyma(scene, streams[5])
    mediastinum.draw(streams[9])
    draw_trees(scene, streams[10])
    draw_spine(scene, streams[11])
    draw_bones(scene, streams[12])
    found = draw_lesions(scene, streams[6]) if lesions else []
    draw_table(scene, streams[7])
    hu, description = scan(scene, streams[7], thickness)

    affine = np.diag([*grid.spacing, 1.0])
    affine[:3, 3] = grid.origin
    info = {"seed": int(seed), "phase": scene.tissue.phase, "lesions": found, "scan": description}
    return Phantom(hu, scene.canvas.label, grid.spacing, affine, info)


def check_seed(seed: int) -> None:
    """Refuse what is not a seed.

    Raises:
        InputError: when ``seed`` is not an integer of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        msg = f"seed={seed!r}: not an integer of at least 0. Give e.g. seed=0."
        raise InputError(msg)


def grid_of(
    in_plane: float, shape: Sequence[int] | None, spacing: Sequence[float] | None, thickness: float = 3.0
) -> Grid:
    """The scan's grid; ``in_plane`` and ``thickness`` (mm) hold where neither shape nor spacing is given.

    Raises:
        InputError: when shape or spacing cannot be used.
    """
    if shape is not None:
        shape = tuple(shape)
        if len(shape) != 3 or not all(isinstance(n, int | np.integer) and n >= MIN_SIZE for n in shape):
            msg = (
                f"shape={shape}: a phantom needs three integers of at least {MIN_SIZE}. Give e.g. shape=(128, 128, 96)."
            )
            raise InputError(msg)
    if spacing is not None:
        spacing = tuple(float(s) for s in spacing)
        if len(spacing) != 3 or not all(np.isfinite(s) and 0.2 <= s <= 20 for s in spacing):
            msg = f"spacing={spacing}: a phantom needs three voxel sizes of 0.2 to 20 mm. Give e.g. spacing=(3, 3, 3)."
            raise InputError(msg)
    elif shape is None:
        spacing = (in_plane, in_plane, thickness)
    else:
        wide = max(EXTENT_MM[0] / shape[0], EXTENT_MM[1] / shape[1])
        spacing = (wide, wide, EXTENT_MM[2] / shape[2])
    if shape is None:
        shape = tuple(max(round(e / s), MIN_SIZE) for e, s in zip(EXTENT_MM, spacing, strict=True))
    return Grid(tuple(int(n) for n in shape), tuple(spacing))  # type: ignore[arg-type]
