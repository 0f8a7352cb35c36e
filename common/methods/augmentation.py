"""Random rotation, shift and scale of a batch on its device, for methods whose views are to differ in space."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def random_affine(
    batch_size: int,
    shape: Sequence[int],
    *,
    rotate_degrees: float = 20.0,
    translate: float = 0.05,
    scale: float = 0.1,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw a transform for each sample; defaults as in TCS-MAE's released code.

    Args:
        batch_size: B.
        shape: voxels per axis, 2 or 3 of them.
        rotate_degrees: largest rotation, in the plane in 2D and about each axis in 3D.
        translate: largest shift along each axis, in parts of its size.
        scale: largest relative change of size.
        generator: random stream on ``device``.
        device: where the transforms are drawn.

    Returns:
        (B, d, d + 1), what :func:`warp` takes: from normalised output to normalised input coordinates.
    """
    d = len(shape)
    n_angles = 1 if d == 2 else 3
    drawn = 2 * torch.rand(batch_size, n_angles + d + 1, generator=generator, device=device) - 1
    angles = drawn[:, :n_angles] * math.radians(rotate_degrees)
    shift, size = translate * drawn[:, n_angles:-1], 1 + scale * drawn[:, -1]
    turn = torch.eye(d, device=device).expand(batch_size, d, d)
    for i, (a, b) in enumerate([(0, 1)] if d == 2 else [(0, 1), (0, 2), (1, 2)]):
        turn = turn @ _rotation(angles[:, i], a, b, d)
    linear = turn / size[:, None, None] * _proportions(tuple(shape), torch.device(device))
    return torch.cat([linear, 2 * shift[..., None]], dim=2)


@functools.lru_cache(maxsize=64)
def _proportions(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Edges over edges (d, d), the last axis first: coordinates run from -1 to 1 along every axis, whatever its size.

    Kept, because copying numbers to a device in every step makes the step wait.
    """
    with torch.inference_mode(False):
        edges = torch.tensor([float(s) for s in reversed(shape)])
        return (edges[None] / edges[:, None]).to(device)


def _rotation(angle: Tensor, a: int, b: int, d: int) -> Tensor:
    """Rotations (B, d, d) in the plane of the axes ``a`` and ``b``."""
    turn = torch.eye(d, device=angle.device).repeat(len(angle), 1, 1)
    turn[:, a, a] = turn[:, b, b] = angle.cos()
    turn[:, b, a] = angle.sin()
    turn[:, a, b] = -angle.sin()
    return turn


def warp(image: Tensor, transform: Tensor) -> Tensor:
    """Image (B, C, *S) under transforms (B, d, d + 1); linear, 0 beyond the border (released code)."""
    with torch.autocast(device_type=image.device.type, enabled=False):
        image = image.float()
        grid = F.affine_grid(transform, list(image.shape), align_corners=False)
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
