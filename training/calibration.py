"""From a raw score of any scale to one that means the same for every family: 0.99 is exceeded by one normal point in 100."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.series import FloatArray, NotEnoughHistory

FEWEST = 20  # held-out points without which a tail is guesswork
BODY_KNOTS = 8  # pieces of the empirical part: enough for any shape, few enough to smooth 20 points
FAR = 10.0  # (80 % quantile - median) beyond the median: 1 in 10,000 of an exponential, 1 in 400 of a t with 3 df
SLIPPED = 0.05  # at most this share may lie far out and be taken for undetected anomalies; more is the table's nature
FLOOR = 0.05  # smallest scale, in the raw score's unit: a constant table has no tail to learn from
SHAPE_POINTS = 30.0  # what an exponential tail counts for, as exceedances, when the tail's shape is estimated


@dataclass(frozen=True, slots=True)
class Calibration:
    """A strictly increasing map from raw score to 1 - tail probability, continuous, invertible and without an end.

    The body joins quantiles of the held-out scores by straight lines in surprise (-ln of the tail probability); the last
    sixth or so is a generalised Pareto tail, survival (1 + shape y / scale) ** (-1 / shape), which is never bounded.
    Raw scores are of order one: a forecaster's deviation in spreads, a scorer's standardised score.
    """

    knots: FloatArray  # (k,) raw, increasing; at and below the first the score is 0
    surprises: FloatArray  # (k,) -ln tail probability at the knots; the first is 0
    scale: float  # of the tail beyond the last knot, raw
    shape: float  # > 0; the larger, the heavier the tail

    @classmethod
    def fit(cls, raw: FloatArray) -> Calibration:
        """(m,) raw scores of held-out normal points, NaN where there was none -> the calibration.

        Positions are i / (m + 1), and the tail is the predictive distribution of an exponential whose scale had to be
        estimated from k exceedances, a Pareto tail of shape 1 / k: both make the share of new normal points beyond a
        threshold right on average, and not only for m without end. The tail index is estimated by probability-weighted
        moments (Hosking and Wallis 1987, https://doi.org/10.1080/00401706.1987.10488243), drawn towards 0 and never
        negative. Ties are moved apart by a millionth. Scores far beyond the rest are left out while they are at most
        5 % of the points (one point at least); this makes a heavy-tailed table's rate up to a half higher than stated.

        Raises NotEnoughHistory below 20 finite scores.
        """
        ordered = np.sort(raw[np.isfinite(raw)])
        if len(ordered) < FEWEST:
            raise NotEnoughHistory(FEWEST, len(ordered))
        ordered = _without_slipped_anomalies(ordered)
        m, exceedances = len(ordered), math.ceil(1.2 * math.sqrt(len(ordered)))

        start = (m - exceedances) / (m + 1)
        levels = np.linspace(0.0, start, BODY_KNOTS + 1)
        knots = np.interp(levels, np.arange(1, m + 1) / (m + 1), ordered)
        knots[0] = 2 * knots[1] - knots[2]
        gap = 1e-6 * (1.0 + np.abs(knots).max())
        steps = np.arange(len(knots)) * gap
        knots = np.maximum.accumulate(knots - steps) + steps
        surprises = -np.log1p(-levels)

        excess = ordered[m - exceedances :] - ordered[m - exceedances - 1]
        mean = max(float(excess.mean()), FLOOR)
        index = _tail_index(excess)
        return cls(knots, surprises, mean * (1.0 - index), index + 1.0 / exceedances)

    def score(self, xp: Any, raw: Any) -> Any:
        """Raw scores of any shape -> scores in [0, 1], in the array namespace `xp`. NaN stays NaN."""
        return 1.0 - xp.exp(-self.surprise(xp, raw))

    def surprise(self, xp: Any, raw: Any) -> Any:
        """Raw scores of any shape -> -ln of the tail probability, from 0 without end."""
        knots = xp.asarray(self.knots)
        pieces = xp.minimum(xp.maximum(raw[..., None] - knots[:-1], 0.0), knots[1:] - knots[:-1])
        beyond = xp.maximum(raw - float(self.knots[-1]), 0.0)
        slopes = xp.asarray(np.diff(self.surprises) / np.diff(self.knots))
        return xp.sum(pieces * slopes, axis=-1) + xp.log(1.0 + beyond * (self.shape / self.scale)) / self.shape

    def inverse(self, xp: Any, score: Any) -> Any:
        """(n,) score -> (n,) the raw score that has it: the first knot for 0 and less, inf for 1."""
        surprise, surprises = -xp.log(1.0 - score), xp.asarray(self.surprises)
        pieces = xp.minimum(xp.maximum(surprise[:, None] - surprises[:-1], 0.0), surprises[1:] - surprises[:-1])
        beyond = xp.maximum(surprise - float(self.surprises[-1]), 0.0)
        slopes = xp.asarray(np.diff(self.knots) / np.diff(self.surprises))
        tail = (xp.exp(beyond * self.shape) - 1.0) * (self.scale / self.shape)
        return float(self.knots[0]) + xp.sum(pieces * slopes, axis=1) + tail


def _without_slipped_anomalies(ordered: FloatArray) -> FloatArray:
    """(m,) increasing -> the same without the few that lie far out."""
    median, high = np.quantile(ordered, [0.5, 0.8])
    near = ordered[ordered <= median + FAR * max(high - median, FLOOR)]
    return near if len(ordered) - len(near) <= max(1.0, SLIPPED * len(ordered)) else ordered


def _tail_index(excess: FloatArray) -> float:
    """(k,) increasing excesses -> the index of their generalised Pareto tail in [0, 0.5]; 0 is exponential."""
    k = len(excess)
    first = float(excess.mean())
    second = float((excess * np.arange(k - 1, -1, -1)).mean()) / (k - 1)
    if first <= 2.0 * second:
        return 0.5 if first > 0.0 else 0.0
    index = 2.0 - first / (first - 2.0 * second)
    return min(max(k * index / (k + SHAPE_POINTS), 0.0), 0.5)
