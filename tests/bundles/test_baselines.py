"""The bundle of baselines with the ones that it does not have as its default."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.bundles.running import assert_same_weights, copy_bundle, interrupted, run


@pytest.mark.slow
@pytest.mark.parametrize(
    "baseline", ["maskfeat", "cmae", "moco", "byol", "dino", "swav", "tang", "restoration", "transvw", "hybmim"]
)
def test_pretrained_interrupted_and_resumed_equals_uninterrupted_and_is_transferred(
    baseline: str, phantom_dir: Path, tmp_path: Path
) -> None:
    """Bit for bit, with slow copies, queues and centres; and fine-tuning takes what the baseline has trained."""
    whole, parts = (copy_bundle("baselines", tmp_path / part) for part in ("whole", "parts"))
    settings = {"dataset_dir": str(phantom_dir), "baseline": baseline}
    run(whole, "train", **settings, epochs=1)
    assert (whole / "runs/pretrain/reconstruction.png").stat().st_size > 0
    card = torch.load(whole / "models/pretrained/ssl.pt", weights_only=True)["card"]
    assert card["pretraining"]["baseline"]["name"] == baseline

    with interrupted(4):
        run(parts, "pretrain", **settings)
    run(parts, "pretrain", **settings)
    assert_same_weights(parts / "models/pretrained/ssl.pt", whole / "models/pretrained/ssl.pt")
