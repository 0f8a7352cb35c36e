"""How a batch becomes the input and the target of MONAI's ``SupervisedTrainer``."""

from __future__ import annotations

from typing import Any

import torch


def image_batch(
    batch: dict[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Image (B, C, *S) only: pretraining methods make their own target."""
    return batch["image"].to(device, non_blocking=non_blocking, **kwargs), None


def partial_label_batch(
    batch: dict[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Image (B, C, *S), and label (B, 1, *S) with the structures ``annotated`` (B, N + 1) in each case.

    The target is what :class:`common.losses.segmentation.PartialDiceCELoss` takes.
    """
    image = batch["image"].to(device, non_blocking=non_blocking, **kwargs)
    target = {key: batch[key].to(device, non_blocking=non_blocking) for key in ("label", "annotated")}
    return image, target
