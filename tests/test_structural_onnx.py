"""The structural baseline as one ONNX file: the same answers as the code it was traced from."""

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors import filter_bank, structural
from detectors.artefact import Artefact
from detectors.structural import Verdict
from training import structural as trained
from training.series import NotEnoughHistory, TrainingSeries
from training.structural import FittedStructural

FIRST, DAYS, SINCE = 18_262, 400, 40
NAMES = ("score", "expected", "lower", "upper")


def flights(days: int, granularity: str = "daily") -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Counts with a week, growth, holidays, gaps, repeats, faults and a new level, as real loads have them."""
    rng, bucket = np.random.default_rng(4), np.arange(days)
    cycle = bucket % (24 if granularity == "hourly" else 7)
    values = np.round(rng.poisson(800 * np.exp(0.002 * bucket + 0.4 * np.cos(cycle))) * np.exp(rng.normal(0, 0.03, days)))
    holiday = np.where(rng.random(days) < 0.04, 2, np.where(rng.random(days) < 0.06, 1, 0))
    values[rng.random(days) < 0.05] = np.nan
    values[rng.random(days) < 0.03] *= 0.3
    values[rng.random(days) < 0.02] = 0
    values[-30:-15] = np.round(values[-30:-15] * 1.8)
    values[-5:-3] = values[-6]
    return values, holiday.astype(np.int64)


@pytest.fixture(scope="module", params=["daily", "hourly", "weekly"])
def table(request: pytest.FixtureRequest) -> tuple[FittedStructural, Artefact, str]:
    granularity = str(request.param)
    values, holiday = flights(DAYS + SINCE, granularity)
    series = TrainingSeries(FIRST, values[:DAYS], holiday[:DAYS], granularity=granularity)
    fitted = trained.fit(series)
    return fitted, Artefact.load(trained.export(fitted, series, {"schema": 1, "algorithm": "structural"})), granularity


def reference(fitted: FittedStructural, granularity: str, since: int, value: float, threshold: float) -> Verdict:
    """The verdict of the code itself on the bucket `since` buckets after training."""
    values, holiday = flights(DAYS + SINCE, granularity)
    state, season = fitted.state, fitted.season
    for i in range(DAYS, DAYS + since):
        day = season.days(np, np.array([FIRST + i]), holiday[i : i + 1])
        seen = filter_bank.count(np, values[i].reshape(1, 1, 1, 1))
        state, _, _ = structural.advance(np, state, season.design, day, seen)
    at = DAYS + since
    return structural.judge_next(state, FIRST + at, int(holiday[at]), value, threshold, granularity)


def feeds(granularity: str, since: int, window: int, value: float, threshold: float) -> dict[str, NDArray]:
    values, holiday = flights(DAYS + SINCE, granularity)
    at = DAYS + since
    return {
        "time": np.array([FIRST + at]),
        "history": values[None, at - window : at],
        "holiday": holiday[None, at - window : at + 1],
        "value": np.array([value]), "threshold": np.array([threshold]),
    }


@pytest.mark.parametrize("since", [0, 1, 2, 7, 28])
def test_the_graph_answers_as_the_code(table: tuple[FittedStructural, Artefact, str], since: int) -> None:
    fitted, artefact, granularity = table

    for value, threshold in ((900.0, 0.99), (300.0, 0.9), (0.0, 0.9999), (2500.0, 0.5)):
        wanted = reference(fitted, granularity, since, value, threshold)
        got = artefact.run(feeds(granularity, since, max(since, 1), value, threshold))
        assert [got[name].item() for name in NAMES] == pytest.approx([getattr(wanted, name) for name in NAMES], rel=1e-9)
        assert got["effects"][0].tolist() == pytest.approx(list(wanted.effects.values()), rel=1e-9, abs=1e-9)
    assert tuple(wanted.effects) == fitted.factors


def test_a_longer_window_gives_the_same_answer(table: tuple[FittedStructural, Artefact, str]) -> None:
    _, artefact, granularity = table

    short, long = (artefact.run(feeds(granularity, 3, window, 900.0, 0.99)) for window in (3, 60))
    assert all(np.array_equal(short[name], long[name]) for name in short)


def test_rows_of_a_batch_are_independent(table: tuple[FittedStructural, Artefact, str]) -> None:
    _, artefact, granularity = table
    singles = [feeds(granularity, since, 20, 700.0 + 100 * since, 0.99) for since in (0, 9, 1, 20, 4)]
    batch = {name: np.concatenate([single[name] for single in singles]) for name in singles[0]}

    together = artefact.run(batch)
    for i, single in enumerate(singles):
        alone = artefact.run(single)
        assert all(together[name][i] == pytest.approx(alone[name][0], rel=1e-12) for name in alone)


def test_an_unknown_count_has_bounds_and_no_score(table: tuple[FittedStructural, Artefact, str]) -> None:
    _, artefact, granularity = table

    answer = artefact.run(feeds(granularity, 2, 2, np.nan, 0.99))
    assert np.isnan(answer["score"]).all() and answer["lower"] < answer["expected"] < answer["upper"]


def test_four_weeks_of_counts_are_needed() -> None:
    values, holiday = flights(28)

    with pytest.raises(NotEnoughHistory):
        trained.fit(TrainingSeries(FIRST, values, holiday))
    with pytest.raises(NotEnoughHistory):
        trained.fit(TrainingSeries(FIRST, np.zeros(60), np.zeros(60, np.int64)))
