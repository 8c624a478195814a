"""The families of timeliness models: each judges a lag by the lags before it, in array-API code that ONNX is traced from.

    lag_filter          the service's own filter; nothing is fitted, so the model is its code and the feed's schedule
    seasonal_filter     the same on lags without what weekday and hour make usual
    seasonal_quantiles  the same lags against their quantiles, calibrated on held-out arrivals; no idea of faults at all
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from detectors import lags
from detectors.lags import Verdict
from shared.history import left_out
from training.calibration import Calibration
from training.series import FloatArray, IntArray, NotEnoughHistory

HOURS_A_WEEK = 168
MONDAY = 72  # hours from 1970-01-01, a Thursday, back to the Monday before
FEWEST = 20
SHRINK = 8.0  # arrivals that a weekday or an hour has to outweigh
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class LagSeries:
    """Arrivals of one feed, oldest first: `lags` (m,) minutes after due, `hours` (m,) local hours since 1970 of due times.

    None is missing. `status` (m,) codes of shared.history, `came` (m,) UTC seconds of the arrivals; both 0 where not told.
    """

    lags: FloatArray
    hours: IntArray
    status: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    came: IntArray = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        for name, kind in (("status", np.uint8), ("came", np.int64)):
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.zeros(len(self.lags), kind))

    def __len__(self) -> int:
        return len(self.lags)

    def __getitem__(self, rows: Any) -> LagSeries:
        """Some of the arrivals: a slice, a mask (m,) or places."""
        return LagSeries(self.lags[rows], self.hours[rows], self.status[rows], self.came[rows])

    @property
    def learnt(self) -> NDArray[np.bool_]:
        """(m,) which may be learnt from."""
        return ~left_out(self.status)

    def learnable(self) -> LagSeries:
        """Those that may be learnt from."""
        return self[self.learnt]


class Family(Protocol):
    """A fitted model of one feed."""

    def judge(self, xp: Any, time: Any, history: Any, value: Any, threshold: Any) -> Verdict:
        """time (n, k + 1) local hours of the due times of the history and of the judged lag; the rest as lags.judge."""
        ...


@dataclass(frozen=True, slots=True)
class LagFilter:
    """detectors.lags as it is."""

    def judge(self, xp: Any, time: Any, history: Any, value: Any, threshold: Any) -> Verdict:
        return lags.judge(xp, history, value, threshold)


@dataclass(frozen=True, slots=True)
class Season:
    """`minutes` (HOURS_A_WEEK,) that a lag is later than usual at an hour of the week, Monday 00:00 first."""

    minutes: FloatArray

    @classmethod
    def fit(cls, series: LagSeries) -> Season:
        """Medians of weekday and hour of the day, taken out in turns (median polish) and shrunk towards nothing."""
        rest = series.lags - np.median(series.lags)
        slots = (series.hours + MONDAY) % HOURS_A_WEEK
        parts = np.arange(HOURS_A_WEEK) // 24, np.arange(HOURS_A_WEEK) % 24
        minutes = np.zeros(HOURS_A_WEEK)
        for _ in range(ROUNDS):
            for part in parts:
                step = np.zeros(part.max() + 1)
                for slot in np.unique(part[slots]):
                    own = rest[part[slots] == slot]
                    step[slot] = np.median(own) * len(own) / (len(own) + SHRINK)
                rest = rest - step[part[slots]]
                minutes = minutes + step[part]
        return cls(minutes)

    def at(self, xp: Any, time: Any) -> Any:
        """(n, g) local hours -> (n, g) minutes."""
        table = xp.zeros_like(xp.astype(time[:, :1], xp.float64)) + xp.asarray(self.minutes)[None, :]
        return xp.take_along_axis(table, (time + MONDAY) % HOURS_A_WEEK, axis=1)

    def without(self, xp: Any, time: Any, history: Any, value: Any) -> tuple[Any, Any, Any]:
        """History and value without the season, and the judged hour's season (n,)."""
        season = self.at(xp, time)
        return history - season[:, :-1], value - season[:, -1], season[:, -1]


@dataclass(frozen=True, slots=True)
class SeasonalFilter:
    """The lag filter on lags without their season."""

    season: Season

    def judge(self, xp: Any, time: Any, history: Any, value: Any, threshold: Any) -> Verdict:
        history, value, season = self.season.without(xp, time, history, value)
        expected, lower, upper, score = lags.judge(xp, history, value, threshold)
        return Verdict(expected + season, lower + season, upper + season, score)


@dataclass(frozen=True, slots=True)
class SeasonalQuantiles:
    """The distance from the median in the feed's own units, above and below, calibrated on this feed's held-out arrivals."""

    season: Season
    calibration: Calibration | None = None

    def distance(self, xp: Any, time: Any, history: Any, value: Any) -> tuple[Any, Any, Any, Any]:
        """-> (n,) median of the hour, unit above and below in minutes, distance of the value in units."""
        history, value, season = self.season.without(xp, time, history, value)
        usual, above, below, known = (part[:, -1] for part in lags.units(xp, history))
        usual = xp.where(known >= lags.FEWEST, usual, np.nan)
        raw = xp.abs(value - usual) / xp.where(value > usual, above, below)
        return usual + season, above, below, raw

    def judge(self, xp: Any, time: Any, history: Any, value: Any, threshold: Any) -> Verdict:
        usual, above, below, raw = self.distance(xp, time, history, value)
        if self.calibration is None:
            raise ValueError("a family without calibration has no score")
        reach = xp.maximum(self.calibration.inverse(xp, threshold), 0.0)
        return Verdict(usual, usual - reach * below, usual + reach * above, self.calibration.score(xp, raw))


def fit(algorithm: str, series: LagSeries) -> LagFilter | SeasonalFilter | SeasonalQuantiles:
    """From the arrivals that may be learnt from. Raises NotEnoughHistory below FEWEST of them, where anything is fitted."""
    series = series.learnable()
    if algorithm == "lag_filter":
        return LagFilter()
    if len(series) < FEWEST:
        raise NotEnoughHistory(FEWEST, len(series))
    season = Season.fit(series)
    return SeasonalFilter(season) if algorithm == "seasonal_filter" else SeasonalQuantiles(season)
