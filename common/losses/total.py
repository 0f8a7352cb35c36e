"""A loss of several terms, and its terms for the log."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def checked_weights(**weights: float) -> dict[str, float]:
    """Weights by the names of their terms.

    Raises:
        ValueError: for one below 0.
    """
    for name, weight in weights.items():
        if weight < 0:
            raise ValueError(f"{name}_weight: got {weight}. Give 0 or more.")
    return weights


def total_loss(outputs: dict[str, Any], terms: dict[str, Tensor], **weights: float) -> Tensor:
    """Weighted sum of scalar ``terms``, which go as they are into ``outputs["losses"]``, without gradient.

    Args:
        outputs: a method's, see :mod:`common.methods`.
        terms: by name.
        weights: by the same names; that of a term without one is 1.
    """
    outputs["losses"] = {name: term.detach() for name, term in terms.items()}
    return torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()
