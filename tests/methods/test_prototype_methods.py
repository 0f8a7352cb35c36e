"""DINO and SwAV: views of two sizes, who is scored by whom, what is held still, and their losses by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.losses.contrastive import own_rows
from common.losses.prototypes import sinkhorn
from common.methods.baselines import baseline_loss, baseline_method
from common.methods.dino import DINO, DINOLoss
from common.methods.swav import SwAV, SwAVLoss
from common.networks.batch_norm import BatchNorm
from common.networks.heads import Prototypes
from common.networks.mit_unet import MixTransformerUNet

METHODS = {"dino": DINO, "swav": SwAV}
K, E = 6, 8


def network(spatial_dims: int = 2) -> MixTransformerUNet:
    torch.manual_seed(0)
    size = {"variant": "b0", "stem_stride": 2, "decoder_channels": (8, 8, 4, 4), "drop_path_rate": 0.0}
    return MixTransformerUNet(spatial_dims=spatial_dims, out_channels=3, **size)


def method(name: str, spatial_dims: int = 2, **changes: Any) -> Any:
    small = {"embedding_features": E, "hidden_features": 16, "n_prototypes": K, "local_views": 3}
    return METHODS[name](network(spatial_dims), **{**small, **changes})


def loss_of(name: str) -> nn.Module:
    return DINOLoss(n_prototypes=K) if name == "dino" else SwAVLoss(queue_size=4, embedding_features=E)


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape or (2, 3, 32, 64), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("dims", "shape"), [(2, (2, 3, 32, 64)), (3, (2, 3, 16, 32, 16))])
def test_two_large_views_and_the_small_ones_are_scored(name: str, dims: int, shape: tuple[int, ...]) -> None:
    outputs = method(name, dims)(image(*shape))
    assert outputs["views"].shape == (2, *shape)
    assert outputs["embeddings"].shape == (2, 2, E)
    assert outputs["scores"].shape == (2 + 3, 2, K)
    assert outputs["scores"].abs().max() <= 1 + 1e-6
    assert outputs["stats"]["embedding_spread"] > 0


def test_small_views_show_a_small_part_at_less_than_half_the_size() -> None:
    """27 and 48 of 64 and 112 voxels, rounded to the stride of 16; no larger a part than the smallest large view."""
    siamese = method("swav", local_views=2)
    ramp = torch.linspace(0, 1, 112).expand(2, 3, 64, 112).contiguous()
    views = siamese.draw_local_views(ramp)
    assert views.shape == (4, 3, 32, 48)
    assert (siamese.local_view.min_share, siamese.local_view.max_share) == (0.05, siamese.view.min_share)
    assert method("swav", local_views=0).draw_local_views(ramp) is None
    assert method("swav", local_views=0)(image())["scores"].shape == (2, 2, K)


@pytest.mark.parametrize("name", METHODS)
def test_a_small_view_is_scored_as_by_itself(name: str) -> None:
    """Views in one batch do not mix but by a batch norm, and come view by view."""
    siamese = method(name, norm="none").eval()
    x = image()
    siamese.seed_masks(3)
    scores = siamese(x)["scores"]
    siamese.seed_masks(3)
    siamese.draw_views(x)
    local = siamese.draw_local_views(x)
    alone = siamese.projector(siamese.network.encode(local[3:4])[-1])  # the second view of the second case
    torch.testing.assert_close(scores[3, 1:], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_encoder_head_and_prototypes_learn_and_the_rest_stays(name: str) -> None:
    siamese, loss = method(name), loss_of(name)
    siamese.set_progress(0.5)
    loss(siamese(image())).backward()
    learning = {n: p for n, p in siamese.named_parameters() if p.requires_grad}
    assert {".".join(n.split(".")[:2]) for n in learning} == {
        "network.encoder",
        "projector.projection",
        "projector.prototypes",
    }
    assert all(p.grad is not None for p in learning.values())
    for part in (siamese.network.encoder, siamese.projector.projection, siamese.projector.prototypes):
        assert sum(p.grad.abs().sum() for p in part.parameters()) > 0


@pytest.mark.parametrize(("name", "share"), [("dino", 0.01), ("swav", 0.005)])
def test_prototypes_are_held_still_at_first(name: str, share: float) -> None:
    """With a gradient of 0 and not without one; the rest learns."""
    siamese, loss = method(name), loss_of(name)
    for progress, still in ((None, True), (0.9 * share, True), (share, False), (1.0, False)):
        if progress is not None:
            siamese.set_progress(progress)
        siamese.zero_grad()
        loss(siamese(image())).backward()
        assert (siamese.projector.prototypes.linear.weight.grad.abs().max() == 0) == still
        assert siamese.projector.projection.linear.weight.grad.abs().max() > 0


def test_scores_are_cosines_and_holding_still_changes_no_value() -> None:
    prototypes = Prototypes(features=E, n_prototypes=K)
    x = torch.randn(3, E)
    scores = prototypes(x)
    expected = F.cosine_similarity(x[:, None], prototypes.linear.weight[None], dim=-1)
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(prototypes(7 * x), scores)
    prototypes.frozen = True
    assert torch.equal(prototypes(x), scores)


class TestDINO:
    def test_the_teacher_scores_the_large_views_alone(self) -> None:
        dino = method("dino", norm="none").eval()
        with torch.no_grad():
            dino.teacher.module.projector.prototypes.linear.weight.neg_()
        outputs = dino(image())
        for v, view in enumerate(outputs["views"]):
            torch.testing.assert_close(outputs["teacher_scores"][v], -dino.projector.prototypes(dino.embed(view)))
        torch.testing.assert_close(outputs["teacher_scores"], -outputs["scores"][:2])
        assert not outputs["teacher_scores"].requires_grad

    def test_the_teacher_follows_with_its_prototypes_and_never_learns(self) -> None:
        dino = method("dino", momentum=0.75)
        dino.set_progress(0.0)
        assert not any(p.requires_grad for p in dino.teacher.parameters())
        before = dino.teacher.module.projector.prototypes.linear.weight.clone()
        with torch.no_grad():
            dino.projector.prototypes.linear.weight.add_(1)
        dino.update_teacher()
        torch.testing.assert_close(dino.teacher.module.projector.prototypes.linear.weight, before + 0.25)

    def test_schedules_of_the_paper(self) -> None:
        dino = method("dino")
        for progress, temperature, momentum in (
            (0.0, 0.04, 0.996),
            (0.05, 0.055, None),
            (0.1, 0.07, None),
            (1, 0.07, 1),
        ):
            dino.set_progress(progress)
            assert dino.teacher_temperature() == pytest.approx(temperature)
            if momentum is not None:
                assert dino.teacher.momentum(progress) == pytest.approx(momentum)
        dino.set_progress(0.05)
        assert dino(image())["teacher_temperature"] == pytest.approx(0.055)

    def test_the_head_of_the_paper(self) -> None:
        dino = DINO(network())
        kinds = [type(layer) for layer in dino.projector.projection.hidden]
        assert kinds == 2 * [nn.Linear, BatchNorm, nn.GELU]
        widths = [tuple(p.shape) for p in dino.projector.parameters() if p.ndim == 2]
        channels = dino.network.encoder.channels[-1]
        assert widths == [(2048, channels), (2048, 2048), (256, 2048), (4096, 256)]
        assert dino.projector.projection.linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert dino.local_views == 8

    def test_the_loss_by_hand(self) -> None:
        """A teacher whose scores are the centre knows nothing: its target is uniform."""
        loss = DINOLoss(n_prototypes=4)
        loss.center.copy_(torch.tensor([0.5, -0.5, 0.25, 0.0]))
        scores = torch.rand(2, 3, 4)
        teacher = loss.center.expand(2, 3, 4).clone()
        outputs = {"scores": scores, "teacher_scores": teacher, "teacher_temperature": 0.04}
        expected = -(scores / 0.1).log_softmax(-1).mean()
        value = loss(outputs)
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
        assert outputs["losses"]["prediction"] == value
        # one prototype ahead of the centre by a tenth: sharpened to all but certainty
        ahead = {**outputs, "teacher_scores": teacher + 0.1 * F.one_hot(torch.tensor(2), 4)}
        other = loss.eval()
        other.center.copy_(teacher[0, 0])
        share = math.exp(0.1 / 0.04) / (math.exp(0.1 / 0.04) + 3)
        target = torch.full((4,), (1 - share) / 3)
        target[2] = share
        expected = -(target * (scores / 0.1).log_softmax(-1)).sum(-1).mean()
        assert other(ahead).item() == pytest.approx(expected.item(), rel=1e-5)

    def test_the_centre_is_a_running_mean_of_training_and_is_saved(self) -> None:
        loss = DINOLoss(n_prototypes=4)
        teacher = torch.rand(2, 3, 4)
        outputs = {"scores": torch.rand(5, 3, 4), "teacher_scores": teacher, "teacher_temperature": 0.04}
        mean = teacher.flatten(0, 1).mean(0)
        loss(outputs)
        torch.testing.assert_close(loss.center, 0.1 * mean)
        loss(outputs)
        torch.testing.assert_close(loss.center, 0.19 * mean)
        loss.eval()(outputs)
        torch.testing.assert_close(loss.state_dict()["center"], 0.19 * mean)


class TestSwAV:
    def test_the_loss_by_hand(self) -> None:
        """Codes of the large views, predicted from every other view."""
        outputs = method("swav")(image())
        scores = outputs["scores"].detach()
        codes = [sinkhorn(scores[v]) for v in (0, 1)]
        logarithms = (scores / 0.1).log_softmax(-1)
        pairs = [-(codes[t] * logarithms[v]).sum(-1).mean() for t in (0, 1) for v in range(5) if v != t]
        value = SwAVLoss(queue_size=0, embedding_features=E)(outputs)
        assert value.item() == pytest.approx(torch.stack(pairs).mean().item(), rel=1e-5)
        assert outputs["losses"]["prediction"] == value

    def test_a_full_queue_shares_the_codes_of_each_view(self) -> None:
        siamese, loss = method("swav"), SwAVLoss(queue_size=4, embedding_features=E)
        seen = []
        for step in range(3):
            outputs = siamese(image())
            e = F.normalize(outputs["embeddings"].detach(), dim=-1)
            seen.append(e)
            codes = loss.eval().codes(e, outputs["prototypes"])
            for v in (0, 1):
                earlier = [past[v] for past in seen[-3:-1]] if step == 2 else []  # full after two batches of two
                scores = torch.cat([*earlier, e[v]]) @ outputs["prototypes"].t()
                torch.testing.assert_close(codes[v], sinkhorn(scores)[-2:])
            loss.train()(outputs)
        state = loss.state_dict()
        assert torch.equal(state["queue.embeddings"][:, 2:], seen[1]) or torch.equal(
            state["queue.embeddings"][:, :2], e
        )

    def test_a_rank_takes_its_own_codes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert own_rows(3) == slice(0, 3)
        monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
        monkeypatch.setattr("torch.distributed.get_rank", lambda: 2)
        assert own_rows(3) == slice(6, 9)

    def test_the_head_of_the_paper(self) -> None:
        swav = SwAV(network())
        kinds = [type(layer) for layer in swav.projector.projection.hidden]
        assert kinds == [nn.Linear, BatchNorm, nn.ReLU]
        widths = [tuple(p.shape) for p in swav.projector.parameters() if p.ndim == 2]
        assert widths == [(2048, swav.network.encoder.channels[-1]), (128, 2048), (512, 128)]
        assert swav.local_views == 6
        assert SwAVLoss().temperature == 0.1


@pytest.mark.parametrize("name", METHODS)
def test_a_few_steps_lower_the_loss(name: str) -> None:
    """Of the same views again and again, with a teacher and a centre that stand still."""
    siamese = method(name, freeze=0.0)
    loss = DINOLoss(n_prototypes=K) if name == "dino" else SwAVLoss(queue_size=0, embedding_features=E)
    optimizer = torch.optim.AdamW([p for p in siamese.parameters() if p.requires_grad], lr=1e-3)
    x = torch.stack([torch.full((3, 32, 32), 0.2), torch.full((3, 32, 32), 0.8)])
    x[1, :, ::2] = 0.3
    if name == "dino":
        siamese.seed_masks(0)
        loss.eval().center.copy_(siamese(x)["teacher_scores"].mean((0, 1)))
    losses = []
    for _ in range(10):
        siamese.seed_masks(0)
        optimizer.zero_grad()
        losses.append(loss(siamese(x)))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", METHODS)
def test_the_state_is_saved_once_and_restored(name: str) -> None:
    siamese, twin = method(name), method(name)
    with torch.no_grad():
        for parameter in siamese.parameters():
            parameter.add_(1)
    state = siamese.state_dict()
    assert {key.split(".")[0] for key in state} == {"network", "projector", *(["teacher"] if name == "dino" else [])}
    twin.load_state_dict(state)
    assert all(torch.equal(value, state[key]) for key, value in twin.state_dict().items())


def test_knobs_reach_the_methods_and_losses() -> None:
    unused = {"patch_size": 16, "mask_ratio": 0.0}
    for name in METHODS:
        made = baseline_method(network(), name=name, **unused, view_share=0.5, momentum=0.9, n_prototypes=7)
        assert made.view.min_share == 0.5
        assert made.local_view.max_share == 0.5
        assert made.projector.prototypes.linear.out_features == 7
        loss = baseline_loss(name=name, temperature=0.3, queue_size=5, n_prototypes=7)
        assert loss.temperature == 0.3
        if name == "dino":
            assert made.teacher.momentum(0.0) == pytest.approx(0.9)
            assert loss.center.shape == (7,)
        else:
            assert loss.queue.size == 5


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: method("swav", local_views=-1), "local_views"),
        (lambda: method("swav", freeze=2.0), "freeze"),
        (lambda: method("swav", n_prototypes=1), "n_prototypes: got 1"),
        (lambda: method("swav", local_share=0.5), "min_share, max_share"),
        (lambda: method("dino", teacher_temperature=(0.04, 0.0)), "teacher_temperature"),
        (lambda: DINOLoss(temperature=0), "temperature"),
        (lambda: SwAVLoss(epsilon=0), "epsilon"),
    ],
)
def test_arguments_are_checked(refused: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refused()
