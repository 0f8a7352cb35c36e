"""DINO: what the teacher scores and how it follows, schedules, the head, the centre, and the loss by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.methods.dino import DINO, DINOLoss
from common.networks.batch_norm import BatchNorm
from tests.methods.prototype_methods import image, method, network


def test_the_teacher_scores_the_large_views_alone() -> None:
    dino = method("dino", norm="none").eval()
    with torch.no_grad():
        dino.teacher.module.projector.prototypes.linear.weight.neg_()
    outputs = dino(image())
    for v, view in enumerate(outputs["views"]):
        torch.testing.assert_close(outputs["teacher_scores"][v], -dino.projector.prototypes(dino.embed(view)))
    torch.testing.assert_close(outputs["teacher_scores"], -outputs["scores"][:2])
    assert not outputs["teacher_scores"].requires_grad


def test_the_teacher_follows_with_its_prototypes_and_never_learns() -> None:
    dino = method("dino", momentum=0.75)
    dino.set_progress(0.0)
    assert not any(p.requires_grad for p in dino.teacher.parameters())
    before = dino.teacher.module.projector.prototypes.linear.weight.clone()
    with torch.no_grad():
        dino.projector.prototypes.linear.weight.add_(1)
    dino.update_teacher()
    torch.testing.assert_close(dino.teacher.module.projector.prototypes.linear.weight, before + 0.25)


def test_schedules_of_the_paper() -> None:
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


def test_the_head_of_the_paper() -> None:
    dino = DINO(network())
    kinds = [type(layer) for layer in dino.projector.projection.hidden]
    assert kinds == 2 * [nn.Linear, BatchNorm, nn.GELU]
    widths = [tuple(p.shape) for p in dino.projector.parameters() if p.ndim == 2]
    channels = dino.network.encoder.channels[-1]
    assert widths == [(2048, channels), (2048, 2048), (256, 2048), (4096, 256)]
    assert dino.projector.projection.linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert dino.local_views == 8


def test_the_loss_by_hand() -> None:
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


def test_the_centre_is_a_running_mean_of_training_and_is_saved() -> None:
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
