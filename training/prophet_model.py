"""Prophet as a forecaster: fitted by the library on log1p(rows), evaluated as a formula, kept level by recent residuals.

Without history the graph's expectation is the library's yhat. With it, the median residual of the last days is added: a
model is asked for weeks after its fit, and levels move. The interval's half-width is Prophet's, exact instead of simulated.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from training.log_rows import HALF_A_ROW, NARROWEST, effects_in_rows, in_rows, log_rows
from training.parity import Parity, through_onnx
from training.prophet_curve import Curve
from training.residuals import HOLIDAY, HolidayReaction, ordinary, recent_level, robust_spread, windows
from training.seasons import DAY, known_part
from training.series import FloatArray, IntArray, TrainingSeries
from training.trend_uncertainty import Widening

logging.getLogger("prophet.plot").disabled = True  # says at import that plotly is missing
logging.getLogger("cmdstanpy").disabled = True  # says at every fit that it starts and ends

from prophet import Prophet  # noqa: E402

HORIZON_DAYS = 400  # holidays and the growing interval are tabulated up to here
LEVEL_BUCKETS = {"daily": 14, "hourly": 48}
GROWTH_STEPS = 9
QUIETEST = 3e-4  # observation noise, as a share of the largest y: keeps the widening of a noiseless table finite
FUTURE_ROWS = 60
PARITY = 1e-9


@dataclass(frozen=True, slots=True)
class Options:
    """How Prophet is set up. `transform` says what y is: log1p(rows), or rows."""

    transform: Literal["log", "none"] = "log"
    mode: Literal["additive", "multiplicative"] = "additive"
    growth: Literal["linear", "flat"] = "linear"
    changepoint_prior_scale: float = 0.05
    seasonality_prior_scale: float = 0.1  # a weekday that was never seen is like the others, not an extrapolation
    yearly_from_days: int = 730
    holiday_neighbours: int = 0  # days before and after a holiday with an effect of their own


@dataclass(frozen=True, slots=True)
class FittedProphet:
    """A table's Prophet, everything in the unit of y; `model` is the library's own."""

    series: TrainingSeries
    model: Prophet
    options: Options
    curve: Curve
    usual_trend: float
    widening: Widening
    reaction: HolidayReaction
    window: int
    factors: tuple[str, ...]
    valid_until: int

    def forecast(self, xp: Any, time: Any, history: Any, holiday: Any) -> tuple[Any, Any, Any, Any]:
        """Prophet's curve moved by the recent level, with Prophet's interval, moved and widened on holidays."""
        buckets = self.window + 1
        bucket = xp.reshape(time[:, None] + xp.asarray(np.arange(1 - buckets, 1)[None, :]), (-1,))
        trend, terms = self.curve.trend(xp, bucket), self.curve.terms(xp, bucket)
        yhat = xp.reshape(self.curve.combined(xp, trend, terms), (-1, buckets))
        trend = xp.reshape(trend, (-1, buckets))[:, -1:]
        terms = xp.reshape(terms, (-1, buckets, len(self.factors) - 1))[:, -1, :]

        level = self._level(xp, history, holiday, yhat[:, :-1])
        shift, widening = self.reaction.on(xp, holiday)
        mean = yhat[:, -1] + level + shift
        growth = 1.0 + xp.sum(terms, axis=1) if self.curve.multiplicative else 1.0
        spread = self.widening.at(xp, self.curve.scaled(xp, time) - 1.0, growth) * widening
        moved = (trend[:, 0] - self.usual_trend) * growth + level
        parts = trend * terms if self.curve.multiplicative else terms
        parts = xp.concat([moved[:, None], parts[:, :-1], parts[:, -1:] + shift[:, None]], axis=1)
        if self.options.transform == "none":
            spread = xp.maximum(spread, HALF_A_ROW)
            return mean, spread, spread, parts
        return *in_rows(xp, mean, spread), effects_in_rows(xp, mean, parts)

    def _level(self, xp: Any, history: Any, holiday: Any, curve: Any) -> Any:
        """(n, window) curve over the last buckets -> (n,) their median residual, 0 where none is known."""
        recent = ordinary(xp, history, holiday, self.window)
        recent = recent if self.options.transform == "none" else log_rows(xp, recent)
        return recent_level(xp, recent - curve, self.window, 0.0)

    def check_parity(self) -> Parity:
        """The graph's curve against Prophet's yhat on the training window and 60 buckets after it, relative to yhat or 1."""
        time = np.arange(self.series.start, self.series.end + FUTURE_ROWS + 1)
        library = self.model.predict(pd.DataFrame({"ds": dates(time, self.curve.buckets_per_day)}))["yhat"].to_numpy()
        graph = through_onnx(self.curve.at, {"time": time})
        y = np.concatenate([_y(self.series, self.options), np.full(FUTURE_ROWS, np.nan)])
        return Parity.of(graph, library, y, float(self.widening.table[0, 0]), np.maximum(np.abs(library), 1.0), PARITY)


def fit(series: TrainingSeries, options: Options = Options()) -> FittedProphet:
    """(m,) counts -> Prophet with a weekly season, a yearly one from two years on, and each holiday that it has seen.

    Raises NotEnoughHistory below four weeks of usable points.
    """
    series = known_part(series)
    buckets_per_day = DAY[series.granularity]
    y = _y(series, options)
    model = Prophet(
        growth=options.growth,
        seasonality_mode=options.mode,
        changepoint_prior_scale=options.changepoint_prior_scale,
        seasonality_prior_scale=options.seasonality_prior_scale,
        holidays=_holidays(series, options.holiday_neighbours),
        weekly_seasonality=False,
        yearly_seasonality=False,
        daily_seasonality=False,
        uncertainty_samples=0,
    )
    model.add_seasonality("weekday", period=7, fourier_order=3)
    if buckets_per_day > 1:
        model.add_seasonality("hour", period=1, fourier_order=6)
    if len(y) >= options.yearly_from_days * buckets_per_day:
        model.add_seasonality("yearly", period=365.25, fourier_order=10)
    model.fit(pd.DataFrame({"ds": dates(series.time, buckets_per_day), "y": y}), seed=1)
    return _read(series, model, options, y)


def dates(time: IntArray, buckets_per_day: int) -> pd.DatetimeIndex:
    """(m,) buckets as Prophet wants them: wall time, without a zone."""
    unit = "datetime64[D]" if buckets_per_day == 1 else "datetime64[h]"
    return pd.DatetimeIndex(time.astype(unit).astype("datetime64[s]"))


def _y(series: TrainingSeries, options: Options) -> FloatArray:
    return series.values if options.transform == "none" else np.log1p(series.values)


def _days(series: TrainingSeries) -> tuple[int, int]:
    """The first and the last day of the series."""
    return series.start // DAY[series.granularity], series.end // DAY[series.granularity]


def _holidays(series: TrainingSeries, neighbours: int) -> pd.DataFrame | None:
    """Prophet's frame of those holidays that the training window has, with every date known for them."""
    names = {bucket // DAY[series.granularity]: name for bucket, name in series.names.items()}
    first, last = _days(series)
    seen = {name for day, name in names.items() if first <= day <= last}
    days = sorted(day for day, name in names.items() if name in seen)
    if not days:
        return None
    return pd.DataFrame({
        "holiday": [names[day] for day in days],
        "ds": dates(np.array(days), 1),
        "lower_window": -neighbours,
        "upper_window": neighbours,
    })  # fmt: skip


def _read(series: TrainingSeries, model: Prophet, options: Options, y: FloatArray) -> FittedProphet:
    curve = _curve(series, model, options)
    window = LEVEL_BUCKETS[series.granularity]
    residual = y - curve.at(np, series.time)
    error = residual - recent_level(np, windows(np.where(series.holiday == HOLIDAY, np.nan, residual), window), window, 0.0)
    spread = max(robust_spread(error[series.holiday == 0]), NARROWEST)
    horizon = HORIZON_DAYS * curve.buckets_per_day
    return FittedProphet(
        series, model, options, curve,
        usual_trend=float(curve.trend(np, series.time).mean()),
        widening=_widening(series, model, curve, horizon / curve.span),
        reaction=HolidayReaction.fit(error, series.holiday, spread),
        window=window,
        factors=("trend", *model.seasonalities, "holiday"),
        valid_until=series.end + horizon,
    )  # fmt: skip


def _curve(series: TrainingSeries, model: Prophet, options: Options) -> Curve:
    """Prophet's parameters, scaled back to the unit of y."""
    scale, flat = model.y_scale or 1.0, options.growth == "flat"
    beta = np.ravel(model.params["beta"]) * (scale if options.mode == "additive" else 1.0)
    buckets_per_day = DAY[series.granularity]
    orders = [season["fourier_order"] for season in model.seasonalities.values()]
    periods = [season["period"] for season in model.seasonalities.values()]
    ends = 2 * np.cumsum(orders)
    waves = np.zeros((2, sum(orders), len(orders)))
    for k, (order, end) in enumerate(zip(orders, ends, strict=True)):
        waves[:, end // 2 - order : end // 2, k] = beta[end - 2 * order : end].reshape(order, 2).T
    cycles = np.concatenate([np.arange(1, order + 1) / period for order, period in zip(orders, periods, strict=True)])
    first_holiday, effects = _holiday_effects(series, model, beta[ends[-1] :])
    return Curve(
        origin=series.start, span=series.end - series.start, buckets_per_day=buckets_per_day,
        offset=float(model.params["m"].item()) * scale,
        slope=0.0 if flat else float(model.params["k"].item()) * scale,
        changepoints=np.zeros(1) if flat else np.asarray(model.changepoints_t, np.float64),
        slope_changes=np.zeros(1) if flat else np.ravel(model.params["delta"]) * scale,
        frequencies=2 * np.pi * cycles / buckets_per_day, waves=waves.reshape(2 * sum(orders), len(orders)),
        first_holiday=first_holiday, holidays=effects, multiplicative=options.mode == "multiplicative",
    )  # fmt: skip


def _holiday_effects(series: TrainingSeries, model: Prophet, beta: FloatArray) -> tuple[int, FloatArray]:
    """The first day of the table, and the summed effect of each day up to the horizon, 0 before and after."""
    first, last = _days(series)
    last += HORIZON_DAYS
    effects = np.zeros(last - first + 3)
    if model.holidays is not None:
        days = pd.Series(dates(np.arange(first, last + 1), 1))
        features, _, _ = model.make_holiday_features(days, model.construct_holiday_dataframe(days))
        effects[1:-1] = features.to_numpy() @ beta
    return first - 1, effects


def _widening(series: TrainingSeries, model: Prophet, curve: Curve, farthest: float) -> Widening:
    """Prophet's own noise and slope changes, tabulated over the growth factors that training saw and a quarter more."""
    noise = max(float(model.params["sigma_obs"].item()), QUIETEST) * (model.y_scale or 1.0)
    growths = np.ones(1)
    if curve.multiplicative:
        growth = 1.0 + curve.terms(np, series.time).sum(axis=1)
        margin = 0.25 * np.ptp(growth) + 1e-6
        growths = np.linspace(max(growth.min() - margin, 0.0), growth.max() + margin, GROWTH_STEPS)
    return Widening.tabulate(noise, len(curve.changepoints), float(np.abs(curve.slope_changes).mean()), farthest, growths)
