"""Pretraining steps against those of the simpler method that they grew from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.rows import Case, row
from common.methods.anatomask import AnatoMask, AnatoMaskLoss
from common.methods.selfmedhpm import SelfMedHPM, SelfMedHPMLoss
from common.networks.masked_autoencoder import MaskedAutoencoder
from common.networks.spark import SparK
from common.networks.vit import SIZES, ViT


@row
def mining(device: torch.device) -> Case:
    """A pretraining step of selfMedHPM, ViT-B/16, one crop of 96 x 96 x 96, with AdamW and the teacher's update"""
    return Case(
        _selfmedhpm_step(device, predictor_depth=8, mining=True),
        _selfmedhpm_step(device, predictor_depth=0, mining=False),
        "the same without loss predictor and teacher (MAE)",
    )


@row
def mining_four_blocks(device: torch.device) -> Case:
    """The same with a loss predictor of 4 blocks, and a teacher that sees a quarter of the patches"""
    return Case(
        _selfmedhpm_step(device, predictor_depth=4, mining=True, teacher_input="masked"),
        _selfmedhpm_step(device, predictor_depth=0, mining=False),
        "the same without loss predictor and teacher (MAE)",
    )


def _pretraining_step(method: Any, criterion: torch.nn.Module, image: Tensor) -> Callable[[], object]:
    """Forward, backward, AdamW, and the teacher's update."""
    method.to(image.device).set_progress(1.0)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        criterion(method(image)).backward()
        optimizer.step()
        method.update_teacher()

    return step


def _selfmedhpm_step(device: torch.device, *, predictor_depth: int, **options: Any) -> Callable[[], object]:
    size: dict[str, Any] = dict(SIZES["B"])
    network = MaskedAutoencoder(ViT(img_size=(96, 96, 96), **size), predictor_depth=predictor_depth)
    return _pretraining_step(
        SelfMedHPM(network, **options), SelfMedHPMLoss(), torch.rand(1, 1, 96, 96, 96, device=device)
    )


@row
def anatomask_step(device: torch.device) -> Case:
    """AnatoMask, a training step of STU-Net-S on one crop of 64 x 64 x 64, half of the hidden patches hard"""
    return Case(_anatomask_step(device, "teacher"), _anatomask_step(device, "none"), "SparK")


@row
def spark_step(device: torch.device) -> Case:
    """SparK, the same step"""
    network = SparK(size="S").to(device)
    x = torch.rand(1, 1, 64, 64, 64, device=device)

    def dense() -> None:
        """The same modules with nothing hidden, and a plain squared error."""
        y: Tensor | None = None
        for block, seen in zip(network.decoder, network.encode(x)[:0:-1], strict=True):
            y = block(seen if y is None else y + seen)
        (network.head(y) - x).square().mean().backward()

    return Case(_anatomask_step(device, "none"), dense, "a dense pass of the same encoder and decoder blocks")


def _anatomask_step(device: torch.device, guidance: str) -> Callable[[], object]:
    method = AnatoMask(SparK(size="S"), guidance=guidance)
    return _pretraining_step(method, AnatoMaskLoss(), torch.rand(1, 1, 64, 64, 64, device=device))
