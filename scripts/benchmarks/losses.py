"""Losses, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.losses.dice import DiceCELoss
from monai.losses.ssim_loss import SSIMLoss as MonaiSSIMLoss
from torch import Tensor

from benchmarks.rows import Case, row
from common.losses.ranking import pairwise_ranking_loss
from common.losses.segmentation import PartialDiceCELoss
from common.losses.ssim import SSIMLoss


def _step(loss: Callable[[Tensor, Tensor], Tensor], prediction: Tensor, target: Tensor) -> Callable[[], object]:
    """Forward and backward of a loss."""

    def run() -> None:
        prediction.grad = None
        loss(prediction, target).backward()

    return run


@row
def ssim(device: torch.device) -> Case:
    """SSIM loss, forward and backward, (1, 3, 96, 96, 96), window 7"""
    prediction = torch.rand(1, 3, 96, 96, 96, device=device, requires_grad=True)
    target = torch.rand(1, 3, 96, 96, 96, device=device)
    ours = SSIMLoss(spatial_dims=3, window_size=7, padding="valid")
    theirs = MonaiSSIMLoss(spatial_dims=3, win_size=7, kernel_sigma=1.5)
    return Case(_step(ours, prediction, target), _step(theirs, prediction, target), "monai.losses.SSIMLoss")


@row
def dice_ce(device: torch.device) -> Case:
    """Dice and cross entropy, forward and backward, (1, 14, 96, 96, 96)"""
    logits = torch.randn(1, 14, 96, 96, 96, device=device, requires_grad=True)
    label = torch.randint(14, (1, 1, 96, 96, 96), device=device)
    theirs = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
    ours = PartialDiceCELoss(n_classes=14)
    return Case(_step(ours, logits, label), _step(theirs, logits, label), "monai.losses.DiceCELoss")


@row
def ranking(device: torch.device) -> Case:
    """Pairwise ranking loss, forward and backward, 4 x 162 hidden patches"""
    return _ranking(device, _ranking_as_printed, "both lines of Eq. 1 as matrices, with log(sigmoid + 1e-6)")


@row
def ranking_loop(device: torch.device) -> Case:
    """The same of one sample against one operation per pair"""
    return _ranking(device, _ranking_pair_by_pair, "Eq. 1 pair by pair in Python", batch=1)


def _ranking(device: torch.device, theirs: Callable[[Tensor, Tensor], Tensor], name: str, *, batch: int = 4) -> Case:
    scores = torch.randn(batch, 162, device=device, requires_grad=True)
    losses = torch.rand(batch, 162, device=device)
    return Case(_step(pairwise_ranking_loss, scores, losses), _step(theirs, scores, losses), name)


def _ranking_as_printed(scores: Tensor, losses: Tensor) -> Tensor:
    harder = losses[:, :, None] > losses[:, None, :]
    easier = losses[:, :, None] < losses[:, None, :]
    p = torch.sigmoid(scores[:, :, None] - scores[:, None, :])
    total = -(harder * torch.log(p + 1e-6)).sum() - (easier * torch.log(1 - p + 1e-6)).sum()
    return total / (harder.sum() + easier.sum())


def _ranking_pair_by_pair(scores: Tensor, losses: Tensor) -> Tensor:
    costs = []
    for sample, difficulty in zip(scores, losses.tolist(), strict=True):
        n = len(difficulty)
        for i, j in ((i, j) for i in range(n) for j in range(n) if difficulty[i] != difficulty[j]):
            difference = sample[i] - sample[j]
            costs.append(torch.nn.functional.softplus(-difference if difficulty[i] > difficulty[j] else difference))
    return torch.stack(costs).mean()
