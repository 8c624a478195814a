"""Pattern models: trained from the shapes of a column, exported, promoted, answering as the service does."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from detectors import formats, pattern
from detectors.artefact import Artefact
from detectors.pattern_column import UNUSUAL_NATS, Column, concentration
from detectors.pattern_judge import with_shape
from detectors.tally import shapes_of
from shared.catalogue import Catalogue
from shared.contract import parse
from shared.contract_pattern import PatternTrainRequest
from shared.errors import InvalidRequest, ModelNotFound
from shared.settings import Settings
from tests.columns import NOW, ask, day, orders, request
from tools import pattern_columns
from tools.backtest_pattern import replay_folder
from training import pattern_anomaly, promotion
from training.pattern_anomaly import FAMILIES, Prepared
from training.pattern_faults import FAULTS

SECRET = ["Zaphod Beeblebrox", "4111 1111 1111 1111"]
TITLES = [*pattern_columns.with_faults(pattern_columns.column("title", 1000, 1), 0.03, 1)[0], *SECRET]


def asked(**body: Any) -> PatternTrainRequest:
    return parse(PatternTrainRequest, json.dumps({"table_id": "orders", "column": "id", **body}).encode())


def prepared_of(values: list[str]) -> Prepared:
    return pattern_anomaly.prepare(asked(historical_data=[values]), None)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepared_of(TITLES)


@pytest.fixture(scope="module")
def candidates(prepared: Prepared) -> dict[str, pattern_anomaly.Candidate]:
    return {family: pattern_anomaly.fit_candidate(prepared, family) for family in FAMILIES}


@pytest.fixture
def catalogue(storage: str) -> Catalogue:
    return Catalogue(Settings(connection_string=storage, recheck_seconds=0))


# Preparing


def test_prepared_data_survive_the_job_folder_and_hold_no_value(prepared: Prepared) -> None:
    again = Prepared.from_json(prepared.to_json())

    assert again == prepared and prepared.facts()["values"] == 1002
    assert not any(text in prepared.to_json().decode() for text in ("Zaphod", "Beeble", "4111 11"))


def test_stored_batches_and_those_of_the_request_train_together(catalogue: Catalogue) -> None:
    for n in range(20):
        body = request(table_id="orders", column="id", values=orders(50, seed=n), timestamp=day(n).isoformat())
        message = pattern.observation(body, pattern.detect(body, catalogue, NOW), catalogue, NOW)
        assert message is not None
        pattern.observe(message.encode(), catalogue.history)

    told = [{"timestamp": day(n).isoformat(), "values": orders(size)} for n, size in ((19, 70), (20, 30))]
    facts = pattern_anomaly.prepare(asked(training_days=10, historical_data=told), catalogue.history).facts()

    assert facts == {"column": "id", "from": "2026-05-12T02:00:00Z", "to": "2026-05-21T02:00:00Z", "points": 10, "used": 10,
                     "excluded": 0, "missing": 0, "values": 8 * 50 + 70 + 30}


def test_without_values_there_is_nothing_to_train() -> None:
    with pytest.raises(InvalidRequest, match="no history"):
        pattern_anomaly.prepare(asked(), None)
    with pytest.raises(InvalidRequest, match="no history"):
        pattern_anomaly.prepare(asked(historical_data=[[None, None]]), None)


# Families


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_says_in_onnx_what_it_says_in_its_library(candidates: Any, family: str) -> None:
    parity = candidates[family].figures["parity"]

    assert parity["label_differences"] == 0 and parity["max_difference"] < 1e-9 and parity["rows"] >= 20


@pytest.mark.parametrize("family", FAMILIES)
def test_an_artefact_holds_no_value_and_all_that_answers_need(candidates: Any, family: str) -> None:
    payload = candidates[family].payload
    artefact = Artefact.load(payload)

    assert not any(text in payload for text in (b"Zaphod", b"Beeble", b"4111 11"))
    column = Column.from_json(json.loads(json.dumps(artefact.card["column"])))
    assert json.loads(json.dumps(column.to_json())) == artefact.card["column"]
    assert artefact.card["quality"]["basis"] == "injected"
    x = np.zeros((3, len(artefact.card["features"])))
    assert artefact.run({"x": x})["contribution"].shape[0] == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_candidate_survives_the_job_folder(candidates: Any, family: str) -> None:
    again = pattern_anomaly.Candidate.from_parts(family, dict(candidates[family].to_parts()))

    assert again.payload == candidates[family].payload and again.figures == candidates[family].figures


def test_the_autoencoder_flags_about_as_many_normal_values_as_it_states(candidates: Any) -> None:
    artefact = Artefact.load(candidates["autoencoder"].payload)
    column = Column.from_json(artefact.card["column"])

    new = shapes_of(pattern_columns.column("title", 2000, 5))
    nats = artefact.run({"x": with_shape(column.formats.look(new).x, new)})["contribution"][:, len(formats.FEATURES):]

    assert float((nats.max(axis=1) >= UNUSUAL_NATS).mean()) <= 3 * formats.UNUSUAL  # .5 % stated, from a thousand values


def test_the_autoencoder_is_chosen_where_it_finds_more_and_only_there(candidates: Any) -> None:
    simple = [pattern_anomaly.fit_candidate(prepared_of(orders(500)), family) for family in FAMILIES]

    assert pattern_anomaly.choose(pattern_anomaly.compare(simple)).algorithm == "formats"
    by_name = {c.algorithm: c.figures["quality"] for c in pattern_anomaly.compare(list(candidates.values()))}
    best = pattern_anomaly.choose(pattern_anomaly.compare(list(candidates.values())))
    assert best.algorithm == "autoencoder" and by_name["autoencoder"]["f1"] >= by_name["formats"]["f1"] + 0.02


def test_faults_break_a_value_or_are_none() -> None:
    for name, fault in FAULTS.items():
        for value in ["ORD-48213", "a", "", "été", "5"]:
            assert fault(Random(0), value) != value or name == "placeholder"


def test_a_batch_of_which_nothing_is_left_says_nothing_of_how_batches_differ() -> None:
    assert concentration([3, 1, 4, 1, 5, 0], [50, 50, 50, 50, 50, 0]) == concentration([3, 1, 4, 1, 5], [50] * 5)


def test_too_little_and_free_form_columns_are_told_and_not_raised() -> None:
    few, free = prepared_of(orders(40)), prepared_of(pattern_columns.column("text", 400, 0))

    assert "100" in pattern_anomaly.fit_candidate(few, "formats").figures["error"]
    assert "free-form" in pattern_anomaly.fit_candidate(free, "autoencoder").figures["error"]
    with pytest.raises(InvalidRequest, match="No model could be trained"):
        pattern_anomaly.choose([pattern_anomaly.fit_candidate(few, family) for family in FAMILIES])


# Serving


@pytest.mark.parametrize("family", FAMILIES)
def test_a_promoted_model_answers_and_says_so(
    catalogue: Catalogue, prepared: Prepared, candidates: Any, family: str
) -> None:
    wanted = asked(algorithm=family, promote="always", column="Größe (cm)")
    name = pattern.model_name("orders", "Größe (cm)")
    result = promotion.conclude(pattern_anomaly, prepared, list(candidates.values()), name, wanted, catalogue.registry)

    damaged = [value.replace(" ", "_", 1) for value in pattern_columns.column("title", 60, 7)]
    values = [*pattern_columns.column("title", 140, 7), *damaged]
    verdict = ask(catalogue, table_id="orders", column="Größe (cm)", values=values)
    clean = ask(catalogue, table_id="orders", column="Größe (cm)", values=pattern_columns.column("title", 200, 8))

    assert result["decision"] == "promoted" and result["model_name"] == name
    assert (verdict.model.algorithm, verdict.model.version, verdict.model.name) == (family, "1", result["model_name"])
    assert verdict.is_anomaly and not clean.is_anomaly and clean.model.sha256 == result["artifact"]["sha256"]
    assert (verdict.reconstruction_error is not None) is (family == "autoencoder")
    if family == "autoencoder":
        assert 0 < (clean.reconstruction_error or 0) < (verdict.reconstruction_error or 0)


def test_the_formats_as_a_model_say_what_they_say_without_one(
    catalogue: Catalogue, prepared: Prepared, candidates: Any
) -> None:
    promotion.conclude(pattern_anomaly, prepared, [candidates["formats"]], pattern.model_name("orders", "id"), asked(),
                       catalogue.registry)
    values = pattern_columns.with_faults(pattern_columns.column("title", 400, 3), 0.1, 3)[0]

    served = ask(catalogue, table_id="orders", column="id", values=values)
    learnt = ask(values=values, column="id", historical_data=[TITLES])

    own = {"latency_ms": 0.0, "model": learnt.model, "table_id": None}
    assert served.model_copy(update=own) == learnt.model_copy(update=own)


def test_a_model_that_is_required_and_not_there_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(ModelNotFound):
        ask(catalogue, table_id="unknown", values=orders(10), require_model=True)


def test_the_replay_writes_a_row_for_every_row_and_judges_with_the_history_alone(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    judged = [*orders(50, seed=1), *["ord_48213"] * 5]
    with (tmp_path / "in" / "ids.csv").open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(("value", "label", "kind", "is_train"))
        writer.writerows([*((value, 0, "", 1) for value in orders(300)), *((value, 0, "", 0) for value in judged)])

    [line] = replay_folder(tmp_path / "in", tmp_path / "out")

    with (tmp_path / "out" / "ids.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 355 and {row["score"] for row in rows[:300]} == {""}
    assert [row["is_anomaly"] for row in rows[300:]] == ["0"] * 50 + ["1"] * 5 and "5 flagged" in line
