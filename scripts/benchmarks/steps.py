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
from common.precision import autocast


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


def _pretraining_step(
    method: Any, criterion: torch.nn.Module, image: Tensor, precision: str = "fp32"
) -> Callable[[], object]:
    """Forward, backward, AdamW, and the teacher's update."""
    method.to(image.device).set_progress(1.0)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-4)
    image = _laid_out(image, precision)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(precision, image.device):
            made = method(image)
        criterion(made).backward()
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
    return Case(_anatomask_step(device, "none"), _dense_step(device), _DENSE)


@row
def anatomask_step_b(device: torch.device) -> Case:
    """AnatoMask, a training step of STU-Net-B on one crop of 112 x 112 x 128, bf16; minutes on a CPU"""
    return Case(_anatomask_step(device, "teacher", **_B), _anatomask_step(device, "none", **_B), "SparK")


@row
def spark_step_b(device: torch.device) -> Case:
    """SparK, the same step; minutes on a CPU"""
    return Case(_anatomask_step(device, "none", **_B), _dense_step(device, **_B), _DENSE)


_DENSE = "a dense pass of the same encoder and decoder blocks"
_B: dict[str, Any] = {"size": "B", "shape": (112, 112, 128), "precision": "bf16"}


def _anatomask_step(
    device: torch.device,
    guidance: str,
    *,
    size: str = "S",
    shape: tuple[int, ...] = (64, 64, 64),
    precision: str = "fp32",
) -> Callable[[], object]:
    method = AnatoMask(SparK(size=size), guidance=guidance)
    return _pretraining_step(method, AnatoMaskLoss(), torch.rand(1, 1, *shape, device=device), precision)


def _dense_step(
    device: torch.device, *, size: str = "S", shape: tuple[int, ...] = (64, 64, 64), precision: str = "fp32"
) -> Callable[[], object]:
    """The same modules with nothing hidden, and a plain squared error, forward and backward."""
    network, x = SparK(size=size).to(device), _laid_out(torch.rand(1, 1, *shape, device=device), precision)

    def dense() -> None:
        y: Tensor | None = None
        with autocast(precision, device):
            for block, seen in zip(network.decoder, network.encode(x)[:0:-1], strict=True):
                y = block(seen if y is None else y + seen)
            made = network.head(y)
        (made.float() - x).square().mean().backward()

    return dense


def _laid_out(image: Tensor, precision: str) -> Tensor:
    """Channels last where convolutions in bf16 want it."""
    return image if precision == "fp32" else image.contiguous(memory_format=torch.channels_last_3d)
