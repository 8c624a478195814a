"""How strange each point of one series of numbers is, with nothing known about it: no labels, no calendar, no period.

`whole` sees the whole series and ranks its stretches, `standing_out` picks some of them; `causal` sees a point and what
came before it, and `alarms` says when its score is high for this series. Both measure a point by the series' own usual level
and spread, so a series in other units, or upside down, scores the same. They look for stretches: points that deviate alone
are found where they are many or far out.

Missing values, NaN or infinite, are no evidence of anything. A series without two different values scores 0 everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

type FloatArray = NDArray[np.float64]
type BoolArray = NDArray[np.bool_]

NORMAL = 1.4826  # standard deviations of a normal distribution in one median absolute deviation

SHARES = (0.01, 0.02, 0.04, 0.08)  # of the series, in a window of `whole`
SHORTEST = 5  # points on either side in the smallest of them
ROUNDING = 1e-12  # of the largest value: what varies less than this does not vary
STILL = 0.02  # of the series' standard deviation: what moves less than this stands still
OWN_SPREAD = 0.1  # of a statistic's standard deviation, added to its robust spread

HISTORY = 4000  # latest points that say what is usual: two weeks of five minutes
FEWEST = 40  # points of history to judge the next one
EVERY = 20  # points between two looks at the history
FARTHEST = 15.0  # spreads: one point is no more evidence than this
SPREAD_FLOOR = 0.05  # of the standard deviation, added to the robust spread
MEMORY = 50  # points, the mean age of what the score remembers

PEAKS = 0.1  # share of the past scores that the tail is fitted to
RARE = 0.01  # share of the past scores beyond the level of an alarm
FEWEST_SCORES = 200

STANDS_OUT = 2.0  # spreads of the evidence of `whole` above its median


def whole(values: FloatArray) -> FloatArray:
    """(n,) series, oldest first -> (n,) evidence of strangeness, >= 0, for a look back at all of it. O(n).

    In windows around each point five statistics are taken: mean, maximum and minimum (levels, spikes), logarithm of the
    standard deviation and of the mean step (quiet, noisy, frozen, restless). Each is measured by its median and median
    absolute deviation over the series, z, and gives log(1 + z^2), which is twice the log likelihood that a Cauchy density,
    with its heavy tail, loses at z: two statistics that are both odd count more than one that is very odd, and no statistic
    drowns the others. Evidence is summed over statistics, averaged over the window, because each point of a strange
    stretch should share it, and summed over windows of four lengths, because nobody knows how long such a stretch lasts.
    """
    series = _normalised(values)
    evidence = np.zeros(len(series))
    if not series.any():
        return evidence
    steps = np.abs(np.diff(series, prepend=np.nan))
    for share in SHARES:
        half = max(SHORTEST, round(share * len(series) / 2))
        odd = np.zeros(len(series))
        for statistic in _statistics(series, steps, half):
            odd += np.nan_to_num(np.log1p(_deviation(statistic) ** 2))
        evidence += _sum(odd, half) / _sum(np.ones(len(odd)), half)
    return evidence


def causal(values: FloatArray) -> FloatArray:
    """(n,) series, oldest first -> (n,) score of each point by itself and those before it, 0 to FARTHEST, 0 while learning.

    The unit is the spread of the last HISTORY points: the distance to their median, no more than FARTHEST for one point,
    averaged with weights that halve about every 35 points. An average, because many moderate deviations in a row are worth
    more than one large one, and the cap, because one must not be remembered as many.
    """
    series, scores, score = np.where(np.isfinite(values), values, np.nan), np.zeros(len(values)), 0.0
    keep = 1.0 - 1.0 / MEMORY
    for start in range(FEWEST, len(series), EVERY):
        past = series[max(0, start - HISTORY):start]
        past = past[np.isfinite(past)]
        now = series[start:start + EVERY]
        distance = np.full(len(now), np.nan) if len(past) < FEWEST else np.minimum(_distance(now, past), FARTHEST)
        for i, z in enumerate(distance.tolist(), start):
            if z == z:  # a missing point changes nothing
                score = keep * score + (1.0 - keep) * z
            scores[i] = score
    return scores


def alarms(scores: FloatArray) -> BoolArray:
    """(n,) scores of `causal` -> (n,) whether each is beyond the level that RARE of the HISTORY before it exceeded.

    The level comes from a generalised Pareto distribution over the highest PEAKS of those scores, by its moments (Hosking
    and Wallis 1987, doi:10.1080/00401706.1987.10488243), as in Siffer et al. 2017, doi:10.1145/3097983.3098144; but scores
    that raised an alarm stay in, or the first change of level would be an alarm for ever. None for the first FEWEST_SCORES.
    """
    flagged = np.zeros(len(scores), bool)
    for start in range(FEWEST + FEWEST_SCORES, len(scores), EVERY):
        now = slice(start, start + EVERY)
        flagged[now] = scores[now] > _level(scores[max(FEWEST, start - HISTORY):start])
    return flagged


def standing_out(evidence: FloatArray) -> BoolArray:
    """(n,) evidence of `whole` -> (n,) whether each is STANDS_OUT robust spreads above the median.

    A list of what is worth a look, and no alarm: of pure noise it holds about a tenth.
    """
    middle = np.median(evidence) if len(evidence) else 0.0
    spread = NORMAL * np.median(np.abs(evidence - middle)) if len(evidence) else 0.0
    beyond: BoolArray = evidence > middle + STANDS_OUT * spread + ROUNDING
    return beyond


def _level(past: FloatArray) -> float:
    """What RARE of the scores exceed."""
    base = float(np.quantile(past, 1.0 - PEAKS))
    beyond = past[past > base] - base
    mean, variance = (float(beyond.mean()), float(beyond.var())) if len(beyond) else (0.0, 0.0)
    if variance <= 0.0:
        return float(past.max())
    shape = min(max(0.5 * (1.0 - mean**2 / variance), -0.5), 0.5)
    scale = 0.5 * mean * (1.0 + mean**2 / variance)
    times = float(np.log(PEAKS / RARE))
    return base + scale * (times if abs(shape) < 1e-6 else float(np.expm1(shape * times)) / shape)


def _distance(now: FloatArray, past: FloatArray) -> FloatArray:
    """(k,) points -> (k,) spreads of the past from its median; the past itself has no missing values."""
    unit = float(np.abs(past).max()) or 1.0
    past = past / unit
    middle = np.median(past)
    spread = NORMAL * np.median(np.abs(past - middle)) + SPREAD_FLOOR * past.std() + ROUNDING
    with np.errstate(over="ignore"):
        distance: FloatArray = np.abs(now / unit - middle) / spread
    return distance


def _normalised(values: FloatArray) -> FloatArray:
    """(n,) -> (n,) median 0, farthest point 1, NaN where missing; all 0 where nothing varies."""
    known = np.isfinite(values)
    unit = float(np.abs(values[known]).max(initial=0.0)) or 1.0
    series = np.where(known, values, np.nan) / unit
    if not known.any() or np.ptp(series[known]) <= ROUNDING:
        return np.zeros(len(values))
    series -= np.median(series[known])
    series /= np.abs(series[known]).max()
    return series


def _statistics(series: FloatArray, steps: FloatArray, half: int) -> tuple[FloatArray, ...]:
    """Five (n,) arrays: over the window around each point, NaN where too little of it is known."""
    mean, usual = _mean(series, half), float(np.nanstd(series))
    deviation = np.sqrt(np.maximum(_mean(series**2, half) - mean**2, 0.0))
    return (
        mean,
        _maximum(series, half),
        _maximum(-series, half),
        np.log(deviation + STILL * usual),
        np.log(_mean(steps, half) + STILL * usual),
    )


def _deviation(statistic: FloatArray) -> FloatArray:
    """(n,) -> (n,) spreads from its median."""
    known = statistic[np.isfinite(statistic)]
    if not len(known):
        return statistic
    middle = np.median(known)
    spread = NORMAL * np.median(np.abs(known - middle)) + OWN_SPREAD * known.std() + 1e-9
    deviation: FloatArray = (statistic - middle) / spread
    return deviation


def _mean(series: FloatArray, half: int) -> FloatArray:
    """(n,) -> (n,) mean of the `half` points on either side and the point; NaN where less than a quarter is known."""
    known = np.isfinite(series)
    count = _sum(known.astype(float), half)
    enough = count >= half / 2
    return np.where(enough, _sum(np.where(known, series, 0.0), half) / np.maximum(count, 1.0), np.nan)


def _sum(series: FloatArray, half: int) -> FloatArray:
    total = np.concatenate([[0.0], np.cumsum(series)])
    at = np.arange(len(series))
    window: FloatArray = total[np.minimum(at + half + 1, len(series))] - total[np.maximum(at - half, 0)]
    return window


def _maximum(series: FloatArray, half: int) -> FloatArray:
    """As `_mean`, by the running maxima of blocks from both ends (van Herk 1992, doi:10.1016/0167-8655(92)90069-C)."""
    width, n = 2 * half + 1, len(series)
    blocks = -(-(n + 2 * half) // width)
    padded = np.full(blocks * width, -np.inf)
    padded[half:half + n] = np.where(np.isfinite(series), series, -np.inf)
    rows = padded.reshape(blocks, width)
    from_left = np.maximum.accumulate(rows, axis=1).ravel()
    from_right = np.maximum.accumulate(rows[:, ::-1], axis=1)[:, ::-1].ravel()
    highest = np.maximum(from_right[:n], from_left[width - 1:width - 1 + n])
    return np.where(_sum(np.isfinite(series).astype(float), half) >= half / 2, highest, np.nan)
