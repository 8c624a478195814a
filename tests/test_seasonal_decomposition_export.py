"""The week's profile is STL's, and the level follows the history."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.random import default_rng
from statsmodels.tsa.seasonal import STL

from tests.counts import Graph, daily, hourly, served, unknown
from training import seasonal_decomposition
from training.residuals import windows
from training.seasonal_decomposition import SEASONAL_CYCLES, FittedDecomposition
from training.series import TrainingSeries


def table() -> TrainingSeries:
    return daily(150)


@cache
def fitted() -> FittedDecomposition:
    return seasonal_decomposition.fit(table())


@cache
def graph() -> Graph:
    return served(fitted())


def test_the_profile_is_the_last_cycle_of_stls_seasonal_component() -> None:
    series = table()
    stl = STL(np.log1p(series.values), period=7, seasonal=SEASONAL_CYCLES, robust=True).fit()
    last_week = series.time[-7:]

    expected = graph()(unknown(last_week, 14))[0]

    np.testing.assert_allclose(np.log1p(expected), fitted().usual_level + stl.seasonal[-7:], rtol=1e-12)


def test_the_hours_of_the_week_have_a_profile_of_their_own() -> None:
    series = hourly(28)
    stl = STL(np.log1p(series.values), period=168, seasonal=SEASONAL_CYCLES, robust=True).fit()

    model = seasonal_decomposition.fit(series)

    np.testing.assert_array_equal(model.profile[series.time[-168:] % 168], stl.seasonal[-168:])
    assert model.factors == ("trend", "hour", "holiday")


def test_the_level_is_the_median_of_what_the_profile_leaves() -> None:
    rng = default_rng(0)
    time = rng.integers(18_000, 21_000, 200)
    history = np.where(rng.random((200, 14)) < 0.4, np.nan, rng.uniform(0, 30_000, (200, 14)))
    profile = fitted().profile

    expected = graph()(unknown(time, 14) | {"history": history})[0]

    days = time[:, None] + np.arange(-14, 0)
    level = np.nanmedian(np.log1p(history) - profile[days % 7], axis=1)
    np.testing.assert_allclose(expected, np.maximum(np.expm1(level + profile[time % 7]), 0), rtol=1e-9)


def test_a_new_level_is_believed_after_a_week_and_not_after_three_days() -> None:
    time = np.full(2, table().end + 1)
    history = np.repeat(table().values[None, -14:], 2, axis=0)
    usual = graph()(unknown(time, 14) | {"history": history})[0][0]

    history[0, -3:] *= 2
    history[1, -8:] *= 2
    three_days, eight_days = graph()(unknown(time, 14) | {"history": history})[0]

    assert three_days == pytest.approx(usual, rel=0.05)
    assert eight_days == pytest.approx(2 * usual, rel=0.05)


def test_the_spread_is_the_tables_noise_whatever_single_days_did() -> None:
    values = table().values.copy()
    values[[40, 41, 90, 91]] *= 20

    quiet, struck = fitted().spread, seasonal_decomposition.fit(replace(table(), values=values)).spread

    assert 0.025 < quiet < 0.045
    assert struck == pytest.approx(quiet, rel=0.35)


def test_trend_and_weekday_are_told_apart() -> None:
    sunday = np.array([table().end + 1 + (6 - (table().end + 4) % 7) % 7])

    expected, _, _, effects = graph()(unknown(sunday, 14) | {"history": 2 * table().values[None, -14:]})
    trend, weekday, holiday = effects[0]

    assert trend == pytest.approx(expected[0] / 2, rel=0.1)
    assert weekday < -1.2 * expected[0] and holiday == 0


def test_holidays_do_not_bend_the_profile() -> None:
    struck = daily(150, country="US", holiday=0.1)
    plain = replace(struck, values=np.where(struck.holiday == 2, np.nan, struck.values))

    with_holidays, without = (seasonal_decomposition.fit(series).profile for series in (struck, plain))

    np.testing.assert_array_equal(with_holidays, without)


def test_another_profile_is_no_parity() -> None:
    changed = replace(fitted(), profile=fitted().profile + 1e-6 * np.arange(7))

    assert fitted().check_parity().holds and not changed.check_parity().holds


def test_windows_hold_what_came_before_each_day() -> None:
    np.testing.assert_array_equal(windows(np.array([1.0, 2.0, 3.0]), 2), [[np.nan, np.nan], [np.nan, 1.0], [1.0, 2.0]])
