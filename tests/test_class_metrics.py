"""ROC-AUC where some labels are not known."""

from __future__ import annotations

import math

import pytest
import torch

from common.class_metrics import KnownROCAUC, class_aucs, mean_auc

NAN = math.nan
# class 0: positives 0.8 and 0.3, negatives 0.5 and 0.1: three of four pairs in order.
# class 1: a positive and a negative tie: half a pair. class 2: one value only. class 3: all known pairs are wrong.
SCORES = torch.tensor([[0.8, 0.4, 0.1, 0.1], [0.3, 0.4, 0.2, 0.9], [0.5, 0.9, 0.3, 0.5], [0.1, 0.9, 0.4, 0.2]])
LABELS = torch.tensor([[1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.0, NAN, NAN, NAN], [0.0, NAN, 0.0, 1.0]])


def test_by_hand() -> None:
    aucs = class_aucs(SCORES, LABELS)
    assert aucs[:2] == [0.75, 0.5]
    assert math.isnan(aucs[2])
    assert aucs[3] == 0.0
    assert mean_auc(aucs) == pytest.approx((0.75 + 0.5 + 0.0) / 3)


def test_no_class_with_both_values_has_no_mean() -> None:
    assert math.isnan(mean_auc(class_aucs(SCORES, torch.ones_like(LABELS))))


def test_the_metric_collects_batches() -> None:
    metric = KnownROCAUC()
    for i in range(4):
        metric(SCORES[i : i + 1], LABELS[i : i + 1])
    assert metric.aggregate() == pytest.approx((0.75 + 0.5 + 0.0) / 3)
    metric.reset()
    metric(SCORES[:, :1], LABELS[:, :1])
    assert metric.aggregate() == 0.75
