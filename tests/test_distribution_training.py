"""Training the distribution model of a table: every family back-tested, exported and served."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from detectors import distribution, distribution_model
from detectors.artefact import Artefact
from detectors.distribution_history import learnable
from detectors.distribution_model import Reading
from shared.catalogue import Catalogue
from shared.contract import parse
from shared.contract_distribution import DistributionTrainRequest
from shared.errors import InvalidRequest
from shared.history import History
from shared.settings import Settings
from tests.catalogues import Clock
from tests.profiles import batch, column, history, request
from training import distribution_anomaly as training
from training import promotion
from training.distribution_backtest import held_out
from training.distribution_faults import KINDS, faulty
from training.evaluation import beats
from training.parity import Parity

H = 60
NOW = datetime(2026, 9, 1, tzinfo=UTC)


def train_request(profiles=(), **body) -> DistributionTrainRequest:
    whole = {"table_id": "orders", "training_days": 3660, "historical_profiles": list(profiles)} | body
    return parse(DistributionTrainRequest, json.dumps(whole).encode(), limit=2**30)


@pytest.fixture(scope="module")
def prepared():
    return training.prepare(train_request(history(H)), None)


@pytest.fixture(scope="module")
def candidates(prepared):
    return {name: training.fit_candidate(prepared, name) for name in training.FAMILIES}


@pytest.fixture
def catalogue(storage: str) -> Catalogue:
    return Catalogue(Settings(connection_string=storage), Clock())


@pytest.mark.parametrize("family", training.FAMILIES)
def test_a_family_s_file_says_what_its_library_says(candidates, family):
    figures = candidates[family].figures

    assert "error" not in figures
    assert Parity(**figures["parity"]).holds
    assert candidates[family].payload


@pytest.mark.parametrize("family", training.FAMILIES)
def test_a_family_serves_a_usual_batch_and_a_fault(candidates, prepared, catalogue, family):
    publish(catalogue, candidates[family])
    odd = batch(H)
    column(odd, "amounts000").update(minValue=900.0, maxValue=2000.0, mean=1500.0, stddev=200.0, quantiles={
        "p5": 1000.0, "p25": 1300.0, "p50": 1500.0, "p75": 1700.0, "p95": 1900.0})

    usual, fault = (answer_to(catalogue, profile) for profile in (batch(H), odd))

    assert [a.model.algorithm for a in (usual, fault)] == [family] * 2
    assert not usual.is_anomaly
    assert fault.table_score > usual.table_score
    assert fault.column == "amounts000"
    if family != "isolation_forest":  # what lies beyond its data is all the same to a forest
        assert fault.is_anomaly


@pytest.mark.parametrize("family", training.FAMILIES)
def test_a_family_survives_gaps_and_odd_values(candidates, family):
    artefact = Artefact.load(candidates[family].payload)
    how = Reading.of(artefact)
    p = len(how.gauge.features)
    x = np.full((4, p), np.nan)
    x[0], x[1], x[2, ::2] = 0.0, 1e300, -1e300

    out = artefact.run(distribution_model.feeds(x, np.full((4, p), np.nan), np.full(4, -1), 0.99))

    assert np.isfinite(out["score"]).all()
    assert ((out["score"] >= 0) & (out["score"] <= 1)).all()
    assert np.isfinite(out["evidence"]).all()


@pytest.mark.parametrize("family", training.FAMILIES)
def test_a_batch_is_scored_the_same_alone_and_among_others(candidates, prepared, family):
    artefact = Artefact.load(candidates[family].payload)
    gauge = Reading.of(artefact).gauge
    x = np.stack([gauge.measure(b)[0] for b in prepared.batches[-6:]])
    feeds = distribution_model.feeds(x[1:], x[:-1], np.arange(5), 0.99)

    together = artefact.run(feeds)["score"]
    alone = [artefact.run({name: value[i : i + 1] for name, value in feeds.items()})["score"].item() for i in range(5)]

    assert together == pytest.approx(alone, abs=1e-9)


def test_the_baseline_s_file_answers_as_the_baseline_itself(candidates, catalogue):
    current = batch(H)
    column(current, "amounts000")["nullPercentage"] = 5.0
    without = distribution.detect(request(current, history(H)), catalogue, NOW)
    publish(catalogue, candidates["conditional_residual"])

    by_model = answer_to(catalogue, current, history(H))

    assert by_model.model.name == "distribution-anomaly.orders"
    assert by_model.table_score == pytest.approx(without.table_score, abs=1e-6)
    assert by_model.distance == without.distance
    for ours, theirs in zip(by_model.columns, without.columns, strict=True):
        assert ours.metric == theirs.metric
        assert ours.expected_range == pytest.approx(theirs.expected_range, rel=1e-5)


def test_a_batch_with_other_columns_than_the_model_is_answered_by_the_baseline(candidates, catalogue):
    publish(catalogue, candidates["knn"])
    renamed = batch(H)
    for c in renamed["columnProfiles"]:
        c["columnName"] = f"x{c['columnName']}"

    answer = answer_to(catalogue, renamed, history(H))

    assert answer.model.name is None
    assert any("too few of the model's metrics" in warning for warning in answer.warnings)
    assert answer.is_anomaly


def test_a_model_answers_without_any_history(candidates, catalogue):
    publish(catalogue, candidates["autoencoder"])

    answer = answer_to(catalogue, batch(H))

    assert (answer.status, answer.history.points) == ("evaluated", 0)


def test_figures_are_of_injected_faults_of_every_kind(candidates):
    figures = candidates["conditional_residual"].figures["quality"]

    assert set(figures["recall_by_fault"]) == set(KINDS)
    assert figures["basis"] == "injected"
    assert figures["recall"] > 0.7
    assert figures["fpr"] < 0.1


def test_a_fault_changes_one_column_or_the_table(prepared):
    gauge = distribution_gauge(prepared)
    raw = np.stack([gauge.measure(b)[0] for b in prepared.batches[:5]])

    for kind in KINDS:
        damaged = faulty(raw, gauge.features, kind)
        assert np.isfinite(damaged).any(), kind
        for row, was in zip(damaged, raw, strict=True):
            changed = {gauge.features[j][0] for j in np.flatnonzero(row != was)}
            assert len(changed) == 1 or kind in ("missing_rows", "duplicates"), kind


def test_a_fault_that_no_column_can_have_is_not_counted():
    raw = np.ones((3, 1))

    assert np.isnan(faulty(raw, (("", "row_count"),), "nulls")).all()


def test_the_best_is_the_baseline_unless_it_is_beaten(candidates):
    compared = training.compare(list(candidates.values()))
    best = training.choose(compared)

    baseline = next(c for c in compared if c.algorithm == training.BASELINE)
    assert best is baseline or beats(best.scores, baseline.scores)


def test_a_short_history_trains_nothing_and_says_how_much_is_missing():
    short = training.prepare(train_request(history(15)), None)

    candidate = training.fit_candidate(short, "knn")

    assert candidate.payload is None
    assert "usable points" in candidate.figures["error"]
    with pytest.raises(InvalidRequest, match="No model could be trained"):
        training.choose([candidate])


def test_a_table_without_history_is_refused(storage):
    with pytest.raises(InvalidRequest, match="There is no history of orders"):
        training.prepare(train_request(), History(Settings(connection_string=storage)))


def test_what_detect_kept_is_what_is_trained_on(catalogue):
    for i in range(12):
        asked = request(batch(i), table_id="orders")
        answer = distribution.detect(asked, catalogue, NOW)
        distribution.observe(distribution.observation(asked, answer, catalogue, NOW).encode(), catalogue.history)

    kept = training.prepare(train_request(training_days=7), catalogue.history)

    assert [b.moment.day for b in kept.batches] == list(range(6, 14))
    assert kept.facts()["used"] == 8


@pytest.mark.parametrize(("flagged", "learnt"), [
    ([40, 41], False), ([40, 41, 42], True), ([35, 42], False), ([35, 42, 49], True), ([40, 41, 43, 44, 46, 47], True),
    ([40, 43, 46, 50], False)], ids=["two", "three_in_a_row", "two_mondays", "three_mondays", "half_of_twelve", "a_third"])
def test_flagged_batches_are_learnt_from_where_they_are_what_the_table_is_like_now(prepared, flagged, learnt):
    rows = [(batch, "anomaly" if i in flagged else "ok") for i, batch in enumerate(prepared.batches)]

    assert learnable(rows)[flagged].tolist() == [learnt] * len(flagged)
    assert np.delete(learnable(rows), flagged).all()


def test_what_was_flagged_and_is_not_learnt_counts_as_a_false_alarm_all_the_same(prepared):
    odd = 50
    rows = [(batch, "anomaly" if i == odd else "ok") for i, batch in enumerate(prepared.batches)]

    scores, _ = held_out("conditional_residual", rows, "UTC")

    held = len(rows) - len(scores.normal)
    assert np.isfinite(scores.normal).all() and not np.isfinite(scores.faulty[odd - held]).any()


def test_training_data_survive_storage(prepared):
    again = training.Prepared.from_json(prepared.to_json())

    assert again.facts() == prepared.facts()
    for ours, theirs in zip(again.batches, prepared.batches, strict=True):
        assert ours.layout is theirs.layout
        assert ours.values == pytest.approx(theirs.values, rel=1e-8)


def test_constant_and_sparse_metrics_do_not_stop_a_family():
    profiles = history(48, 4)
    for i, profile in enumerate(profiles):
        column(profile, "flags003")["mean"] = 1.0
        if i % 3:
            column(profile, "amounts000")["mean"] = None

    for family in training.FAMILIES:
        assert_is_back_tested(family, profiles)


def test_a_table_of_nothing_but_row_counts_can_be_trained():
    profiles = [{"profiledAt": p["profiledAt"], "rowCount": p["rowCount"], "columnProfiles": []} for p in history(48, 1)]

    for family in training.FAMILIES:
        assert_is_back_tested(family, profiles)


def test_a_model_is_trained_and_registered_from_python(storage):
    trainer = training.DistributionAnomalyTrainer(Catalogue(Settings(connection_string=storage)).registry)

    model = trainer.train(column_profiles=history(H), algorithm="conditional_residual", table_id="orders")
    version = trainer.register_model(model, "distribution-anomaly.orders")

    assert model.quality["recall"] > 0.7
    assert [c["algorithm"] for c in model.candidates] == ["conditional_residual"]
    answer = answer_to(Catalogue(Settings(connection_string=storage)), batch(H))
    assert (answer.model.version, answer.model.algorithm) == (version, "conditional_residual")


def test_a_job_publishes_the_best_and_promotes_the_first(candidates, prepared, catalogue):
    name, wanted = "distribution-anomaly.orders", train_request(history(9))
    result = promotion.conclude(training, prepared, list(candidates.values()), name, wanted, catalogue.registry)

    assert (result["decision"], result["outcome"], result["model_name"]) == ("promoted", "first", name)
    assert {c["algorithm"] for c in result["candidates"]} == set(training.FAMILIES)
    assert training.families(train_request(algorithm="lof"), catalogue.registry)[0] == training.BASELINE


def publish(catalogue, candidate):
    manifest = catalogue.registry.publish("distribution-anomaly.orders", candidate.payload, candidate.card)
    catalogue.registry.promote("distribution-anomaly.orders", manifest.version, reason="test")


def answer_to(catalogue, profile, past=()):
    return distribution.detect(request(profile, past, table_id="orders"), catalogue, NOW)


def assert_is_back_tested(family, profiles):
    prepared = training.prepare(train_request(profiles), None)
    scores, _ = held_out(family, prepared.rows, "UTC")
    assert np.isfinite(scores.normal).all(), family
    assert np.isfinite(scores.faulty).any(), family


def distribution_gauge(prepared):
    return training.fit("conditional_residual", prepared.batches, "UTC").gauge
