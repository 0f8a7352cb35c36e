"""selfMedHPM: what is hidden, what comes out, who learns from what (METHODS 5.11)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from common.losses.ranking import pairwise_ranking_loss
from common.losses.reconstruction import patch_loss_map
from common.masking.patches import patchify
from common.methods.selfmedhpm import SelfMedHPM, SelfMedHPMLoss
from common.networks.masked_autoencoder import MaskedAutoencoder
from common.networks.vit import ViT


def network(spatial_dims: int = 3, predictor_depth: int = 1) -> MaskedAutoencoder:
    torch.manual_seed(0)
    vit = ViT(img_size=(16,) * spatial_dims, patch_size=4, hidden_size=24, depth=2, n_heads=2)
    return MaskedAutoencoder(
        vit, decoder_hidden_size=24, decoder_n_heads=2, decoder_depth=1, predictor_depth=predictor_depth
    )


def method(spatial_dims: int = 3, predictor_depth: int = 1, **changes: Any) -> SelfMedHPM:
    return SelfMedHPM(network(spatial_dims, predictor_depth), **changes)


def image(spatial_dims: int = 3) -> torch.Tensor:
    return torch.rand(2, 1, *[16] * spatial_dims, generator=torch.Generator().manual_seed(1))


def inject(hpm: SelfMedHPM, difficulty: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the teacher predict ``difficulty``."""
    monkeypatch.setattr(hpm.teacher, "forward", lambda *_: difficulty)


def gradients(hpm: SelfMedHPM, name: str) -> dict[str, bool]:
    """Whether each weight gets a gradient from one of the two losses alone."""
    outputs = hpm(image())
    if name == "reconstruction":
        loss = outputs["patch_losses"].mean()
    else:
        loss = pairwise_ranking_loss(outputs["scores"], outputs["patch_losses"])
    hpm.zero_grad(set_to_none=True)
    loss.backward()
    return {n: p.grad is not None and bool(p.grad.any()) for n, p in hpm.named_parameters()}


class TestForward:
    """The contract of common/methods/__init__.py."""

    @pytest.mark.parametrize("spatial_dims", [2, 3])
    def test_shapes_and_types(self, spatial_dims: int) -> None:
        x, n = image(spatial_dims), 4**spatial_dims
        outputs = method(spatial_dims)(x)
        for name in ("reconstruction", "target", "mask"):
            assert outputs[name].shape == (1, *x.shape)
        assert outputs["mask"].dtype == torch.bool
        assert outputs["target"].data_ptr() == x.data_ptr()
        assert outputs["patch_mask"].shape == (2, n)
        assert outputs["scores"].shape == outputs["patch_losses"].shape == (2, 3 * n // 4)
        assert set(outputs["maps"]) == {"measured loss", "predicted difficulty"}
        assert all(value.shape == (1, *x.shape) for value in outputs["maps"].values())
        assert all(value.ndim == 0 for value in outputs["stats"].values())
        assert outputs["stats"]["mask_share"].item() == 0.75

    def test_patch_losses_are_those_of_the_normalised_target(self) -> None:
        """By way of whole images and the loss that other methods use."""
        hpm, x = method(), image()
        outputs = hpm(x)
        patches = patchify(x, 4)
        mean, sd = patches.mean(-1, keepdim=True), (patches.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
        made = (patchify(outputs["reconstruction"][0], 4) - mean) / sd  # back to what the network gave
        errors = (made - (patches - mean) / sd).square().mean(-1)
        torch.testing.assert_close(errors[outputs["patch_mask"]].view(2, 48), outputs["patch_losses"])
        assert errors[~outputs["patch_mask"]].max() < 1e-9  # visible patches are shown as they are
        measured = patchify(outputs["maps"]["measured loss"][0], 4)
        torch.testing.assert_close(measured.mean(-1)[outputs["patch_mask"]].view(2, 48), outputs["patch_losses"])
        assert measured[~outputs["patch_mask"]].isnan().all()

    def test_raw_target(self) -> None:
        hpm, x = method(normalise=False), image()
        outputs = hpm(x)
        expected = patch_loss_map(outputs["reconstruction"][0], x, patch_size=4)[outputs["patch_mask"]]
        torch.testing.assert_close(expected.view(2, 48), outputs["patch_losses"])

    def test_hidden_voxels_do_not_reach_the_student(self) -> None:
        hpm, x = method(mining=False), image()
        first = hpm(x)
        hpm.seed_masks(0)
        changed = torch.where(first["mask"][0], torch.rand_like(x), x)
        second = hpm(changed)
        assert torch.equal(first["patch_mask"], second["patch_mask"])
        torch.testing.assert_close(first["scores"], second["scores"])

    def test_masks_follow_their_own_seed(self) -> None:
        hpm, x = method(), image()
        first, second = hpm(x)["patch_mask"], hpm(x)["patch_mask"]
        hpm.seed_masks(0)
        assert torch.equal(hpm(x)["patch_mask"], first)
        assert not torch.equal(first, second)

    def test_bf16_autocast(self) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = method()(image())
        assert outputs["patch_losses"].dtype == outputs["scores"].dtype == torch.float32
        loss = SelfMedHPMLoss()(outputs)
        loss.backward()
        assert loss.isfinite()

    def test_another_size_is_refused(self) -> None:
        with pytest.raises(ValueError, match="img_size"):
            method()(torch.rand(1, 1, 16, 16, 8))


class TestMining:
    """Easy to hard."""

    @pytest.mark.parametrize(("progress", "n_hard"), [(0.0, 0), (0.5, 12), (1.0, 24)])
    def test_hard_part_is_the_top_of_the_teachers_difficulty(
        self, progress: float, n_hard: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hpm = method()
        difficulty = torch.rand(2, 64, generator=torch.Generator().manual_seed(2))
        inject(hpm, difficulty, monkeypatch)
        hpm.set_progress(progress)
        outputs = hpm(image())
        assert (outputs["patch_mask"].sum(1) == 48).all()
        assert (outputs["hard"].sum(1) == n_hard).all()
        assert not (outputs["hard"] & ~outputs["patch_mask"]).any()
        for b in range(2):
            assert set(outputs["hard"][b].nonzero().flatten().tolist()) == set(
                difficulty[b].topk(n_hard).indices.tolist()
            )
        assert outputs["stats"]["alpha"].item() == pytest.approx(0.5 * progress)
        assert outputs["stats"]["hard_share"].item() == pytest.approx(0.5 * progress)
        shown = patchify(outputs["maps"]["predicted difficulty"][0], 4).mean(-1)
        torch.testing.assert_close(shown, difficulty)

    def test_alpha_from_start_to_end(self) -> None:
        hpm = method(alpha_start=0.2, alpha_end=0.8)
        values = []
        for progress in (0.0, 0.5, 1.0, 1.5):
            hpm.set_progress(progress)
            values.append(hpm.alpha)
        assert values == pytest.approx([0.2, 0.5, 0.8, 0.8])

    def test_teacher_sees_the_whole_image(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hpm, seen = method(), []
        monkeypatch.setattr(hpm.teacher, "forward", lambda *a: seen.append(a) or torch.rand(2, 64))
        x = image()
        hpm(x)
        assert len(seen[0]) == 1
        assert seen[0][0].data_ptr() == x.data_ptr()

    def test_masked_teacher_chooses_among_what_it_did_not_see(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hpm, seen = method(teacher_input="masked", alpha_start=1.0, alpha_end=1.0), []
        monkeypatch.setattr(hpm.teacher, "forward", lambda *a: seen.append(a) or torch.rand(2, 64))
        outputs = hpm(image())
        visible = seen[0][1]
        assert visible.shape == (2, 16)
        assert not outputs["hard"].gather(1, visible).any()
        assert torch.equal(outputs["hard"], outputs["patch_mask"])  # with alpha 1 all that it did not see
        shown = patchify(outputs["maps"]["predicted difficulty"][0], 4).mean(-1)
        assert shown.gather(1, visible).isnan().all()
        assert shown.isnan().sum() == 2 * 16
        assert "teacher_rank_correlation" not in outputs["stats"]

    def test_without_mining_there_is_no_teacher(self) -> None:
        hpm = method(mining=False)
        hpm.set_progress(1.0)
        outputs = hpm(image())
        assert hpm.teacher is None
        assert (outputs["patch_mask"].sum(1) == 48).all()
        assert not outputs["hard"].any()
        assert outputs["stats"]["alpha"] == 0
        assert "momentum" not in outputs["stats"]
        assert patchify(outputs["maps"]["predicted difficulty"][0], 4)[~outputs["patch_mask"]].isnan().all()
        hpm.update_teacher()

    def test_mae_is_what_is_left_without_the_predictor(self) -> None:
        hpm = method(predictor_depth=0, mining=False)
        outputs = hpm(image())
        assert "scores" not in outputs
        assert set(outputs["maps"]) == {"measured loss"}
        assert set(outputs["stats"]) == {"mask_share", "hard_share", "alpha"}
        loss = SelfMedHPMLoss()(outputs)
        assert set(outputs["losses"]) == {"reconstruction"}
        assert loss.item() == pytest.approx(outputs["patch_losses"].mean().item())
        loss.backward()
        assert all(p.grad is not None for p in hpm.parameters() if p.requires_grad)


class TestTeacher:
    """A slow copy of what it needs."""

    def test_it_has_no_reconstructor(self) -> None:
        names = {name.split(".")[2] for name, _ in method().named_parameters() if name.startswith("teacher.")}
        assert names == {"vit", "decoder_input", "predictor"}

    def test_it_follows_by_its_momentum(self) -> None:
        hpm = method(momentum_start=0.9, momentum_end=0.99, momentum_ramp=0.5)
        assert hpm.teacher is not None
        before = [p.clone() for p in hpm.teacher.parameters()]
        with torch.no_grad():
            for parameter in hpm.network.parameters():
                parameter.add_(1.0)
        hpm.update_teacher()
        hpm.set_progress(1.0)
        hpm.update_teacher()
        moved = 1 - 0.9 * 0.99
        fixed = hpm.teacher.module.vit.patch_embedding.position_embeddings
        for old, new in zip(before, hpm.teacher.parameters(), strict=True):
            torch.testing.assert_close(new, old + moved)
        assert fixed.requires_grad is False
        assert hpm(image())["stats"]["momentum"].item() == pytest.approx(0.99)

    def test_it_is_saved_and_restored(self) -> None:
        hpm, other = method(), method()
        with torch.no_grad():
            for parameter in hpm.parameters():
                parameter.add_(0.1)
        other.load_state_dict(hpm.state_dict())
        x = image()
        assert torch.equal(hpm(x)["maps"]["predicted difficulty"], other(x)["maps"]["predicted difficulty"])


class TestGradients:
    """Each loss reaches what it should, and nothing else."""

    def test_of_the_prediction(self) -> None:
        got = gradients(method(), "prediction")
        assert not any(value for name, value in got.items() if "reconstructor" in name or name.startswith("teacher"))
        for name in ("vit.blocks.0.attn.qkv.weight", "decoder_input.projection.weight", "decoder_input.mask_token"):
            assert got[f"network.{name}"], name  # it is not cut off from the encoder
        assert got["network.predictor.out.weight"]

    def test_of_the_reconstruction(self) -> None:
        got = gradients(method(), "reconstruction")
        assert not any(value for name, value in got.items() if "predictor" in name or name.startswith("teacher"))
        assert got["network.reconstructor.out.weight"]
        assert got["network.vit.patch_embedding.patch_embeddings.weight"]

    def test_every_trained_weight_takes_part_in_the_sum(self) -> None:
        """Distributed training refuses weights without a gradient."""
        hpm = method()
        SelfMedHPMLoss()(hpm(image())).backward()
        assert [name for name, p in hpm.named_parameters() if p.requires_grad and p.grad is None] == []


class TestLoss:
    """Reconstruction and prediction."""

    def outputs(self) -> dict[str, torch.Tensor]:
        return {"patch_losses": torch.tensor([[1.0, 2.0, 3.0]]), "scores": torch.tensor([[0.0, 1.0, 2.0]])}

    def test_parts_by_hand(self) -> None:
        outputs: dict[str, Any] = self.outputs()
        loss = SelfMedHPMLoss(prediction_weight=2.0)(outputs)
        assert outputs["losses"]["reconstruction"].item() == pytest.approx(2.0)
        assert outputs["losses"]["prediction"].item() == pytest.approx(2 * 0.251150, abs=4e-6)
        assert loss.item() == pytest.approx(2.502300, abs=4e-6)

    def test_the_literal_sum(self) -> None:
        outputs: dict[str, Any] = self.outputs()
        SelfMedHPMLoss(ranking="sum")(outputs)
        assert outputs["losses"]["prediction"].item() == pytest.approx(1.506903, abs=2e-6)

    def test_training_lowers_both_and_learns_what_is_hard(self) -> None:
        """Half of the patches are flat and half are noise: with raw targets, the noisy ones are hard."""
        generator = torch.Generator().manual_seed(0)
        x = torch.full((4, 1, 16, 16), 0.5)
        x[:, :, :, 8:] = torch.rand(4, 1, 16, 8, generator=generator)
        hpm = method(2, normalise=False, momentum_start=0.5, momentum_end=0.5)
        criterion, values, ranks = SelfMedHPMLoss(), [], []
        optimizer = torch.optim.AdamW([p for p in hpm.parameters() if p.requires_grad], lr=3e-3)
        for step in range(40):
            hpm.set_progress(step / 39)
            outputs = hpm(x)
            loss = criterion(outputs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            hpm.update_teacher()
            values.append(outputs["losses"])
            ranks.append(outputs["stats"]["teacher_rank_correlation"].item())
        for name in ("reconstruction", "prediction"):
            assert values[-1][name] < 0.7 * values[0][name]
        assert ranks[-1] > 0.4
        # 6 of 12 hidden patches are chosen by difficulty, and the noisy half is the hard one
        assert outputs["hard"].view(4, 4, 4)[..., 2:].sum() > 0.9 * outputs["hard"].sum()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_ratio": 0.0}, "mask_ratio"),
        ({"mask_ratio": 0.999}, "mask_ratio"),
        ({"alpha_start": -0.1}, "alpha_start"),
        ({"alpha_end": 1.1}, "alpha_end"),
        ({"teacher_input": "half"}, "teacher_input"),
        ({"normalise": "yes"}, "normalise"),
        ({"predictor_depth": 0}, "mining"),
        ({"momentum_start": 1.0}, "momentum_start"),
    ],
)
def test_method_refuses_what_makes_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"prediction_weight": 0.0}, "prediction_weight"), ({"ranking": "max"}, "ranking")]
)
def test_loss_refuses_what_makes_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfMedHPMLoss(**arguments)


def test_counts_of_the_papers_size() -> None:
    with torch.device("meta"):
        hpm = SelfMedHPM(MaskedAutoencoder(ViT(img_size=(96, 96, 96)), predictor_depth=2))
    assert hpm.n_hidden == 162
    hpm.set_progress(1.0)
    assert math.floor(hpm.n_hidden * hpm.alpha) == 81
