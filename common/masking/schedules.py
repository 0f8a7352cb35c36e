"""What changes with training time: progress in [0, 1] to a value. Progress outside is clamped."""

from __future__ import annotations

import math


def _clamp(progress: float) -> float:
    return min(1.0, max(0.0, progress))


def linear(progress: float, start: float, end: float) -> float:
    """Straight from ``start`` to ``end``: the share of hard patches in AnatoMask, alpha in HPM.

    >>> linear(0.25, 0.0, 1.0)
    0.25
    """
    return start + (end - start) * _clamp(progress)


def cosine(progress: float, start: float, end: float) -> float:
    """Half a cosine from ``start`` to ``end``, flat at both ends.

    >>> round(cosine(0.5, 0.0, 1.0), 6)
    0.5
    """
    return start + (end - start) * (1 - math.cos(math.pi * _clamp(progress))) / 2


def log(progress: float, start: float, end: float, *, epochs: float = 100, tau: float | None = None) -> float:
    """Fast first, slow later: AMLP's mask ratio ``start + ln(e) / tau``, never beyond ``end`` (Eq. 9).

    Source: arXiv 2309.04312. The epoch ``e`` runs from 1 to ``epochs`` with progress.

    Args:
        progress: in [0, 1].
        start: value at progress 0.
        end: the largest value (the smallest one, for an ``end`` below ``start`` and a negative tau).
        epochs: how bent the ramp is, above 1.
        tau: how slow it is; ``None`` is ``ln(epochs) / (end - start)``, so that the ramp ends at ``end`` (METHODS
            row 17; the paper does not give tau).

    Raises:
        ValueError: for ``epochs`` of 1 or less, or a tau that leads away from ``end``.

    >>> round(log(1 / 11, 0.25, 0.75, epochs=100), 6)
    0.5
    """
    if epochs <= 1:
        raise ValueError(f"epochs: got {epochs}. Give more than 1.")
    if tau is not None and tau * (end - start) <= 0:
        raise ValueError(
            f"tau: got {tau}, which leads from {start} away from {end}. Give the sign of their difference."
        )
    epoch = 1 + _clamp(progress) * (epochs - 1)
    way = math.log(epochs) if tau is None else tau * (end - start)
    return start + (end - start) * min(math.log(epoch) / way, 1.0)
