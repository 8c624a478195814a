"""From the evidence against each metric to one verdict on a bucket: the alarm rate is that of all metrics together.

Evidence is surprise: -ln of the probability that a normal bucket shows as much. Of the hours of four real series that were
flagged from a score of .99, .995, .999 and .9999 on, .61, .81, .95 and .99 were faults; `confidence_of` says .54, .79, .96
and 1.00.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detectors.context import FloatArray
from detectors.sequence_filter import FREEDOM

type BoolArray = NDArray[np.bool_]

# Log odds of the filter that normal buckets reach with these probabilities: hours of four real series outside known faults,
# weeks of weather, holidays and strikes included. Simulated clean series stay far below: their 1 % lies at -4 to 2.
TAILS = np.array([1.0, 0.5, 0.3, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001, 0.0001])
LOG_ODDS = np.array([-9.0, -5.7, -4.8, -2.2, -0.2, 1.4, 2.3, 3.2, 5.0, 7.8])
_SURPRISES = -np.log(TAILS)
_LAST_SLOPE = float((_SURPRISES[-1] - _SURPRISES[-2]) / (LOG_ODDS[-1] - LOG_ODDS[-2]))
CERTAIN = 1 - 1e-9
FAR = 0.02
EXPLAINED = -np.log(0.1)  # surprise of what one normal bucket in ten shows
# Of 2 to 50 normal metrics, correlated from 0 to 1, the harmonic mean alone raises at most 1 + 0.1 ln(m) times the alarms.
DEPENDENCE = 0.1


def surprise_of(log_odds: FloatArray) -> FloatArray:
    """(...,) log odds of a fault -> surprise, from 0 without end; NaN stays NaN."""
    beyond = np.maximum(log_odds - LOG_ODDS[-1], 0.0)
    surprise: FloatArray = np.interp(log_odds, LOG_ODDS, _SURPRISES) + _LAST_SLOPE * beyond
    return surprise


def with_range(surprise: FloatArray, t: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Surprise of order and shape (...,), and by how many scales each value differs from the expected -> that of both
    together, and where it is the value alone that tells.

    The filter looks at how hours follow each other and caps what a single one may say. A value far outside of its range is
    an anomaly all the same: it gets a share, FAR, of the false alarms, and the rest stays with the filter.
    """
    far, shape = np.nan_to_num(student_tail(t) + np.log(FAR)), surprise + np.log1p(-FAR)
    # What the filter can explain is not told as a value out of its range, however far it is.
    outside = (far > np.maximum(shape, 0.0)) & (shape < EXPLAINED)
    return np.where(np.isnan(surprise), surprise, np.maximum(np.maximum(far, shape), 0.0)), outside


def student_tail(t: FloatArray) -> FloatArray:
    """Surprise of |T| > t for five degrees of freedom (Abramowitz and Stegun 26.7.3)."""
    assert FREEDOM == 5
    angle = np.arctan(t / np.sqrt(5))
    inside = 2 / np.pi * (angle + np.sin(angle) * (np.cos(angle) + 2 / 3 * np.cos(angle) ** 3))
    surprise: FloatArray = -np.log(np.maximum(1 - inside, 1e-15))
    return surprise


def reach_of(threshold: float) -> float:
    """How many scales from the expected a value lies whose score by `student_tail` is the threshold."""
    return float(np.interp(-np.log(1 - threshold), _T_SURPRISES, _T))


def scales_off(values: FloatArray, expected: FloatArray, upper: FloatArray) -> FloatArray:
    """By how many scales values (...) differ from the expected, where 99 normal ones in 100 lie below `upper`."""
    scales: FloatArray = reach_of(0.99) * np.abs(values - expected) / np.maximum(upper - expected, 1e-300)
    return scales


def combined(surprise: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(n, m) surprise of metrics, NaN where not judged -> (n,) of them together, NaN where none was; (n, m) contributions.

    The harmonic mean of the probabilities (Wilson 2019, doi:10.1073/pnas.1814092116): one metric of m has to be m times as
    improbable to raise the alarm alone, many that are wrong together do not. It is raised by DEPENDENCE, so that metrics
    that go together raise no more alarms either. A contribution is a metric's share of the sum; all are 1 together.
    """
    known = np.isfinite(surprise)
    top = np.max(surprise, axis=1, keepdims=True, where=known, initial=0.0)
    weights = np.exp(surprise - top, where=known, out=np.zeros_like(surprise))
    # Sorted, so that the order of the metrics cannot move the last digit.
    total = np.sort(weights, axis=1).sum(axis=1)
    count = known.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        together = top[:, 0] + np.log(total) - np.log(count) - np.log1p(DEPENDENCE * np.log(count))
    return np.where(count > 0, np.maximum(together, 0.0), np.nan), weights / np.maximum(total, 1e-300)[:, None]


def score_of(surprise: FloatArray) -> FloatArray:
    """(...,) surprise >= 0 -> score in [0, 1): one minus the probability."""
    score: FloatArray = np.minimum(-np.expm1(-surprise), CERTAIN)
    return score


_T = np.geomspace(0.01, 300, 200)
_T_SURPRISES = student_tail(_T)
