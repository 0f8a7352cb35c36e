"""ROC-AUC of classes that are not known of every case."""

from __future__ import annotations

import math

import numpy as np
from monai.metrics import ROCAUCMetric
from monai.metrics.rocauc import compute_roc_auc
from monai.utils import Average
from torch import Tensor

RULE = (
    "auc: of the cases of which the class is known; null where these are all positive or all negative. mean_auc: over "
    "the classes that have one."
)


def class_aucs(scores: Tensor, labels: Tensor) -> list[float]:
    """Area under the ROC curve per class: the share of pairs of a positive and a negative case in the right order.

    Args:
        scores: (cases, N), larger for positive; a tie counts half.
        labels: (cases, N): 1, 0, or NaN where the class is not known; such cases stay out.

    Returns:
        N values; NaN where the known labels are all the same.
    """
    aucs = []
    for score, label in zip(scores.unbind(1), labels.unbind(1), strict=True):
        known = ~label.isnan()
        both = set(label[known].tolist()) == {0.0, 1.0}
        aucs.append(float(np.asarray(compute_roc_auc(score[known], label[known]))) if both else math.nan)
    return aucs


def mean_auc(aucs: list[float]) -> float:
    """Mean over the classes that have an AUC; NaN where none has."""
    defined = [auc for auc in aucs if not math.isnan(auc)]
    return sum(defined) / len(defined) if defined else math.nan


class KnownROCAUC(ROCAUCMetric):
    """MONAI's metric for labels that may be NaN: the mean of :func:`class_aucs` over all that was collected."""

    def aggregate(self, average: Average | str | None = None) -> float:  # noqa: ARG002 (MONAI's signature)
        """Mean over the classes that have an AUC."""
        scores, labels = self.get_buffer()
        return mean_auc(class_aucs(scores.float(), labels))
