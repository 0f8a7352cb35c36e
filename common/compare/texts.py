"""What is said of a plan's cases, before it runs and in its report."""

from __future__ import annotations

from collections.abc import Iterable

from common.compare.plan import Plan


def cases_text(plan: Plan) -> str:
    """How many cases there are for what, in each fold."""
    folds = plan.folds
    counts = ", ".join(
        f"{numbers_text(map(len, cases))} {purpose}"
        for cases, purpose in (
            ([fold.pool for fold in folds], "labelled cases to train on"),
            ([fold.val for fold in folds], "to validate"),
            ([fold.test for fold in folds], "to test"),
        )
    )
    return counts if len(folds) == 1 else f"{len(folds)} folds of {counts}"


def numbers_text(numbers: Iterable[int]) -> str:
    """Several numbers as a range, such as ``3 to 4``."""
    known = sorted(set(numbers))
    return str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"
