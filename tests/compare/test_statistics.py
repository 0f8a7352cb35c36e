"""Paired differences and their interval, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.compare.statistics import bootstrap_interval, difference, score_matrix, summarise

NAN = math.nan


def test_mean_over_structures_leaves_out_what_is_not_defined() -> None:
    scores = {(0, "a", "heart"): 0.8, (0, "a", "aorta"): 0.4, (0, "b", "heart"): 0.6, (0, "b", "aorta"): NAN}
    scores |= {(1, "a", "heart"): 1.0}
    matrix, seeds, cases = score_matrix(scores, ["heart", "aorta"])
    assert (seeds, cases) == ([0, 1], ["a", "b"])
    np.testing.assert_allclose(matrix, [[0.6, 0.6], [1.0, NAN]])


def test_difference_is_paired_by_seed_case_and_structure() -> None:
    scores = {(0, "a", "heart"): 0.8, (0, "b", "heart"): 0.5, (1, "a", "heart"): 0.9, (1, "b", "heart"): NAN}
    baseline = {(0, "a", "heart"): 0.7, (0, "b", "heart"): NAN, (1, "a", "heart"): 0.5, (1, "b", "heart"): 0.5}
    result = difference(scores, baseline)
    assert set(result) == {(0, "a", "heart"), (1, "a", "heart")}
    assert result[0, "a", "heart"] == pytest.approx(0.1)
    assert result[1, "a", "heart"] == pytest.approx(0.4)


def test_difference_of_means_uses_the_same_structures_on_both_sides() -> None:
    """A structure that only one arm has a score for must not shift the gain."""
    scores = {(0, "a", "heart"): 0.5, (0, "a", "spleen"): 0.0}
    baseline = {(0, "a", "heart"): 0.4, (0, "a", "spleen"): NAN}
    matrix = score_matrix(difference(scores, baseline), ["heart", "spleen"])[0]
    np.testing.assert_allclose(matrix, [[0.1]])


def test_summary_by_hand() -> None:
    summary = summarise(np.array([[0.1, 0.3], [0.0, 0.0], [0.4, 0.4]]))
    assert summary is not None
    assert summary.mean == pytest.approx((0.2 + 0.0 + 0.4) / 3)
    assert summary.sd == pytest.approx(0.2)  # of 0.2, 0.0, 0.4
    assert (summary.n_seeds, summary.n_cases, summary.n_better) == (3, 2, 2)


def test_nothing_scored_has_no_summary() -> None:
    assert summarise(np.full((2, 2), NAN)) is None
    assert summarise(np.zeros((0, 0))) is None


def test_interval_of_two_seeds_by_hand() -> None:
    """One case: the mean of two draws is 0, 0.5 or 1 with 1/4, 1/2, 1/4; widened by sqrt(2) about 0.5."""
    low, high = bootstrap_interval(np.array([[0.0], [1.0]]))
    assert low == pytest.approx(0.5 - 0.5 * math.sqrt(2))
    assert high == pytest.approx(0.5 + 0.5 * math.sqrt(2))


def test_cases_are_drawn_too() -> None:
    """Seeds that agree still leave doubt where the cases differ; both are drawn, so cases do not count per seed."""
    matrix = np.tile([[0.0, 1.0]], (50, 1))
    low, high = bootstrap_interval(matrix)
    assert (low, high) == pytest.approx((0.5 - 0.5 * math.sqrt(50 / 49), 0.5 + 0.5 * math.sqrt(50 / 49)))


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Seed and case effects of the same size, five seeds, eight cases, truth 0: a naive interval covers far less."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        matrix = generator.normal(size=(5, 1)) + generator.normal(size=(1, 8)) + generator.normal(size=(5, 8))
        low, high = bootstrap_interval(matrix, draws=500)
        assert low is not None
        assert high is not None
        hits += low <= 0 <= high
    assert 0.87 <= hits / 200 <= 0.99


def test_missing_scores_weigh_nothing() -> None:
    low, high = bootstrap_interval(np.array([[0.2, NAN], [0.2, 0.2], [NAN, 0.2]]))
    assert (low, high) == pytest.approx((0.2, 0.2))


def test_what_the_interval_supports() -> None:
    clear = np.array([[0.1, 0.12], [0.11, 0.1], [0.1, 0.1]])
    assert summarise(clear).supported  # type: ignore[union-attr]
    assert summarise(-clear).supported  # type: ignore[union-attr]
    assert not summarise(clear[:2]).supported  # type: ignore[union-attr]  # two seeds are too few
    assert not summarise(clear - np.array([[0.2], [0.0], [0.0]])).supported  # type: ignore[union-attr]
    one = summarise(clear[:1])
    assert one is not None
    assert (one.sd, one.low, one.high, one.supported) == (None, None, None, False)
