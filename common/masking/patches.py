"""Patches on a grid, 2D and 3D, and random ones of them (MAE, SparK, ISD-MAE's spatial mask). ``True`` = hidden."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

RULES = ("floor_keep", "round_keep", "bernoulli")


def as_patch_size(patch_size: int | Sequence[int], spatial_dims: int) -> tuple[int, ...]:
    """Patch edge per axis in voxels.

    Raises:
        ValueError: for an edge below 1 or a number of edges that is not ``spatial_dims``.
    """
    edges = (patch_size,) * spatial_dims if isinstance(patch_size, int) else tuple(int(p) for p in patch_size)
    if len(edges) != spatial_dims or min(edges) < 1:
        raise ValueError(
            f"patch_size: got {patch_size}. Give one positive number of voxels, or {spatial_dims} of them."
        )
    return edges


def check_mask_ratio(mask_ratio: float) -> float:
    """``mask_ratio`` itself; raises ``ValueError`` unless it lies in [0, 1)."""
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"mask_ratio: got {mask_ratio}. Give the hidden share, at least 0 and below 1.")
    return mask_ratio


def check_rule(rule: str) -> str:
    """``rule`` itself; raises ``ValueError`` unless it is known."""
    if rule not in RULES:
        raise ValueError(f"rule: got {rule!r}. Allowed are {', '.join(map(repr, RULES))}.")
    return rule


def grid_size(shape: Sequence[int], patch_size: int | Sequence[int]) -> tuple[int, ...]:
    """Patches per axis of an image of ``shape`` voxels; a patch that only partly fits counts as one."""
    return tuple(math.ceil(s / p) for s, p in zip(shape, as_patch_size(patch_size, len(shape)), strict=True))


def patchify(image: Tensor, patch_size: int | Sequence[int]) -> Tensor:
    """Cut an image into patches.

    Args:
        image: (B, C, *S).
        patch_size: edge in voxels, one or one per axis; must divide S.

    Returns:
        (B, n, p^d * C): patches in the order of the grid, in each patch voxels first and channels last.

    Raises:
        ValueError: when the patches do not divide the image.
    """
    batch, channels, *shape = image.shape
    edges = as_patch_size(patch_size, len(shape))
    grid = [s // p for s, p in zip(shape, edges, strict=True)]
    if any(g * p != s for g, p, s in zip(grid, edges, shape, strict=True)):
        raise ValueError(
            f"patch_size: {edges} does not divide an image of {tuple(shape)} voxels. Crop or pad the image."
        )
    d = len(shape)
    cut = image.reshape(batch, channels, *(size for pair in zip(grid, edges, strict=True) for size in pair))
    order = [0, *range(2, 2 + 2 * d, 2), *range(3, 3 + 2 * d, 2), 1]
    return cut.permute(order).reshape(batch, math.prod(grid), -1)


def unpatchify(patches: Tensor, patch_size: int | Sequence[int], shape: Sequence[int]) -> Tensor:
    """The image (B, C, *shape) whose patches these are; undoes :func:`patchify`.

    Args:
        patches: (B, n, p^d * C).
        patch_size: edge in voxels, one or one per axis.
        shape: S in voxels.

    Raises:
        ValueError: when an image of that shape has other patches.
    """
    edges = as_patch_size(patch_size, len(shape))
    grid = grid_size(shape, edges)
    voxels = math.prod(edges)
    if patches.shape[1] != math.prod(grid) or patches.shape[2] % voxels:
        raise ValueError(
            f"patches: got {tuple(patches.shape)} for an image of {tuple(shape)} voxels. Give {math.prod(grid)} "
            f"patches of {voxels} voxels times the channels."
        )
    d = len(shape)
    cut = patches.reshape(len(patches), *grid, *edges, -1)
    order = [0, 1 + 2 * d, *(axis for i in range(d) for axis in (1 + i, 1 + d + i))]
    return cut.permute(order).reshape(len(patches), -1, *shape)


def n_masked_patches(n: int, mask_ratio: float, rule: str = "floor_keep") -> int:
    """Number of hidden patches out of ``n``.

    Args:
        n: patches of the grid.
        mask_ratio: hidden share, in [0, 1).
        rule: ``"floor_keep"`` keeps ``floor(n (1 - ratio))`` (MAE, HPM), ``"round_keep"`` keeps
            ``round(n (1 - ratio))`` (SparK, AnatoMask).

    Raises:
        ValueError: for a ratio outside [0, 1) or a rule without an exact count.
    """
    check_mask_ratio(mask_ratio)
    if check_rule(rule) == "bernoulli":
        raise ValueError('rule: "bernoulli" hides a random number of patches. Use "floor_keep" or "round_keep".')
    keep = n * (1 - mask_ratio)
    # 100 * (1 - 0.9) is 9.999999999999998
    return n - (math.floor(keep + 1e-9) if rule == "floor_keep" else round(keep))


def patch_mask(
    batch_size: int,
    grid: Sequence[int],
    *,
    mask_ratio: float,
    rule: str = "floor_keep",
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Hide random patches, in every sample others.

    Args:
        batch_size: B.
        grid: patches per axis.
        mask_ratio: hidden share, in [0, 1).
        rule: how the ratio becomes a number, see :func:`n_masked_patches`: the same in every sample. ``"bernoulli"``
            hides each patch with probability ``mask_ratio`` instead (released ISD-MAE code).
        generator: random stream on ``device``.
        device: where the mask is drawn.

    Returns:
        bool (B, *grid), ``True`` = hidden.
    """
    check_mask_ratio(mask_ratio)
    n = math.prod(grid)
    noise = torch.rand(batch_size, n, generator=generator, device=device)
    if check_rule(rule) == "bernoulli":
        mask = noise < mask_ratio
    else:
        hidden = noise.topk(n_masked_patches(n, mask_ratio, rule), dim=1).indices
        mask = torch.zeros_like(noise, dtype=torch.bool).scatter_(1, hidden, True)
    return mask.view(batch_size, *grid)


def upsample_patch_mask(mask: Tensor, patch_size: int | Sequence[int], shape: Sequence[int]) -> Tensor:
    """Patches to voxels: bool (B, *grid) -> (B, 1, *shape). Patches that reach over the border are cropped.

    Raises:
        ValueError: when the grid is not that of ``shape``.
    """
    edges = as_patch_size(patch_size, len(shape))
    grid = tuple(mask.shape[1:])
    if grid != grid_size(shape, edges):
        raise ValueError(f"mask: its grid is {grid}. An image of {tuple(shape)} voxels has {grid_size(shape, edges)}.")
    for axis, (edge, size) in enumerate(zip(edges, shape, strict=True), start=1):
        mask = mask.repeat_interleave(edge, dim=axis).narrow(axis, 0, size)
    return mask.unsqueeze(1)
