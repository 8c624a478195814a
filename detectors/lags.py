"""How late is too late? The lag filter: minutes after due in, expected range and calibrated score out.

    history (n, k) lags of earlier arrivals, value (n,) the lag to judge -> Verdict(expected, lower, upper, score)

A lag is measured in the feed's own units, one for each side of its median: late tails are long, early ones short. Three
faults are weighed against "normal": late, early, and a drift that lasts for some arrivals, of which a two-state filter over
the last arrivals keeps the odds. The score is the weight of the three together, calibrated: one normal arrival in 100 passes
0.99. What never came has no lag; it is judged by waiting, and late from `upper` on.

Written once against the array API: numpy runs it here over n independent feeds, training traces it into ONNX.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

type Array = Any  # an array of whichever namespace runs the code
type FloatArray = NDArray[np.float64]

WINDOW = 365  # arrivals that are remembered
HALF_LIFE, USUAL_HALF_LIFE = 180.0, 45.0  # arrivals, for the units and for the usual lag, which follows slow changes
FEWEST = 5  # arrivals before the first verdict
RECENT = 8  # arrivals that the odds of a drift rest on: older ones would change them by less than a hundredth
MEANWHILE = 3  # arrivals that a drift lasts: those before them tell what was usual
ACCEPT_AFTER = 12  # arrivals in a row outside the usual are the new usual
FLOOR = 1.0  # minutes: no feed is known better
LEVELS = (0.03, 0.1, 0.5, 0.8, 0.97)  # quantiles that the units and the weight of the tails are made of
NORMAL_80, NORMAL_90, NORMAL_97 = 0.8416, 1.2816, 1.8808  # where a standard normal has them
# The units of few arrivals are drawn to the mean of both sides, and widened because they are uncertain. Most feeds have
# their 97 % quantile TAIL units above the usual: lighter and heavier tails move the unit, never below LIGHTEST.
PRIOR_ARRIVALS, TAIL, LIGHTEST, TAIL_ARRIVALS = 8.0, 3.5, 0.6, 100.0
# Normal lags in units: Gaussian, and from NORMAL_90 on a generalised Pareto tail, as real feeds have it.
TAIL_SHAPE, TAIL_SCALE = 0.3, 1.1
# Faults: how often they come, and where they lie in units. A drift begins rarely and then stays.
DRIFT_BEGINS, DRIFT_STAYS, LATE_SHARE, EARLY_SHARE = 0.02, 0.7, 0.04, 0.02
LATE_MEDIAN, LATE_SPREAD, DRIFT, DRIFT_SPREAD, DRIFT_MOST = 4.5, 0.7, 2.3, 1.2, 20.0
EARLY_FROM, EARLY_RISE, EARLY_MOST, NEVER = -2.4, 6.0, 12.0, 1e-3
FAR = 1e300  # stands for "no value" where values are sorted

# Where in units the likelihoods are tabulated: they fall to the last of EARLY, and rise from the first of LATE.
EARLY = np.array([EARLY_FROM - EARLY_MOST / EARLY_RISE, EARLY_FROM, EARLY_FROM + 0.1])
LATE = np.concatenate([np.arange(-1.25, 4.0, 0.25), np.arange(4.0, 8.0), [8, 10, 13, 17, 22, 30, 40, 60, 100, 1e3, 1e6]])
UNITS = np.concatenate([EARLY, LATE])


class Verdict(NamedTuple):
    """(n,) minutes after due, three times, and a score in [0, 1]. NaN where fewer than FEWEST arrivals are known."""

    expected: Array
    lower: Array
    upper: Array
    score: Array


def judge(xp: Any, history: Array, value: Array, threshold: Array) -> Verdict:
    """Earlier lags (n, k), k >= RECENT, oldest first, NaN where none is known; the lag to judge (n,); threshold (n,).

    `score` reaches `threshold` exactly where the value lies outside [lower, upper]; a NaN value has bounds all the same.
    """
    usual, above, below, known = units(xp, history)
    recent = _in_units(xp, history[:, -RECENT:], usual[:, :1], above[:, :1], below[:, :1])
    surprise = _surprise(xp, _drift_odds(xp, xp.where(known[:, :1] >= FEWEST, recent, np.nan)))
    early, late = _crossings(xp, surprise, -xp.log(1.0 - threshold))
    usual, above, below = usual[:, 1], above[:, 1], below[:, 1]
    score = 1.0 - xp.exp(-_interpolate(xp, _in_units(xp, value, usual, above, below), surprise))
    lower, upper = usual + early * below, usual + late * xp.where(late > 0.0, above, below)
    enough = known[:, 1] >= FEWEST
    return Verdict(*(xp.where(enough, answer, np.nan) for answer in (usual, lower, upper, score)))


def units(xp: Any, history: Array) -> tuple[Array, Array, Array, Array]:
    """(n, k) lags -> usual lag, unit above and below it in minutes, and how many lags they rest on, each (n, 2).

    The first column leaves out the last MEANWHILE lags, which may be a drift, the second knows all of them.
    """
    lags = xp.where(xp.isfinite(history), history, FAR)
    order = xp.argsort(lags, axis=1, stable=True)  # equal lags weigh in one order wherever this runs
    lags = xp.take_along_axis(lags, order, axis=1)[:, None, :]
    place = xp.astype(order, xp.float64)[:, None, :]
    age = xp.max(place, axis=2, keepdims=True) - place
    left_out = age < xp.asarray(np.array([[float(MEANWHILE)], [0.0]]))
    counts = xp.astype(~left_out & (lags < FAR), xp.float64)
    known = xp.sum(counts, axis=2)
    usual = _quantiles(xp, lags, counts * xp.exp(age * (-np.log(2.0) / USUAL_HALF_LIFE)), (0.5,))[:, :, 0]
    quantile = _quantiles(xp, lags, counts * xp.exp(age * (-np.log(2.0) / HALF_LIFE)), LEVELS)
    low, tenth, middle, most, high = (quantile[:, :, i] for i in range(len(LEVELS)))

    above = xp.log(xp.maximum((most - middle) / NORMAL_80, FLOOR))
    below = xp.log(xp.maximum((middle - tenth) / NORMAL_90, FLOOR))
    both, trust = 0.5 * (above + below), known / (known + PRIOR_ARRIVALS)
    above, below = both + trust * (above - both), both + trust * (below - both)

    number, trust = xp.maximum(known, 1.0), known / (known + TAIL_ARRIVALS)
    uncertain = xp.log(1.0 + 3.0 / number + 15.0 / number**2)
    late_tail = xp.log(xp.maximum((high - middle) * xp.exp(-above) / TAIL, LIGHTEST))
    early_tail = xp.log(xp.maximum((middle - low) * xp.exp(-below) / NORMAL_97, 1.0))
    return usual, xp.exp(above + uncertain + trust * late_tail), xp.exp(below + uncertain + trust * early_tail), known


def _quantiles(xp: Any, ordered: Array, weight: Array, levels: tuple[float, ...]) -> Array:
    """Increasing values (n, 1, k) with weights (n, p, k), 0 for what does not count -> (n, p, len(levels)), interpolated."""
    reached = xp.cumulative_sum(weight, axis=2)
    target = reached[:, :, -1:] * xp.asarray(np.array(levels))
    counts, centre, values = weight > 0.0, reached - 0.5 * weight, ordered + 0.0 * weight
    before = counts[:, :, None, :] & (centre[:, :, None, :] <= target[:, :, :, None])
    after = counts[:, :, None, :] & (centre[:, :, None, :] > target[:, :, :, None])
    low, high = (xp.max(xp.where(before, part[:, :, None, :], -FAR), axis=3) for part in (values, centre))
    low_end, high_end = (xp.min(xp.where(after, part[:, :, None, :], FAR), axis=3) for part in (values, centre))
    low = xp.where(low > -FAR, low, low_end)
    return low + (target - high) / (high_end - high) * (xp.where(low_end < FAR, low_end, low) - low)


def _in_units(xp: Any, lag: Array, usual: Array, above: Array, below: Array) -> Array:
    return (lag - usual) / xp.where(lag > usual, above, below)


def _drift_odds(xp: Any, recent: Array) -> Array:
    """(n, RECENT) last lags in units, NaN where unknown -> (n,) odds that the next arrival is part of a drift.

    The forward filter of a two-state hidden Markov model (Rabiner 1989, doi:10.1109/5.18626), from its long-run odds on.
    """
    evidence = _interpolate(xp, recent, xp.asarray(_DRIFT_EVIDENCE))
    ratio = xp.exp(xp.where(xp.isnan(evidence), 0.0, evidence))
    odds = xp.zeros_like(ratio[:, 0]) + DRIFT_BEGINS / (1.0 - DRIFT_STAYS)
    for j in range(RECENT):
        odds = odds * ratio[:, j]
        odds = (DRIFT_STAYS * odds + DRIFT_BEGINS) / ((1.0 - DRIFT_STAYS) * odds + (1.0 - DRIFT_BEGINS))
    return odds


def _surprise(xp: Any, odds: Array) -> Array:
    """(n,) odds of a drift -> (n, len(UNITS)) calibrated surprise, -ln of the tail probability, of a lag there."""
    raw = xp.log(odds[:, None] * xp.asarray(np.exp(_LOG_DRIFT)) + xp.asarray(_FAULTS)) - np.log(_NORMAL_SHARE)
    early, late = raw[:, : len(EARLY)], raw[:, len(EARLY) :]
    return xp.concat([_calibrated(xp, early, EARLY_RAW), _calibrated(xp, late, LATE_RAW)], axis=1)


def _calibrated(xp: Any, raw: Array, knots: FloatArray) -> Array:
    """(n, g) log odds of a fault -> surprise: lines through (knots, -ln TAILS), the last without an end."""
    width = np.append(np.diff(knots)[:-1], np.inf)
    pieces = xp.minimum(xp.maximum(raw[:, :, None] - xp.asarray(knots[:-1]), 0.0), xp.asarray(width))
    return xp.sum(pieces * xp.asarray(-np.diff(np.log(TAILS)) / np.diff(knots)), axis=2)


def _interpolate(xp: Any, place: Array, heights: Array) -> Array:
    """Place (...,) in units, heights (..., len(UNITS)) -> (...,) on the lines between them, level outside; NaN stays."""
    pieces = xp.minimum(xp.maximum(place[..., None] - xp.asarray(UNITS[:-1]), 0.0), xp.asarray(np.diff(UNITS)))
    slopes = (heights[..., 1:] - heights[..., :-1]) / xp.asarray(np.diff(UNITS))
    return heights[..., 0] + xp.sum(pieces * slopes, axis=-1)


def _crossings(xp: Any, surprise: Array, wanted: Array) -> tuple[Array, Array]:
    """(n, len(UNITS)) surprise, (n,) wanted -> where in units, on the early (< 0) and the late side, (n,) it is reached."""
    first = len(EARLY)

    def outwards(inner: Array, outer: Array, step: FloatArray) -> Array:
        share = (wanted[:, None] - inner) / xp.maximum(outer - inner, 1e-300)
        return xp.sum(xp.minimum(xp.maximum(share, 0.0), 1.0) * xp.asarray(step), axis=1)

    early = outwards(surprise[:, 1:first], surprise[:, : first - 1], np.diff(EARLY))
    late = outwards(surprise[:, first:-1], surprise[:, first + 1 :], np.diff(LATE))
    return float(EARLY[-1]) - early, float(LATE[0]) + late


def _log_ratios() -> tuple[FloatArray, FloatArray, FloatArray]:
    """Log likelihood ratios of drift, late and early faults to a normal lag, at UNITS; monotone, so that bounds exist."""

    def normal(x: FloatArray, mean: float, sd: float) -> FloatArray:
        density: FloatArray = np.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))
        return density

    excess = np.maximum(UNITS - NORMAL_90, 0.0) / TAIL_SCALE
    tail = 0.1 / TAIL_SCALE * (1.0 + TAIL_SHAPE * excess) ** (-1.0 / TAIL_SHAPE - 1.0)
    usual = np.where(UNITS < NORMAL_90, normal(UNITS, 0.0, 1.0), tail)
    drift = 0.6 * normal(UNITS, DRIFT, DRIFT_SPREAD) + 0.4 * normal(UNITS, 1.6 * DRIFT, 2.0 * DRIFT_SPREAD)
    ratio = np.minimum(drift / usual, DRIFT_MOST)
    ratio[: len(EARLY)] = ratio[len(EARLY)]
    positive = np.maximum(UNITS, 0.1)
    late = normal(np.log(positive / LATE_MEDIAN), 0.0, LATE_SPREAD) / positive / usual
    late = np.where(UNITS > 0.5, np.maximum.accumulate(late) * (1.0 + 0.02 * positive), NEVER)
    rise = np.log(0.3) + np.minimum(EARLY_RISE * (EARLY_FROM - UNITS), EARLY_MOST)
    early = np.where(UNITS <= EARLY_FROM, rise, np.log(NEVER))
    return np.log(np.maximum.accumulate(ratio)), np.log(late), early


_LOG_DRIFT, _LOG_LATE, _LOG_EARLY = _log_ratios()
_NORMAL_SHARE = 1.0 - LATE_SHARE - EARLY_SHARE
_FAULTS = LATE_SHARE * np.exp(_LOG_LATE) + EARLY_SHARE * np.exp(_LOG_EARLY)
_DRIFT_EVIDENCE = _LOG_DRIFT - np.log(_NORMAL_SHARE + _FAULTS)
# Log odds that clean simulated feeds (normal, exponential, lognormal 0.5 and 1) pass with these probabilities on the whole;
# the late side has 13 false alarms in 14, and the heaviest tail, of lognormal 1, twice its share.
TAILS = np.array([1.0, 0.5, 0.3, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001, 0.0001])
LATE_RAW = np.array([-9.0, -8.6, -5.2, -1.8, -0.7, 0.1, 0.55, 0.95, 1.65, 2.6])
EARLY_RAW = np.array([-9.0, -4.7, -4.4, -3.7, -3.3, -2.6, -2.3, -1.5, 1.1, 2.2])


def accepted_from(lags: FloatArray) -> int:
    """(m,) lags of all arrivals, oldest first, none missing -> the first that is learnt from.

    ACCEPT_AFTER arrivals in a row above the 80 % or below the 10 % quantile of what came before them, by more than FLOOR,
    are no fault but the new usual: a feed that was moved to another hour. Nothing before them counts any more.
    """
    start = 0
    while (change := _change(lags[start:])) is not None:
        start += change
    return start


def _change(lags: FloatArray) -> int | None:
    """Where the first run begins that is a new usual."""
    fewest = FEWEST + 1
    if len(lags) < fewest + ACCEPT_AFTER:
        return None
    runs = sliding_window_view(lags, ACCEPT_AFTER)[fewest:]
    lowest, highest, last = runs.min(axis=1), runs.max(axis=1), lags[fewest - 1 :][: len(runs)]
    # Were the lag just before a run part of it already, the run would have been found one arrival earlier.
    at = np.flatnonzero((last < lowest) | (last > highest))
    earlier = np.arange(len(lags)) < fewest + at[:, None]
    weight = np.exp2(np.arange(len(lags)) / HALF_LIFE)
    below = (earlier & (lags < lowest[at, None] - FLOOR)) @ weight
    above = (earlier & (lags > highest[at, None] + FLOOR)) @ weight
    share = np.maximum(below / LEVELS[3], above / (1.0 - LEVELS[1]))
    found = at[share >= earlier @ weight]
    return fewest + int(found[0]) if len(found) else None
