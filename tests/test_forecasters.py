"""What every forecaster of volume has to pass, as it is served: in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng

from tests.counts import MONDAY, Graph, daily, hourly, served
from training import arima, prophet_model, seasonal_decomposition
from training.calibration import Calibration
from training.decision import declared, export_forecaster, forecaster_scores, judged, run
from training.series import NotEnoughHistory, TrainingSeries

FAMILIES = (prophet_model, arima, seasonal_decomposition)
DAYS = 120
GAPS = {
    "yesterday": slice(-1, None),
    "a week": slice(-7, None),
    "every other day": slice(None, None, 2),
    "everything": slice(None),
}


@pytest.fixture(params=FAMILIES, ids=lambda family: family.__name__.removeprefix("training."))
def family(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


@cache
def fitted(family: ModuleType, make: Callable[[], TrainingSeries]) -> Any:
    return family.fit(make())


@cache
def graph(family: ModuleType, make: Callable[[], TrainingSeries]) -> Graph:
    return served(fitted(family, make))


def table() -> TrainingSeries:
    return daily(DAYS, country="US", holiday=0.5)


def billions() -> TrainingSeries:
    return daily(DAYS, rows=5e9)


def constant() -> TrainingSeries:
    return replace(table(), values=np.full(DAYS, 1000.0))


def gappy() -> TrainingSeries:
    series = table()
    return replace(series, values=np.where(default_rng(5).random(DAYS) < 0.2, np.nan, series.values))


def four_weeks_of_hours() -> TrainingSeries:
    return hourly(28)


def verdicts(model: Any, feeds: Mapping[str, Any]) -> Any:
    """What the code that the graph is traced from says."""
    return model.forecast(np, feeds["time"], feeds["history"], feeds["holiday"])


def two_weeks(make: Callable[[], TrainingSeries], window: int) -> dict[str, Any]:
    """The inputs of the last two weeks of a table."""
    series = make()
    return judged(series, series.time[-14:], window)


def test_the_graph_equals_its_library(family: ModuleType) -> None:
    parity = fitted(family, table).check_parity()

    assert parity.holds and parity.rows >= 20


def test_the_graph_equals_the_code_that_it_was_traced_from(family: ModuleType) -> None:
    model = fitted(family, table)
    feeds = two_weeks(table, model.window)

    traced = graph(family, table)(feeds)

    code = verdicts(model, feeds)
    for ours, theirs in zip(code, traced, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-10, atol=1e-6)
    assert code[3].shape == (14, len(model.factors))


def test_an_ordinary_week_is_expected_within_the_noise(family: ModuleType) -> None:
    model = fitted(family, table)
    feeds = two_weeks(table, model.window)

    expected, below, above, _ = graph(family, table)(feeds)

    away = (feeds["value"] - expected) / np.where(feeds["value"] < expected, below, above)
    assert np.abs(away).max() < 4.5
    assert 0.3 < np.median(np.abs(away)) < 1.5
    assert expected[(feeds["time"] + 3) % 7 == 6].max() < 0.5 * expected[(feeds["time"] + 3) % 7 == 0].min()


def test_rows_are_independent_decisions(family: ModuleType) -> None:
    model = fitted(family, table)
    feeds = two_weeks(table, model.window)
    order = default_rng(0).permutation(14)

    judge = graph(family, table)
    together, shuffled = judge(feeds), judge({name: array[order] for name, array in feeds.items()})
    alone = [judge({name: array[i : i + 1] for name, array in feeds.items()}) for i in range(14)]

    for k, answer in enumerate(together):
        np.testing.assert_allclose(shuffled[k], answer[order], rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(np.concatenate([one[k] for one in alone]), answer, rtol=1e-12, atol=1e-9)


def test_more_history_than_the_window_changes_nothing(family: ModuleType) -> None:
    model = fitted(family, table)

    needed = graph(family, table)(two_weeks(table, model.window))
    more = graph(family, table)(two_weeks(table, model.window + 9))

    for short, long in zip(needed, more, strict=True):
        np.testing.assert_array_equal(short, long)


@pytest.mark.parametrize("missing", GAPS)
def test_gaps_in_the_history_leave_a_forecast_near_the_usual(family: ModuleType, missing: str) -> None:
    model = fitted(family, table)
    feeds = two_weeks(table, model.window)
    feeds = {name: array[:1] for name, array in feeds.items()}  # a Monday
    with_gaps = feeds["history"].copy()
    with_gaps[:, GAPS[missing]] = np.nan

    judge = graph(family, table)
    complete, gappy = judge(feeds), judge(feeds | {"history": with_gaps})

    assert all(np.isfinite(answer).all() for answer in gappy)
    assert gappy[0][0] == pytest.approx(complete[0][0], rel=0.5 if missing == "everything" else 0.1)


def test_a_gap_in_the_training_data_is_no_obstacle(family: ModuleType) -> None:
    model = fitted(family, gappy)

    expected, below, above, _ = served(model)(two_weeks(table, model.window))

    assert model.check_parity().holds
    np.testing.assert_allclose(expected, graph(family, table)(two_weeks(table, model.window))[0], rtol=0.1)
    assert (below > 0).all() and (above > 0).all()


def test_counts_of_billions_keep_their_last_row(family: ModuleType) -> None:
    series, model = billions(), fitted(family, billions)
    calibration = Calibration.fit(forecaster_scores(model, judged(series, series.time[-40:], model.window)))
    file = export_forecaster(model, calibration, series, {"window": model.window})
    feeds = judged(series, series.time[-1:], model.window) | {"threshold": np.array([0.99])}
    feeds["value"] = 1.4 * feeds["value"]
    inputs = set(declared(file))

    def answer(**changed: Any) -> dict[str, Any]:
        return run(file, {name: array for name, array in (feeds | changed).items() if name in inputs})

    usual, one_more, all_one_more = answer(), answer(value=feeds["value"] + 1), answer(history=feeds["history"] + 1)

    assert one_more["score"][0] > usual["score"][0]
    for name in ("expected", "lower", "upper"):
        assert all_one_more[name][0] - usual[name][0] == pytest.approx(1, abs=0.6)


def test_a_constant_table_may_still_vary_a_little(family: ModuleType) -> None:
    model = fitted(family, constant)

    expected, below, above, _ = served(model)(two_weeks(constant, model.window))

    assert model.check_parity().holds
    np.testing.assert_allclose(expected, 1000, rtol=1e-3)
    assert (below >= 5).all() and (above >= 5).all() and (above < 100).all()


def test_a_table_that_is_always_empty_expects_nothing(family: ModuleType) -> None:
    empty = replace(table(), values=np.zeros(DAYS), holiday=np.zeros(DAYS, np.int64), names={})
    model = family.fit(empty)

    expected, below, above, effects = verdicts(model, judged(empty, empty.time[-2:], model.window))

    np.testing.assert_allclose(expected, 0, atol=1e-6)
    np.testing.assert_allclose(effects, 0, atol=1e-6)
    assert (below == 0.5).all() and (above == 0.5).all()


def test_four_weeks_are_needed_and_enough(family: ModuleType) -> None:
    series = daily(28)

    assert np.isfinite(verdicts(family.fit(series), judged(series, series.time[-1:], 60))[0]).all()
    with pytest.raises(NotEnoughHistory) as refusal:
        family.fit(replace(series, values=np.where(np.arange(28) == 10, np.nan, series.values)))
    assert (refusal.value.needs, refusal.value.has) == (28, 27)


def test_a_granularity_without_a_week_is_refused(family: ModuleType) -> None:
    with pytest.raises(ValueError, match="monthly tables have no weekly season"):
        family.fit(replace(daily(60), granularity="monthly"))


def test_an_hourly_table_has_its_nights_and_weekends(family: ModuleType) -> None:
    model = fitted(family, four_weeks_of_hours)
    series = four_weeks_of_hours()
    feeds = judged(series, series.time[-48:], model.window)

    expected, below, above, _ = served(model)(feeds)

    assert model.check_parity().holds
    away = (feeds["value"] - expected) / np.where(feeds["value"] < expected, below, above)
    assert np.median(np.abs(away)) < 1.5 and np.quantile(np.abs(away), 0.9) < 4


def test_a_table_that_halves_on_holidays_is_expected_to_do_so_again(family: ModuleType) -> None:
    year = daily(330, country="US", holiday=0.5)  # until early December
    model = family.fit(year)
    holiday = np.zeros((2, model.window + 1), np.int64)
    holiday[1, -1] = 2
    history = np.repeat(year.values[None, -model.window :], 2, axis=0)
    monday = np.full(2, MONDAY + 336)  # no holiday by name: only the class says so

    expected, below, _, effects = verdicts(model, {"time": monday, "history": history, "holiday": holiday})

    if family is not prophet_model:  # which ascribes what it has seen to each holiday's own name
        assert expected[1] / expected[0] == pytest.approx(0.55, abs=0.15)
    assert below[1] / expected[1] > below[0] / expected[0]
    assert effects[0, model.factors.index("holiday")] == pytest.approx(0, abs=1e-6)


def test_the_same_table_gives_the_same_model(family: ModuleType) -> None:
    again = family.fit(table())

    feeds = two_weeks(table, again.window)
    for first, second in zip(verdicts(fitted(family, table), feeds), verdicts(again, feeds), strict=True):
        np.testing.assert_array_equal(first, second)
