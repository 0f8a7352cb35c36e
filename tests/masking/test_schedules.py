"""Ramps over training progress."""

from __future__ import annotations

import math

import pytest

from common.masking.schedules import cosine, linear, log


@pytest.mark.parametrize("ramp", [linear, cosine, log])
def test_ramps_start_and_end_where_told_and_clamp(ramp):
    assert ramp(0.0, 0.25, 0.75) == pytest.approx(0.25)
    assert ramp(1.0, 0.25, 0.75) == pytest.approx(0.75)
    assert ramp(-1.0, 0.25, 0.75) == ramp(0.0, 0.25, 0.75)
    assert ramp(2.0, 0.25, 0.75) == ramp(1.0, 0.25, 0.75)
    values = [ramp(i / 20, 0.25, 0.75) for i in range(21)]
    assert values == sorted(values)
    assert ramp(0.0, 1.0, 0.0) == pytest.approx(1.0)


def test_values_between():
    assert linear(0.25, 0.0, 0.5) == pytest.approx(0.125)
    assert cosine(0.25, 0.0, 1.0) == pytest.approx((1 - math.sqrt(0.5)) / 2)


def test_log_is_the_published_curve():
    """AMLP: sigma = 0.25 + ln(e) / tau with tau = ln(E) / (0.75 - 0.25)."""
    epochs = 50
    tau = math.log(epochs) / 0.5
    for e in (1, 7, 20, 50):
        assert log((e - 1) / (epochs - 1), 0.25, 0.75, epochs=epochs) == pytest.approx(0.25 + math.log(e) / tau)


def test_log_needs_more_than_one_epoch():
    with pytest.raises(ValueError, match="epochs: got 1"):
        log(0.5, 0.0, 1.0, epochs=1)
