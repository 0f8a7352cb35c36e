"""Sums of several terms."""

from __future__ import annotations

import pytest
import torch

from common.losses.total import checked_weights, total_loss


def test_terms_are_weighted_in_the_sum_and_not_in_the_log() -> None:
    a, b = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    outputs: dict = {}
    loss = total_loss(outputs, {"a": a, "b": b}, b=0.5, absent=7.0)
    loss.backward()
    assert loss == 3.5
    assert (a.grad, b.grad) == (1.0, 0.5)
    assert outputs["losses"] == {"a": 2.0, "b": 3.0}
    assert not outputs["losses"]["a"].requires_grad


def test_a_negative_weight_is_named() -> None:
    assert checked_weights(a=0.0, b=1.0) == {"a": 0.0, "b": 1.0}
    with pytest.raises(ValueError, match="b_weight: got -1"):
        checked_weights(a=0.0, b=-1.0)
