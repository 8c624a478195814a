"""Is recent data still what a model was trained on? Three distances, each against a threshold that knows the sample sizes.

    psi   population stability index, sum (p - q) ln(p / q) over bins; under no drift about (1/n + 1/m) times chi-squared
          with bins - 1 degrees of freedom (B. Yurdakul, Statistical Properties of Population Stability Index, 2018)
    js    Jensen-Shannon distance to base 2; eight times its divergence in nats has the same limit (J. Lin, 1991)
    ks    two-sample Kolmogorov-Smirnov statistic, largest distance of the two distribution functions, with its asymptotic
          critical value (N. Smirnov, 1948)

A threshold is the larger of what practice calls an effect and what chance alone exceeds with probability `ALPHA` for a whole
table. n and m are effective sizes: what follows from the value before says less than one that stands alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detectors.distances import js_distance

type FloatArray = NDArray[np.float64]
type IntArray = NDArray[np.int64]
type Level = Literal["none", "moderate", "large"]

ALPHA = 0.01  # false alarms of a whole table where nothing drifts
# A population stability index of .1 is watched and one of .25 acted on (N. Siddiqi, Credit Risk Scorecards, 2006). Two
# normal distributions whose means lie d deviations apart have an index of d squared: the others follow from the same d.
PSI = {"moderate": 0.1, "large": 0.25}
JS = {name: math.sqrt(psi / (8 * math.log(2))) for name, psi in PSI.items()}
KS = {name: math.erf(math.sqrt(psi / 8)) for name, psi in PSI.items()}
FEWEST_RECENT, FEWEST_REFERENCE = 14, 28
LAGS = 100
FEWEST_BINS, MOST_BINS, A_BIN = 3, 10, 5  # values a bin of the smaller sample holds
SMOOTHING = 0.5  # added to every bin: an empty one is no proof that nothing falls into it
TREND = 2.0  # standard errors of a slope that is no chance


@dataclass(frozen=True, slots=True)
class Distance:
    """One figure with what it must reach to be an effect worth watching and worth acting on."""

    value: float
    moderate: float
    large: float

    @property
    def level(self) -> Level:
        return "large" if self.value >= self.large else "moderate" if self.value >= self.moderate else "none"

    def to_json(self) -> dict[str, float]:
        return {"value": round(self.value, 4), "moderate": round(self.moderate, 4), "threshold": round(self.large, 4)}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One feature's recent values against its reference. `recent` and `reference` are the effective sizes."""

    psi: Distance
    js: Distance
    ks: Distance
    bins: int
    recent: float
    reference: float

    @property
    def level(self) -> Level:
        """The largest of the three."""
        return max((self.psi.level, self.js.level, self.ks.level), key=("none", "moderate", "large").index)

    @property
    def excess(self) -> float:
        """How far beyond its threshold the farthest figure is: 1 and more is drift."""
        return max(each.value / each.large for each in (self.psi, self.js, self.ks))

    def to_json(self) -> dict[str, Any]:
        return {"level": self.level, "psi": self.psi.to_json(), "js": self.js.to_json(), "ks": self.ks.to_json(),
                "bins": self.bins, "effective": {"recent": round(self.recent, 1), "reference": round(self.reference, 1)}}


def compare(reference: FloatArray, recent: FloatArray, features: int = 1, alpha: float = ALPHA) -> Comparison | None:
    """(m,) and (n,) values in the order of time, NaN left out, one of `features` that are looked at together.

    The figures are the same under any increasing transformation of the values, and whichever sample is called recent. None
    below FEWEST_RECENT and FEWEST_REFERENCE values, or where they hang together so much that not even samples which do not
    overlap would show anything.
    """
    m, n = effective_sizes(reference, recent)
    reference, recent = reference[np.isfinite(reference)], recent[np.isfinite(recent)]
    if len(recent) < FEWEST_RECENT or len(reference) < FEWEST_REFERENCE:
        return None
    # Bonferroni: over the features, and over bins and distribution function, which see different things.
    level, spread = alpha / (2 * features), 1 / n + 1 / m
    reached = ks_critical(level, n, m)
    if reached >= 1:
        return None
    p, q = (smoothed(counts) for counts in binned(reference, recent, min(m, n)))
    chance = chi2_quantile(1 - level, len(p) - 1) * spread
    return Comparison(
        Distance(float(((p - q) * np.log(p / q)).sum()), *(max(chance, psi) for psi in PSI.values())),
        Distance(float(js_distance(p, q)), *(max(math.sqrt(chance / (8 * math.log(2))), js) for js in JS.values())),
        Distance(ks_statistic(reference, recent), *(max(reached, ks) for ks in KS.values())),
        len(p), n, m)


def binned(reference: FloatArray, recent: FloatArray, size: float) -> tuple[IntArray, IntArray]:
    """Counts between the quantiles of both samples together; as many bins as `size` values fill, one where all are equal."""
    bins = min(max(round(size / A_BIN), FEWEST_BINS), MOST_BINS)
    together = np.concatenate((reference, recent))
    # Each edge is a value that exists, and belongs to the bin below it.
    edges = np.unique(np.quantile(together, np.arange(1, bins) / bins, method="inverted_cdf"))
    edges = edges[edges < together.max()]
    return tuple(np.bincount(np.searchsorted(edges, x), minlength=len(edges) + 1) for x in (reference, recent))  # type: ignore[return-value]


def smoothed(counts: IntArray) -> FloatArray:
    """(b,) counts -> (b,) shares, none of them 0."""
    shares: FloatArray = (counts + SMOOTHING) / (counts.sum() + SMOOTHING * len(counts))
    return shares


def ks_statistic(a: FloatArray, b: FloatArray) -> float:
    """The largest distance of two empirical distribution functions, from 0 to 1."""
    a, b = np.sort(a), np.sort(b)
    at = np.concatenate((a, b))
    return float(np.abs(np.searchsorted(a, at, "right") / len(a) - np.searchsorted(b, at, "right") / len(b)).max())


def ks_critical(alpha: float, n: float, m: float) -> float:
    """What the statistic exceeds with probability `alpha` where both samples are of one continuous distribution.

    The limit, with the correction for small samples of M. Stephens (1970), which keeps it from being too strict.
    """
    root = math.sqrt(n * m / (n + m))
    return min(math.sqrt(-math.log(alpha / 2) / 2) / (root + 0.12 + 0.11 / root), 1.0)


@lru_cache(4096)
def chi2_quantile(probability: float, degrees: int) -> float:
    """By bisection of the distribution function; 0 for no degrees of freedom."""
    if degrees < 1:
        return 0.0
    low, high = 0.0, 20.0 + 10.0 * degrees
    while chi2_tail(high, degrees) > 1 - probability:
        high *= 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if chi2_tail(middle, degrees) > 1 - probability else (low, middle)
    return high


def chi2_tail(x: float, degrees: int) -> float:
    """P(chi-squared > x): a finite sum for whole degrees of freedom (Abramowitz and Stegun, 26.4.4 and 26.4.5)."""
    half, odd = x / 2, degrees % 2
    term = math.exp(-half) * (2 * math.sqrt(half / math.pi) if odd else 1.0)
    total = math.erfc(math.sqrt(half)) if odd else 0.0
    for k in range(degrees // 2):
        total += term
        term *= half / (k + 1 + odd / 2)
    return total


def effective_sizes(reference: FloatArray, recent: FloatArray) -> tuple[float, float]:
    """How many independent values two stretches of one series are worth, taken for a first-order autoregression.

    Its shares of values below a point are what is compared, and at the median these hang together by 2/pi asin(r^k) over k
    steps: n / (1 + 2 sum over k). r is the autocorrelation of the values' ranks within each stretch, corrected for its bias
    in short series (F. Marriott and J. Pope, 1954), from 0 to 0.95.
    """
    known = [int(np.isfinite(x).sum()) for x in (reference, recent)]
    products, squares = 0.0, 0.0
    for x in (reference, recent):
        ranks = _ranks(x)
        pairs = np.isfinite(ranks[1:]) & np.isfinite(ranks[:-1])
        products += float((ranks[1:] * ranks[:-1])[pairs].sum())
        squares += float(((ranks[1:] ** 2 + ranks[:-1] ** 2) / 2)[pairs].sum())
    r = products / squares if squares else 0.0
    r = min(max(r + (1 + 3 * r) / max(sum(known), 1), 0.0), 0.95)
    worth = 1 / (1 + 4 / math.pi * float(np.arcsin(r ** np.arange(1, LAGS)).sum()))
    return known[0] * worth, known[1] * worth


def steadied(values: FloatArray, time: IntArray, phase: IntArray | None, recent: NDArray[np.bool_]) -> list[FloatArray]:
    """(m,) values at buckets `time` -> the same without their season, and once more without the trend of the reference.

    `phase` (m,) is the place in the season, such as the weekday; what is usual there is learnt from both stretches, each
    around its own middle, so that neither fits better by being looked at. A list of one where there is hardly a trend.
    Otherwise both must differ for it to be drift: a table that goes on growing is what it was.
    """
    level = values.copy() if phase is None else values - _season(values, phase, recent)
    line = _trend(level[~recent], time[~recent])
    return [level] if line is None else [level, level - line * (time - time[~recent].mean())]


def _season(values: FloatArray, phase: IntArray, recent: NDArray[np.bool_]) -> FloatArray:
    """(m,) what the phase of each value adds to it."""
    known = np.isfinite(values)
    centred, places, usual = values[known], phase[known], np.zeros(int(phase.max(initial=0)) + 1)
    for part in (recent[known], ~recent[known]):
        if part.any():
            centred[part] -= np.median(centred[part])
    for place in set(places.tolist()):
        usual[place] = np.median(centred[places == place])
    return usual[phase]


def _trend(values: FloatArray, time: IntArray) -> float | None:
    """The slope of a straight line, where it is beyond TREND standard errors; values far out count for less."""
    known = np.isfinite(values)
    if known.sum() < FEWEST_REFERENCE:
        return None
    x, y = time[known] - time[known].mean(), values[known]
    slope = float((x * (y - y.mean())).sum() / (x**2).sum())
    for _ in range(2):
        rest = y - np.median(y) - slope * x
        spread = 1.4826 * float(np.median(np.abs(rest - np.median(rest)))) or float(rest.std())
        if not spread:
            return slope or None
        near = np.clip(rest - np.median(rest), -3 * spread, 3 * spread)
        slope += float((x * near).sum() / (x**2).sum())
    whole = np.full(len(values), np.nan)
    whole[known] = near
    worth = effective_sizes(whole, whole[:0])[0] / len(y)
    error = float(near.std()) / math.sqrt(float((x**2).sum()) * worth)
    return slope if abs(slope) > TREND * error else None


def _ranks(values: FloatArray) -> FloatArray:
    """(m,) ranks around 0, equal values alike; NaN stays where it is."""
    ranks = np.full(len(values), np.nan)
    known = np.isfinite(values)
    own, ordered = values[known], np.sort(values[known])
    below, up_to = np.searchsorted(ordered, own), np.searchsorted(ordered, own, "right")
    ranks[known] = (below + up_to - len(own)) / 2
    return ranks


def compare_features(features: Mapping[str, list[FloatArray]], recent: NDArray[np.bool_],
                     scores: tuple[FloatArray, FloatArray] | None = None) -> dict[str, Comparison]:
    """Every feature that says enough, and `score` where there are scores of before and after; the farthest first.

    Each comes as one or more (m,) views of the same values, of which that which has moved least counts.
    """
    of = len(features) + (scores is not None)
    found = {}
    for name, views in features.items():
        compared = [compare(view[~recent], view[recent], of) for view in views]
        known = [one for one in compared if one is not None]
        if known:
            found[name] = min(known, key=lambda one: one.excess)
    if scores is not None and (judged := compare(*scores, of)) is not None:
        found["score"] = judged
    return dict(sorted(found.items(), key=lambda item: -item[1].excess))
