"""How good is a detector, and how sure is that? Rates from counts, each with its 95 % interval.

    precision, recall, false positive rate   a share of independent points, E. Wilson's score interval (1927)
    F1 of labels                             2 q / (1 + q), where q = hits / (hits + false alarms + misses) is a share with a
                                             Wilson interval; F1 rises with q, so the ends of the one are those of the other
    precision and F1 of injected faults      at PREVALENCE, from a recall and a false positive rate that were measured apart:
                                             the middle 95 % of 2,000 draws of both from their posteriors (Jeffreys prior)

Points of one incident are not independent: where labels come in runs, intervals are narrower than they should be.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

Z: Final = 1.959963984540054  # of 95 %
# Incidents are rare: where faults were injected into every point, precision is stated for one faulty point in thirty.
PREVALENCE: Final = 1 / 30
DRAWS: Final = 2000

type Rate = dict[str, Any]  # value, low, high, and what they come from


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The interval of a share, within [0, 1]; all of it where nothing was counted."""
    if not of:
        return 0.0, 1.0
    share, extra = hits / of, Z**2 / of
    middle = (share + extra / 2) / (1 + extra)
    half = Z * math.sqrt(share * (1 - share) / of + extra / (4 * of)) / (1 + extra)
    return (0.0 if hits == 0 else max(middle - half, 0.0)), (1.0 if hits == of else min(middle + half, 1.0))


def share(hits: int, of: int) -> Rate | None:
    """hits / of with its interval, None where nothing was counted."""
    return _rate(hits / of, *wilson(hits, of)) | {"hits": hits, "of": of} if of else None


def f1(hits: int, false_alarms: int, misses: int) -> Rate | None:
    """F1 with its interval, None where nothing was counted."""
    of = hits + false_alarms + misses
    return _rate(*(2 * q / (1 + q) for q in (hits / of, *wilson(hits, of)))) | {"hits": hits, "of": of} if of else None


def at_prevalence(found: int, faults: int, alarms: int, points: int) -> tuple[Rate | None, Rate | None]:
    """Precision and F1 where one point in thirty is faulty, `found` of `faults` are and `alarms` of normal `points` were.

    None where there were no faults or no normal points, or where nothing was ever flagged (precision).
    """
    if not faults or not points:
        return None, None
    generator = np.random.default_rng(0)
    recall = np.append(generator.beta(found + 0.5, faults - found + 0.5, DRAWS), found / faults)
    fpr = np.append(generator.beta(alarms + 0.5, points - alarms + 0.5, DRAWS), alarms / points)
    hits, false = PREVALENCE * recall, (1 - PREVALENCE) * fpr
    flagged = np.maximum(hits + false, np.finfo(float).tiny)
    precision, both = hits / flagged, 2 * hits / (hits + false + PREVALENCE)
    return (_drawn(precision) if found + alarms else None), _drawn(both)


def _drawn(values: np.ndarray) -> Rate:
    """From draws with the figure itself behind them."""
    value = float(values[-1])
    low, high = np.quantile(values[:-1], [0.025, 0.975]).tolist()
    return _rate(value, min(low, value), max(high, value))


def _rate(value: float, low: float, high: float) -> Rate:
    return {"value": round(value, 4), "low": round(low, 4), "high": round(high, 4)}
