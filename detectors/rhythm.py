"""What time does to a metric: a weekday of its own, or a steady rise such as that of an id. Taken out before it is judged.

Each metric keeps the simplest view that explains its past: none, the weekday, or the last value plus the usual step. A
view has to predict past batches, each without its own help, clearly better than none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from detectors.metrics import BoolArray, FloatArray, IntArray

WEEKDAY_BATCHES = 21
TREND_BATCHES = 10
# How much smaller than without it the error has to be.
WEEKDAY_GAIN, TREND_GAIN = 0.8, 0.6
# And this share of a trend's steps goes its way: a metric that wanders is no trend.
ONE_WAY = 0.9
SHRINKAGE = 2.0  # batches that a weekday's mean is drawn to the overall mean with
CLIP = 6.0  # median absolute deviations beyond which a batch teaches nothing more
UNKNOWN_WEEKDAY: Final = -1


@dataclass(frozen=True, slots=True)
class Rhythm:
    """The part of p metrics that time explains, on their even scale.

    `weekday` (8, p) effects from Monday on, the last row for an unknown weekday, 0 where there is none; `trend` (p,) which
    metrics go on from their last value by `step` (p,).
    """

    weekday: FloatArray
    trend: BoolArray
    step: FloatArray

    def level(self, xp: Any, last: Any, effects: Any) -> Any:
        """(n, p) what to take off: `last` (n, p) values before the judged ones, `effects` (n, p) of the judged weekdays.

        Where nothing came before, a rising metric is NaN: it cannot be judged.
        """
        return xp.where(xp.asarray(self.trend), last + xp.asarray(self.step), effects)


def rhythm_of(even: FloatArray, noise: FloatArray, weekday: IntArray) -> tuple[Rhythm, FloatArray]:
    """(h, p) metrics, (p,) their sampling noise, (h,) weekdays or -1 -> the rhythm, and the (h, p) metrics without it."""
    h, p = even.shape
    rhythm = Rhythm(np.zeros((8, p)), np.zeros(p, np.bool_), np.zeros(p))
    if h < TREND_BATCHES:
        return rhythm, even
    middle, wide = _spread(even, noise)
    clipped = np.clip(even, middle - wide, middle + wide)
    known = np.isfinite(even)
    mean = np.nanmean(np.where(known, clipped, np.nan), axis=0, where=known)
    own = np.where(known, clipped - mean, 0.0)
    least, best = _error(np.where(known, even - mean, np.nan), wide), even.copy()
    if h >= WEEKDAY_BATCHES and (weekday >= 0).all() and len(np.unique(weekday)) > 1:
        day = np.eye(7)[weekday]
        sums, counts = day.T @ own, day.T @ known
        others = (sums[weekday] - own) / (counts[weekday] - known + SHRINKAGE)
        error = _error(even - mean - others, wide)
        better = error < WEEKDAY_GAIN * least
        rhythm.weekday[:7, better] = (sums / (counts + SHRINKAGE))[:, better]
        best[:, better], least = (even - others)[:, better], np.where(better, error, least)
    before = forward_filled(even)[:-1]
    steps = even[1:] - before
    step = np.nanmedian(steps, axis=0)
    left = np.vstack([np.full(p, np.nan), steps - step])
    one_way = np.nanmean(np.where(np.isfinite(steps), steps * np.sign(step) > 0, np.nan), axis=0) >= ONE_WAY
    better = one_way & (_error(left[1:], wide) < TREND_GAIN * least)
    rhythm.trend[better], rhythm.step[better] = True, step[better]
    rhythm.weekday[:, better] = 0.0
    best[:, better] = left[:, better]
    return rhythm, best


def forward_filled(even: FloatArray) -> FloatArray:
    """(h, p) with NaN replaced by the latest value before it, where there is one."""
    rows = np.where(np.isfinite(even), np.arange(len(even))[:, None], 0)
    return np.asarray(np.take_along_axis(even, np.maximum.accumulate(rows, axis=0), axis=0))


def _spread(even: FloatArray, noise: FloatArray) -> tuple[FloatArray, FloatArray]:
    middle = np.nanmedian(even, axis=0)
    return middle, CLIP * np.maximum(1.4826 * np.nanmedian(np.abs(even - middle), axis=0), noise)


def _error(left: FloatArray, wide: FloatArray) -> FloatArray:
    """(p,) typical size of what is left over: half by the median, half by the clipped root mean square."""
    root = np.sqrt(np.nanmean(np.clip(left, -wide, wide) ** 2, axis=0))
    error: FloatArray = np.nanmedian(np.abs(left), axis=0) + 0.5 * root
    return error
