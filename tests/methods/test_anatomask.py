"""AnatoMask: counts, selection, scores, teacher, loss (METHODS 3.11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from common.losses.difficulty import patch_difficulty
from common.losses.reconstruction import masked_patch_loss, patchify
from common.masking.guided import n_hard_patches
from common.masking.patches import n_masked_patches
from common.methods.anatomask import AnatoMask, AnatoMaskLoss
from common.networks.spark import SparK

FEATURES = [4, 4, 4, 4, 8, 8]


class Plain(nn.Module):
    """Takes what SparK takes; its single weight can be trained, and its calls are counted."""

    total_stride = 4

    def __init__(self, spatial_dims: int = 3) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.weight = nn.Parameter(torch.full((), 0.5))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.visible: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.visible = visible
        return x * self.weight


def method(spatial_dims: int = 3, progress: float = 1.0, **changes: Any) -> AnatoMask:
    made = AnatoMask(Plain(spatial_dims), **{"patch_size": 4, "mask_ratio": 0.6, **changes})  # type: ignore[arg-type]
    made.set_progress(progress)
    return made


def images(spatial_dims: int = 3, size: int = 16) -> torch.Tensor:
    return torch.rand(2, 1, *[size] * spatial_dims, generator=torch.Generator().manual_seed(0))


def answer(anato: AnatoMask, scores: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
    """Replace what the teacher would say; gives the list that collects what was hidden from it, (B, n) each."""
    firsts: list[torch.Tensor] = []

    def difficulty(_: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        firsts.append(first.flatten(1))
        return scores()

    anato.difficulty = difficulty  # type: ignore[method-assign]
    return firsts


class TestCounts:
    """Table of METHODS 3.3."""

    @pytest.mark.parametrize(
        ("n", "n_masked", "text", "alg1"),
        [(64, 38, 19, 32), (216, 130, 65, 108), (392, 235, 117, 196), (512, 307, 153, 256)],
    )
    def test_at_half(self, n, n_masked, text, alg1):
        assert n_masked_patches(n, 0.6, "round_keep") == n_masked
        assert n_hard_patches(n, n_masked, 0.5) == text
        assert n_hard_patches(n, n_masked, 0.5, "alg1") == alg1

    def test_algorithm_1_never_exceeds_the_budget(self):
        assert n_hard_patches(100, 60, 0.9, "alg1") == 60
        assert n_hard_patches(100, 60, 0.0, "alg1") == 0


class TestSelection:
    """Which patches the student has to reconstruct."""

    @pytest.mark.parametrize(("counts", "n_hard"), [("text", 19), ("alg1", 32)])
    def test_the_hardest_of_the_first_mask_and_exactly_the_budget(self, counts, n_hard):
        scores = torch.rand(2, 64, generator=torch.Generator().manual_seed(3))
        anato = method(counts=counts)
        firsts = answer(anato, lambda: scores)
        hidden, hard, found = anato.draw_mask(images())
        assert (hidden.sum(1) == 38).all()
        assert (hard.sum(1) == n_hard).all()
        assert (hidden | ~hard).all()
        for i in range(2):
            best = scores[i].masked_fill(~firsts[0][i], -1).topk(n_hard).indices
            assert set(best.tolist()) == set(hard[i].nonzero().flatten().tolist())
        assert torch.equal(found.isnan(), ~firsts[0])
        assert torch.equal(found[firsts[0]], scores[firsts[0]])
        assert (hidden & ~firsts[0]).any()  # random ones come from everywhere

    def test_at_the_papers_size(self):
        """112 x 112 x 128: 117 hard and 118 random patches of 392."""
        anato = method(patch_size=16)
        answer(anato, lambda: torch.rand(1, 392))
        hidden, hard, _ = anato.draw_mask(torch.rand(1, 1, 112, 112, 128))
        assert (hard.sum().item(), hidden.sum().item()) == (117, 235)

    def test_easiest(self):
        scores = torch.arange(64.0).expand(2, 64)
        anato = method(select="easiest")
        firsts = answer(anato, lambda: scores)
        _, hard, _ = anato.draw_mask(images())
        for i in range(2):
            assert hard[i].nonzero().flatten().tolist() == firsts[0][i].nonzero().flatten()[:19].tolist()

    def test_nothing_to_reconstruct_is_never_hard(self):
        x = images()
        x[..., :8] = 0.25  # half of the patches hold one value
        anato = method()
        answer(anato, lambda: torch.rand(2, 64) + 1)
        _, hard, _ = anato.draw_mask(x)
        flat = patchify(x, 4).std(-1) == 0
        assert not (hard & flat).any()
        assert (hard.sum(1) > 0).all()

    def test_air_can_be_excluded(self):
        x = 0.1 * images()
        x[..., 4:12, 4:12, :] += 0.5
        shares = {}
        for excluded in (False, True):
            anato = method(exclude_background=excluded, tissue_level=0.4)
            answer(anato, lambda: torch.rand(2, 64))
            shares[excluded] = anato(x)["stats"]["air_share_of_hard"].item()
        assert shares[True] == 0 < shares[False]

    def test_masks_follow_their_own_seed(self):
        anato, x = method(), images()
        first, second = anato(x)["mask"], anato(x)["mask"]
        anato.seed_masks(0)
        assert torch.equal(anato(x)["mask"], first)
        assert not torch.equal(first, second)


@pytest.mark.parametrize("mask_ratio", [0.0, 0.9])
def test_a_ratio_that_hides_nothing_or_all_of_these_crops_is_refused(mask_ratio):
    """Of four patches, 0.9 leaves none to see."""
    for guidance in ("teacher", "none"):
        anato = method(2, progress=0.0, mask_ratio=mask_ratio, guidance=guidance)
        with pytest.raises(ValueError, match=r"mask_ratio: .* of 4 patches"):
            anato(images(2, size=8))


class TestSchedule:
    """Easy to hard by default."""

    def test_straight_from_start_to_end(self):
        shares = [method(progress=p).hard_share for p in (0.0, 0.25, 0.5, 1.0)]
        assert shares == [0.0, 0.125, 0.25, 0.5]

    def test_hard_to_easy(self):
        assert [method(progress=p, hard_share_start=0.5, hard_share_end=0.0).hard_share for p in (0.0, 1.0)] == [0.5, 0]

    def test_without_hard_patches_nobody_is_asked(self):
        for changes in ({"progress": 0.0}, {"progress": 0.09, "warmup": 0.1}, {"guidance": "none"}):
            anato = method(**changes)
            outputs = anato(images())
            assert "maps" not in outputs
            assert outputs["stats"]["hard_share"] == 0
            assert anato.teacher is None or anato.teacher.module.calls == 0

    def test_spark_has_no_teacher_at_all(self):
        anato = method(guidance="none")
        assert [name for name, _ in anato.named_children()] == ["network"]
        anato.update_teacher()
        anato(images())
        assert anato.network.calls == 1


class TestScores:
    """METHODS 3.3."""

    def test_of_a_perfect_predictor(self):
        """0 by the two that compare like with like; by the released code mu^2 + (sd - 1)^2."""
        x = 2 + 3 * torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        patches = patchify(x, 4)
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        normalised = (patches - mean) / (variance + 1e-6).sqrt()
        perfect = normalised.view(1, 2, 2, 4, 4).permute(0, 1, 3, 2, 4).reshape(1, 1, 8, 8)
        for score in ("student", "denorm"):
            assert patch_difficulty(perfect, x, patch_size=4, score=score).abs().max() < 1e-9
        found = patch_difficulty(perfect, x, patch_size=4, score="code")
        population = patches.var(-1, correction=0)
        scale = (population / variance[..., 0]).sqrt()  # the released normalisation is unbiased
        expected = mean[..., 0] ** 2 + (population.sqrt() - scale) ** 2
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def test_denorm_is_the_students_times_the_variance(self):
        x, made = images(), torch.randn(2, 1, 16, 16, 16)
        student, denorm = (patch_difficulty(made, x, patch_size=4, score=s) for s in ("student", "denorm"))
        torch.testing.assert_close(denorm, student * patchify(x, 4).var(-1))

    def test_z_score_only_moves_the_codes(self):
        x, made = images(), torch.randn(2, 1, 16, 16, 16)
        found = patch_difficulty(made, x, patch_size=4, score="code", z_score=(0.5, 0.25))
        torch.testing.assert_close(found, patchify((made - (x - 0.5) / 0.25).square(), 4).mean(-1))

    def test_of_raw_targets_student_and_denorm_agree(self):
        x, made = images(), torch.rand(2, 1, 16, 16, 16)
        a, b = (patch_difficulty(made, x, patch_size=4, score=s, normalise=False) for s in ("student", "denorm"))
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, patchify((made - x).square(), 4).mean(-1))


class TestGuidance:
    """Who is asked."""

    def test_the_teacher_sees_the_first_mask_and_follows_the_student(self):
        anato = method(momentum_start=0.9, momentum_end=0.9)
        outputs = anato(images())
        assert anato.teacher is not None
        assert anato.teacher.module.calls == anato.network.calls == 1
        assert torch.equal(anato.network.visible.flatten(1), ~outputs["patch_mask"])
        assert torch.equal(outputs["maps"]["difficulty"].isnan()[0, :, 0, ::4, ::4, ::4], anato.teacher.module.visible)
        nn.init.zeros_(anato.network.weight)
        anato.update_teacher()
        assert anato.teacher.module.weight.item() == pytest.approx(0.45)
        assert outputs["stats"]["teacher_momentum"].item() == pytest.approx(0.9)

    def test_without_distillation_the_teacher_stays(self):
        anato = method(guidance="frozen")
        nn.init.zeros_(anato.network.weight)
        anato.update_teacher()
        anato(images())
        assert anato.teacher is not None
        assert anato.teacher.module.weight.item() == 0.5
        assert anato.teacher.module.calls == 1

    def test_the_student_can_ask_itself(self):
        anato = method(guidance="student")
        anato.train()
        outputs = anato(images())
        assert anato.teacher is None
        assert anato.network.calls == 2
        assert anato.network.training
        assert outputs["stats"]["hard_share"].item() == pytest.approx(19 / 38)

    def test_backward_leaves_the_teacher_alone(self):
        anato = method()
        AnatoMaskLoss()(anato(images())).backward()
        assert anato.network.weight.grad is not None
        assert anato.teacher is not None
        assert not any(p.requires_grad or p.grad is not None for p in anato.teacher.parameters())


class TestOutputs:
    """The contract of common/methods/__init__.py."""

    @pytest.mark.parametrize("spatial_dims", [2, 3])
    def test_with_the_real_network(self, spatial_dims):
        torch.manual_seed(0)
        network = SparK(spatial_dims=spatial_dims, features=FEATURES)
        anato = AnatoMask(network, mask_ratio=0.5)
        anato.set_progress(1.0)
        x = images(spatial_dims, size=32)
        outputs = anato(x)
        shape = (1, *x.shape)
        assert outputs["reconstruction"].shape == outputs["target"].shape == outputs["mask"].shape == shape
        assert outputs["maps"]["difficulty"].shape == outputs["regions"]["chosen by difficulty"].shape == shape
        assert outputs["prediction"].dtype == torch.float32
        assert all(value.ndim == 0 and value.isfinite() for value in outputs["stats"].values())
        loss = AnatoMaskLoss()(outputs)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        anato.update_teacher()

    def test_hidden_content_reaches_neither_loss_nor_gradient_of_what_is_visible(self):
        """Through the target only, and that is no function of the visible input."""
        torch.manual_seed(0)
        anato = AnatoMask(SparK(features=FEATURES), guidance="none", mask_ratio=0.5)
        gradients = []
        for noise in (0.0, 1.0):
            anato.seed_masks(0)
            x = images(size=32)
            hidden = anato(x)["mask"][0]
            anato.seed_masks(0)
            x = torch.where(hidden, x + noise, x).requires_grad_()
            prediction = anato(x)["prediction"]
            (gradient,) = torch.autograd.grad((prediction * torch.arange(32.0)).sum(), x)
            gradients.append(gradient)
            assert (gradient[hidden] == 0).all()
        assert torch.equal(*gradients)

    def test_reconstruction_is_in_units_of_the_image(self):
        anato, x = method(guidance="none"), images()
        nn.init.zeros_(anato.network.weight)  # predicts 0: the mean of every patch
        outputs = anato(x)
        made, mask = outputs["reconstruction"][0], outputs["mask"][0]
        assert torch.equal(made[~mask], x[~mask])
        means = patchify(x, 4).mean(-1, keepdim=True).expand(-1, -1, 64)
        torch.testing.assert_close(patchify(made, 4)[outputs["patch_mask"]], means[outputs["patch_mask"]])

    def test_entropy_falls_when_hard_patches_stay_in_place(self):
        anato, x = method(), images()
        answer(anato, lambda: torch.rand(2, 64))
        for _ in range(60):
            everywhere = anato(x)["stats"]["hard_entropy"].item()
        answer(anato, lambda: torch.arange(64.0).expand(2, 64))
        for _ in range(60):
            one_place = anato(x)["stats"]["hard_entropy"].item()
        assert 1.0001 > everywhere > one_place + 0.03 > 0.03

    def test_a_resumed_run_logs_what_an_uninterrupted_one_would(self):
        anato, resumed, x = method(), method(), images()
        anato(x)
        resumed.load_state_dict(anato.state_dict())
        for each in (anato, resumed):
            each.seed_masks(1)
        expected, found = (each(x)["stats"] for each in (anato, resumed))
        assert found == expected
        assert found["hard_entropy"] > 0
        resumed.load_state_dict(method().state_dict())  # of a run that has not begun
        resumed.seed_masks(1)
        assert resumed(x)["stats"]["hard_entropy"] < found["hard_entropy"]


class TestLoss:
    """Only hidden patches count."""

    def outputs(self, **changes: Any) -> dict[str, Any]:
        x = images(2)
        prediction = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(5)).requires_grad_()
        hidden = torch.arange(16).expand(2, 16) < 9
        base = {"prediction": prediction, "target": x[None], "patch_mask": hidden, "patch_size": (4, 4)}
        return {**base, "normalise": "unbiased", **changes}

    def test_by_hand(self):
        outputs = self.outputs()
        loss = AnatoMaskLoss()(outputs)
        patches = patchify(outputs["target"][0], 4)
        wanted = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
        errors = (patchify(outputs["prediction"], 4) - wanted).square().mean(-1)
        torch.testing.assert_close(loss, errors[:, :9].sum() / 18)
        assert outputs["losses"]["reconstruction"].item() == loss.item()

    def test_what_is_visible_does_not_count(self):
        outputs = self.outputs()
        AnatoMaskLoss()(outputs).backward()
        gradient = patchify(outputs["prediction"].grad, 4)
        assert (gradient[:, 9:] == 0).all()
        assert (gradient[:, :9] != 0).any()

    def test_raw_target(self):
        outputs = self.outputs(normalise=False)
        expected = masked_patch_loss(outputs["prediction"], outputs["target"][0], outputs["patch_mask"], patch_size=4)
        torch.testing.assert_close(AnatoMaskLoss()(outputs), expected)
        assert method(normalise=False)(images())["normalise"] is False

    def test_training_lowers_it(self):
        torch.manual_seed(0)
        ramp = torch.linspace(0, 1, 32)
        x = (ramp.view(-1, 1) + ramp.sin()).expand(2, 1, 32, 32) + 0.02 * images(2, 32)
        anato, loss = AnatoMask(SparK(spatial_dims=2, features=FEATURES), mask_ratio=0.5), AnatoMaskLoss()
        optimizer = torch.optim.Adam(anato.network.parameters(), lr=0.01)
        values = []
        for step in range(40):
            anato.set_progress(step / 39)
            value = loss(anato(x))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            anato.update_teacher()
            values.append(value.item())
        assert values[-1] < 0.6 * values[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guidance": "oracle"}, "guidance"),
        ({"score": "raw"}, "score"),
        ({"select": "top"}, "select"),
        ({"counts": "code"}, "counts"),
        ({"hard_share_end": 1.5}, "hard_share_end"),
        ({"warmup": -0.1}, "warmup"),
        ({"z_score": (0.0, 0.0)}, "z_score"),
        ({"patch_size": 6}, "patch_size"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"momentum_start": 1.0}, "momentum_start"),
    ],
)
def test_refuses_what_makes_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        method(**changes)
