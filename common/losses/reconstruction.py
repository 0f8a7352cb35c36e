"""Masked patch reconstruction: the error of each patch, averaged over the hidden ones (MAE, SparK, HPM)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.masking.patches import patchify

KINDS = ("mse", "l1")
NORMALISATIONS = (False, "unbiased", "biased")
REDUCTIONS = ("global", "per_sample")
_EPS = 1e-6


def mean_error(found: Tensor, wanted: Tensor, counted: Tensor | None = None, *, kind: str = "mse") -> Tensor:
    """Mean error of all values, or of those that count.

    Args:
        found: (..., C, *S).
        wanted: (..., C, *S).
        counted: bool (..., 1, *S), the same in all channels; ``None`` is everywhere.
        kind: ``"mse"`` or ``"l1"``.

    Returns:
        float32 scalar; 0 with its graph where nothing counts.
    """
    with torch.autocast(device_type=found.device.type, enabled=False):
        error = found.float() - wanted.float()
        error = error.square() if kind == "mse" else error.abs()
        if counted is None:
            return error.mean()
        weight = counted.to(error.dtype)
        return (error * weight).sum() / (weight.sum() * (error.numel() // weight.numel())).clamp(min=1)


def normalise_patches(patches: Tensor, *, variance: str) -> tuple[Tensor, Tensor, Tensor]:
    """Patches with mean 0 and variance 1, each by its own: a target that is blind to brightness and contrast.

    Args:
        patches: (B, n, P).
        variance: ``"unbiased"`` (MAE, SparK) or ``"biased"`` (SelfMedMAE).

    Returns:
        ``(x - mean) / sd``, mean and sd = ``sqrt(var + 1e-6)`` (B, n, 1), all float32.

    Raises:
        ValueError: for an unknown variance.
    """
    if variance not in NORMALISATIONS[1:]:
        raise ValueError(f"variance: got {variance!r}. Allowed are {', '.join(map(repr, NORMALISATIONS[1:]))}.")
    spread, mean = torch.var_mean(patches.float(), dim=-1, keepdim=True, correction=int(variance == "unbiased"))
    sd = (spread + _EPS).sqrt()
    return (patches.float() - mean) / sd, mean, sd


def patch_loss_map(
    reconstruction: Tensor,
    target: Tensor,
    *,
    patch_size: int | Sequence[int],
    kind: str = "mse",
    normalise: bool | str = False,
) -> Tensor:
    """Mean error of every patch, hidden or not: what AnatoMask and HPM rank by.

    Args:
        reconstruction: (B, C, *S).
        target: (B, C, *S).
        patch_size: edge in voxels.
        kind: ``"mse"`` or ``"l1"``.
        normalise: compare with ``(x - mean) / sqrt(var + 1e-6)`` of each target patch; ``"unbiased"`` variance (MAE,
            SparK) or ``"biased"`` (SelfMedMAE). ``False`` compares with the target as it is.

    Returns:
        (B, n), float32.

    Raises:
        ValueError: for shapes that differ or unknown options.
    """
    if reconstruction.shape != target.shape:
        raise ValueError(
            f"reconstruction: its shape {tuple(reconstruction.shape)} is not the target's {tuple(target.shape)}. "
            "Give two images of the same shape."
        )
    if kind not in KINDS or normalise not in NORMALISATIONS:
        raise ValueError(f"kind, normalise: got {kind!r}, {normalise!r}. Allowed are {KINDS} and {NORMALISATIONS}.")
    with torch.autocast(device_type=target.device.type, enabled=False):
        found, wanted = patchify(reconstruction.float(), patch_size), patchify(target.float(), patch_size)
        if normalise:
            wanted, _, _ = normalise_patches(wanted, variance=str(normalise))
        difference = found - wanted
        return (difference.square() if kind == "mse" else difference.abs()).mean(dim=-1)


def masked_patch_loss(
    reconstruction: Tensor,
    target: Tensor,
    patch_mask: Tensor,
    *,
    patch_size: int | Sequence[int],
    kind: str = "mse",
    normalise: bool | str = False,
    reduction: str = "global",
) -> Tensor:
    """Error of the hidden patches (METHODS section 6.6).

    Args:
        reconstruction: (B, C, *S).
        target: (B, C, *S).
        patch_mask: bool (B, *grid) or (B, n), ``True`` = hidden.
        patch_size: edge in voxels.
        kind: see :func:`patch_loss_map`.
        normalise: see :func:`patch_loss_map`.
        reduction: ``"global"`` averages over all hidden patches of the batch, ``"per_sample"`` over those of each
            sample first. The two agree when every sample hides equally many.

    Returns:
        float32 scalar; 0 with its graph when nothing is hidden.

    Raises:
        ValueError: for shapes that do not fit or unknown options.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: got {reduction!r}. Allowed are {', '.join(map(repr, REDUCTIONS))}.")
    losses = patch_loss_map(reconstruction, target, patch_size=patch_size, kind=kind, normalise=normalise)
    hidden = patch_mask.flatten(1).to(losses.dtype)
    if hidden.shape != losses.shape:
        raise ValueError(
            f"patch_mask: got {tuple(patch_mask.shape)} for {losses.shape[1]} patches of {losses.shape[0]} samples. "
            "Give one value per patch."
        )
    dims = None if reduction == "global" else 1
    return ((losses * hidden).sum(dim=dims) / hidden.sum(dim=dims).clamp(min=1)).mean()
