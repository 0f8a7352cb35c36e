"""What paired runs support: means over seeds, paired differences, and an interval over seeds and test cases.

A score table is a matrix ``(S, C)``: seeds by test cases, NaN where a case has no score. All seeds are tested on the
same cases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Scores = Mapping[tuple[int, str, str], float]  # seed, case, structure -> Dice
MIN_SEEDS = 3


@dataclass(frozen=True)
class Summary:
    """A mean over seeds, or a mean paired difference.

    Attributes:
        mean: of the seeds' means.
        sd: of the seeds' means, sample's; ``None`` for one seed.
        low, high: 95 % interval; ``None`` for one seed.
        n_seeds, n_cases: behind it.
        n_better: seeds whose mean is above 0.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    n_seeds: int
    n_cases: int
    n_better: int

    @property
    def supported(self) -> bool:
        """Whether the interval excludes 0, with at least three seeds behind it."""
        if self.low is None or self.high is None or self.n_seeds < MIN_SEEDS:
            return False
        return self.low > 0 or self.high < 0


def score_matrix(scores: Scores, structures: Sequence[str]) -> tuple[np.ndarray, list[int], list[str]]:
    """Mean over structures per seed and case.

    Args:
        scores: Dice by seed, case and structure; NaN or absent where it is not defined.
        structures: over which to take the mean; those that a case does not have stay out of its mean.

    Returns:
        matrix ``(S, C)``, its seeds and its cases.
    """
    seeds = sorted({seed for seed, _, _ in scores})
    cases = sorted({case for _, case, _ in scores})
    matrix = np.full((len(seeds), len(cases)), np.nan)
    for i, seed in enumerate(seeds):
        for j, case in enumerate(cases):
            values = [scores.get((seed, case, name), math.nan) for name in structures]
            known = [value for value in values if not math.isnan(value)]
            if known:
                matrix[i, j] = sum(known) / len(known)
    return matrix, seeds, cases


def difference(scores: Scores, baseline: Scores) -> dict[tuple[int, str, str], float]:
    """Paired differences, where both have a score: same seed, same case, same structure."""
    return {
        key: value - baseline[key]
        for key, value in scores.items()
        if key in baseline and not math.isnan(value) and not math.isnan(baseline[key])
    }


def summarise(matrix: np.ndarray, *, draws: int = 10_000, seed: int = 0) -> Summary | None:
    """Mean, spread and interval of a score table; ``None`` when it holds no score."""
    matrix = matrix[~np.isnan(matrix).all(axis=1)]
    matrix = matrix[:, ~np.isnan(matrix).all(axis=0)]
    if not matrix.size:
        return None
    means = np.nanmean(matrix, axis=1)
    low, high = bootstrap_interval(matrix, draws=draws, seed=seed)
    return Summary(
        mean=float(means.mean()),
        sd=float(means.std(ddof=1)) if len(means) > 1 else None,
        low=low,
        high=high,
        n_seeds=len(means),
        n_cases=matrix.shape[1],
        n_better=int((means > 0).sum()),
    )


def summary_of(scores: Scores | None, structures: Sequence[str]) -> Summary | None:
    """That of the mean over these structures; ``None`` where there are no scores."""
    return summarise(score_matrix(scores, structures)[0]) if scores else None


def bootstrap_interval(
    matrix: np.ndarray, *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float | None, float | None]:
    """Percentile interval of the mean, seeds and cases both drawn anew.

    Every seed is tested on the same cases, so rows and columns are drawn independently of each other and crossed (the
    pigeonhole bootstrap, Owen, Annals of Applied Statistics 2007). Few seeds make a bootstrap too narrow, by
    ``sqrt((S - 1) / S)``: its deviations from the mean are widened by the inverse of that (Hesterberg, The American
    Statistician 2015, section 3).

    Args:
        matrix: ``(S, C)``, NaN where there is no score.
        level: of the interval.
        draws: resamples.
        seed: of the draws.

    Returns:
        lower and upper end; ``(None, None)`` for one seed, whose spread says nothing about others.
    """
    n_seeds, n_cases = matrix.shape
    if n_seeds < 2:
        return None, None
    known = ~np.isnan(matrix)
    values = np.where(known, matrix, 0.0)
    generator = np.random.default_rng(seed)
    # how often each seed and each case was drawn (N, S), (N, C)
    seeds = generator.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=draws)
    cases = generator.multinomial(n_cases, np.full(n_cases, 1 / n_cases), size=draws)
    totals = ((seeds @ values) * cases).sum(axis=1)
    counts = ((seeds @ known.astype(float)) * cases).sum(axis=1)
    means = totals[counts > 0] / counts[counts > 0]
    centre = values.sum() / known.sum()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    widening = math.sqrt(n_seeds / (n_seeds - 1))
    return float(centre + (low - centre) * widening), float(centre + (high - centre) * widening)
