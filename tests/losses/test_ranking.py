"""Pairwise ranking loss and rank correlation (METHODS 5.5, 5.11)."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kendalltau

from common.losses.ranking import pairwise_ranking_loss, rank_correlation

SCORES = torch.tensor([[0.0, 1.0, 2.0]])


def literal(scores: torch.Tensor, losses: torch.Tensor) -> float:
    """Eq. 1 as printed, of one sample, in float64."""
    s, difficulty, total = scores.double(), losses.double(), 0.0
    for i in range(len(s)):
        for j in range(len(s)):
            p = torch.sigmoid(s[i] - s[j]).item()
            if difficulty[i] > difficulty[j]:
                total -= math.log(p)
            elif difficulty[i] < difficulty[j]:
                total -= math.log(1 - p)
    return total


@pytest.mark.parametrize(
    ("losses", "total", "mean"),
    [
        ([1.0, 2.0, 3.0], 1.506903, 0.251150),
        ([3.0, 2.0, 1.0], 9.506903, 1.584484),
        ([0.3, 0.1, 0.2], 7.506903, 1.251150),
    ],
)
def test_three_patches_by_hand(losses: list[float], total: float, mean: float) -> None:
    measured = torch.tensor([losses])
    assert pairwise_ranking_loss(SCORES, measured).item() == pytest.approx(mean, abs=2e-6)
    assert pairwise_ranking_loss(SCORES, measured, reduction="sum").item() == pytest.approx(total, abs=2e-6)
    assert literal(SCORES[0], measured[0]) == pytest.approx(total, abs=2e-6)


def test_scores_that_say_nothing_cost_ln_2() -> None:
    assert pairwise_ranking_loss(torch.zeros(1, 3), SCORES).item() == pytest.approx(math.log(2))


def test_the_literal_sum_of_162_patches() -> None:
    losses = torch.rand(2, 162, generator=torch.Generator().manual_seed(0))
    total = pairwise_ranking_loss(torch.zeros(2, 162), losses, reduction="sum").item()
    assert total == pytest.approx(162 * 161 * math.log(2), rel=1e-4)  # 18 079


def test_pairs_are_pooled_over_the_batch() -> None:
    """The second sample has one pair of different losses, in both orders; the first three."""
    scores = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    losses = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    assert pairwise_ranking_loss(scores, losses).item() == pytest.approx(0.251150, abs=2e-6)
    losses[1, 0] = 2.0
    expected = (1.506903 + 4 * math.log(2)) / (6 + 4)
    assert pairwise_ranking_loss(scores, losses).item() == pytest.approx(expected, abs=2e-6)
    expected = (1.506903 + 4 * math.log(2)) / 2
    assert pairwise_ranking_loss(scores, losses, reduction="sum").item() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ties_give_zero_and_no_nan(reduction: str) -> None:
    scores = torch.randn(2, 5, requires_grad=True)
    loss = pairwise_ranking_loss(scores, torch.ones(2, 5), reduction=reduction)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(scores.grad, torch.zeros(2, 5))


def test_shifts_and_order_of_patches_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, losses = torch.randn(2, 7, generator=generator), torch.rand(2, 7, generator=generator)
    value = pairwise_ranking_loss(scores, losses)
    torch.testing.assert_close(pairwise_ranking_loss(scores + 3, losses), value)
    torch.testing.assert_close(pairwise_ranking_loss(scores, 10 * losses - 1), value)
    swapped = [1, 0, *range(2, 7)]
    torch.testing.assert_close(pairwise_ranking_loss(scores[:, swapped], losses[:, swapped]), value)


def test_far_apart_scores_stay_finite_also_in_half_precision() -> None:
    scores = torch.tensor([[200.0, -200.0]], dtype=torch.float16, requires_grad=True)
    loss = pairwise_ranking_loss(scores, torch.tensor([[1.0, 2.0]]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(400)
    assert scores.grad.tolist() == [[1.0, -1.0]]


def test_losses_are_constants() -> None:
    losses = torch.rand(1, 4, requires_grad=True)
    pairwise_ranking_loss(torch.randn(1, 4, requires_grad=True), losses).backward()
    assert losses.grad is None


def test_training_finds_the_order() -> None:
    losses = torch.rand(1, 20, generator=torch.Generator().manual_seed(0))
    scores = torch.zeros(1, 20, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        pairwise_ranking_loss(scores, losses).backward()
        optimizer.step()
    assert torch.equal(scores.argsort(1), losses.argsort(1))
    assert rank_correlation(scores, losses).item() == pytest.approx(1)


class TestRankCorrelation:
    """Kendall's tau-b."""

    def test_by_hand(self) -> None:
        a = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        assert rank_correlation(a, a).item() == 1
        assert rank_correlation(a, -a).item() == -1
        one_swap = torch.tensor([[1.0, 3.0, 2.0, 4.0]])  # 5 pairs agree, 1 does not
        assert rank_correlation(a, one_swap).item() == pytest.approx(4 / 6)

    def test_ties_as_in_scipy(self) -> None:
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randint(4, (3, 12), generator=generator) for _ in range(2))
        expected = sum(kendalltau(x, y).statistic for x, y in zip(a, b, strict=True)) / 3
        assert rank_correlation(a, b).item() == pytest.approx(expected, abs=1e-6)

    def test_a_constant_counts_as_none(self) -> None:
        assert rank_correlation(torch.ones(1, 4), torch.rand(1, 4)).item() == 0


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="reduction"):
        pairwise_ranking_loss(SCORES, SCORES, reduction="max")
    for function in (pairwise_ranking_loss, rank_correlation):
        with pytest.raises(ValueError, match="shapes"):
            function(SCORES, SCORES[:, :2])
