"""What is loaded as a model, and above all what is not."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from detectors.artefact import Artefact, UnusableArtefact
from tests.onnx_models import card, model, with_card


def test_a_model_answers_with_every_output_by_name():
    artefact = Artefact.load(model(2.0))

    answer = artefact.run({"value": np.array([3.0, np.nan]), "history": np.zeros((2, 30))})

    assert artefact.inputs == ("value",)
    assert list(answer) == ["score"]
    np.testing.assert_array_equal(answer["score"], [6.0, np.nan])


def test_the_card_comes_without_its_probe():
    artefact = Artefact.load(model(2.0, window=28))

    assert (artefact.algorithm, artefact.version, artefact.card["window"]) == ("structural", "7", 28)
    assert "probe" not in artefact.card


def test_an_input_that_is_not_given_is_named():
    with pytest.raises(KeyError, match="value"):
        Artefact.load(model(2.0)).run({"history": np.zeros(1)})


def test_the_hash_of_the_registry_is_checked():
    payload = model(2.0)

    Artefact.load(payload, sha256=hashlib.sha256(payload).hexdigest())
    with pytest.raises(UnusableArtefact, match="SHA-256"):
        Artefact.load(payload, sha256=hashlib.sha256(b"another").hexdigest())


@pytest.mark.parametrize("payload", [b"", b"not onnx", b"\0" * 1000, b"PK\x03\x04"])
def test_what_is_no_model_is_refused(payload):
    with pytest.raises(UnusableArtefact):
        Artefact.load(payload)


def test_no_truncated_file_is_ever_served():
    payload = model(2.0)

    for length in range(0, len(payload), 7):
        with pytest.raises(UnusableArtefact):
            Artefact.load(payload[:length])


def test_the_probe_catches_a_weight_that_changed():
    changed = model(2.0).replace(np.float64(2.0).tobytes(), np.float64(2.0 + 1e-6).tobytes())

    assert changed != model(2.0)
    with pytest.raises(UnusableArtefact, match="another score"):
        Artefact.load(changed)


@pytest.mark.parametrize(("difference", "loads"), [(1e-12, True), (1e-7, False)])
def test_the_probe_is_compared_to_a_billionth(difference, loads):
    payload = model(2.0, probe={"inputs": {"value": [1e6]}, "outputs": {"score": [2e6 * (1 + difference)]}})

    if loads:
        Artefact.load(payload)
    else:
        with pytest.raises(UnusableArtefact):
            Artefact.load(payload)


@pytest.mark.parametrize("probe", [
    None, {}, [], {"inputs": {}, "outputs": {}}, {"inputs": {"value": [1.0]}, "outputs": {}},
    {"inputs": {"value": [1.0]}, "outputs": {"score": [2.0, 2.0]}},
    {"inputs": {"value": [1.0]}, "outputs": {"score": [None]}},
    {"inputs": {"value": ["one"]}, "outputs": {"score": [2.0]}}, {"inputs": {"value": [[1.0]]}, "outputs": {"score": [2]}}])
def test_a_probe_that_cannot_be_replayed_is_refused(probe):
    with pytest.raises(UnusableArtefact, match="probe"):
        Artefact.load(model(2.0, probe=probe))


def test_infinite_bounds_in_a_probe_are_compared():
    probe = {"inputs": {"value": [float("-inf"), 1.0]}, "outputs": {"score": [float("-inf"), 2.0]}}

    Artefact.load(model(2.0, probe=probe))
    probe["outputs"]["score"][0] = -1e300
    with pytest.raises(UnusableArtefact):
        Artefact.load(model(2.0, probe=probe))


@pytest.mark.parametrize(("text", "reason"), [
    ("", "no card"), ("{", "no card"), ("[1]", "no card"), ("3", "no card"),
    ("{}", "no schema and no algorithm and no probe"),
    ('{"schema": 2, "algorithm": "a", "probe": {}}', "has schema 2; this app reads 1")])
def test_a_card_that_cannot_be_read_is_refused(text, reason):
    graph = onnx.load_from_string(model(2.0))
    del graph.metadata_props[:]

    with pytest.raises(UnusableArtefact, match=reason):
        Artefact.load(with_card(graph, text))


def test_a_model_without_metadata_is_refused():
    graph = onnx.load_from_string(model(2.0))
    del graph.metadata_props[:]

    with pytest.raises(UnusableArtefact, match="no card"):
        Artefact.load(graph.SerializeToString())


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/hostname"])
def test_weights_outside_the_file_are_refused(tmp_path, monkeypatch, location):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for place in (tmp_path, tmp_path / "here"):
        (place / "weights.bin").write_bytes(np.full(3, 2.0).tobytes())
    weights = TensorProto(name="w", data_type=TensorProto.DOUBLE, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "24")):
        weights.external_data.add(key=key, value=value)

    with pytest.raises(UnusableArtefact):
        Artefact.load(custom(helper.make_node("Mul", ["value", "w"], ["score"]), [weights]))


def test_operators_that_onnx_runtime_does_not_bring_are_refused():
    with pytest.raises(UnusableArtefact, match="cannot be loaded"):
        Artefact.load(custom(helper.make_node("Evil", ["value"], ["score"], domain="com.evil"), []))


def test_one_model_answers_many_threads_alike():
    artefact = Artefact.load(model(2.0))
    values = [np.arange(n, n + 50.0) for n in range(200)]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda v: artefact.run({"value": v})["score"], values))

    for value, answer in zip(values, answers, strict=True):
        np.testing.assert_array_equal(answer, 2.0 * value)


def test_a_larger_file_counts_as_more_memory():
    assert Artefact.load(model(2.0, note="x" * 100_000)).size_bytes > Artefact.load(model(2.0)).size_bytes > 50_000


def custom(node: onnx.NodeProto, weights: list[TensorProto]) -> bytes:
    """A whole artefact around one node."""
    ends = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [3]) for name in ("value", "score")]
    graph = helper.make_graph([node], "graph", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.evil", 1)]
    return with_card(helper.make_model(graph, opset_imports=opsets, ir_version=10), card(2.0))
