"""Several small batches in place of a large one."""

from __future__ import annotations

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn

from common.batches import image_batch
from common.handlers.clip_gradients import ClipGradients
from common.methods.amlp import AMLP, AMLPLoss


def trained(*, batch_size: int, accumulate: int, max_norm: float = 1e6, batches: int = 4) -> list[torch.Tensor]:
    """Weights after the same images in batches of that size; nothing in this method couples the images of a batch."""
    torch.manual_seed(0)
    images = torch.rand(4, 1, 8, 8, 8)
    method = AMLP(nn.Conv3d(1, 1, 3, padding=1), patch_size=4, exclude_background=False)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[{"image": part} for part in images.split(batch_size)][:batches],
        network=method,
        optimizer=optimizer,
        loss_function=AMLPLoss(consistency_weight=0),
        prepare_batch=image_batch,
        decollate=False,
        accumulation_steps=accumulate,
        train_handlers=[ClipGradients(optimizer=optimizer, max_norm=max_norm)],
    )
    trainer.run()
    return [parameter.detach() for parameter in method.parameters()]


@pytest.mark.parametrize("max_norm", [1e6, 1e-3])
def test_two_batches_of_one_are_one_batch_of_two(max_norm: float) -> None:
    """Also where gradients are clipped: their sum is, once."""
    large = trained(batch_size=2, accumulate=1, max_norm=max_norm)
    small = trained(batch_size=1, accumulate=2, max_norm=max_norm)
    torch.testing.assert_close(small, large, rtol=1e-5, atol=1e-7)
    alone = trained(batch_size=1, accumulate=1, max_norm=max_norm)
    assert not torch.allclose(alone[0], large[0], rtol=1e-5, atol=1e-7)


def test_the_last_batches_of_an_epoch_are_clipped_too() -> None:
    """Three batches, two at a time: the third makes a step of its own."""
    start = trained(batch_size=1, accumulate=2, max_norm=1e-9, batches=1)
    end = trained(batch_size=1, accumulate=2, max_norm=1e-9, batches=3)
    torch.testing.assert_close(end, start, rtol=0, atol=1e-8)
