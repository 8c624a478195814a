"""One ONNX file holds the whole decision: expectation, bounds, calibrated score, card and probe."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.random import default_rng

from training.calibration import Calibration
from training.decision import (
    build,
    declared,
    export_forecaster,
    export_scorer,
    forecaster_scores,
    judged,
    run,
    scorer_scores,
)
from training.series import TrainingSeries

CARD: dict[str, Any] = {"schema": 1, "detector": "volume", "algorithm": "toy", "window": 7, "factors": ["trend"]}
FIRST_DAY = 19_000


@dataclass(frozen=True, slots=True)
class MeanOfTheWeek:
    """A toy forecaster whose spread differs between the sides."""

    window: int = 7
    factors: tuple[str, ...] = ("trend",)

    def forecast(self, xp: Any, time: Any, history: Any, holiday: Any) -> tuple[Any, Any, Any, Any | None]:
        recent = history[:, -7:]
        known = xp.astype(~xp.isnan(recent), xp.float64)
        expected = xp.sum(xp.where(xp.isnan(recent), 0.0, recent), axis=1) / xp.sum(known, axis=1)
        spread = 0.05 * expected
        return expected, spread, 2.0 * spread, (expected - history[:, -1])[:, None]


@dataclass(frozen=True, slots=True)
class DistanceFromYesterday:
    """A toy scorer that also holds exact repetitions to be anomalous, so that a normal range can have a hole."""

    window: int = 7

    def context(self, xp: Any, time: Any, history: Any, holiday: Any) -> Any:
        return xp.log(1.0 + history[:, -1:])

    def centre(self, xp: Any, context: Any) -> tuple[Any, Any]:
        return context + 0.02, 0.0 * context + 0.05

    def raw(self, xp: Any, context: Any, level: Any) -> Any:
        distance = xp.abs(level - context) / 0.05
        return xp.where(distance < 1e-9, 9.0, distance)


@pytest.fixture(scope="module")
def series() -> TrainingSeries:
    rng = default_rng(0)
    return TrainingSeries(FIRST_DAY, np.round(1000 * np.exp(0.05 * rng.normal(size=200))), np.zeros(200, np.int64))


@pytest.fixture(scope="module")
def rows(series: TrainingSeries) -> dict[str, Any]:
    """100 days to judge, in every size from nothing to twice the usual."""
    feeds = judged(series, np.arange(FIRST_DAY + 100, FIRST_DAY + 200), window=7)
    return feeds | {"value": np.linspace(0, 2000, 100), "threshold": np.linspace(0.9, 0.9999, 100)}


@pytest.fixture(scope="module")
def forecaster(series: TrainingSeries) -> bytes:
    held_out = judged(series, np.arange(FIRST_DAY + 20, FIRST_DAY + 200), window=7)
    calibration = Calibration.fit(forecaster_scores(MeanOfTheWeek(), held_out))
    return export_forecaster(MeanOfTheWeek(), calibration, series, CARD)


@pytest.fixture(scope="module")
def scorer(series: TrainingSeries) -> bytes:
    held_out = judged(series, np.arange(FIRST_DAY + 20, FIRST_DAY + 200), window=7)
    calibration = Calibration.fit(scorer_scores(DistanceFromYesterday(), held_out))
    return export_scorer(DistanceFromYesterday(), calibration, series, CARD | {"factors": []})


def card_of(model: bytes) -> dict[str, Any]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    assert list(properties) == ["card"]
    card: dict[str, Any] = json.loads(properties["card"])
    return card


def feed(model: bytes, rows: dict[str, Any]) -> dict[str, Any]:
    """Only what the model declares, by name: the caller's part of the contract."""
    return run(model, {name: rows[name] for name in declared(model)})


@pytest.mark.parametrize("kind", ["forecaster", "scorer"])
def test_a_value_is_outside_its_bounds_exactly_when_its_score_reaches_the_threshold(
    kind: str, rows: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    answers = feed(request.getfixturevalue(kind), rows)

    outside = (rows["value"] < answers["lower"]) | (rows["value"] > answers["upper"])
    assert (outside == (answers["score"] >= rows["threshold"])).all()
    assert 10 < outside.sum() < 90
    assert (answers["lower"] <= answers["expected"]).all() and (answers["expected"] <= answers["upper"]).all()


@pytest.mark.parametrize("kind", ["forecaster", "scorer"])
def test_a_higher_threshold_never_narrows_the_bounds(
    kind: str, rows: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(kind)
    usual = rows | {"value": np.full(100, 1000.0)}
    ranges = [feed(model, usual | {"threshold": np.full(100, level)}) for level in (0.9, 0.99, 0.999, 0.9999)]

    for narrow, wide in itertools.pairwise(ranges):
        assert (wide["upper"] >= narrow["upper"]).all() and (wide["lower"] <= narrow["lower"]).all()


@pytest.mark.parametrize("kind", ["forecaster", "scorer"])
def test_the_order_and_the_number_of_rows_change_nothing(
    kind: str, rows: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    model, order = request.getfixturevalue(kind), default_rng(1).permutation(100)
    whole = feed(model, rows)
    shuffled = feed(model, {name: array[order] for name, array in rows.items()})
    single = feed(model, {name: array[41:42] for name, array in rows.items()})

    for name, array in whole.items():
        assert np.allclose(shuffled[name], array[order], rtol=1e-12, atol=0)
        assert np.allclose(single[name], array[41:42], rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["forecaster", "scorer"])
def test_without_a_usable_history_every_answer_is_nan(
    kind: str, rows: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    answers = feed(request.getfixturevalue(kind), rows | {"history": np.full((100, 7), np.nan)})

    assert all(np.isnan(array).all() for array in answers.values())


@pytest.mark.parametrize("kind", ["forecaster", "scorer"])
def test_the_card_carries_a_probe_with_a_gap_a_spike_and_a_nan_that_replays(
    kind: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(kind)
    card = card_of(model)
    probe = {
        side: {name: np.array(values, np.float64) for name, values in arrays.items()}
        for side, arrays in card["probe"].items()
    }

    answers = run(model, probe["inputs"])

    assert card | {"probe": None, "factors": []} == CARD | {"probe": None, "factors": []}
    assert np.isnan(probe["inputs"]["history"]).any() and np.isnan(probe["inputs"]["value"]).any()
    assert probe["inputs"]["value"][2] > 4000 and probe["inputs"]["value"][3] == 0
    for name, values in probe["outputs"].items():
        assert np.allclose(answers[name], values, rtol=1e-12, atol=0, equal_nan=True)
    assert probe["outputs"]["score"][2] > 0.99 > probe["outputs"]["score"][0]


def test_a_graph_declares_only_the_inputs_that_it_uses(forecaster: bytes, scorer: bytes) -> None:
    inputs = [set(declared(model)) for model in (forecaster, scorer)]
    named = {entry.name for entry in onnx.ModelProto.FromString(forecaster).graph.output}

    assert inputs == [{"history", "value", "threshold"}] * 2
    assert named == {"expected", "lower", "upper", "score", "effects"}


def test_the_file_is_opset_21_ir_10_at_most_and_the_same_every_time(series: TrainingSeries) -> None:
    def decide(xp: Any, time: Any, history: Any, holiday: Any, value: Any, threshold: Any) -> dict[str, Any]:
        return {"score": value + xp.astype(time, xp.float64)}

    first, second = (build(decide, series, CARD) for _ in range(2))
    model = onnx.ModelProto.FromString(first)

    assert first == second
    assert model.ir_version == 10
    assert max(entry.version for entry in model.opset_import) <= 21
    assert [entry.name for entry in model.graph.input] == ["time", "value"]


def test_the_forecaster_graph_computes_what_numpy_computes(
    series: TrainingSeries, forecaster: bytes, rows: dict[str, Any]
) -> None:
    expected, below, above, effects = MeanOfTheWeek().forecast(np, rows["time"], rows["history"], rows["holiday"])

    answers = feed(forecaster, rows)

    assert np.allclose(answers["expected"], expected, rtol=1e-12)
    assert np.allclose(answers["effects"], effects, rtol=1e-12)
    ratio = (answers["upper"] - expected) / (expected - answers["lower"])
    assert np.allclose(ratio, above / below)


def test_an_exact_repetition_that_scores_as_an_anomaly_is_outside_its_bounds(
    scorer: bytes, rows: dict[str, Any]
) -> None:
    stuck = rows | {"value": rows["history"][:, -1], "threshold": np.full(100, 0.99)}

    answers = feed(scorer, stuck)

    assert (answers["score"] >= 0.99).all()
    assert ((stuck["value"] < answers["lower"]) | (stuck["value"] > answers["upper"])).all()


def test_the_history_of_a_judged_day_is_what_came_before_it(series: TrainingSeries) -> None:
    inputs = judged(series, np.array([FIRST_DAY + 3, FIRST_DAY + 50]), window=5)

    assert np.isnan(inputs["history"][0, :2]).all()
    assert (inputs["history"][0, 2:] == series.values[:3]).all()
    assert (inputs["history"][1] == series.values[45:50]).all()
    assert inputs["value"].tolist() == series.values[[3, 50]].tolist()
    assert inputs["holiday"].shape == (2, 6)
