"""Patch mask as a MONAI transform; the training methods mask on the device instead."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.config import KeysCollection
from torch import Tensor

from common.masking.patches import (
    as_patch_size,
    check_mask_ratio,
    check_rule,
    grid_size,
    patch_mask,
    upsample_patch_mask,
)
from common.transforms.rand_mask import RandMask, RandMaskd


class RandPatchMask(RandMask):
    """Hide random patches of a grid (:mod:`common.masking.patches`), in 2D and 3D.

    Args:
        patch_size: edge in voxels, one or one per axis.
        mask_ratio: hidden share, in [0, 1).
        rule: ``"floor_keep"``, ``"round_keep"`` or ``"bernoulli"``.
        prob: probability that an image is masked at all.
        fill: value of hidden voxels.
    """

    def __init__(
        self,
        *,
        patch_size: int | Sequence[int] = 16,
        mask_ratio: float = 0.5,
        rule: str = "floor_keep",
        prob: float = 1.0,
        fill: float = 0.0,
    ) -> None:
        super().__init__(prob=prob, fill=fill)
        as_patch_size(patch_size, 1 if isinstance(patch_size, int) else len(patch_size))
        self.patch_size = patch_size
        self.mask_ratio = check_mask_ratio(mask_ratio)
        self.rule = check_rule(rule)

    def draw(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Mask bool (1, 1, *S) of a batch of one image (1, C, *S)."""
        shape = image.shape[2:]
        mask = patch_mask(
            1,
            grid_size(shape, self.patch_size),
            mask_ratio=self.mask_ratio,
            rule=self.rule,
            generator=generator,
            device=image.device,
        )
        return upsample_patch_mask(mask, self.patch_size, shape)


class RandPatchMaskd(RandMaskd):
    """Dictionary twin of :class:`RandPatchMask`.

    Args:
        keys: images (C, *S) of one grid; all are hidden in the same places.
        patch_size: edge in voxels, one or one per axis.
        mask_ratio: hidden share, in [0, 1).
        rule: ``"floor_keep"``, ``"round_keep"`` or ``"bernoulli"``.
        prob: probability that an image is masked at all.
        fill: value of hidden voxels.
        mask_key: where the mask, bool (1, *S), is stored; ``None`` stores none.
        allow_missing_keys: leave absent keys alone instead of raising.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        patch_size: int | Sequence[int] = 16,
        mask_ratio: float = 0.5,
        rule: str = "floor_keep",
        prob: float = 1.0,
        fill: float = 0.0,
        mask_key: str | None = "mask",
        allow_missing_keys: bool = False,
    ) -> None:
        masker = RandPatchMask(patch_size=patch_size, mask_ratio=mask_ratio, rule=rule, prob=prob, fill=fill)
        super().__init__(keys, masker=masker, mask_key=mask_key, allow_missing_keys=allow_missing_keys)
