"""Models that differ in what they learnt alone share a session, and never each other's parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from detectors import onnx_file
from detectors.artefact import Artefact, UnusableArtefact
from tests.counts import MONDAY, daily
from training import backtest, decision
from training.calibration import Calibration

CALIBRATION = Calibration.fit(np.abs(np.random.default_rng(0).normal(size=80)))


def table(family: str, rows: float, noise: float = 0.03, days: int = 120) -> bytes:
    series = daily(days, rows=rows, noise=noise)
    calibration = None if family == "structural" else CALIBRATION
    return backtest.export(family, backtest.fit(family, series), calibration, series, {"timezone": "UTC"})


@pytest.fixture(scope="module", params=["seasonal_decomposition", "structural"])
def two(request: pytest.FixtureRequest) -> tuple[bytes, bytes]:
    return table(request.param, 500.0), table(request.param, 90_000.0, noise=0.2)


def asked(artefact: Artefact) -> dict[str, Any]:
    n, window = 3, 14
    value = np.array([0.0, 700.0, 90_000.0])
    return {"time": np.full(n, MONDAY + 130), "history": np.full((n, window), 700.0), "value": value,
            "holiday": np.zeros((n, window + 1), np.int64), "threshold": np.full(n, 0.99)}


def test_tables_of_one_family_share_a_session_and_each_answers_as_its_file_alone_would(two: tuple[bytes, bytes]) -> None:
    first, second = map(Artefact.load, two)

    assert first._session is second._session
    for file, artefact in zip(two, (first, second), strict=True):
        feeds = asked(artefact)
        alone = decision.run(file, {name: feeds[name] for name in artefact.inputs})
        ours = artefact.run(feeds)
        assert all(np.array_equal(ours[name], alone[name], equal_nan=True) for name in alone)
    assert first.run(asked(first))["expected"][0] != second.run(asked(second))["expected"][0]


def test_a_second_table_of_a_kind_takes_little_memory() -> None:
    _, second = (Artefact.load(table("seasonal_decomposition", rows)) for rows in (100.0, 200.0))

    assert second.size_bytes < 25_000


def test_a_changed_parameter_is_found_though_the_session_is_there_already(two: tuple[bytes, bytes]) -> None:
    Artefact.load(two[0])
    model = onnx.ModelProto.FromString(two[1])
    inputs = {entry.name for entry in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name in inputs:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.1, tensor.name))

    with pytest.raises(UnusableArtefact, match="probe"):
        Artefact.load(model.SerializeToString())


def test_another_graph_is_another_session(two: tuple[bytes, bytes]) -> None:
    model = onnx.ModelProto.FromString(two[0])
    model.graph.name = "another"

    assert Artefact.load(model.SerializeToString())._session is not Artefact.load(two[0])._session


@given(st.binary(max_size=200))
def test_bytes_that_are_no_model_have_no_parts(data: bytes) -> None:
    assert onnx_file.parts(data) is None


@given(st.integers(0, 2**31), st.binary(min_size=1, max_size=8))
def test_a_damaged_file_is_answered_not_crashed_on(at: int, damage: bytes) -> None:
    file = bytearray(FILE)
    at %= len(file)
    file[at:at + len(damage)] = damage

    found = onnx_file.parts(bytes(file))

    assert found is None or found.parameters


FILE = table("seasonal_decomposition", 500.0)
