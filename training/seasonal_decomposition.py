"""Seasonal decomposition as a forecaster: the week's profile by STL, the level from the last days.

The profile is the last cycle of STL's seasonal component (Cleveland et al. 1990, STL: a seasonal-trend decomposition
procedure based on loess, Journal of Official Statistics 6), fitted robustly on log1p(rows). STL's own trend ends with the
training window, so the graph takes the level from the history it is given: the median of what the profile leaves of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from statsmodels.tsa.seasonal import STL, DecomposeResult

from training.log_rows import NARROWEST, effects_in_rows, in_rows, log_rows
from training.parity import Parity, through_onnx
from training.residuals import HOLIDAY, HolidayReaction, ordinary, recent_level, robust_spread, windows
from training.seasons import WEEK, filled, known_part
from training.series import FloatArray, TrainingSeries

LEVEL_BUCKETS = {"daily": 14, "hourly": 48}
SEASONAL_CYCLES = 13  # loess span of the profile: it may change over a quarter


@dataclass(frozen=True, slots=True)
class FittedDecomposition:
    """Everything in log1p(rows). `profile` (w,) by bucket modulo the week; `usual_level` is the training's median level."""

    series: TrainingSeries
    decomposition: DecomposeResult
    profile: FloatArray
    usual_level: float
    spread: float
    reaction: HolidayReaction
    window: int
    factors: tuple[str, ...]

    def forecast(self, xp: Any, time: Any, history: Any, holiday: Any) -> tuple[Any, Any, Any, Any]:
        """The profile on top of the present level, moved and widened on holidays. Never NaN, whatever is missing."""
        level, season = self.level_and_season(xp, time, history, holiday)
        shift, widening = self.reaction.on(xp, holiday)
        mean = level + season + shift
        parts = xp.stack([level - self.usual_level, season, shift], axis=1)
        return *in_rows(xp, mean, self.spread * widening), effects_in_rows(xp, mean, parts)

    def level_and_season(self, xp: Any, time: Any, history: Any, holiday: Any) -> tuple[Any, Any]:
        """-> (n,) median of the deseasonalised last buckets and (n,) the judged bucket's place in the profile."""
        bucket = time[:, None] + xp.asarray(np.arange(-self.window, 1)[None, :])
        season = xp.take(xp.asarray(self.profile), xp.reshape(bucket % len(self.profile), (-1,)), axis=0)
        season = xp.reshape(season, (-1, self.window + 1))
        recent = log_rows(xp, ordinary(xp, history, holiday, self.window))
        return recent_level(xp, recent - season[:, :-1], self.window, self.usual_level), season[:, -1]

    def check_parity(self) -> Parity:
        """The graph's mean on every training day with history, against STL's component and numpy's median, in spreads."""
        logs, time = np.log1p(self.series.values), self.series.time
        week = len(self.profile)
        last_cycle = dict(zip(time[-week:] % week, self.decomposition.seasonal[-week:], strict=True))
        season = np.array([last_cycle[phase] for phase in time % week])
        before = windows(np.where(self.series.holiday == HOLIDAY, np.nan, logs) - season, self.window)
        some = np.isfinite(before).any(axis=1)
        library = np.nanmedian(before[some], axis=1) + season[some]

        history = windows(self.series.values, self.window)[some]
        holiday = windows(self.series.holiday.astype(np.float64), self.window)[some]
        feeds = {
            "time": time[some],
            "history": history,
            "holiday": np.column_stack([np.nan_to_num(holiday), self.series.holiday[some]]).astype(np.int64),
        }
        graph = through_onnx(lambda xp, **inputs: sum(self.level_and_season(xp, **inputs)), feeds)
        return Parity.of(graph, library, logs[some], self.spread)


def fit(series: TrainingSeries) -> FittedDecomposition:
    """(m,) counts -> profile, level rule and noise. Holidays are no part of the profile.

    Raises NotEnoughHistory below four weeks of usable points.
    """
    series = known_part(series)
    week = WEEK[series.granularity]
    window = LEVEL_BUCKETS[series.granularity]
    logs = np.log1p(series.values)
    regular = np.where(series.holiday == HOLIDAY, np.nan, logs)
    decomposition = STL(filled(regular, week), period=week, seasonal=SEASONAL_CYCLES, robust=True).fit()
    profile = np.empty(week)
    profile[series.time[-week:] % week] = decomposition.seasonal[-week:]

    season = profile[series.time % week]
    level = recent_level(np, windows(regular - season, window), window, np.nan)
    error = logs - season - level
    spread = max(robust_spread(error[series.holiday == 0]), NARROWEST)
    factors = ("trend", "weekday" if series.granularity == "daily" else "hour", "holiday")
    return FittedDecomposition(
        series, decomposition, profile, float(np.nanmedian(level)), spread,
        HolidayReaction.fit(error, series.holiday, spread), window, factors,
    )  # fmt: skip
