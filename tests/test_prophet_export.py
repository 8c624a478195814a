"""Prophet as a graph gives what prophet.predict gives."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from detectors.calendar import holiday_classes
from tests.counts import Graph, daily, hourly, served, unknown
from training import prophet_model
from training.prophet_model import FUTURE_ROWS, FittedProphet, Options, dates
from training.series import TrainingSeries

SETUPS = {
    "log rows": Options(),
    "rows": Options(transform="none"),
    "multiplicative": Options(transform="none", mode="multiplicative"),
    "flat": Options(growth="flat"),
    "yearly": Options(yearly_from_days=365),
    "holidays with neighbours": Options(holiday_neighbours=2),
}


def growing() -> TrainingSeries:
    """A year and a month with US holidays, whose trend bends twice, and with gaps."""
    series = daily(400, country="US", holiday=0.6)
    trend = np.interp(np.arange(400), [0, 150, 250, 400], [1.0, 1.6, 1.4, 2.0])
    values = np.round(series.values * trend)
    values[[20, 21, 300]] = np.nan
    return replace(series, values=values)


@cache
def fitted(setup: str) -> FittedProphet:
    return prophet_model.fit(growing(), SETUPS[setup])


@cache
def graph(setup: str) -> Graph:
    return served(fitted(setup))


def predicted(model: FittedProphet, time: Any) -> pd.DataFrame:
    frame: pd.DataFrame = model.model.predict(pd.DataFrame({"ds": dates(time, model.curve.buckets_per_day)}))
    return frame


@pytest.mark.parametrize("setup", SETUPS)
def test_without_history_the_graph_expects_what_prophet_predicts(setup: str) -> None:
    model = fitted(setup)
    time = np.arange(model.series.start, model.valid_until + 1)

    expected = graph(setup)(unknown(time, model.window))[0]

    yhat = predicted(model, time)["yhat"].to_numpy()
    library = yhat if model.options.transform == "none" else np.expm1(yhat)
    np.testing.assert_allclose(expected, library, rtol=1e-9)
    assert len(time) == 400 + prophet_model.HORIZON_DAYS


@pytest.mark.parametrize("setup", SETUPS)
def test_the_parity_that_is_reported_holds(setup: str) -> None:
    parity = fitted(setup).check_parity()

    assert parity.holds and parity.max_difference < 1e-9
    assert parity.rows == 400 + FUTURE_ROWS


def test_a_graph_of_another_trend_is_no_parity() -> None:
    model = fitted("log rows")

    bent = replace(model, curve=replace(model.curve, slope=model.curve.slope + 1e-6))

    assert not bent.check_parity().holds


def test_the_hours_of_a_week_equal_prophets() -> None:
    model = prophet_model.fit(hourly(28))
    time = np.arange(model.series.start, model.series.end + 24 * 10)

    expected = served(model)(unknown(time, model.window))[0]

    np.testing.assert_allclose(expected, np.expm1(predicted(model, time)["yhat"]), rtol=1e-9)


def test_a_holiday_and_its_neighbours_move_the_expectation_next_year_too() -> None:
    series = growing()
    country = {day: name for day, name in series.names.items() if name == "Independence Day"}
    model = prophet_model.fit(replace(series, names=country), SETUPS["holidays with neighbours"])
    next_july = [day for day in country if day > series.end]
    around = np.arange(next_july[0] - 4, next_july[0] + 5)

    effects = served(model)(unknown(around, model.window))[3][:, model.factors.index("holiday")]

    assert (np.abs(effects[2:7]) > 0.1).all() and effects[4] < -1000
    np.testing.assert_allclose(effects[[0, 1, 7, 8]], 0, atol=1e-6)


def test_holidays_that_training_never_saw_are_ordinary_days() -> None:
    series = daily(60, country="US", holiday=0.5)
    model = prophet_model.fit(series)
    _, names = holiday_classes(series.end + 1, series.end + 300, "US")
    thanksgiving = np.array([day for day, name in names.items() if name == "Thanksgiving Day"])

    effects = served(model)(unknown(thanksgiving, model.window))[3]

    assert effects[0, model.factors.index("holiday")] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("setup", ["log rows", "multiplicative"])
def test_the_interval_is_within_the_noise_of_prophets_simulation(setup: str) -> None:
    model = fitted(setup)
    time = np.arange(model.series.start, model.series.end + 200)
    np.random.seed(3)  # noqa: NPY002 - where Prophet draws from

    simulated = simulate(model, time)
    growth = np.ones(len(time)) if setup == "log rows" else 1 + model.curve.terms(np, time).sum(axis=1)
    exact = 2.5758 * model.widening.at(np, model.curve.scaled(np, time) - 1, growth)

    np.testing.assert_allclose(np.median(exact / simulated), 1, atol=0.02)
    np.testing.assert_allclose(exact, simulated, rtol=0.15)
    assert exact[-1] > 2 * exact[0]


def simulate(model: FittedProphet, time: Any) -> Any:
    """Half the width of Prophet's own 99 % interval."""
    library = model.model
    library.uncertainty_samples, library.interval_width = 3000, 0.99
    try:
        frame = predicted(model, time)
    finally:
        library.uncertainty_samples = 0
    return ((frame["yhat_upper"] - frame["yhat_lower"]) / 2).to_numpy()


def test_a_new_level_is_followed_and_called_trend() -> None:
    model = fitted("log rows")
    time = np.array([model.series.end + 1])
    feeds = unknown(time, model.window)
    usual, *_, before = graph("log rows")(feeds)

    history = np.expm1(model.curve.at(np, np.arange(time[0] - model.window, time[0])))[None, :]
    doubled, *_, after = graph("log rows")(feeds | {"history": 2 * history})

    assert doubled[0] == pytest.approx(2 * usual[0], rel=1e-3)
    assert after[0, 0] - before[0, 0] == pytest.approx(doubled[0] - usual[0], rel=0.01)


def test_one_strange_day_moves_nothing() -> None:
    model = fitted("log rows")
    feeds = unknown(np.array([model.series.end + 1]), model.window)
    feeds["history"][0] = model.series.values[-model.window :]
    usual = graph("log rows")(feeds)[0]

    feeds["history"][0, -1] = 1

    assert graph("log rows")(feeds)[0] == pytest.approx(usual, rel=0.02)


def test_an_effect_is_what_the_expectation_would_lose_without_its_factor() -> None:
    model = fitted("log rows")
    week = np.arange(model.series.end + 20, model.series.end + 27)  # without a holiday

    expected, _, _, effects = graph("log rows")(unknown(week, model.window))
    weekday = effects[:, model.factors.index("weekday")]

    assert model.factors == ("trend", "weekday", "holiday")
    without = np.log1p(expected - weekday)
    np.testing.assert_allclose(without, model.curve.trend(np, week), rtol=1e-6)
    assert weekday[(week + 3) % 7 == 6] < -3000 and weekday[(week + 3) % 7 == 1] > 1000


def test_a_weekday_that_was_never_seen_is_like_the_others() -> None:
    series = daily(90, noise=0.01)
    weekend = (series.time + 3) % 7 > 4
    values = np.where(weekend, np.nan, 10_000.0 + series.time % 5)

    model = prophet_model.fit(replace(series, values=values))

    week = np.arange(series.end + 1, series.end + 8)
    np.testing.assert_allclose(np.expm1(model.curve.at(np, week)), 10_000, rtol=0.1)


def test_fitting_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    prophet_model.fit(daily(40))

    assert capfd.readouterr() == ("", "")
