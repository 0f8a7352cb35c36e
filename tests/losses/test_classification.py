"""Binary cross entropy of known labels."""

from __future__ import annotations

import math

import pytest
import torch

from common.losses.classification import KnownBCELoss

NAN = math.nan


def test_value_by_hand() -> None:
    """ln(1 + e^-2) for a positive of logit 2, ln(1 + e^1) for a negative of logit 1; the third is not known."""
    loss = KnownBCELoss()(torch.tensor([[2.0, 1.0, 9.0]]), torch.tensor([[1.0, 0.0, NAN]]))
    assert float(loss) == pytest.approx((math.log(1 + math.exp(-2)) + math.log(1 + math.e)) / 2)


def test_what_is_not_known_has_no_gradient() -> None:
    logits = torch.tensor([[0.0, 3.0], [0.0, 3.0]], requires_grad=True)
    KnownBCELoss()(logits, torch.tensor([[1.0, NAN], [NAN, NAN]])).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.5, 0.0], [0.0, 0.0]]))


def test_nothing_known_is_a_loss_of_0() -> None:
    logits = torch.ones(1, 2, requires_grad=True)
    loss = KnownBCELoss()(logits, torch.full((1, 2), NAN))
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(logits.grad, torch.zeros(1, 2))


def test_float32_whatever_comes_in() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = KnownBCELoss()(torch.zeros(1, 1, dtype=torch.bfloat16), torch.ones(1, 1))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(math.log(2))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(2, 1\) and \(2,\)"):
        KnownBCELoss()(torch.zeros(2, 1), torch.zeros(2))
