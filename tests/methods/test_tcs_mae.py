"""TCS-MAE: what is hidden, what comes out, what the loss is made of (METHODS 2.11)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from common.losses.ssim import ssim
from common.methods.tcs_mae import TCSMAE, TCSMAELoss
from common.networks.mit_unet import MixTransformerUNet
from common.transforms.sobel import sobel_magnitude


def network(**changes: Any) -> MixTransformerUNet:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "in_channels": 3,
        "out_channels": 3,
        "variant": "b0",
        "stem_stride": 2,
        "decoder_channels": (8, 8, 4, 4),
        "drop_path_rate": 0.0,
        **changes,
    }
    return MixTransformerUNet(**arguments)


def method(**changes: Any) -> TCSMAE:
    dims = changes.pop("spatial_dims", 3)
    return TCSMAE(network(spatial_dims=dims), **{"patch_size": 8, **changes})


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape or (2, 3, 16, 16, 16), generator=torch.Generator().manual_seed(1))


class TestForward:
    """The contract of common/methods/__init__.py."""

    @pytest.mark.parametrize(("spatial_dims", "shape"), [(3, (2, 3, 32, 16, 16)), (2, (2, 3, 32, 48))])
    def test_shapes_and_types(self, spatial_dims: int, shape: tuple[int, ...]) -> None:
        x = image(*shape)
        outputs = method(spatial_dims=spatial_dims)(x)
        assert outputs["reconstruction"].shape == outputs["target"].shape == (2, *shape)
        assert outputs["mask"].shape == (2, shape[0], 1, *shape[2:])
        assert outputs["embeddings"].shape == (2, shape[0], 2, 128)
        assert outputs["reconstruction"].dtype == outputs["embeddings"].dtype == torch.float32
        assert outputs["reconstruction"].min() >= 0
        assert outputs["reconstruction"].max() <= 1
        assert outputs["target"].data_ptr() == x.data_ptr()
        assert set(outputs["stats"]) == {"mask_share_tissue", "embedding_spread_f4", "embedding_spread_f5"}
        assert all(value.ndim == 0 for value in outputs["stats"].values())

    def test_one_view_is_masked_and_the_other_is_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tcs = method(fill=-1.0)
        seen = []
        encode = tcs.network.encode
        monkeypatch.setattr(tcs.network, "encode", lambda x: (seen.append(x), encode(x))[1])
        x = image()
        outputs = tcs(x)
        masked, unmasked = seen
        hidden = outputs["mask"][0].expand_as(x)
        assert (masked[hidden] == -1.0).all()
        assert torch.equal(masked[~hidden], x[~hidden])
        assert torch.equal(unmasked, x)
        assert not outputs["mask"][1].any()

    @pytest.mark.parametrize("concatenate", [True, False])
    def test_no_hidden_bin_makes_both_views_equal(self, concatenate: bool) -> None:
        """K = 4 at a ratio of 0.15 hides nothing: the paper's own grid contains plain autoencoders."""
        tcs = method(n_bins=4, mask_ratio=0.15, concatenate=concatenate).eval()
        outputs = tcs(image())
        assert not outputs["mask"].any()
        torch.testing.assert_close(outputs["reconstruction"][0], outputs["reconstruction"][1])
        TCSMAELoss(contrast="cosine_x1000")(outputs)
        assert outputs["losses"]["contrastive"].item() == pytest.approx(0, abs=1e-3)

    def test_one_pass_or_two_are_the_same_without_batch_norm(self) -> None:
        together, apart = method(concatenate=True).eval(), method().eval()
        apart.load_state_dict(together.state_dict())
        a, b = together(image()), apart(image())
        torch.testing.assert_close(a["reconstruction"], b["reconstruction"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(a["embeddings"], b["embeddings"], atol=1e-5, rtol=1e-5)

    def test_levels_are_those_asked_for(self) -> None:
        channels = network().encoder.channels
        tcs = method(levels=(5, 2))
        assert [p.linear.in_features for p in tcs.projectors] == [channels[0], channels[3]]
        assert tcs(image())["embeddings"].shape[2] == 2
        assert "embeddings" not in method(levels=())(image())

    def test_bf16_autocast_ends_before_sigmoid_and_embedding(self) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = method()(image())
        assert outputs["reconstruction"].dtype == outputs["embeddings"].dtype == torch.float32


class TestMask:
    """METHODS 1.11 for the mask that the method draws."""

    @pytest.mark.parametrize(("ratio", "bins"), [(0.15, 1), (0.35, 2), (0.55, 4), (0.75, 6)])
    def test_published_grid(self, ratio: float, bins: int) -> None:
        x = torch.arange(8).div(8).add(0.01).repeat(3, 8, 1)[None].expand(4, -1, -1, -1)
        mask = method(spatial_dims=2, mask_ratio=ratio, gray=0).draw_mask(x)
        assert (mask[:, 0, 0].sum(1) == bins).all()
        assert torch.equal(mask, mask[:, :, :1].expand_as(mask))

    def test_patches_instead(self) -> None:
        tcs = method(mask="patch", patch_size=8)
        outputs = tcs(image())
        patches = outputs["mask"][0].view(2, 2, 8, 2, 8, 2, 8).permute(0, 1, 3, 5, 2, 4, 6).reshape(2, 8, 512)
        assert torch.equal(patches.all(-1), patches.any(-1))
        assert patches.all(-1).sum(1).tolist() == [6, 6]
        assert outputs["stats"]["mask_share_patch"] == 0.75

    def test_quantile_bins_hide_the_ratio_of_voxels(self) -> None:
        mask = method(binning="quantile").draw_mask(image() ** 4)
        assert mask.float().mean().item() == pytest.approx(0.75, abs=0.01)

    def test_air_around_the_body_is_not_hidden(self) -> None:
        x = torch.zeros(4, 3, 16, 16, 16)
        x[:, :, 4:12, 4:12, 4:12] = 0.9
        body = (x[:, :1] > 0).any(1, keepdim=True)
        hidden = method(exclude_background=True).draw_mask(x)
        assert hidden.any()
        assert not hidden[~body].any()
        assert method(exclude_background=False).draw_mask(x)[~body].any()

    def test_stream_is_the_same_whatever_the_network(self) -> None:
        masks = []
        for noise, levels in ((1, (4, 5)), (2, ())):
            tcs = method(levels=levels)
            torch.manual_seed(noise)
            tcs.seed_masks(3)
            masks.append([tcs(image())["mask"] for _ in range(2)])
        assert torch.equal(masks[0][0], masks[1][0])
        assert torch.equal(masks[0][1], masks[1][1])
        assert not torch.equal(masks[0][0], masks[0][1])


class TestIndependentAugmentation:
    """The released code draws a transform for each view; the paper has one image."""

    def test_views_differ_and_targets_with_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tcs = method(augmentation="independent", fill=-1.0)
        seen = []
        encode = tcs.network.encode
        monkeypatch.setattr(tcs.network, "encode", lambda x: (seen.append(x), encode(x))[1])
        x = image()
        outputs = tcs(x)
        first, second = outputs["target"]
        assert not torch.allclose(first, second)
        assert not torch.allclose(first, x)
        masked, unmasked = seen
        assert torch.equal(unmasked, second)
        assert torch.equal(masked, first.masked_fill(outputs["mask"][0], -1.0))

    def test_no_transform_at_all_is_the_same_image(self) -> None:
        x = image()
        target = method(augmentation="independent", rotate_degrees=0, translate=0, scale=0)(x)["target"]
        torch.testing.assert_close(target, x.expand(2, *x.shape), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": "voxel"}, "mask"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"mask": "patch", "mask_ratio": 1.0}, "mask_ratio"),
        ({"patch_rule": "half", "mask": "patch"}, "rule"),
        ({"binning": "equal"}, "binning"),
        ({"gray": 3}, "channels 0 to 2"),
        ({"levels": (1, 5)}, "levels"),
        ({"levels": (5, 6)}, "levels"),
        ({"levels": (5, 5)}, "levels"),
        ({"augmentation": "none"}, "augmentation"),
        ({"scale": 1.0}, "scale"),
        ({"pool": "median"}, "pool"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(**arguments)


def test_network_that_does_not_reconstruct() -> None:
    with pytest.raises(ValueError, match="14 outputs for 3 input channels"):
        TCSMAE(network(out_channels=14))


class TestLoss:
    """Two SSIM terms and the contrastive one."""

    def outputs(self, embeddings: torch.Tensor | None = None) -> dict[str, Any]:
        x = image(3, 3, 16, 16)
        made = torch.rand(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(4))
        outputs: dict[str, Any] = {"reconstruction": made, "target": x.expand(2, *x.shape), "stats": {}}
        return outputs if embeddings is None else {**outputs, "embeddings": embeddings}

    @pytest.mark.parametrize("contrast", ["ntxent", "cosine_x1000"])
    def test_parts_sum_to_the_loss(self, contrast: str) -> None:
        outputs = self.outputs(torch.randn(2, 3, 2, 128))
        loss = TCSMAELoss(spatial_dims=2, ssim_window=7, contrast=contrast, contrastive_weight=0.5)(outputs, None)
        parts = outputs["losses"]
        assert loss.item() == pytest.approx(
            (parts["ssim_masked"] + parts["ssim_unmasked"] + 0.5 * parts["contrastive"]).item()
        )
        for v, view in enumerate(("masked", "unmasked")):
            similarity = ssim(outputs["reconstruction"][v], outputs["target"][v], spatial_dims=2, window_size=7)
            assert parts[f"ssim_{view}"].item() == pytest.approx(1 - similarity.mean().item())
        assert not any(part.requires_grad for part in parts.values())
        assert ("temperature" in outputs["stats"]) == (contrast == "ntxent")

    def test_without_contrast_no_embeddings_are_needed(self) -> None:
        outputs = self.outputs()
        TCSMAELoss(spatial_dims=2, contrast="none")(outputs)
        assert set(outputs["losses"]) == {"ssim_masked", "ssim_unmasked"}
        with pytest.raises(ValueError, match="Give levels"):
            TCSMAELoss(spatial_dims=2)(self.outputs())

    def test_one_set_of_weights_gets_the_gradient_of_both_passes(self) -> None:
        """Gradient of the sum is the sum of the gradients."""
        tcs, x = method(levels=()), image()
        gradients = []
        for weights in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0)):
            tcs.seed_masks(0)
            tcs.zero_grad()
            outputs = tcs(x)
            errors = (outputs["reconstruction"] - outputs["target"]).square().flatten(1).mean(1)
            (errors * torch.tensor(weights)).sum().backward()
            gradients.append([p.grad.clone() for p in tcs.parameters()])  # type: ignore[union-attr]
        for both, masked, unmasked in zip(*gradients, strict=True):
            torch.testing.assert_close(both, masked + unmasked, atol=1e-5, rtol=1e-3)
            assert masked.any() or not both.any()

    def test_gradient_reaches_every_parameter(self) -> None:
        for contrast, levels in (("ntxent", (4, 5)), ("cosine_x1000", (3, 4, 5)), ("none", ())):
            tcs, loss = method(levels=levels), TCSMAELoss(contrast=contrast)
            loss(tcs(image(2, 3, 32, 16, 16))).backward()
            named = itertools.chain(tcs.named_parameters(), loss.named_parameters())
            assert [name for name, p in named if p.grad is None or not p.grad.any()] == []

    def test_a_few_steps_lower_the_loss(self) -> None:
        tcs, loss = method(), TCSMAELoss()
        x = image(2, 3, 4, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
        optimizer = torch.optim.AdamW([*tcs.parameters(), *loss.parameters()], lr=1e-3)
        values = []
        for _ in range(5):
            tcs.seed_masks(0)
            value = loss(tcs(x))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values.append(value.item())
        assert values[-1] < 0.9 * values[0]

    def test_negative_weight_is_refused(self) -> None:
        with pytest.raises(ValueError, match="contrastive_weight"):
            TCSMAELoss(contrastive_weight=-1)


def test_sobel_kernel_is_not_the_papers_misprint() -> None:
    """Its top row reads -1 -2 +1, which sums to 2: a constant image would have edges everywhere."""
    constant, step = torch.full((1, 8, 8), 0.5), torch.zeros(1, 8, 8)
    step[:, 4:] = 1
    assert not sobel_magnitude(constant, (1, 2)).any()
    assert sobel_magnitude(step, (1, 2)).max() == 1  # the kernel gives 4, scaled by a quarter
