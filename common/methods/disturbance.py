"""What Models Genesis does to a batch on its device before it is restored: curves, local shuffling and painting.

Source: Zhou et al., Medical Image Analysis 2021 (arXiv 2004.07882) and its released code, ``MrGiovanni/ModelsGenesis``,
``pytorch/utils.py``; TransVW (arXiv 2102.10680) takes the same four. Values are in [0, 1].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from common.masking.boxes import boxes_mask, random_boxes

_POINTS = 1000  # of a curve
_ENTRIES = 2**14  # of a curve's table: within 1e-3 of the curve where it is steep, too
_BOXES = 5
_ANOTHER = 0.95  # probability of one more box
_MARGIN = 3  # voxels between a box and the border


def bezier_curves(inner: Tensor, falling: Tensor) -> tuple[Tensor, Tensor]:
    """Cubic Bezier curves from (0, 0) to (1, 1), made single-valued as in the released code.

    A rising curve's coordinates are sorted, each by itself. A falling one has its x sorted and its y from the curve's
    end to its start, so that it runs from 1 to 0, not always steadily.

    Args:
        inner: (B, 2, 2) in [0, 1], two control points in between, x and y of each.
        falling: bool (B,).

    Returns:
        x and y, both (B, 1000), x rising from 0 to 1.
    """
    t = torch.linspace(0, 1, _POINTS, device=inner.device)
    weights = torch.stack([3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t)])
    x, y = (inner.transpose(1, 2) @ weights + t**3).unbind(1)
    return x.sort(1).values, torch.where(falling[:, None], y.flip(1), y.sort(1).values)


def bend(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Values of ``image`` (B, C, *S) in [0, 1] along each sample's curve (B, P), linearly interpolated."""
    values = image.flatten(1)
    right = torch.searchsorted(x, values).clamp(1, x.shape[1] - 1)
    (x0, x1), (y0, y1) = ((curve.gather(1, right - 1), curve.gather(1, right)) for curve in (x, y))
    share = ((values - x0) / (x1 - x0).clamp(min=1e-8)).clamp(0, 1)
    return (y0 + share * (y1 - y0)).view_as(image)


def bend_by_table(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """That of :func:`bend`, but for errors below 1e-3: each curve is searched once, for a table of even steps.

    A voxel then finds its place by its value, which takes a CPU a sixth of the time or less.
    """
    steps = _ENTRIES - 1
    even = torch.linspace(0, 1, _ENTRIES, device=image.device).expand(len(image), -1).contiguous()
    table = bend(even, x, y).flatten()
    place = image.flatten(1) * steps
    left = place.int().clamp_(0, steps - 1)
    entry = (left + _ENTRIES * torch.arange(len(image), dtype=torch.int32, device=image.device)[:, None]).flatten()
    y0, y1 = table.index_select(0, entry), table[1:].index_select(0, entry)
    return y0.lerp(y1, (place - left).flatten()).view_as(image)


def bend_at_random(image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """``image`` (B, C, *S) along random curves, half of them falling; all channels of a sample along the same."""
    inner = torch.rand(len(image), 2, 2, generator=generator, device=image.device)
    falling = torch.rand(len(image), generator=generator, device=image.device) < 0.5
    return bend_by_table(image, *bezier_curves(inner, falling))


def random_parts(shape: list[int], batch_size: int, *, generator: torch.Generator, device: torch.device) -> Tensor:
    """Number of the box that each voxel lies in: whole numbers (B, *S).

    Each axis is cut into pieces of 1 voxel to a tenth of its size, the lengths of the released code.
    """
    parts = torch.zeros(batch_size, *[1] * len(shape), dtype=torch.long, device=device)
    for axis, size in enumerate(shape):
        lengths = torch.randint(max(1, size // 10), (batch_size, size), generator=generator, device=device) + 1
        place = torch.arange(size, device=device).expand(batch_size, size).contiguous()
        piece = torch.searchsorted(lengths.cumsum(1), place, right=True)
        parts = parts * size + piece.view(batch_size, *[1] * axis, size, *[1] * (len(shape) - axis - 1))
    return parts


def shuffle_within(image: Tensor, parts: Tensor, *, generator: torch.Generator) -> Tensor:
    """``image`` (B, C, *S), the voxels of each part (B, *S) in random order; a voxel's channels stay together."""
    parts = parts.flatten(1)
    chance = torch.randint(2**31, parts.shape, generator=generator, device=image.device)
    # both orders list the voxels part by part, one at random and one by place: the first goes where the second says
    found, place = (parts * 2**31 + chance).argsort(1), parts.argsort(dim=1, stable=True)
    order = torch.empty_like(found).scatter_(1, place, found).unsqueeze(1)
    return image.flatten(2).gather(2, order.expand(-1, image.shape[1], -1)).view_as(image)


def inner_boxes(image: Tensor, *, generator: torch.Generator) -> Tensor:
    """Mask bool (B, 1, *S) of up to 5 boxes, each edge a sixth to a third of the image's: what in-painting replaces."""
    shape = list(image.shape[2:])
    return _painted(
        image, [size // 6 for size in shape], [size // 3 for size in shape], at_least=0, generator=generator
    )


def outside_of_boxes(image: Tensor, *, generator: torch.Generator) -> Tensor:
    """Mask bool (B, 1, *S) of what lies outside of 1 to 5 boxes of about half the image's edge: out-painting's."""
    shape = list(image.shape[2:])
    shortest, longest = [size - 4 * size // 7 for size in shape], [size - 3 * size // 7 for size in shape]
    return ~_painted(image, shortest, longest, at_least=1, generator=generator)


def _painted(
    image: Tensor, shortest: list[int], longest: list[int], *, at_least: int, generator: torch.Generator
) -> Tensor:
    shape = image.shape[2:]
    sizes: dict[str, Any] = {"shortest": shortest, "longest": longest, "margin": _MARGIN}
    boxes = random_boxes(len(image), _BOXES, shape, **sizes, generator=generator, device=image.device)
    another = torch.rand(len(image), _BOXES, generator=generator, device=image.device) < _ANOTHER
    another = torch.cat([another.new_ones(len(image), at_least), another[:, at_least:]], dim=1)
    return boxes_mask(*boxes, shape, counted=another.cumprod(1) > 0)
