"""Boxes at random places as masks: what cutouts, in-painting and out-painting replace."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def boxes_mask(starts: Tensor, edges: Tensor, shape: Sequence[int], *, counted: Tensor | None = None) -> Tensor:
    """Mask of the voxels that lie in any box; what reaches beyond the image is cut off.

    Args:
        starts: whole numbers (B, N, d), first voxel of each box along each axis.
        edges: whole numbers (B, N, d), voxels of each box along each axis.
        shape: voxels per axis, d of them.
        counted: bool (B, N), which boxes there are; ``None`` is all.

    Returns:
        bool (B, 1, *shape).
    """
    with torch.autocast(device_type=starts.device.type, enabled=False):
        inside = []
        for axis, size in enumerate(shape):
            place = torch.arange(size, device=starts.device)
            start = starts[..., axis, None]
            inside.append(((place >= start) & (place < start + edges[..., axis, None])).float())
        if counted is not None:
            inside[-1] = inside[-1] * counted[..., None]
        rows = inside[0]
        for along in inside[1:-1]:
            rows = (rows[..., None] * along[:, :, None]).flatten(2)
        # in how many boxes each voxel lies, as one product: boxes by themselves would take N times the memory
        return (rows.transpose(1, 2) @ inside[-1] > 0).unflatten(1, list(shape[:-1])).unsqueeze(1)


def random_boxes(
    batch_size: int,
    n_boxes: int,
    shape: Sequence[int],
    *,
    shortest: Sequence[int],
    longest: Sequence[int],
    margin: int = 0,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Draw boxes that lie inside an image.

    Args:
        batch_size: B.
        n_boxes: N, boxes of each sample.
        shape: voxels per axis, d of them.
        shortest, longest: edge in voxels along each axis, drawn uniformly between them.
        margin: voxels between the image's border and a box, where there is room.
        generator: random stream on ``device``.
        device: where the boxes are drawn.

    Returns:
        ``starts`` and ``edges``, both whole numbers (B, N, d).
    """
    drawn = torch.rand(2, batch_size, n_boxes, len(shape), generator=generator, device=device)
    starts, edges = [], []
    for axis, size in enumerate(shape):
        edge = shortest[axis] + (drawn[0, ..., axis] * (longest[axis] - shortest[axis] + 1)).long()
        room = (size - edge - 2 * margin).clamp(min=0)
        edges.append(edge)
        starts.append((margin + drawn[1, ..., axis] * (room + 1)).long().minimum((size - edge).clamp(min=0)))
    return torch.stack(starts, dim=-1), torch.stack(edges, dim=-1)
