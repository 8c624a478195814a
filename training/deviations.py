"""What an outlier detector looks at: how far a count is from where its table has been, in the table's own spreads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from training.series import FloatArray

# By granularity: buckets of a season, seasons of history, mean ages (in buckets) of what the quick and the slow level know.
SEASONS = {
    "hourly": (168, 4, (6, 72)),
    "daily": (7, 8, (7, 28)),
    "weekly": (1, 26, (4, 13)),
    "monthly": (1, 24, (3, 12)),
}
FEATURES = 2
FEWEST = 10  # known buckets in the window, and two seasons, without which nothing is said
FLOOR = 0.02  # smallest spread in log1p(rows): nobody asks about 2 %
CLIP = 3.0  # spreads beyond which a bucket stops pulling the level
ROOT = 1.479  # standard deviation over the squared mean root of a normal distribution's absolute value
STALE = 0.01  # share of its information that a level keeps at least, however long ago the last bucket is known
SAME = 1e-9  # log1p of equal counts differs by rounding only
FAULTY = 0.2  # share of exact repeats that is no news: so many would be faults
ABSENT = 1e6  # stands for unknown in a sorted list: above any log1p(rows)


class Context(NamedTuple):
    """What the history says about the judged bucket, in log1p(rows); NaN where it says too little."""

    expected: Any  # (n, 2) from the quick and from the slow level
    spread: Any  # (n, 2) of their errors, wider on holidays
    last: Any  # (n, 1) the bucket before


@dataclass(frozen=True, slots=True)
class Deviations:
    """Two features of a count: its deviation from a quick and from a slow level plus its season, in spreads.

    The season is the median by slot of what the weeks of the window leave around their own medians; levels are
    exponentially weighted means of the rest, clipped. A spread is the usual error of its level one bucket ahead over the
    last half of the window, drawn half-way to what is usual in the table; it grows as recent buckets are unknown, and is
    twice as wide next to a holiday, three times as wide on one. An exact repeat of the bucket before is evidence of a stuck
    load: it adds to both deviations, the more the rarer repeats are.
    """

    granularity: str
    usual: FloatArray | None = None  # (2,) median spread of the table, once known
    repeat: float = 0.0  # spreads that an exact repeat counts for

    @classmethod
    def fit(cls, granularity: str, time: Any, history: Any, holiday: Any, value: FloatArray) -> Deviations:
        """(n, ...) inputs of known buckets -> the features with what is usual in their table."""
        with np.errstate(invalid="ignore"):
            context = cls(granularity).context(np, time, history, holiday)
        informed = np.isfinite(context.expected[:, 0])
        if not informed.any():
            return cls(granularity)
        level, spread = np.log1p(value[informed]), context.spread[informed]
        repeats = np.abs(level - context.last[informed, 0]) < SAME
        # As likely by chance as it has been here, or as the density at the centre of a normal distribution.
        density = np.minimum(0.4 / (np.exp(level) * spread[:, 0]), 1.0)
        chance = max((repeats.sum() + 0.5) / (len(level) + 5.0), float(np.median(density)))
        return cls(granularity, np.median(spread, axis=0), 2.0 * float(np.sqrt(np.log(max(FAULTY / chance, 1.0)))))

    @property
    def window(self) -> int:
        """Buckets of history."""
        slots, blocks, _ = SEASONS[self.granularity]
        return slots * blocks

    def context(self, xp: Any, time: Any, history: Any, holiday: Any) -> Context:
        """time (n,), history (n, k), holiday (n, k + 1) -> what is worth knowing about the judged buckets."""
        slots, blocks, ages = SEASONS[self.granularity]
        window, half = self.window, self.window // 2
        y = xp.log(1.0 + history[:, -window:])
        weeks = xp.reshape(y, (-1, blocks, slots))
        gap = xp.isnan(weeks)
        gaps = xp.astype(gap, xp.float64)
        known = 1.0 - gaps
        filled = xp.where(gap, ABSENT, weeks)
        middle = _median(xp, filled, gaps, axis=2, size=slots)
        season = _median(xp, filled - middle, gaps, axis=1, size=blocks)
        season = xp.where(season < ABSENT / 4, season, 0.0)

        rest = filled - middle - season
        total = xp.sum(known, axis=(1, 2), keepdims=True)
        limit = CLIP * _spread(xp.sum(xp.sqrt(xp.abs(rest)) * known, axis=(1, 2), keepdims=True) / total) + CLIP * FLOOR
        calm = xp.reshape(middle + xp.minimum(xp.maximum(rest, -limit), limit), (-1, 1, window))
        weight = (1.0 - 1.0 / np.array(ages)[:, None]) ** -np.arange(window)
        weighted = xp.reshape(known, (-1, 1, window)) * xp.asarray(weight)
        mass = xp.cumulative_sum(weighted, axis=2)
        level = xp.cumulative_sum(calm * weighted, axis=2) / mass
        error = xp.reshape(weeks - season, (-1, 1, window))[:, :, half:] - level[:, :, half - 1 : -1]

        unknown = xp.isnan(error)
        root = xp.sum(xp.where(unknown, 0.0, xp.sqrt(xp.abs(error))), axis=2)
        spread = _spread(root / (window - half - xp.sum(xp.astype(unknown, xp.float64), axis=2)))
        expected = level[:, :, -1] + season[:, 0, :1]
        spread = xp.sqrt(spread * spread + xp.exp(-expected) + FLOOR**2)
        if self.usual is not None:
            spread = xp.sqrt(spread * xp.asarray(self.usual))
        informed = mass[:, :, -1] / xp.asarray(weight.sum(axis=1))
        spread = spread * (1.0 + xp.astype(holiday[:, -1:], xp.float64)) / xp.sqrt(xp.maximum(informed, STALE))
        expected = xp.where(total[:, :, 0] < float(max(FEWEST, 2 * slots)), xp.nan, expected)
        return Context(expected, spread, y[:, -1:])

    def centre(self, xp: Any, context: Context) -> tuple[Any, Any]:
        """-> (n, 1) the least deviating log1p(rows), (n, 1) its spread."""
        expected, spread = (xp.sum(part, axis=1, keepdims=True) / 2.0 for part in (context.expected, context.spread))
        return expected, spread

    def features(self, xp: Any, context: Context, level: Any) -> Any:
        """(n, g) candidate log1p(rows) -> (n, g, 2) deviations in spreads, NaN where there is no context."""
        deviation = (level[:, :, None] - context.expected[:, None, :]) / context.spread[:, None, :]
        if not self.repeat:
            return deviation
        repeated = (xp.abs(level - context.last) < SAME)[:, :, None]
        more = xp.where(deviation < 0.0, -self.repeat, xp.asarray(self.repeat))
        return deviation + xp.where(repeated, more, 0.0)


def _median(xp: Any, filled: Any, gaps: Any, axis: int, size: int) -> Any:
    """Median along an axis of what is known, its length kept as 1; `gaps` is 1 where `filled` is ABSENT.

    Where nothing is known it is half of ABSENT.
    """
    place = np.arange(float(size)).reshape((-1, 1) if axis == 1 else (-1,))
    centre = (size - 1) / 2 - 0.5 * xp.sum(gaps, axis=axis, keepdims=True)
    share = xp.maximum(1.0 - xp.abs(xp.asarray(place) - centre), 0.0)
    return xp.sum(share * xp.sort(filled, axis=axis), axis=axis, keepdims=True)


def _spread(root: Any) -> Any:
    """The standard deviation of errors whose absolute values have this mean root: outliers move it little."""
    return ROOT * root * root
