"""AE, DAE and MAE: what the network sees, and which errors count."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from common.methods.autoencoder import Autoencoder, ReconstructionLoss
from common.networks.mit_unet import MixTransformerUNet


def network(**changes: Any) -> MixTransformerUNet:
    torch.manual_seed(0)
    small = {"variant": "b0", "stem_stride": 2, "decoder_channels": (8, 8, 4, 4)}
    return MixTransformerUNet(**{"in_channels": 3, "out_channels": 3, **small, **changes})


def image() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, 16, generator=torch.Generator().manual_seed(1))


def seen_by(method: Autoencoder, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, dict]:
    seen = []
    encode = method.network.encode
    monkeypatch.setattr(method.network, "encode", lambda y: (seen.append(y), encode(y))[1])
    outputs = method(x)
    return seen[0], outputs


def test_the_autoencoder_sees_the_image_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    x = image()
    seen, outputs = seen_by(Autoencoder(network(), corruption="none"), x, monkeypatch)
    assert torch.equal(seen, x)
    assert not outputs["mask"].any()
    assert outputs["stats"]["mask_share"] == 0


def test_the_denoising_one_sees_noise_and_is_asked_for_the_clean_image(monkeypatch: pytest.MonkeyPatch) -> None:
    x = image()
    seen, outputs = seen_by(Autoencoder(network(), corruption="noise", noise_sd=0.1), x, monkeypatch)
    assert (seen - x).std() == pytest.approx(0.1, rel=0.02)
    assert (seen - x).mean().abs() < 0.002
    assert torch.equal(outputs["target"][0], x)
    assert not outputs["mask"].any()


def test_the_masked_one_sees_a_quarter_of_the_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    x = image()
    seen, outputs = seen_by(Autoencoder(network(), patch_size=8, mask_ratio=0.75, fill=-1.0), x, monkeypatch)
    hidden = outputs["mask"][0].expand_as(x)
    assert (seen[hidden] == -1).all()
    assert torch.equal(seen[~hidden], x[~hidden])
    assert hidden.float().mean() == 0.75


def test_noise_and_masks_follow_their_own_seed() -> None:
    for corruption in ("noise", "patches"):
        method = Autoencoder(network(), corruption=corruption, patch_size=8).eval()
        method.seed_masks(5)
        first, second = (method(image())["reconstruction"] for _ in range(2))
        method.seed_masks(5)
        assert torch.equal(method(image())["reconstruction"], first)
        assert not torch.equal(first, second)


def test_losses_by_hand() -> None:
    """Two channels, four voxels, two of them hidden; errors 1, 2, 3, 4 in the first channel and 0 in the second."""
    outputs = {
        "reconstruction": torch.tensor([1.0, 2.0, 3.0, 4.0, 0, 0, 0, 0]).view(1, 1, 2, 2, 2),
        "target": torch.zeros(1, 1, 2, 2, 2),
        "mask": torch.tensor([False, True, False, True]).view(1, 1, 1, 2, 2),
    }
    assert ReconstructionLoss(kind="mse", where="all")(outputs) == pytest.approx((1 + 4 + 9 + 16) / 8)
    assert ReconstructionLoss(kind="mse", where="hidden")(outputs) == pytest.approx((4 + 16) / 4)
    assert ReconstructionLoss(kind="l1", where="hidden")(outputs) == pytest.approx((2 + 4) / 4)
    assert outputs["losses"]["reconstruction"] == pytest.approx(1.5)
    assert ReconstructionLoss()({**outputs, "mask": torch.zeros(1, 1, 1, 2, 2, dtype=torch.bool)}) == 0


def test_bf16_ends_before_the_loss() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        outputs = Autoencoder(network(), patch_size=8)(image())
        assert outputs["reconstruction"].dtype == torch.float32
        assert ReconstructionLoss()(outputs).dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"corruption": "blur"}, "'none', 'noise'"),
        ({"noise_sd": 0.0}, "above 0"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"mask_ratio": 0.0}, "hides nothing"),
    ],
)
def test_arguments_are_checked(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Autoencoder(network(), **arguments)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="'mse', 'l1'"):
        ReconstructionLoss(kind="huber")
