"""From the largest evidence in a batch to a calibrated score: 0.99 is exceeded by one normal batch in 100.

How large the largest of a table's metrics gets is much the same everywhere, because every metric is measured by its own
past; so a curve pooled over real tables answers from the first day, and the table's own batches correct it as far as there
are any.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from detectors.evidence import Sizes
from detectors.metrics import FloatArray

# Share of normal batches below, and the evidence that they stay below, in a table of USUAL_METRICS metrics.
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.965)
EVIDENCE = (1.5, 1.8, 2.25, 2.85, 3.6, 4.8)
USUAL_METRICS = 150
# From the last level on: evidence of the one normal batch in 100, and beyond it the power with which batches get rarer. What
# comes there are real events, holidays and new products, and not the tail of a normal distribution.
LAST_STEP = 1.15
TAIL_POWER = 4.0
# So many of the table's own batches beyond a level weigh as much as the pooled curve.
PRIOR_EXCEEDANCES = 20.0


@dataclass(frozen=True, slots=True)
class Tail:
    """A strictly increasing map from evidence to score: straight lines in log evidence and surprise, -ln(1 - score)."""

    evidence: FloatArray  # (k,) increasing, > 0; the score is 0 at the first
    surprise: FloatArray  # (k,) increasing from 0

    def score(self, xp: Any, evidence: Any) -> Any:
        """(...) evidence -> (...) score in [0, 1]."""
        surprise = _joined(xp, xp.log(xp.maximum(evidence, 1e-9)), np.log(self.evidence), self.surprise, TAIL_POWER)
        return -xp.expm1(-surprise)

    def inverse(self, xp: Any, score: Any) -> Any:
        """(...) score -> (...) the evidence that has it: the first knot for 0, inf for 1."""
        knots = np.log(self.evidence)
        return xp.exp(float(knots[0]) + _joined(xp, -xp.log1p(-score), self.surprise, knots, 1.0 / TAIL_POWER))


def tail_of(past: FloatArray, metrics: int, freedom: float) -> Tail:
    """(h,) largest evidence of the table's own past batches, and how many metrics vary -> the table's curve.

    With few degrees of `freedom` evidence is compressed, for what may be bad luck. Half of a real table's tail is no luck
    but real events, and these are compressed as well: the pooled curve goes half of the way with them.
    """
    levels, pooled = np.array(LEVELS), np.array(EVIDENCE)
    compressed = Sizes(np.ones(1), np.array([freedom])).evidence(np, pooled[:, None])[:, 0]
    pooled = np.sqrt(pooled * compressed) * _typical_largest(max(metrics, 1)) / _typical_largest(USUAL_METRICS)
    beyond = len(past) * (1 - levels)
    weight = beyond / (beyond + PRIOR_EXCEEDANCES)
    own = np.quantile(past, levels) if len(past) else pooled
    knots = np.exp(weight * np.log(np.maximum(own, 0.1)) + (1 - weight) * np.log(pooled))
    knots = np.concatenate([[knots[0] / 2], knots, [knots[-1] * LAST_STEP]])
    steps = 1e-6 * np.arange(len(knots))
    return Tail(np.maximum.accumulate(knots - steps) + steps, -np.log1p(-np.array([0.0, *LEVELS, 0.99])))


def _joined(xp: Any, x: Any, knots: FloatArray, values: FloatArray, beyond: float) -> Any:
    """(...) rise above the first value along straight lines between knots, and with a slope of its own beyond them."""
    widths = np.append(np.diff(knots), np.inf)
    slopes = np.append(np.diff(values) / np.diff(knots), beyond)
    pieces = xp.minimum(xp.maximum(x[..., None] - xp.asarray(knots), 0.0), xp.asarray(widths))
    return xp.sum(pieces * xp.asarray(slopes), axis=-1)


def _typical_largest(metrics: int) -> float:
    """The evidence that the largest of so many independent metrics exceeds once in 100 batches."""
    return NormalDist().inv_cdf(1 - 0.005 / metrics)
