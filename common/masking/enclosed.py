"""Voxels that lie inside the body, told from the image alone and on its device."""

from __future__ import annotations

import torch
from torch import Tensor

# Label index of voxels that are background whatever was annotated: outside the body. Not a channel of any network.
CERTAIN_BACKGROUND = 255


def enclosed_by_tissue(tissue: Tensor) -> Tensor:
    """Tissue, and what has tissue on both sides along at least one axis: lungs and bowel, but not the air around.

    A quick stand-in for :func:`common.masking.body.body_mask` inside a training step: no labelling of components, and
    it works on crops. Air between the arms and the body counts as inside.

    Args:
        tissue: bool (B, 1, *S), for example HU > -500.

    Returns:
        bool (B, 1, *S).
    """
    inside = tissue.clone()
    for axis in range(2, tissue.ndim):
        size = tissue.shape[axis]
        place = torch.arange(1, size + 1, dtype=torch.int16, device=tissue.device)
        place = place.view(-1, *[1] * (tissue.ndim - axis - 1))
        # of each line; where it holds no tissue, the first lies behind the last
        last = (tissue * place).amax(axis, keepdim=True)
        first = size + 1 - (tissue * (size + 1 - place)).amax(axis, keepdim=True)
        inside |= (place >= first) & (place <= last)
    return inside
