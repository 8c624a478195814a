"""What one-step residuals tell of a table, whichever family left them: its noise, its holidays, its present level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from training.series import FloatArray, IntArray

HOLIDAY = 2
# Deviations on a neighbour of a holiday and on a holiday, in spreads, as long as a table has not shown its own.
USUAL_WIDENING = np.array([1.0, 2.0, 3.0])
PRIOR_POINTS = 6.0


def robust_spread(residual: FloatArray) -> float:
    """(m,) residuals, NaN where unknown -> one standard deviation of the ordinary ones.

    The larger of two estimates that are right for a normal distribution: the median of |residual| ignores outliers, its
    90 % quantile sees heavy tails. 0 where nothing is known.
    """
    size = np.abs(residual[np.isfinite(residual)])
    return max(float(np.median(size)) / 0.6745, float(np.quantile(size, 0.9)) / 1.645) if len(size) else 0.0


@dataclass(frozen=True, slots=True)
class HolidayReaction:
    """How a table moves on days of each holiday class (0 none, 1 next to a holiday, 2 holiday)."""

    shift: FloatArray  # (3,) added to the mean; 0 for ordinary days
    widening: FloatArray  # (3,) >= 1, multiplies the spread; 1 for ordinary days

    @classmethod
    def fit(cls, residual: FloatArray, holiday: IntArray, spread: float) -> HolidayReaction:
        """(m,) residuals and classes -> shrunken means and root mean squares by class.

        Both are drawn to the prior by PRIOR_POINTS pseudo-points, so a table that does not react on its holidays loses
        the widening; a single outlier counts for no more than six times the prior's variance.
        """
        shift, widening = np.zeros(3), np.ones(3)
        for kind in (1, HOLIDAY):
            own = residual[(holiday == kind) & np.isfinite(residual)]
            shift[kind] = own.sum() / (len(own) + PRIOR_POINTS)
            prior = USUAL_WIDENING[kind] ** 2
            squares = np.minimum(((own - shift[kind]) / spread) ** 2, 6 * prior)
            widening[kind] = np.sqrt(max(1.0, (PRIOR_POINTS * prior + squares.sum()) / (PRIOR_POINTS + len(own))))
        return cls(shift, widening)

    def on(self, xp: Any, holiday: Any) -> tuple[Any, Any]:
        """(n, k + 1) classes, the judged bucket's last -> its shift (n,) and widening (n,)."""
        kind = holiday[:, -1]
        return xp.take(xp.asarray(self.shift), kind, axis=0), xp.take(xp.asarray(self.widening), kind, axis=0)


def ordinary(xp: Any, history: Any, holiday: Any, length: int) -> Any:
    """(n, k) history and (n, k + 1) classes -> (n, length) the last buckets, NaN on holidays: they say little of today."""
    return xp.where(holiday[:, -length - 1 : -1] == HOLIDAY, np.nan, history[:, -length:])


def recent_level(xp: Any, residual: Any, k: int, otherwise: float) -> Any:
    """(n, k) -> (n,) the median of what is known in each row, `otherwise` where nothing is."""
    known = ~xp.isnan(residual)
    count = xp.sum(xp.astype(known, xp.int64), axis=1, keepdims=True)
    ordered = xp.sort(xp.where(known, residual, np.inf), axis=1)
    # The one or two in the middle: twice their index is at most 1 away from count - 1.
    middle = xp.abs(xp.asarray(2 * np.arange(k)[None, :]) - count + 1) <= 1
    median = xp.sum(xp.where(middle, ordered, 0.0), axis=1) / xp.sum(xp.astype(middle, xp.float64), axis=1)
    return xp.where(count[:, 0] > 0, median, otherwise)


def windows(values: FloatArray, length: int) -> FloatArray:
    """(m,) -> (m, length) what comes before each point, NaN before the start."""
    return sliding_window_view(np.concatenate([np.full(length, np.nan), values]), length)[:-1]
