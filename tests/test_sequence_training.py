"""Sequence models: what a job learns from, the LSTM and its ONNX twin, which family is chosen, and how it answers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detectors import sequence
from detectors.artefact import Artefact
from shared.catalogue import Catalogue
from shared.contract import parse
from shared.contract_sequence import SequenceTrainRequest
from shared.documents import Documents
from shared.errors import InvalidRequest
from shared.settings import Settings
from tests.catalogues import Clock
from tests.sequences import DAY, NOW, START, ask, metrics, points, request
from training import promotion, sequence_anomaly, sequence_backtest, sequence_lstm
from training.candidates import Candidate
from training.sequence_anomaly import FAMILIES, Prepared
from training.sequence_backtest import FAULTS, MetricSeries
from training.sequence_lstm import INSTALL, Effort

ROOT = Path(__file__).resolve().parent.parent
VALUES = metrics(45, 2)
SMALL = Effort(hidden=8, epochs=3, windows=192, batch=32)


def train_request(**body: Any) -> SequenceTrainRequest:
    return parse(SequenceTrainRequest, json.dumps({"table_id": "orders"} | body).encode())


def history(values: Any = VALUES) -> dict[str, Any]:
    return {"metrics": [f"metric{j}" for j in range(values.shape[1])], "historical_data": points(values)}


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return sequence_anomaly.prepare(train_request(**history()), None)


@pytest.fixture(scope="module")
def candidates(prepared: Prepared) -> dict[str, Candidate]:
    return {family: sequence_anomaly.fit_candidate(prepared, family, SMALL) for family in FAMILIES}


@pytest.fixture
def catalogue(storage: str) -> Catalogue:
    return Catalogue(Settings(connection_string=storage, recheck_seconds=0), Clock())


def promoted(catalogue: Catalogue, candidate: Candidate) -> None:
    manifest = catalogue.registry.publish("sequence-anomaly.orders", candidate.payload or b"", candidate.card)
    catalogue.registry.promote("sequence-anomaly.orders", manifest.version, reason="test")


def judge(catalogue: Catalogue, values: Any, judged: int = DAY, **body: Any) -> Any:
    return sequence.detect(request(values, judged, **{"table_id": "orders", **body}), catalogue, NOW)


# Preparing


def test_training_data_are_buckets_without_gaps() -> None:
    gaps = VALUES.copy()
    gaps[100:110] = np.nan

    made = sequence_anomaly.prepare(train_request(**history(gaps)), None)

    assert made.series.values.shape == VALUES.shape and np.isnan(made.series.values[100:110]).all()
    assert made.facts() == {"from": "2026-01-05T00", "to": "2026-02-18T23", "points": 1070, "used": 1070, "excluded": 0,
                            "missing": 10, "metrics": ["metric0", "metric1"]}
    again = Prepared.from_json(made.to_json())
    assert again.facts() == made.facts() and np.array_equal(again.series.values, made.series.values, equal_nan=True)


def test_only_the_last_training_days_are_learnt_from() -> None:
    made = sequence_anomaly.prepare(train_request(training_days=20, **history()), None)

    assert len(made.series.values) == 20 * DAY and np.array_equal(made.series.values, VALUES[-20 * DAY:])


def test_the_stored_history_is_read_and_the_request_counts_for_more(catalogue: Catalogue) -> None:
    documents = Documents(catalogue.history)
    for i in range(0, 400, 40):
        documents.record("sequence", "orders", START + timedelta(hours=i), {"values": {"metric0": -1.0, "metric1": 2.0}})

    made = sequence_anomaly.prepare(train_request(**history(VALUES[41:])
                                                  | {"historical_data": points(VALUES[41:500], 41)}), catalogue.history)

    assert made.series.values[0].tolist() == [-1.0, 2.0] and made.series.values[80].tolist() == VALUES[80].tolist()
    assert made.series.metrics == ("metric0", "metric1") and len(made.series.values) == 500


def test_without_a_history_there_is_nothing_to_train(catalogue: Catalogue) -> None:
    with pytest.raises(InvalidRequest, match="no history"):
        sequence_anomaly.prepare(train_request(), catalogue.history)
    with pytest.raises(InvalidRequest, match="metrics must be named"):
        sequence_anomaly.prepare(train_request(historical_data=points(VALUES)), None)
    with pytest.raises(InvalidRequest, match="the least to learn from"):
        sequence_anomaly.prepare(train_request(**history(VALUES[:100])), None)


# Back-test


def test_every_fault_changes_a_day_and_stays_within_its_values() -> None:
    day, before, week = (VALUES[DAY * lag: DAY * (lag + 1), 0] for lag in (9, 8, 2))
    lowest, highest = (edge(np.concatenate([day, before, week])) for edge in (np.min, np.max))

    for fault in FAULTS.values():
        changed = fault(day, before, week)
        assert changed.shape == day.shape and not np.array_equal(changed, day)
        assert lowest - 1e-9 <= changed.min() and changed.max() <= highest + 1e-9


def test_each_held_out_day_has_a_fault_in_two_passes_and_the_days_between_are_as_they_were(prepared: Prepared) -> None:
    trials = sequence_backtest.trials_of(prepared.series)

    assert ((trials.kind >= 0).sum(axis=0) == 2).all()
    own = prepared.series.values[trials.first:]
    for changed, kinds in zip(trials.passes, trials.kind, strict=True):
        different = (changed != own).any(axis=1)
        faulty = {int(day) - trials.first for day in trials.days[kinds >= 0]}
        assert {i // DAY * DAY for i in np.flatnonzero(different).tolist()} <= faulty


def test_a_week_of_history_is_told_to_be_too_little() -> None:
    few = Prepared("orders", "UTC", MetricSeries(0, VALUES[:200], "hourly", ("a", "b")), 200, 0)

    for family in FAMILIES:
        assert "needs" in sequence_anomaly.fit_candidate(few, family, SMALL).figures["error"]
    with pytest.raises(InvalidRequest, match="No model could be trained"):
        sequence_anomaly.choose([sequence_anomaly.fit_candidate(few, family, SMALL) for family in FAMILIES])


# Families


def test_onnx_says_what_jax_says(candidates: dict[str, Candidate]) -> None:
    figures = candidates["lstm"].figures

    assert figures["parity"]["max_difference"] < 1e-3 and figures["parity"]["label_differences"] == 0
    assert figures["parity"]["rows"] == 200 and "error" not in figures
    assert figures["device"] and candidates["lstm"].card["libraries"]["jax"]


def test_the_lstm_is_the_onnx_operator(candidates: dict[str, Candidate]) -> None:
    import onnx

    nodes = [node.op_type for node in onnx.load_from_string(candidates["lstm"].payload or b"").graph.node]
    assert nodes.count("LSTM") == 1 and "Loop" not in nodes and "Scan" not in nodes


def test_the_filters_calibration_is_the_same_in_onnx(candidates: dict[str, Candidate]) -> None:
    figures = candidates["hypothesis_filter"].figures

    assert figures["parity"]["max_difference"] < 1e-9 and figures["quality"]["basis"] == "injected"
    assert set(figures["quality"]["recall_by_fault"]) <= set(FAULTS)


def test_the_same_data_give_the_same_model() -> None:
    quick = Effort(hidden=4, epochs=1, windows=64, batch=32)
    one, other = (sequence_lstm.fit(VALUES[:200], 0, "daily", quick) for _ in range(2))

    assert all(np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_an_lstm_learns_to_go_on_with_a_slow_wave() -> None:
    n = 900
    wave = 100 + 20 * np.sin(2 * np.pi * np.arange(n) / 60)  # no part of the day or the week
    values = (wave + np.random.default_rng(0).normal(0, 1, n))[:, None]

    fitted = sequence_lstm.fit(values, 0, "hourly", Effort(hidden=12, epochs=10, windows=256, batch=32))

    time, windows = sequence_lstm.windows_of(values, 0, np.arange(200, 900), fitted.window)
    lead = len(fitted.scale)
    without_forecast = sequence_lstm.with_errors(fitted, fitted.features(np, time, windows)[0][:, -lead:])
    assert fitted.scale.mean() < 0.6 * without_forecast.scale.mean()


def test_a_candidate_survives_the_job_folder(candidates: dict[str, Candidate]) -> None:
    for family, candidate in candidates.items():
        again = Candidate.from_parts(family, dict(candidate.to_parts()))
        assert again.payload == candidate.payload and again.scores is not None and again.figures == candidate.figures


def test_the_filter_is_kept_unless_it_is_beaten_and_the_job_says_so(
    catalogue: Catalogue, prepared: Prepared, candidates: dict[str, Candidate]
) -> None:
    result = promotion.conclude(sequence_anomaly, prepared, list(candidates.values()), "sequence-anomaly.orders",
                                train_request(), catalogue.registry)

    assert result["challenger"]["algorithm"] == "hypothesis_filter" and result["decision"] == "promoted"
    assert "the LSTM does not beat it beyond noise" in result["reason"]


def test_an_lstm_that_is_better_beyond_noise_is_chosen(candidates: dict[str, Candidate]) -> None:
    own, lstm = candidates["hypothesis_filter"], candidates["lstm"]
    assert own.scores is not None and lstm.scores is not None
    perfect = replace(lstm.scores, normal=np.where(np.isfinite(lstm.scores.normal), 0.0, np.nan),
                      faulty=np.where(np.isfinite(lstm.scores.faulty), 1.0, np.nan))

    compared = sequence_anomaly.compare([own, replace(lstm, scores=perfect)])

    assert sequence_anomaly.choose(compared).algorithm == "lstm"


# Serving


def test_a_promoted_filter_answers_with_the_tables_own_calibration(
    catalogue: Catalogue, candidates: dict[str, Candidate]
) -> None:
    promoted(catalogue, candidates["hypothesis_filter"])

    usual, plain = judge(catalogue, VALUES), ask(VALUES)

    assert usual.model.algorithm == "hypothesis_filter" and usual.model.version == "1" and not usual.is_anomaly
    assert usual.expected_range is not None and usual.metrics[0].score != plain.metrics[0].score


def test_a_promoted_lstm_answers_and_names_the_wrong_metric(catalogue: Catalogue, candidates: dict[str, Candidate]) -> None:
    promoted(catalogue, candidates["lstm"])
    wrong = VALUES.copy()
    wrong[-DAY:, 1] = wrong[-DAY:, 1].max() + wrong[-DAY:, 1].min() - wrong[-DAY:, 1]

    usual, found = judge(catalogue, VALUES), judge(catalogue, wrong)
    swapped = judge(catalogue, wrong[:, ::-1], metrics=["metric1", "metric0"])

    assert (usual.model.algorithm, usual.status, usual.is_anomaly) == ("lstm", "evaluated", False)
    assert usual.expected_range[0] < usual.expected_value < usual.expected_range[1]
    assert found.is_anomaly and (found.metric, found.state) == ("metric1", "unlike_forecast")
    assert "recent days" in found.message and found.metrics[1].contribution > 0.9
    assert {v.metric: v.score for v in swapped.metrics} == {v.metric: v.score for v in found.metrics}


def test_later_points_never_change_what_an_lstm_says_of_earlier_ones(candidates: dict[str, Candidate]) -> None:
    artefact = Artefact.load(candidates["lstm"].payload or b"")
    ends = np.arange(400, 420)
    _, windows = sequence_lstm.windows_of(VALUES, 0, ends, artefact.card["window"])

    together = artefact.run({"time": ends, "window": windows})["surprise"]
    alone = [artefact.run({"time": ends[i: i + 1], "window": windows[i: i + 1]})["surprise"][0] for i in range(20)]

    assert together == pytest.approx(np.array(alone), abs=1e-2)  # float32, and hidden states rounded to 1/4096


def test_a_model_of_other_metrics_or_with_little_history_leaves_it_to_the_filter(
    catalogue: Catalogue, candidates: dict[str, Candidate]
) -> None:
    promoted(catalogue, candidates["lstm"])

    other = judge(catalogue, VALUES, metrics=["metric0", "another"])
    young = judge(catalogue, VALUES[: DAY * 2])

    assert other.model.name is None and any("other metrics" in warning for warning in other.warnings)
    assert young.status == "learning" and any("too little recent history" in warning for warning in young.warnings)


# Without JAX


def test_without_jax_an_lstm_is_served_and_a_request_to_train_one_says_what_to_install(
    tmp_path: Path, candidates: dict[str, Candidate], prepared: Prepared
) -> None:
    (tmp_path / "model.onnx").write_bytes(candidates["lstm"].payload or b"")
    (tmp_path / "prepared.json").write_bytes(prepared.to_json())
    (tmp_path / "request.json").write_text(json.dumps({"table_id": "orders", "algorithm": "lstm", **history()}))
    code = f"""
import sys
from pathlib import Path
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "jaxlib", "optax"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
folder = Path({str(tmp_path)!r})
from detectors.artefact import Artefact
artefact = Artefact.load((folder / "model.onnx").read_bytes())
print(artefact.card["algorithm"])
from shared.contract import parse
from shared.contract_sequence import SequenceTrainRequest
from shared.errors import InvalidRequest
from training import sequence_anomaly
try:
    sequence_anomaly.prepare(parse(SequenceTrainRequest, (folder / "request.json").read_bytes()), None)
except InvalidRequest as error:
    print(error.message)
prepared = sequence_anomaly.Prepared.from_json((folder / "prepared.json").read_bytes())
print(sequence_anomaly.fit_candidate(prepared, "lstm").figures["error"])
print(sequence_anomaly.choose([sequence_anomaly.fit_candidate(prepared, f) for f in sequence_anomaly.FAMILIES]).algorithm)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert ended.returncode == 0, ended.stderr
    served, asked, auto, chosen = ended.stdout.splitlines()
    assert served == "lstm" and asked.startswith(INSTALL) and auto.startswith(INSTALL) and chosen == "hypothesis_filter"


def test_serving_a_sequence_imports_nothing_that_training_needs() -> None:
    code = ("import sys, detectors.sequence, shared.contract_sequence\n"
            "print([m for m in ('jax','optax','pandas','scipy','sklearn','onnx','ndonnx','spox') if m in sys.modules])")

    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)

    assert ended.stdout.strip() == "[]"
