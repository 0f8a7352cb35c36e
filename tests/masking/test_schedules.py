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


@pytest.mark.parametrize(
    ("epochs", "end", "expected"),
    [
        (800, 0.75, (0.250, 0.302, 0.422, 0.543, 0.594, 0.698)),
        (800, 0.90, (0.250, 0.317, 0.474, 0.630, 0.698, 0.833)),
        (1000, 0.85, (0.250, 0.310, 0.450, 0.590, 0.650, 0.770)),
    ],
)
def test_log_at_the_tabulated_epochs(epochs, end, expected):
    """METHODS 4.3."""
    values = [log((e - 1) / (epochs - 1), 0.25, end, epochs=epochs) for e in (1, 2, 10, 50, 100, 400)]
    assert values == pytest.approx(expected, abs=5e-4)


def test_log_with_a_tau_of_ones_own_stops_at_the_end():
    assert log(9 / 99, 0.25, 0.75, epochs=100, tau=10.0) == pytest.approx(0.25 + math.log(10) / 10)
    assert log(1.0, 0.25, 0.75, epochs=100, tau=10.0) == pytest.approx(0.25 + math.log(100) / 10)
    # the paper's only temperature, 0.1, would hide 718 % in the second epoch
    assert log(1 / 99, 0.25, 0.75, epochs=100, tau=0.1) == 0.75


def test_a_tau_that_leads_away_is_refused():
    with pytest.raises(ValueError, match="tau: got -1"):
        log(0.5, 0.25, 0.75, tau=-1)


def test_log_needs_more_than_one_epoch():
    with pytest.raises(ValueError, match="epochs: got 1"):
        log(0.5, 0.0, 1.0, epochs=1)
