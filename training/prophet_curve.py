"""Prophet's forecast as a formula of time alone: y(t) = trend(t) (1 + multiplicative(t)) + additive(t)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from training.series import FloatArray


@dataclass(frozen=True, slots=True)
class Curve:
    """Piecewise linear trend, Fourier seasonalities and a table of holiday effects by day.

    Time is scaled: 0 at the bucket `origin`, 1 `span` buckets later, at the end of the training window. All numbers are in
    the unit of y, but terms that multiply the trend are shares of it.
    """

    origin: int
    span: int
    buckets_per_day: int
    offset: float
    slope: float
    changepoints: FloatArray  # (c,) scaled time
    slope_changes: FloatArray  # (c,)
    frequencies: FloatArray  # (h,) radians a bucket
    waves: FloatArray  # (2 h, s) coefficients of all sines, then all cosines, in each of s seasonalities
    first_holiday: int  # day of holidays[0]
    holidays: FloatArray  # (d,) summed effect by day; its ends are 0 and hold beyond
    multiplicative: bool

    def scaled(self, xp: Any, time: Any) -> Any:
        """(m,) buckets -> (m,) scaled time."""
        return (xp.astype(time, xp.float64) - float(self.origin)) / float(self.span)

    def trend(self, xp: Any, time: Any) -> Any:
        """(m,) buckets -> (m,) trend: each slope change adds a hinge."""
        t = self.scaled(xp, time)
        since = xp.maximum(t[:, None] - xp.asarray(self.changepoints[None, :]), 0.0)
        return self.offset + self.slope * t + xp.sum(since * xp.asarray(self.slope_changes[None, :]), axis=1)

    def terms(self, xp: Any, time: Any) -> Any:
        """(m,) buckets -> (m, s + 1) the seasonalities and, last, the holidays."""
        bucket = xp.astype(time, xp.float64)
        angle = bucket[:, None] * xp.asarray(self.frequencies[None, :])
        # cos(x) as sin(x + pi / 2): ONNX Runtime has no cosine in double precision, and a graph would drop to single.
        waves = xp.sin(xp.concat([angle, angle + np.pi / 2], axis=1))
        seasonal = xp.sum(waves[:, None, :] * xp.asarray(self.waves.T[None, :, :]), axis=2)
        day = bucket if self.buckets_per_day == 1 else xp.floor(bucket / float(self.buckets_per_day))
        entry = xp.clip(day - float(self.first_holiday), 0.0, len(self.holidays) - 1.0)
        holiday = xp.take(xp.asarray(self.holidays), xp.astype(entry, xp.int64), axis=0)
        return xp.concat([seasonal, holiday[:, None]], axis=1)

    def combined(self, xp: Any, trend: Any, terms: Any) -> Any:
        """(m,) trend and (m, s + 1) terms -> (m,) Prophet's yhat."""
        total = xp.sum(terms, axis=1)
        return trend * (1.0 + total) if self.multiplicative else trend + total

    def at(self, xp: Any, time: Any) -> Any:
        """(m,) buckets -> (m,) Prophet's yhat."""
        return self.combined(xp, self.trend(xp, time), self.terms(xp, time))
