"""AMLP: which patches are hidden, what comes out, what the loss is made of (METHODS 4.11)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import nn

from common.masking.patches import patchify
from common.methods.amlp import AMLP, AMLPLoss


class Plain(nn.Module):
    """One convolution: enough to be trained, and its input is seen."""

    def __init__(self, spatial_dims: int = 3) -> None:
        super().__init__()
        conv = nn.Conv3d if spatial_dims == 3 else nn.Conv2d
        torch.manual_seed(0)
        self.conv = conv(1, 1, 3, padding=1)
        self.seen: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x
        return self.conv(x)


def method(spatial_dims: int = 3, **changes: Any) -> AMLP:
    arguments: dict[str, Any] = {"patch_size": 4, "exclude_background": False, "spatial_dims": spatial_dims, **changes}
    return AMLP(Plain(spatial_dims), **arguments)


def phantom(spatial_dims: int = 3, share: float = 0.25) -> tuple[torch.Tensor, torch.Tensor]:
    """Dark noise with bright patches at random places, and which patches those are."""
    generator = torch.Generator().manual_seed(1)
    size, n = 16, 4**spatial_dims
    bright = torch.zeros(2, n, dtype=torch.bool)
    bright.scatter_(1, torch.rand(2, n, generator=generator).argsort(1)[:, : int(share * n)], True)
    voxels = bright.view(2, 1, *[4] * spatial_dims)
    for axis in range(2, 2 + spatial_dims):
        voxels = voxels.repeat_interleave(4, axis)
    return 0.2 + 0.1 * torch.rand(2, 1, *[size] * spatial_dims, generator=generator) + 0.6 * voxels, bright


class TestForward:
    """The contract of common/methods/__init__.py."""

    @pytest.mark.parametrize("spatial_dims", [2, 3])
    def test_shapes_and_types(self, spatial_dims: int) -> None:
        x, bright = phantom(spatial_dims)
        outputs = method(spatial_dims)(x)
        assert outputs["reconstruction"].shape == outputs["target"].shape == (1, *x.shape)
        assert outputs["mask"].shape == (1, *x.shape)
        assert outputs["mask"].dtype == torch.bool
        assert outputs["reconstruction"].dtype == torch.float32
        assert outputs["target"].data_ptr() == x.data_ptr()
        assert outputs["patch_mask"].shape == outputs["coin"].shape == bright.shape
        assert outputs["centroids"].shape == (2, 2, 4**spatial_dims)
        assert all(value.ndim == 0 for value in outputs["stats"].values())

    @pytest.mark.parametrize("spatial_dims", [2, 3])
    def test_at_the_share_of_the_foreground_it_is_hidden_exactly(self, spatial_dims: int) -> None:
        x, bright = phantom(spatial_dims)
        outputs = method(spatial_dims)(x)  # in the first step a quarter is hidden
        assert torch.equal(outputs["patch_mask"], bright)
        assert torch.equal(outputs["foreground"], bright)
        assert torch.equal(outputs["mask"][0], x > 0.5)
        assert torch.equal(outputs["regions"]["k-means foreground"][0], x > 0.5)
        assert outputs["stats"]["foreground_share"].item() == outputs["stats"]["mask_share"].item() == 0.25
        assert outputs["stats"]["foreground_hidden"].item() == 1

    def test_below_that_share_a_part_of_it_is_hidden(self) -> None:
        x, bright = phantom()
        outputs = method(mask_ratio_start=0.1)(x)
        assert (outputs["patch_mask"].sum(1) == 6).all()
        assert not (outputs["patch_mask"] & ~bright).any()

    def test_network_sees_fill_exactly_where_masked(self) -> None:
        x, _ = phantom()
        amlp = method(fill=-1.0)
        outputs = amlp(x)
        seen, mask = amlp.network.seen, outputs["mask"][0]
        assert (seen[mask] == -1).all()
        assert torch.equal(seen[~mask], x[~mask])
        assert outputs["fill"] == -1.0

    def test_orders(self) -> None:
        x, bright = phantom()
        last = method(order="background_first", mask_ratio_start=0.7, mask_ratio_end=0.7)(x)["patch_mask"]
        assert not (last & bright).any()
        random = method(order="random")(x)["patch_mask"]
        assert (random & bright).any()
        assert (random & ~bright).any()

    def test_air_around_the_body_is_no_foreground(self) -> None:
        """Of a body in air, k-means would find body and air; within the body, it finds the lesion."""
        x = torch.zeros(1, 1, 32, 32)
        x[..., 4:28, 4:28] = 0.6
        x[..., 12:16, 12:16] = 0.9
        lesion = patchify(x, 4).amin(-1) == 0.9
        assert torch.equal(method(2, exclude_background=True)(x)["foreground"], lesion)
        assert not torch.equal(method(2, exclude_background=False)(x)["foreground"], lesion)

    def test_three_clusters(self) -> None:
        x, bright = phantom()
        outputs = method(n_clusters=3)(x)
        assert outputs["centroids"].shape[1] == 3
        assert outputs["foreground"].sum() <= bright.sum()

    def test_masks_follow_their_own_seed(self) -> None:
        x, _ = phantom()
        amlp = method(order="random")
        first = amlp(x)
        second = amlp(x)
        amlp.seed_masks(0)
        again = amlp(x)
        assert torch.equal(first["mask"], again["mask"])
        assert torch.equal(first["coin"], again["coin"])
        assert not torch.equal(first["mask"], second["mask"])

    def test_a_constant_image_gives_finite_numbers(self) -> None:
        outputs = method()(torch.full((2, 1, 16, 16, 16), 0.4))
        assert not outputs["clustered"].any()
        loss = AMLPLoss(consistency_ramp=0)(outputs)
        loss.backward()
        assert loss.isfinite()

    def test_bf16_autocast_does_not_reach_the_clustering(self) -> None:
        x, _ = phantom()
        with torch.autocast("cpu", torch.bfloat16):
            half = method()(x)
        full = method()(x)
        assert torch.equal(half["centroids"], full["centroids"])
        assert half["reconstruction"].dtype == torch.float32

    def test_monais_unet_takes_part(self) -> None:
        network = BasicUNet(3, 1, 1, features=(4, 4, 4, 4, 4, 4))
        x = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
        loss = AMLPLoss(consistency_ramp=0)(AMLP(network, patch_size=8, tissue_level=0.0)(x))
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


class TestMaskRatio:
    """It grows with the logarithm of the epoch."""

    def test_from_start_to_end_never_beyond(self) -> None:
        amlp = method(ramp_epochs=800)
        ratios = []
        for epoch in (1, 2, 10, 50, 100, 400, 800, 900):
            amlp.set_progress((epoch - 1) / 799)
            ratios.append(amlp.mask_ratio)
        assert ratios == pytest.approx([0.25, 0.302, 0.422, 0.543, 0.594, 0.698, 0.75, 0.75], abs=5e-4)

    def test_as_many_patches_are_hidden(self) -> None:
        x, _ = phantom()
        amlp = method()
        for progress, hidden in ((0.0, 16), (1.0, 48)):
            amlp.set_progress(progress)
            assert (amlp(x)["patch_mask"].sum(1) == hidden).all()

    def test_without_the_adaptive_ratio(self) -> None:
        amlp = method(mask_ratio_start=0.75, mask_ratio_end=0.75)
        for progress in (0.0, 0.3, 1.0):
            amlp.set_progress(progress)
            assert amlp.mask_ratio == 0.75


class TestLoss:
    """Reconstruction, attention and consistency."""

    def outputs(self) -> dict[str, Any]:
        """Two samples of four patches of 2 x 2 pixels, three of them hidden."""
        target = torch.zeros(2, 1, 4, 4)
        made = torch.zeros(2, 1, 4, 4)
        made[:, :, :2, :2], made[:, :, :2, 2:], made[:, :, 2:, :2], made[:, :, 2:, 2:] = 0.3, 0.6, 0.0, 5.0
        hidden = torch.tensor([[True, True, True, False]]).repeat(2, 1)
        return {
            "reconstruction": made[None].requires_grad_(),
            "target": target[None],
            "patch_mask": hidden,
            "foreground": torch.tensor([[True, False, False, True]]).repeat(2, 1),
            "clustered": torch.ones_like(hidden),
            "coin": torch.tensor([[False, True, True, True]]).repeat(2, 1),
            "centroids": torch.stack([torch.full((4,), 0.6), torch.zeros(4)]).expand(2, 2, 4),
            "patch_size": (2, 2),
            "progress": 1.0,
        }

    def test_parts_by_hand(self) -> None:
        outputs = self.outputs()
        loss = AMLPLoss(attention_weight=2.0, consistency_weight=0.5, intensity_sd=0.3)(outputs)
        losses = outputs["losses"]
        # errors of 1, 4 and 0 squared standard deviations; the visible patch is far off and does not count
        assert losses["reconstruction"].item() == pytest.approx(5 / 3)
        assert losses["attention"].item() == pytest.approx(2 * 17 / 5)
        # logits -|y - 0.6|^2 / 0.09 + |y|^2 / 0.09 of 0.3, 0.6, 0 are 0, 4, -4; categories: coin 0, coin 1, 0
        bce = torch.nn.functional.softplus(torch.tensor([0.0, -4.0, -4.0]))
        assert losses["consistency"].item() == pytest.approx(0.5 * bce.mean().item())
        assert loss.item() == pytest.approx(sum(part.item() for part in losses.values()))
        loss.backward()
        assert not outputs["reconstruction"].grad[..., 2:, 2:].any()

    def test_consistency_is_ramped_up(self) -> None:
        values = []
        for progress in (0.0, 0.05, 0.1, 0.8):
            outputs = {**self.outputs(), "progress": progress}
            AMLPLoss(consistency_ramp=0.1)(outputs)
            values.append(outputs["losses"]["consistency"].item())
        assert values[0] == 0
        assert values[1:3] == pytest.approx([values[3] / 2, values[3]])

    def test_literal_terms_have_no_gradient(self) -> None:
        only_reconstruction, literal = self.outputs(), self.outputs()
        AMLPLoss(attention_weight=0, consistency_weight=0)(only_reconstruction).backward()
        AMLPLoss(literal_attention=True, literal_consistency=True)(literal).backward()
        torch.testing.assert_close(literal["reconstruction"].grad, only_reconstruction["reconstruction"].grad)
        assert literal["losses"]["attention"].item() == pytest.approx(1)
        # the first patch is foreground and easy: the coin says background, which differs; the second likewise
        assert literal["losses"]["consistency"].item() == pytest.approx(0.1 * 23.02585 * 2 / 3)
        assert set(only_reconstruction["losses"]) == {"reconstruction"}

    def test_default_terms_have_a_gradient(self) -> None:
        for weights in ({"attention_weight": 0.0}, {"consistency_weight": 0.0}):
            without, both = self.outputs(), self.outputs()
            AMLPLoss(**weights)(without).backward()
            AMLPLoss()(both).backward()
            assert not torch.allclose(without["reconstruction"].grad, both["reconstruction"].grad)

    def test_training_lowers_it(self) -> None:
        x, _ = phantom()
        amlp, criterion = method(order_noise=1.0), AMLPLoss()
        optimizer = torch.optim.Adam(amlp.parameters(), lr=0.02)
        values = []
        for _ in range(30):
            loss = criterion(amlp(x))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        assert values[-1] < 0.7 * values[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_ratio_start": 0.0}, "mask_ratio_start"),
        ({"mask_ratio_start": 0.8}, "mask_ratio_end"),
        ({"mask_ratio_end": 1.0}, "mask_ratio_end"),
        ({"order": "hard"}, "order"),
        ({"order_noise": -0.1}, "order_noise"),
        ({"n_clusters": 1}, "n_clusters"),
        ({"ramp_epochs": 1}, "epochs"),
        ({"tau": 0.0}, "tau"),
        ({"patch_size": 0}, "patch_size"),
    ],
)
def test_method_refuses_what_makes_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_weight": -1}, "attention_weight"),
        ({"consistency_ramp": 2}, "consistency_ramp"),
        ({"intensity_sd": 0}, "intensity_sd"),
        ({"disagreement": "vote"}, "disagreement"),
    ],
)
def test_loss_refuses_what_makes_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AMLPLoss(**arguments)
