"""Isolation forest, one-class SVM and LOF: their ONNX equals scikit-learn, and their decisions hold for a count."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.random import default_rng
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import RobustScaler, StandardScaler
from sklearn.svm import OneClassSVM

from training.calibration import Calibration
from training.converters import to_model
from training.decision import declared, export_scorer, judged, run, scorer_scores
from training.deviations import SEASONS
from training.outliers import Outliers, fit
from training.series import NotEnoughHistory, TrainingSeries

ALGORITHMS = ["isolation_forest", "one_class_svm", "lof"]
DETECTORS = {
    "isolation forest": IsolationForest(n_estimators=100, random_state=0),
    "isolation forest on half the features, some trees of one leaf": IsolationForest(
        n_estimators=40, max_samples=3, max_features=0.5, contamination=0.02, random_state=0
    ),
    "one-class SVM": OneClassSVM(nu=0.05),
    "local outlier factor": LocalOutlierFactor(novelty=True),
}
FIRST_DAY = 19_006


def weekly_counts(days: int, usual: float = 1000.0, noise: float = 0.05) -> TrainingSeries:
    """A table that rests at weekends, with two gaps and a holiday."""
    rng, time = default_rng(0), np.arange(FIRST_DAY, FIRST_DAY + days)
    weekday = np.where((time + 3) % 7 >= 5, 0.4, 1.0)
    values = np.round(usual * weekday * np.exp(noise * rng.normal(size=days)))
    holiday = np.zeros(days, np.int64)
    holiday[days // 3] = 2
    values[[days // 2, days // 2 + 9]] = np.nan
    return TrainingSeries(FIRST_DAY, values, holiday)


def calibrated(fitted: Outliers, series: TrainingSeries) -> Calibration:
    return Calibration.fit(scorer_scores(fitted, judged(series, series.time[-120:], fitted.window)))


@pytest.fixture(scope="module")
def series() -> TrainingSeries:
    return weekly_counts(300)


@pytest.fixture(scope="module", params=ALGORITHMS)
def fitted(request: pytest.FixtureRequest, series: TrainingSeries) -> Outliers:
    return fit(series, request.param)


@pytest.fixture(scope="module")
def model(fitted: Outliers, series: TrainingSeries) -> bytes:
    card = {"schema": 1, "algorithm": fitted.algorithm, "window": fitted.window, "factors": []}
    return export_scorer(fitted, calibrated(fitted, series), series, card)


@pytest.fixture(scope="module")
def tomorrow(series: TrainingSeries, fitted: Outliers) -> dict[str, Any]:
    """The Thursday after the training data."""
    time = series.end + 1
    longer = TrainingSeries(series.start, np.append(series.values, 1000.0), np.append(series.holiday, 0))
    assert (time + 3) % 7 == 3
    return judged(longer, np.array([time]), fitted.window) | {"threshold": np.array([0.99])}


def decide(model: bytes, rows: dict[str, Any], values: list[float]) -> dict[str, Any]:
    """The same day with each of these counts."""
    many = {name: np.repeat(array, len(values), axis=0) for name, array in rows.items()} | {"value": np.array(values)}
    return run(model, {name: many[name] for name in declared(model)})


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("scaler", [StandardScaler(), RobustScaler()])
def test_scores_and_labels_of_the_graph_are_those_of_scikit_learn_on_ten_thousand_rows(
    detector: str, scaler: Any
) -> None:
    rng = default_rng(1)
    offset, unit = np.array([0.0, 0.0, 1e6, 1.7e9]), np.array([1.0, 1e-3, 100.0, 10.0])
    pipeline = make_pipeline(scaler, DETECTORS[detector]).fit(rng.normal(size=(400, 4)) * unit + offset)
    rows = 1.6 * rng.normal(size=(10_000, 4)) * unit + offset

    answers = run(to_model(pipeline, 4).SerializeToString(), {"x": rows})

    assert np.abs(answers["scores"][:, 0] - pipeline.decision_function(rows)).max() < 1e-6
    assert (answers["label"] == pipeline.predict(rows)).all()
    assert "one leaf" in detector or 100 < (answers["label"] == -1).sum() < 9_900


@pytest.mark.parametrize("detector", ["one-class SVM", "local outlier factor"])
def test_an_offset_that_no_scaler_took_away_costs_no_digits(detector: str) -> None:
    rng = default_rng(2)
    pipeline = Pipeline([("detector", DETECTORS[detector])]).fit(rng.normal(size=(300, 2)) * 10 + 1.7e9)
    rows = rng.normal(size=(1_000, 2)) * 16 + 1.7e9

    answers = run(to_model(pipeline, 2).SerializeToString(), {"x": rows})

    assert np.abs(answers["scores"][:, 0] - pipeline.decision_function(rows)).max() < 1e-6


def test_what_is_not_converted_is_refused() -> None:
    rows = default_rng(3).normal(size=(50, 2))

    with pytest.raises(NotImplementedError, match="poly"):
        to_model(make_pipeline(RobustScaler(), OneClassSVM(kernel="poly")).fit(rows), 2)
    with pytest.raises(NotImplementedError, match="manhattan"):
        to_model(make_pipeline(RobustScaler(), LocalOutlierFactor(novelty=True, metric="manhattan")).fit(rows), 2)


def test_parity_with_its_own_library_holds(fitted: Outliers) -> None:
    parity = fitted.check_parity()

    assert parity.holds
    assert parity.rows == 10_000


def test_the_decision_in_the_graph_scores_as_the_library_does(
    fitted: Outliers, model: bytes, series: TrainingSeries
) -> None:
    rows = judged(series, series.time[60:], fitted.window) | {"threshold": np.full(240, 0.99)}
    rows["value"] = rows["value"] * np.resize([1.0, 1.0, 0.7, 1.0, 3.0], 240)
    expected = calibrated(fitted, series).score(np, scorer_scores(fitted, rows))

    answers = run(model, {name: rows[name] for name in declared(model)})

    assert np.nanmax(np.abs(answers["score"] - expected)) < 1e-5
    assert (np.isnan(answers["score"]) == np.isnan(expected)).all()
    outside = (rows["value"] < answers["lower"]) | (rows["value"] > answers["upper"])
    assert (outside == (answers["score"] >= 0.99)).all()
    assert outside.sum() > 40


def test_an_empty_a_halved_a_doubled_and_a_stuck_load_are_anomalies_and_the_usual_is_not(
    model: bytes, tomorrow: dict[str, Any]
) -> None:
    stuck = float(tomorrow["history"][0, -1])
    answers = decide(model, tomorrow, [0, 500, 2000, 1e9, stuck, 1000, 1010])

    assert (answers["score"][:5] > 0.99).all()
    assert (answers["score"][5:] < 0.99).all()
    assert np.abs(answers["expected"] - 1000).max() < 50


def test_scores_grow_with_the_distance_and_never_come_to_an_end(model: bytes, tomorrow: dict[str, Any]) -> None:
    far = decide(model, tomorrow, [1200.0, 1500.0, 2500.0, 5000.0])["score"]

    assert (np.diff(-np.log1p(-far)) > 0).all()


def test_bounds_are_where_a_value_begins_to_be_anomalous(model: bytes, tomorrow: dict[str, Any]) -> None:
    bounds = decide(model, tomorrow, [1003.0])
    lower, upper = bounds["lower"][0], bounds["upper"][0]
    width = upper - lower

    around = decide(
        model, tomorrow, [lower - 0.1 * width, lower + 0.1 * width, upper - 0.1 * width, upper + 0.1 * width]
    )

    assert 800 < lower < 950 and 1050 < upper < 1250
    assert (around["score"] >= 0.99).tolist() == [True, False, False, True]


def test_a_holiday_is_judged_more_gently(model: bytes, tomorrow: dict[str, Any]) -> None:
    special = tomorrow["holiday"].copy()
    special[0, -1] = 2

    usual = decide(model, tomorrow, [850.0])
    holiday = decide(model, tomorrow | {"holiday": special}, [850.0])

    assert holiday["score"][0] < usual["score"][0]
    assert holiday["lower"][0] < usual["lower"][0] and holiday["upper"][0] > usual["upper"][0]


def test_gaps_in_the_history_are_bridged_and_an_empty_one_gives_no_answer(
    model: bytes, tomorrow: dict[str, Any]
) -> None:
    gaps, empty = tomorrow["history"].copy(), np.full_like(tomorrow["history"], np.nan)
    gaps[0, [-1, -5, -20]] = np.nan

    bridged = decide(model, tomorrow | {"history": gaps}, [1000.0, 300.0])
    silent = decide(model, tomorrow | {"history": empty}, [1000.0])

    assert (bridged["score"] >= 0.99).tolist() == [False, True]
    assert np.isnan(silent["score"][0]) and np.isnan(silent["expected"][0])


def test_twenty_million_rows_are_told_from_twenty_million_and_one() -> None:
    large = weekly_counts(301, usual=2e7)  # ends on a Thursday
    fitted = fit(large, "lof")
    model = export_scorer(fitted, calibrated(fitted, large), large, {"window": fitted.window})
    rows = judged(large, np.array([large.end]), fitted.window) | {"threshold": np.array([0.99])}
    before = float(rows["history"][0, -1])

    repeated, next_to_it = decide(model, rows, [before, before + 1])["score"]

    assert repeated >= 0.99 > next_to_it


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_constant_table_is_refused_with_the_number_of_different_days(algorithm: str) -> None:
    constant = TrainingSeries(FIRST_DAY, np.full(300, 500.0), np.zeros(300, np.int64))

    with pytest.raises(NotEnoughHistory) as refused:
        fit(constant, algorithm)

    assert (refused.value.needs, refused.value.has) == (28, 1)


@pytest.mark.parametrize("known", [0, 1, 20, 40])
def test_a_short_history_is_refused(known: int) -> None:
    with pytest.raises(NotEnoughHistory):
        fit(
            weekly_counts(300).until(FIRST_DAY + known - 1)
            if known
            else TrainingSeries(FIRST_DAY, np.full(60, np.nan), np.zeros(60, np.int64)),
            "lof",
        )


def test_an_unknown_algorithm_is_an_error(series: TrainingSeries) -> None:
    with pytest.raises(ValueError, match="no outlier detector is called 'hbos'"):
        fit(series, "hbos")


@pytest.mark.parametrize("granularity", SEASONS)
def test_every_granularity_has_a_decision(granularity: str) -> None:
    rng, buckets = default_rng(4), 1500 if granularity == "hourly" else 160
    time = np.arange(480_000, 480_000 + buckets)
    daily = 1.0 + 0.5 * np.sin(2 * np.pi * time / 24) if granularity == "hourly" else 1.0
    values = np.round(1000 * daily * np.exp(0.05 * rng.normal(size=buckets)))
    series = TrainingSeries(480_000, values, np.zeros(buckets, np.int64), granularity=granularity)
    fitted = fit(series, "one_class_svm")

    model = export_scorer(fitted, calibrated(fitted, series), series, {"window": fitted.window})

    rows = judged(series, time[-1:], fitted.window) | {"threshold": np.array([0.99])}
    answers = decide(model, rows, [0.0, float(values[-1]), 10_000.0])
    assert (answers["score"] >= 0.99).tolist() == [True, False, True]


def test_the_file_is_small_and_carries_its_card(model: bytes, fitted: Outliers) -> None:
    properties = {entry.key: entry.value for entry in onnx.ModelProto.FromString(model).metadata_props}

    assert len(model) < 400_000
    assert json.loads(properties["card"])["algorithm"] == fitted.algorithm
