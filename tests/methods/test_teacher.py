from __future__ import annotations

import pytest
import torch
from torch import nn

from common.methods.teacher import EMATeacher


def test_three_updates_by_hand() -> None:
    """Teacher 1, student 0, momentum 0.999: 0.999 ** 3."""
    student = nn.Linear(1, 1, bias=False)
    nn.init.ones_(student.weight)
    teacher = EMATeacher(student, momentum_start=0.999, momentum_end=0.999)
    nn.init.zeros_(student.weight)
    for _ in range(3):
        teacher.update(student, 0.0)
    assert teacher.module.weight.item() == pytest.approx(0.997002999, abs=1e-7)
    assert student.weight.item() == 0


def test_teacher_learns_nothing_and_stays_in_evaluation_mode() -> None:
    student = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    teacher = EMATeacher(student)
    teacher.train()
    assert not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    out = teacher(torch.randn(4, 2))
    assert not out.requires_grad
    assert all(a is not b for a, b in zip(teacher.module.parameters(), student.parameters(), strict=True))


def test_buffers_are_copied_also_integers() -> None:
    student = nn.BatchNorm1d(2)
    teacher = EMATeacher(student)
    student(torch.randn(8, 2) + 5)
    teacher.update(student, 0.5)
    assert torch.equal(teacher.module.running_mean, student.running_mean)
    assert teacher.module.num_batches_tracked == 1


def test_momentum_ramps_and_then_stays() -> None:
    teacher = EMATeacher(nn.Linear(1, 1), momentum_start=0.9, momentum_end=0.99, ramp=0.25)
    assert [teacher.momentum(p) for p in (0.0, 0.125, 0.25, 1.0)] == pytest.approx([0.9, 0.945, 0.99, 0.99])
    assert EMATeacher(nn.Linear(1, 1), ramp=0.0).momentum(0.0) == 0.9999


def test_momentum_follows_half_a_cosine_to_one() -> None:
    teacher = EMATeacher(nn.Linear(1, 1), momentum_start=0.996, momentum_end=1.0, ramp=1.0, shape="cosine")
    assert [teacher.momentum(p) for p in (0.0, 1 / 3, 0.5, 1.0)] == pytest.approx([0.996, 0.997, 0.998, 1.0])


@pytest.mark.parametrize("wrong", [{"momentum_start": 1.0}, {"momentum_end": 1.1}, {"ramp": 1.5}])
def test_wrong_arguments(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="momentum_start"):
        EMATeacher(nn.Linear(1, 1), **wrong)
    with pytest.raises(ValueError, match="'linear', 'cosine'"):
        EMATeacher(nn.Linear(1, 1), shape="step")
