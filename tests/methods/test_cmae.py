"""CMAE: the second view, its slow copy, both losses, who learns from what."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from common.methods.cmae import CMAE, CMAELoss
from common.networks.mit_unet import MixTransformerUNet


def method(spatial_dims: int = 2, **changes: Any) -> CMAE:
    torch.manual_seed(0)
    small = {"in_channels": 3, "out_channels": 3, "variant": "b0", "stem_stride": 2, "decoder_channels": (8, 8, 4, 4)}
    sizes = {"embedding_features": 8, "hidden_features": 16, "feature_depth": 1}
    return CMAE(MixTransformerUNet(spatial_dims=spatial_dims, **small), **{**sizes, **changes})


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape or (2, 3, 32, 48), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("spatial_dims", "shape"), [(2, (2, 3, 32, 48)), (3, (2, 3, 32, 16, 16))])
def test_shapes(spatial_dims: int, shape: tuple[int, ...]) -> None:
    x = image(*shape)
    outputs = method(spatial_dims)(x)
    assert torch.equal(outputs["target"][0], x)
    assert outputs["reconstruction"].shape == outputs["images"]["second view"].shape == (1, *shape)
    assert outputs["predictions"].shape == outputs["keys"].shape == (2, 8)
    assert not outputs["keys"].requires_grad


def test_the_second_view_is_whole_and_shifted_by_its_own_draw() -> None:
    """Every sample by some voxels of at most a quarter, towards the same side; its last voxels repeat."""
    x = torch.arange(32.0)[:, None] * 100 + torch.arange(32.0)
    view = method(max_shift=0.25, jitter=False).second_view(x.expand(80, 1, 32, 32))
    rows, columns = view[:, 0, 0, 0] // 100, view[:, 0, 0, 0] % 100
    for found in (rows, columns):
        assert found.min() == 0
        assert found.max() == 8
    assert torch.equal(view[:, 0, -1, -1], torch.full((80,), x.max()))
    assert len({(int(r), int(c)) for r, c in zip(rows, columns, strict=True)}) > 20


def test_the_whole_image_reaches_the_keys_and_the_visible_part_the_predictions() -> None:
    cmae = method(jitter=False, max_shift=0.0).eval()
    x = image()
    cmae.seed_masks(3)
    first = cmae(x)
    cmae.seed_masks(3)
    second = cmae(torch.where(first["mask"][0], 0.123, x))
    assert torch.equal(first["predictions"], second["predictions"])
    assert torch.equal(first["reconstruction"], second["reconstruction"])
    assert not torch.equal(first["keys"], second["keys"])


def test_the_slow_copy_follows_encoder_and_projector_by_0_004() -> None:
    cmae = method()
    old = [p.clone() for p in cmae.teacher.parameters()]
    student = [*cmae.network.encoder.parameters(), *cmae.projector.parameters()]
    assert len(old) == len(student)
    with torch.no_grad():
        for p in student:
            p.add_(1)
    cmae.update_teacher()
    for before, after in zip(old, cmae.teacher.parameters(), strict=True):
        torch.testing.assert_close(after, before + 0.004, atol=1e-5, rtol=0)


def outputs_by_hand() -> dict[str, Any]:
    """Hidden voxel wrong by 3; two orthogonal cases whose predictions are their keys."""
    return {
        "reconstruction": torch.tensor([3.0, 5.0]).view(1, 1, 1, 1, 2),
        "target": torch.zeros(1, 1, 1, 1, 2),
        "mask": torch.tensor([True, False]).view(1, 1, 1, 1, 2),
        "predictions": torch.eye(2),
        "keys": 2 * torch.eye(2),
    }


def test_losses_by_hand() -> None:
    contrastive = math.log(1 + math.exp(-1 / 0.5))
    outputs = outputs_by_hand()
    assert CMAELoss(temperature=0.5, contrastive_weight=2.0)(outputs) == pytest.approx(9 + 2 * contrastive)
    assert outputs["losses"]["contrastive"] == pytest.approx(contrastive)
    wrong = {**outputs_by_hand(), "keys": torch.eye(2).flip(0)}
    assert CMAELoss()(wrong) == pytest.approx(9 + math.log(1 + math.exp(1 / 0.07)), rel=1e-5)


def test_predictions_look_for_their_key_and_not_the_other_way_round() -> None:
    """Both predictions are the first key: one is right and one wrong. Each key would find both equally like it."""
    outputs = {**outputs_by_hand(), "predictions": torch.tensor([[1.0, 0.0], [1.0, 0.0]])}
    CMAELoss(temperature=0.5)(outputs)
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2
    assert outputs["losses"]["contrastive"] == pytest.approx(expected)


def test_a_single_case_has_no_negatives() -> None:
    outputs = {**outputs_by_hand(), "predictions": torch.ones(1, 2), "keys": torch.ones(1, 2)}
    assert CMAELoss()(outputs) == pytest.approx(9)


def test_everything_but_the_slow_copy_learns_and_the_decoder_from_voxels_alone() -> None:
    cmae = method()
    outputs = cmae(image())
    loss = CMAELoss()
    loss(outputs).backward()
    for name, p in cmae.named_parameters():
        assert (p.grad is None) == name.startswith("teacher."), name
    cmae.zero_grad(set_to_none=True)
    outputs = cmae(image())
    outputs["reconstruction"] = outputs["reconstruction"].detach()
    loss(outputs).backward()
    learns = {name.split(".")[0] for name, p in cmae.network.named_parameters() if p.grad is not None}
    assert learns == {"encoder"}


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: method(max_shift=1.0), "max_shift"),
        (lambda: method(mask_ratio=0.0), "hides nothing"),
        (lambda: CMAELoss(temperature=0.0), "temperature"),
    ],
)
def test_arguments_are_checked(made: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made()
