"""How a batch becomes the input and the target of MONAI's ``SupervisedTrainer``."""

from __future__ import annotations

from typing import Any

import torch


def image_batch(
    batch: dict[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Image (B, C, *S) only: pretraining methods make their own target."""
    return batch["image"].to(device, non_blocking=non_blocking or _is_gpu(device), **kwargs), None


def partial_label_batch(
    batch: dict[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Image (B, C, *S), and label (B, 1, *S) with the structures ``annotated`` (B, N + 1) in each case.

    The target is what :class:`common.losses.segmentation.PartialDiceCELoss` takes.
    """
    non_blocking = non_blocking or _is_gpu(device)
    image = batch["image"].to(device, non_blocking=non_blocking, **kwargs)
    target = {key: batch[key].to(device, non_blocking=non_blocking) for key in ("label", "annotated")}
    return image, target


def _is_gpu(device: torch.device | str | None) -> bool:
    """Whether a copy there may go on beside the host's work: from pinned memory it then waits for nothing."""
    return device is not None and torch.device(device).type == "cuda"
