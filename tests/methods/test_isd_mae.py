"""ISD-MAE: what is hidden, what comes out, what the loss is made of."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.losses import SSIMLoss as MonaiSSIMLoss

from common.methods.isd_mae import ISDMAE, ISDMAELoss
from common.networks.mit_unet import MixTransformerUNet


def network(**changes: Any) -> MixTransformerUNet:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "in_channels": 3,
        "out_channels": 3,
        "variant": "b0",
        "stem_stride": 2,
        "decoder_channels": (8, 8, 4, 4),
        **changes,
    }
    return MixTransformerUNet(**arguments)


def method(**changes: Any) -> ISDMAE:
    dims = changes.pop("spatial_dims", 3)
    return ISDMAE(network(spatial_dims=dims), **{"patch_size": 8, **changes})


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape or (2, 3, 16, 16, 16), generator=torch.Generator().manual_seed(1))


class TestForward:
    """The contract of common/methods/__init__.py."""

    @pytest.mark.parametrize(("spatial_dims", "shape"), [(3, (2, 3, 32, 16, 16)), (2, (2, 3, 32, 48))])
    def test_shapes_and_types(self, spatial_dims: int, shape: tuple[int, ...]) -> None:
        isd = method(spatial_dims=spatial_dims)
        x = image(*shape)
        outputs = isd(x)
        assert outputs["reconstruction"].shape == outputs["target"].shape == (2, *shape)
        assert outputs["mask"].shape == (2, shape[0], 1, *shape[2:])
        assert outputs["embeddings"].shape == (2, 2, 128)
        assert outputs["mask"].dtype == torch.bool
        assert outputs["reconstruction"].dtype == outputs["embeddings"].dtype == torch.float32
        assert outputs["reconstruction"].min() >= 0
        assert outputs["reconstruction"].max() <= 1
        assert outputs["fill"] == 0.0
        assert set(outputs["stats"]) == {"mask_share_intensity", "mask_share_patch", "embedding_spread"}
        assert all(value.ndim == 0 for value in outputs["stats"].values())

    def test_target_is_the_image_and_no_copy(self) -> None:
        x = image()
        target = method()(x)["target"]
        assert torch.equal(target[0], x)
        assert target[0].data_ptr() == target[1].data_ptr() == x.data_ptr()

    def test_network_sees_fill_in_all_channels_exactly_where_masked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        isd = method(fill=-1.0)
        seen = []
        encode = isd.network.encode
        monkeypatch.setattr(isd.network, "encode", lambda x: (seen.append(x), encode(x))[1])
        x = image()
        outputs = isd(x)
        for masked, mask in zip(seen, outputs["mask"], strict=True):
            hidden = mask.expand_as(x)
            assert (masked[hidden] == -1.0).all()
            assert torch.equal(masked[~hidden], x[~hidden])
        assert outputs["fill"] == -1.0

    def test_bf16_autocast_ends_before_sigmoid_and_embedding(self) -> None:
        isd = method()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = isd(image())
        assert outputs["reconstruction"].dtype == outputs["embeddings"].dtype == torch.float32

    def test_meta_tensor_is_used_as_a_plain_one(self) -> None:
        outputs = method()(MetaTensor(image()))
        assert not any(isinstance(value, MetaTensor) for value in outputs.values())

    def test_shares_are_those_of_the_masks(self) -> None:
        outputs = method()(image())
        assert outputs["stats"]["mask_share_intensity"] == pytest.approx(outputs["mask"][0].float().mean().item())
        assert outputs["stats"]["mask_share_patch"] == 0.5

    def test_max_pooling(self) -> None:
        x = image(2, 3, 32, 16, 16)
        average, largest = (method(pool=pool).eval() for pool in ("avg", "max"))
        largest.load_state_dict(average.state_dict())
        assert not torch.allclose(average(x)["embeddings"], largest(x)["embeddings"])


class TestMasks:
    """METHODS 1.11 for the masks that the method draws."""

    def test_chosen_bins_and_no_others_are_hidden(self) -> None:
        isd = method(n_bins=16, intensity_mask_ratio=0.25)
        x = image()
        mask = isd.draw_masks(x)[0]
        gray = 0.2989 * x[:, :1] + 0.5870 * x[:, 1:2] + 0.1140 * x[:, 2:]
        bins = (gray * 16).floor().clamp(max=15).long()
        chosen = []
        for b in range(2):
            hidden, visible = (set(bins[b][m].tolist()) for m in (mask[b], ~mask[b]))
            assert not hidden & visible
            assert len(hidden) <= 4
            chosen.append(hidden)
        assert chosen[0] != chosen[1]

    def test_one_channel_as_gray(self) -> None:
        x = image()
        mask = method(gray=1, n_bins=4, intensity_mask_ratio=0.25).draw_masks(x)[0]
        bins = (x[:, 1:2] * 4).floor().long()
        for b in range(2):
            assert len(set(bins[b][mask[b]].tolist())) == 1
            assert not set(bins[b][mask[b]].tolist()) & set(bins[b][~mask[b]].tolist())

    def test_half_of_the_patches_in_each_sample(self) -> None:
        mask = method(patch_size=8).draw_masks(image())[1]
        patches = mask.view(2, 2, 8, 2, 8, 2, 8).permute(0, 1, 3, 5, 2, 4, 6).reshape(2, 8, 512)
        assert torch.equal(patches.all(-1), patches.any(-1))
        assert patches.all(-1).sum(1).tolist() == [4, 4]

    def test_bernoulli_count_varies(self) -> None:
        isd = method(patch_rule="bernoulli", patch_size=4)
        counts = {isd.draw_masks(image())[1].sum().item() for _ in range(5)}
        assert len(counts) > 1

    def test_drawing_with_replacement_hides_fewer_bins(self) -> None:
        x = torch.linspace(0, 1, 4096).view(1, 1, 16, 16, 16).expand(8, 3, -1, -1, -1)
        shares = [
            torch.stack([isd.draw_masks(x)[0].float().mean() for _ in range(5)]).mean()
            for isd in (method(intensity_mask_ratio=0.75), method(intensity_mask_ratio=0.75, replacement=True))
        ]
        assert shares[0] == pytest.approx(0.75, abs=0.01)
        # 16 (1 - (15/16)^12) of 16 bins
        assert shares[1] == pytest.approx(1 - (15 / 16) ** 12, abs=0.06)

    def test_quantile_bins_hide_the_ratio_of_voxels(self) -> None:
        mask = method(binning="quantile").draw_masks(image() ** 4)[0]
        assert mask.float().mean().item() == pytest.approx(0.25, abs=0.01)

    def test_air_around_the_body_is_not_hidden(self) -> None:
        x = torch.zeros(1, 3, 16, 16, 16)
        x[:, :, 4:12, 4:12, 4:12] = 0.9
        x[:, :, 7:9, 7:9, 7:9] = 0.1
        isd = method(exclude_background=True, binning="quantile", intensity_mask_ratio=0.5, n_bins=2)
        hidden = torch.stack([isd.draw_masks(x)[0] for _ in range(8)]).any(0)
        inside = torch.zeros_like(hidden)
        inside[:, :, 4:12, 4:12, 4:12] = True
        assert hidden.any()
        assert not hidden[~inside].any()

    def test_stream_is_the_same_whatever_the_network(self) -> None:
        x = image()
        masks = []
        for noise, drop_path_rate in ((1, 0.0), (2, 0.5)):
            isd = ISDMAE(network(drop_path_rate=drop_path_rate), patch_size=8)
            torch.manual_seed(noise)
            isd.seed_masks(3)
            masks.append([isd(x)["mask"] for _ in range(2)])
        assert torch.equal(masks[0][0], masks[1][0])
        assert torch.equal(masks[0][1], masks[1][1])
        assert not torch.equal(masks[0][0], masks[0][1])

    def test_seeding_restarts_the_stream(self) -> None:
        isd, x = method(), image()
        isd.seed_masks(5)
        first = isd.draw_masks(x)
        isd.draw_masks(x)
        isd.seed_masks(5)
        assert torch.equal(isd.draw_masks(x), first)
        isd.seed_masks(6)
        assert not torch.equal(isd.draw_masks(x), first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"intensity_mask_ratio": 1.0}, "mask_ratio"),
        ({"patch_mask_ratio": 1.0}, "mask_ratio"),
        ({"patch_rule": "half"}, "rule"),
        ({"binning": "equal"}, "binning"),
        ({"gray": "red"}, "gray"),
        ({"gray": 3}, "channels 0 to 2"),
        ({"patch_size": (8, 8)}, "patch_size"),
        ({"pool": "median"}, "pool"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(**arguments)


def test_network_that_does_not_reconstruct() -> None:
    with pytest.raises(ValueError, match="14 outputs for 3 input channels"):
        ISDMAE(network(out_channels=14))


class TestLoss:
    """Two SSIM terms and the contrastive one."""

    def outputs(self, made: torch.Tensor, x: torch.Tensor, embeddings: torch.Tensor) -> dict[str, Any]:
        return {"reconstruction": made, "target": x.expand(2, *x.shape), "embeddings": embeddings}

    def test_perfect_reconstruction_leaves_the_contrast(self) -> None:
        x = image(4, 1, 8, 8, 8)
        outputs = self.outputs(x.expand(2, *x.shape), x, torch.eye(4, 128).expand(2, 4, 128))
        loss = ISDMAELoss(spatial_dims=3)(outputs)
        # ln(1 + 3 e^-2.6593) = ln 1.21
        assert loss.item() == pytest.approx(0.19062, abs=1e-4)
        assert outputs["losses"]["ssim_intensity"].item() == pytest.approx(0, abs=1e-6)
        assert outputs["losses"]["contrastive"].item() == pytest.approx(loss.item(), abs=1e-6)
        sharp = ISDMAELoss(spatial_dims=3, logit_scale=14.2857)(outputs)
        assert sharp.item() == pytest.approx(math.log(1 + 3 * math.exp(-14.2857)), abs=1e-6)

    def test_parts_sum_to_the_loss(self) -> None:
        x = image(3, 3, 16, 16)
        made = torch.rand(2, 3, 3, 16, 16)
        outputs = self.outputs(made, x, torch.randn(2, 3, 128))
        loss = ISDMAELoss(spatial_dims=2, ssim_window=7, contrastive_weight=0.5)(outputs, None)
        parts = outputs["losses"]
        assert set(parts) == {"ssim_intensity", "ssim_patch", "contrastive"}
        assert loss.item() == pytest.approx(
            (parts["ssim_intensity"] + parts["ssim_patch"] + 0.5 * parts["contrastive"]).item()
        )
        assert not any(part.requires_grad for part in parts.values())

    def test_ssim_covers_the_whole_image_like_monai(self) -> None:
        x, made = image(2, 3, 16, 16, 16), torch.rand(2, 2, 3, 16, 16, 16)
        outputs = self.outputs(made, x, torch.randn(2, 2, 128))
        loss_module = ISDMAELoss(spatial_dims=3)
        loss_module.ssim.padding = "valid"
        loss_module(outputs)
        monai = MonaiSSIMLoss(spatial_dims=3, win_size=7, kernel_sigma=1.5)
        for v, view in enumerate(("intensity", "patch")):
            assert outputs["losses"][f"ssim_{view}"].item() == pytest.approx(monai(made[v], x).item(), abs=1e-5)

    @pytest.mark.parametrize("batch_size", [1, 2])
    def test_gradient_reaches_every_parameter(self, batch_size: int) -> None:
        isd, loss = method(), ISDMAELoss(spatial_dims=3, learnable=True)
        loss(isd(image(batch_size, 3, 32, 16, 16))).backward()
        named = itertools.chain(isd.named_parameters(), loss.named_parameters())
        assert [name for name, p in named if p.grad is None] == []
        if batch_size > 1:
            assert [name for name, p in isd.named_parameters() if not p.grad.any()] == []  # type: ignore[union-attr]

    def test_a_few_steps_lower_the_loss(self) -> None:
        isd, loss = method(), ISDMAELoss(spatial_dims=3)
        x = image(2, 3, 4, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
        optimizer = torch.optim.AdamW([*isd.parameters(), *loss.parameters()], lr=1e-3)
        values = []
        for _ in range(5):
            isd.seed_masks(0)
            value = loss(isd(x))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values.append(value.item())
        assert values[-1] < 0.9 * values[0]
