"""A SARIMA as a weighted sum of the last buckets gives what statsmodels' Kalman filter gives."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng
from statsmodels.tsa.statespace.sarimax import SARIMAX

from tests.counts import MONDAY, daily, served
from training import arima
from training.arima import CANDIDATES, FittedArima, Order
from training.residuals import windows
from training.series import TrainingSeries


def table() -> TrainingSeries:
    return daily(200, noise=0.05)


@cache
def only(order: Order) -> FittedArima:
    """The table's model with that order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arima, "CANDIDATES", (order,))
        return arima.fit(table())


def expected_log(model: FittedArima, history: Any) -> Any:
    """(n, k) history -> (n,) what the graph expects, as log1p(rows)."""
    n = len(history)
    feeds = {"time": np.zeros(n, np.int64), "history": history, "holiday": np.zeros((n, history.shape[1] + 1), np.int64)}
    return np.log1p(served(model)(feeds)[0])


@pytest.mark.parametrize("order", CANDIDATES, ids=str)
def test_the_graph_predicts_what_statsmodels_does_from_the_same_history(order: Order) -> None:
    model = only(order)
    history = windows(table().values, model.window)[-10:]

    graph = expected_log(model, history)

    library = [model.results.apply(np.log1p(values)).forecast(1)[0] for values in history]
    np.testing.assert_allclose(graph, library, atol=1e-6 * model.spread, rtol=0)


@pytest.mark.parametrize("order", CANDIDATES[:2], ids=str)
def test_eight_weeks_of_history_are_nearly_as_good_as_all_of_it(order: Order) -> None:
    model = only(order)
    logs = np.log1p(table().values)
    everything = SARIMAX(logs, order=order.regular, seasonal_order=(*order.seasonal, 7), trend=order.trend)
    library = everything.filter(model.results.params).get_prediction(start=150).predicted_mean

    graph = expected_log(model, windows(table().values, model.window)[150:])

    assert model.window == 56
    assert np.std(logs[150:] - graph) < 1.1 * np.std(logs[150:] - library)
    assert np.corrcoef(logs[150:] - graph, logs[150:] - library)[0, 1] > 0.9


def test_a_week_that_drifts_gets_a_seasonal_difference() -> None:
    rng = default_rng(1)
    pattern = np.cumsum(0.1 * rng.normal(size=(40, 7)), axis=0) + np.array([0, 0.2, 0.1, 0.3, 0, -1, -1.2])
    series = TrainingSeries(MONDAY, np.expm1(8 + pattern.ravel()), np.zeros(280, np.int64))

    assert arima.fit(series).order.seasonal == (0, 1, 1)


def test_a_table_without_a_week_gets_no_seasonal_difference() -> None:
    values = np.expm1(8 + 0.1 * default_rng(2).normal(size=200))

    assert arima.fit(TrainingSeries(MONDAY, values, np.zeros(200, np.int64))).order.seasonal == (0, 0, 0)


def test_a_gap_is_filled_from_its_own_weekday_before_any_other() -> None:
    model = only(CANDIDATES[0])
    history = np.tile(100.0 * np.arange(1, 8), 8)[None, :]
    with_gaps = history.copy()
    with_gaps[0, [-1, -2, -9, 3]] = np.nan

    np.testing.assert_allclose(expected_log(model, with_gaps), expected_log(model, history), rtol=1e-6)


def test_a_weekday_that_was_never_seen_takes_the_mean_of_the_others() -> None:
    model = only(CANDIDATES[0])
    history = np.full((2, 56), 700.0)
    history[0, 6::7] = np.nan

    without_sundays, complete = expected_log(model, history)

    assert without_sundays == pytest.approx(complete, rel=1e-6)


def test_without_any_history_the_usual_count_is_expected() -> None:
    model = only(CANDIDATES[2])

    assert expected_log(model, np.full((1, 56), np.nan))[0] == pytest.approx(np.median(np.log1p(table().values)), abs=0.5)


def test_a_holiday_in_the_history_says_nothing_about_today() -> None:
    model = only(CANDIDATES[0])
    feeds = {"time": np.zeros(2, np.int64), "history": np.repeat(table().values[None, -56:], 2, axis=0)}
    feeds["history"][1, -1] = 1.0
    holiday = np.zeros((2, 57), np.int64)
    holiday[:, -2] = 2

    ignored = served(model)(feeds | {"holiday": holiday})[0]
    believed = served(model)(feeds | {"holiday": np.zeros((2, 57), np.int64)})[0]

    assert ignored[0] == ignored[1]
    assert abs(believed[1] / believed[0] - 1) > 0.3


def test_a_short_table_has_a_short_window_and_can_still_be_compared() -> None:
    model = arima.fit(daily(30))

    assert model.window == 21
    assert model.check_parity().rows == 9


def test_other_weights_are_no_parity() -> None:
    model = only(CANDIDATES[0])

    changed = replace(model, prediction=replace(model.prediction, bias=model.prediction.bias + 1e-5 * model.spread))

    assert model.check_parity().holds and not changed.check_parity().holds
