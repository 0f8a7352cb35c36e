"""What DINO and SwAV share: views of two sizes, who is scored by whom, what is held still, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from common.methods.baselines import baseline_loss, baseline_method
from common.methods.dino import DINOLoss
from common.methods.swav import SwAVLoss
from common.networks.heads import Prototypes
from tests.methods.prototype_methods import METHODS, E, K, image, loss_of, method, network


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


def baseline(name: str, **knobs: Any) -> Any:
    return baseline_method(network(), name=name, patch_size=16, mask_ratio=0.0, **knobs)


def test_knobs_reach_the_methods_and_losses() -> None:
    for name in METHODS:
        made = baseline(name, view_share=0.5, momentum=0.9, n_prototypes=7)
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
        (lambda: method("swav", local_share=0.5), "local_share, view_share: got 0.5 and 0.2"),
        (lambda: baseline("dino", view_share=0.04), "local_share, view_share: got 0.05 and 0.04"),
        (lambda: method("dino", teacher_temperature=(0.04, 0.0)), "teacher_temperature"),
        (lambda: DINOLoss(temperature=0), "temperature"),
        (lambda: SwAVLoss(epsilon=0), "epsilon"),
    ],
)
def test_arguments_are_checked(refused: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refused()
