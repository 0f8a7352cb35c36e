"""Random changes of a batch on its device, in space and of intensity, for methods whose views are to differ."""

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


def random_crop(
    batch_size: int,
    dims: int,
    *,
    min_share: float = 0.2,
    max_share: float = 1.0,
    aspect: float = 4 / 3,
    flip_axes: Sequence[int] = (),
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw a box inside the image for each sample, to be seen at the size of the image, and mirror it at random.

    Args:
        batch_size: B.
        dims: d, spatial axes of the image.
        min_share, max_share: smallest and largest share of the image's area or volume; drawn uniformly in between.
        aspect: largest ratio of a box's edges, in parts of the image's edges. An edge is never longer than the image's,
            so that the largest boxes may fall a little short of their share.
        flip_axes: spatial axes along which half of the boxes are mirrored.
        generator: random stream on ``device``.
        device: where the boxes are drawn.

    Returns:
        (B, d, d + 1), what :func:`warp` takes.
    """
    drawn = torch.rand(3, batch_size, dims, generator=generator, device=device)
    share = min_share + (max_share - min_share) * torch.rand(batch_size, 1, generator=generator, device=device)
    stretch = math.log(aspect) * (drawn[0] - drawn[0].mean(1, keepdim=True))
    edges = (share.log() / dims + stretch).exp().clamp(max=1)
    centre = (1 - edges) * (2 * drawn[1] - 1)
    for axis in flip_axes:
        edges[:, axis] *= 1 - 2 * (drawn[2, :, axis] < 0.5).float()
    # coordinates run from -1 to 1 along every axis, the last axis first
    return torch.cat([torch.diag_embed(edges.flip(1)), centre.flip(1)[..., None]], dim=2)


def warp(image: Tensor, transform: Tensor, *, beyond: str = "zeros", shape: Sequence[int] | None = None) -> Tensor:
    """Image (B, C, *S) under transforms (B, d, d + 1), linearly interpolated, at its own size or at ``shape``.

    ``beyond`` the border lie ``"zeros"`` (TCS-MAE's released code) or the values of the ``"border"``.
    """
    with torch.autocast(device_type=image.device.type, enabled=False):
        image = image.float()
        grid = F.affine_grid(transform, [*image.shape[:2], *(shape or image.shape[2:])], align_corners=False)
        return F.grid_sample(image, grid, mode="bilinear", padding_mode=beyond, align_corners=False)


def shift_voxels(image: Tensor, shifts: Tensor) -> Tensor:
    """Each sample as seen through a window that moved on by whole voxels; what it lacks repeats the last voxel.

    Args:
        image: (B, C, *S).
        shifts: whole numbers (B, d), at least 0, along each axis.

    Returns:
        (B, C, *S); voxel ``i`` of an axis is voxel ``i + shift`` of the image.
    """
    for axis, size in enumerate(image.shape[2:], start=2):
        place = torch.arange(size, device=image.device) + shifts[:, axis - 2, None]
        place = place.clamp(max=size - 1).view(-1, *[1] * (axis - 1), size, *[1] * (image.ndim - axis - 1))
        image = image.gather(axis, place.expand_as(image))
    return image


def jitter_intensity(
    image: Tensor, *, strength: float, probability: float, generator: torch.Generator | None = None
) -> Tensor:
    """Brightness and contrast of some samples changed, all channels alike: what a colour jitter leaves without colours.

    Args:
        image: (B, C, *S), values in [0, 1].
        strength: largest change of either factor from 1.
        probability: of a sample to be changed.
        generator: random stream on the image's device.

    Returns:
        (B, C, *S) in [0, 1].
    """
    axes = tuple(range(1, image.ndim))
    drawn = torch.rand(3, len(image), *[1] * (image.ndim - 1), generator=generator, device=image.device)
    brightness, contrast = 1 + strength * (2 * drawn[:2] - 1)
    brighter = (image * brightness).clamp(0, 1)
    mean = brighter.mean(axes, keepdim=True)
    changed = (mean + contrast * (brighter - mean)).clamp(0, 1)
    return torch.where(drawn[2] < probability, changed, image)
