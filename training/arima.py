"""SARIMA as a forecaster: orders by AICc, parameters and Kalman gains by statsmodels, the forecast a weighted sum.

The one-step prediction of a Kalman filter that has run over K values is an affine function of them: the state follows
a[t+1] = T a[t] + c + G[t] (y[t] - Z a[t]), and Z a[K] is the prediction. Its weights are read from the gains G of a filter
that statsmodels ran over K buckets, so the graph predicts what `results.apply(values).forecast(1)` does, without a loop.
Source: Durbin and Koopman 2012, Time series analysis by state space methods, chapter 4; orders as in Hyndman and
Khandakar 2008, Automatic time series forecasting, Journal of Statistical Software 27(3), with a fixed set of candidates.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
from statsmodels.tsa.statespace.sarimax import SARIMAX, SARIMAXResults
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from training.log_rows import NARROWEST, effects_in_rows, in_rows, log_rows
from training.parity import Parity, through_onnx
from training.residuals import HOLIDAY, HolidayReaction, ordinary, robust_spread, windows
from training.seasons import filled, known_part
from training.series import FloatArray, TrainingSeries

SEASON = {"daily": 7, "hourly": 24}
SEASONS_BACK = {"daily": 8, "hourly": 14}
LONGEST = {"daily": 400, "hourly": 24 * 21}  # older buckets make the fit slower and not better
ITERATIONS = 50
PARITY_ROWS = 20
FAINT = 1e-9  # weight of what is used only where there is nothing else


@dataclass(frozen=True, slots=True)
class Order:
    """(p, d, q)(P, D, Q) of a seasonal ARIMA."""

    regular: tuple[int, int, int]
    seasonal: tuple[int, int, int]

    def lost(self, season: int) -> int:
        """How many values differencing costs."""
        return self.regular[1] + season * self.seasonal[1]

    @property
    def trend(self) -> str:
        """A constant, where no differencing takes it away."""
        return "n" if self.regular[1] or self.seasonal[1] else "c"


CANDIDATES = (
    Order((1, 0, 1), (0, 1, 1)),
    Order((0, 1, 1), (0, 1, 1)),
    Order((1, 1, 1), (0, 1, 1)),
    Order((1, 0, 1), (0, 0, 0)),
    Order((0, 1, 1), (0, 0, 0)),
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The next log1p(rows) as a weighted sum of the last: `weights` (window,) oldest first, whole seasons."""

    season: int
    weights: FloatArray
    bias: float
    usual_level: float

    def mean(self, xp: Any, history: Any) -> Any:
        """(n, window) rows with NaN -> (n,) predicted log1p(rows), never NaN.

        A gap takes the mean of its phase in the window, nearer seasons counting double; then the mean of the window;
        then the training's median.
        """
        shape = (-1, len(self.weights) // self.season, self.season)
        missing = xp.isnan(history)
        logs = xp.reshape(xp.where(missing, 0.0, log_rows(xp, history)), shape)
        known = xp.reshape(xp.astype(~missing, xp.float64), shape)
        total = xp.sum(logs, axis=(1, 2), keepdims=True) + FAINT * self.usual_level
        anywhere = total / (xp.sum(known, axis=(1, 2), keepdims=True) + FAINT)
        apart = np.arange(shape[1])
        near = xp.asarray(0.5 ** np.abs(apart[:, None] - apart)[None, :, :, None])
        nearby = xp.sum(near * logs[:, None, :, :], axis=2) + FAINT * anywhere
        complete = logs + (1.0 - known) * nearby / (xp.sum(near * known[:, None, :, :], axis=2) + FAINT)
        return xp.sum(complete * xp.asarray(self.weights.reshape(1, *shape[1:])), axis=(1, 2)) + self.bias


@dataclass(frozen=True, slots=True)
class FittedArima:
    """A table's SARIMA in log1p(rows); `results` are statsmodels' with the parameters found, over zeros."""

    series: TrainingSeries
    order: Order
    results: SARIMAXResults
    prediction: Prediction
    spread: float
    reaction: HolidayReaction
    window: int
    factors: tuple[str, ...] = ("holiday",)

    def forecast(self, xp: Any, time: Any, history: Any, holiday: Any) -> tuple[Any, Any, Any, Any]:
        """The one-step prediction, moved and widened on holidays."""
        shift, widening = self.reaction.on(xp, holiday)
        mean = self.prediction.mean(xp, ordinary(xp, history, holiday, self.window)) + shift
        return *in_rows(xp, mean, self.spread * widening), effects_in_rows(xp, mean, shift[:, None])

    def check_parity(self) -> Parity:
        """The graph's predictions from the last windows of the training, gaps filled, against statsmodels', in spreads."""
        logs = filled(np.log1p(self.series.values), self.prediction.season)
        before = windows(logs, self.window)[-PARITY_ROWS:]
        before = before[np.isfinite(before).all(axis=1)]
        with threadpool_limits(1):
            library = np.array([self.results.apply(window).forecast(1)[0] for window in before])
        graph = through_onnx(self.prediction.mean, {"history": np.expm1(before)})
        return Parity.of(graph, library, logs[len(logs) - len(before) :], self.spread)


def fit(series: TrainingSeries) -> FittedArima:
    """(m,) counts -> the candidate with the least AICc. Holidays are gaps to it; their shift is learnt from the residuals.

    Raises NotEnoughHistory below four weeks of usable points.
    """
    series = known_part(series)
    season = SEASON[series.granularity]
    window = season * min(SEASONS_BACK[series.granularity], len(series.values) // season - 1)
    logs = np.log1p(series.values)
    regular = np.where(series.holiday == HOLIDAY, np.nan, logs)
    order, parameters = _search(filled(regular, season)[-LONGEST[series.granularity] :], season)
    results = _filter(np.zeros(window), order, season, parameters)
    prediction = Prediction(season, *_affine(results), float(np.nanmedian(logs)))

    error = np.full(len(logs), np.nan)
    before = windows(np.where(series.holiday == HOLIDAY, np.nan, series.values), window)
    error[2 * season :] = (logs - prediction.mean(np, before))[2 * season :]
    spread = max(robust_spread(error[series.holiday == 0]), NARROWEST)
    reaction = HolidayReaction.fit(error, series.holiday, spread)
    return FittedArima(series, order, results, prediction, spread, reaction, window)


def _search(values: FloatArray, season: int) -> tuple[Order, FloatArray]:
    """The order with the least AICc, and its parameters.

    Each candidate gets the values whose differences are as many as any other's: likelihoods of different differencing
    are comparable only where they are densities of the same values given those before them.
    """
    most = max(order.lost(season) for order in CANDIDATES)
    fits = []
    # The filter multiplies matrices of ten by ten: handing them to several threads costs twenty times what it saves.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # a fit that has not quite converged is a candidate like any other
        for order in CANDIDATES:
            model = _model(values[most - order.lost(season) :], order, season, simple_differencing=True)
            result = model.fit(disp=0, maxiter=ITERATIONS, low_memory=True, cov_type="none")
            fits.append((result.aicc, order, np.asarray(result.params)))
    _, order, parameters = min(fits, key=itemgetter(0))
    return order, parameters


def _filter(values: FloatArray, order: Order, season: int, parameters: FloatArray) -> SARIMAXResults:
    """statsmodels' filter over the values. Predictions do not depend on the noise's scale, but arithmetic does: beside a
    diffuse start, a variance of almost nothing would be lost in rounding."""
    parameters = parameters.copy()
    parameters[-1] = max(parameters[-1], NARROWEST**2)
    return _model(values, order, season).filter(parameters)


def _affine(results: SARIMAXResults) -> tuple[FloatArray, float]:
    """The filter's next prediction as (K,) weights of the K values it ran over and the prediction it makes from zeros."""
    ran = results.filter_results
    design, transition, gain = ran.design[0, :, 0], ran.transition[:, :, 0], ran.kalman_gain[:, 0, :]
    weights = np.empty(ran.nobs)
    sensitivity = design  # of the prediction to the state after bucket i
    for i in reversed(range(ran.nobs)):
        weights[i] = sensitivity @ gain[:, i]
        sensitivity = sensitivity @ transition - weights[i] * design
    return weights, float(results.forecast(1)[0])


def _model(values: FloatArray, order: Order, season: int, **options: Any) -> SARIMAX:
    return SARIMAX(
        values, order=order.regular, seasonal_order=(*order.seasonal, season), trend=order.trend, **options
    )  # fmt: skip
