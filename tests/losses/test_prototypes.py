"""Codes that share cases out evenly, and cross entropy across views, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from common.losses.prototypes import across_views, sinkhorn


def cosines(n: int, k: int) -> torch.Tensor:
    return 2 * torch.rand(n, k, generator=torch.Generator().manual_seed(n)) - 1


class TestSinkhorn:
    def test_every_case_has_one_code_and_every_prototype_its_share(self) -> None:
        codes = sinkhorn(cosines(12, 3), iterations=200)
        torch.testing.assert_close(codes.sum(1), torch.ones(12))
        torch.testing.assert_close(codes.sum(0), torch.full((3,), 4.0), atol=1e-3, rtol=0)

    def test_three_iterations_by_hand(self) -> None:
        """The released code's: the whole is 1, prototypes have 1 / K of it, cases 1 / N."""
        scores = cosines(4, 3)
        q = [[math.exp(float(s) / 0.05) for s in row] for row in scores]
        for _ in range(3):
            for k in range(3):
                total = sum(row[k] for row in q)
                for row in q:
                    row[k] *= (1 / 3) / total
            q = [[value * (1 / 4) / sum(row) for value in row] for row in q]
        expected = torch.tensor([[value / sum(row) for value in row] for row in q])
        torch.testing.assert_close(sinkhorn(scores), expected, atol=1e-5, rtol=1e-4)

    def test_what_all_prefer_is_shared(self) -> None:
        """All cases are nearest to the first prototype; half of them get the second."""
        scores = torch.tensor([[0.9, 0.1], [0.9, 0.2], [0.9, 0.6], [0.9, 0.7]])
        assert sinkhorn(scores, iterations=100).argmax(1).tolist() == [0, 0, 1, 1]

    def test_cases_that_do_not_count_change_nothing(self) -> None:
        scores = cosines(6, 3)
        counted = torch.tensor([True, False, True, True, False, True])
        codes = sinkhorn(scores, counted=counted)
        torch.testing.assert_close(codes[counted], sinkhorn(scores[counted]))
        assert codes[~counted].abs().max() == 0

    def test_no_gradient_and_full_precision(self) -> None:
        scores = cosines(4, 3).bfloat16().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            codes = sinkhorn(scores)
        assert codes.dtype == torch.float32
        assert not codes.requires_grad


class TestAcrossViews:
    def test_the_written_out_sum(self) -> None:
        """Two targets, three views: four pairs, none of a view with itself."""
        targets = torch.rand(2, 5, 4).softmax(-1)
        scores = torch.rand(3, 5, 4)
        total = 0.0
        for t, v in ((0, 1), (0, 2), (1, 0), (1, 2)):
            logarithms = (scores[v] / 0.1).log_softmax(-1)
            total += float(-(targets[t] * logarithms).sum(-1).mean())
        assert across_views(targets, scores, 0.1).item() == pytest.approx(total / 4, rel=1e-5)

    def test_who_knows_nothing_loses_log_k(self) -> None:
        targets = torch.rand(2, 3, 8).softmax(-1)
        assert across_views(targets, torch.zeros(2, 3, 8), 0.1).item() == pytest.approx(math.log(8))

    def test_the_best_prediction_loses_the_targets_entropy(self) -> None:
        target = torch.rand(1, 3, 8).softmax(-1)
        entropy = -(target * target.log()).sum(-1).mean()
        scores = (0.1 * target.log()).expand(2, 3, 8)
        assert across_views(target.expand(2, 3, 8), scores, 0.1).item() == pytest.approx(entropy.item(), rel=1e-5)
