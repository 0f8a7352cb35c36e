"""The memory of a training step, counted without computing it."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import InputError
from common.networks.stunet import STUNet
from scripts.memory import step_memory

WIDTHS = {"features": [4] * 6, "depths": [1] * 6}
SMALL = {**WIDTHS, "roi_size": [32, 32, 32], "batch_size": 1}


@pytest.mark.slow
def test_activations_grow_with_the_batch_and_weights_do_not() -> None:
    one = step_memory("anatomask", "train", SMALL)
    two = step_memory("anatomask", "train", {**SMALL, "batch_size": 2})
    weights = list(STUNet(out_channels=14, **WIDTHS).parameters())
    # float32 weights, gradients and two moments, and AdamW's count of steps for each tensor
    assert one.lasting == two.lasting == sum(16 * w.numel() for w in weights) + 4 * len(weights)
    assert 1.8 < (two.peak - two.lasting) / (one.peak - one.lasting) < 2.2
    kept = step_memory("anatomask", "train", {**SMALL, "checkpointing": True})
    assert kept.peak < one.peak


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "small"),
    [
        ("isd_mae", {"backbone": "b0", "decoder_channels": [4] * 5, "patch_size": 8}),
        ("tcs_mae", {"backbone": "b0", "decoder_channels": [4] * 5}),
        ("selfmedhpm", {"hidden_size": 24, "depth": 2, "n_heads": 2, "decoder_depth": 1, "predictor_depth": 1}),
    ],
)
def test_no_loss_decides_by_values(name: str, small: dict[str, Any]) -> None:
    memory = step_memory(name, "pretrain", {**small, "roi_size": [32] * 3, "pretrain_batch_size": 1})
    assert memory.peak > memory.lasting


def test_settings_that_are_not_there_are_refused() -> None:
    with pytest.raises(InputError, match="--batchsize: no such setting"):
        step_memory("anatomask", "train", {"batchsize": 1})
    with pytest.raises(InputError, match="bundle: got nothing"):
        step_memory("nothing", "train", {})
    with pytest.raises(InputError, match="stage: got evaluate"):
        step_memory("anatomask", "evaluate", {})
