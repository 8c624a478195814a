"""Champion and challenger: what people and the request say, every detector, and what is written down."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from typing import Any, get_args

import numpy as np
import pytest

from detectors.artefact import Artefact
from detectors.directory import DETECTORS
from shared.blobs import Blobs
from shared.contract import parse
from shared.errors import Conflict, InvalidRequest
from shared.registry import Registry
from shared.settings import Settings
from tests.challengers import (
    DAYS,
    FAMILIES,
    KNOWN,
    NAME,
    asked,
    back_tested,
    candidate,
    champion,
    decided,
    prepared,
    quick,
    with_scores,
)
from tests.conftest import ROOT
from tools import made_up
from tools.made_up import START, counts
from training import gates, promotion, volume_anomaly
from training.candidates import Candidate
from training.promotion import Reigning
from training.volume_anomaly import Prepared

# What people said


@pytest.fixture(scope="module")
def labelled() -> tuple[Prepared, list[Candidate], Reigning]:
    """The table with an outage since the champion's training that somebody confirmed, and a day that somebody expected."""
    points = counts(0, DAYS)
    points[KNOWN + 10]["row_count"] = 300
    data = volume_anomaly.prepare(asked(historical_data=points), None)
    place = {KNOWN + 10: 1, KNOWN - 70: -1}
    said = data.said.copy()
    for day, word in place.items():
        said[day] = word
    learnable = data.observed.copy()
    learnable[KNOWN + 10] = np.nan
    data = replace(data, observed=learnable, series=replace(data.series, values=learnable), said=said)
    return data, [back_tested(data, family) for family in FAMILIES], champion("seasonal_decomposition")


def test_a_confirmed_anomaly_is_judged_and_counts_in_no_injected_figure(
    labelled: tuple[Prepared, list[Candidate], Reigning]
) -> None:
    data, rivals, _ = labelled
    scores = rivals[0].scores
    assert scores is not None

    row = int(np.flatnonzero(scores.said == 1).item())
    figures = volume_anomaly.quality(scores)

    assert scores.normal[row] > 0.99 and np.isnan(scores.faulty[row]).all()
    assert figures["labels"] == {"anomalies": 1, "found": 1, "expected": 1, "flagged": 0}
    assert figures["points"] == len(scores.normal) - 1 and figures["fpr"] < 0.01
    assert volume_anomaly.Prepared.from_json(data.to_json()).held_out().said.tolist() == scores.said.tolist()


def test_a_better_challenger_that_misses_a_confirmed_anomaly_is_refused(
    labelled: tuple[Prepared, list[Candidate], Reigning]
) -> None:
    data, (structural, seasonal), reigning = labelled

    def miss(normal: Any, faulty: Any) -> None:
        normal[np.flatnonzero(data.held_out().said == 1)] = 0.5

    kept, missed = (promotion.decide(volume_anomaly, data, [best, seasonal], reigning, asked(algorithm="structural"), quick)
                    for best in (structural, with_scores(structural, miss)))

    assert kept.outcome == "better" and kept.gates["labels"]["holds"]
    assert (missed.outcome, missed.promoted) == ("labels", False)
    assert missed.gates["labels"] == {"holds": False, "anomalies_missed": 1, "expected_flagged_more": 0}
    assert "misses 1 of the confirmed anomalies" in missed.reason


def test_a_better_challenger_that_flags_what_people_expect_is_refused(
    labelled: tuple[Prepared, list[Candidate], Reigning]
) -> None:
    data, (structural, seasonal), reigning = labelled

    def flag(normal: Any, faulty: Any) -> None:
        normal[np.flatnonzero(data.held_out().said == -1)] = 0.999
        normal[np.flatnonzero(data.held_out().said == 0)] = 0.1

    rivals = [with_scores(structural, flag), seasonal]
    decision = promotion.decide(volume_anomaly, data, rivals, reigning, asked(algorithm="structural"), quick)

    assert decision.outcome == "labels" and decision.gates["labels"]["expected_flagged_more"] == 1


# What the request says


def test_never_publishes_and_tells_what_it_would_have_been() -> None:
    decision = decided(champion("seasonal_decomposition"), promote="never")

    assert (decision.outcome, decision.promoted) == ("never", False)
    assert decision.best is not None and "By the rule it is better" in decision.reason


def test_always_promotes_what_is_worse_and_says_so() -> None:
    decision = decided(champion("structural"), algorithm="seasonal_decomposition", promote="always")

    assert (decision.outcome, decision.promoted) == ("forced", True)
    assert "By the rule it is worse" in decision.reason


def test_the_same_candidates_have_the_same_decision() -> None:
    first, second = (decided(champion("seasonal_decomposition")).to_json() for _ in range(2))

    assert first == second
    assert json.loads(json.dumps(first, allow_nan=False)) == first


def test_every_outcome_is_explained_in_the_documentation() -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    table = text[text.index("| outcome |"):]

    told = re.findall(r"^\| `(\w+)` \|", table[:table.index("\n\n")], re.M)

    assert set(told) == set(get_args(promotion.Outcome.__value__))
    assert all(word in text for word in (f"above {gates.BUDGET_MS:g} ms", f"more than {gates.MOST_BYTES // 2**20} MiB"))


@pytest.mark.parametrize(("kind", "make", "known", "learnt", "field", "more"), [
    ("timeliness", made_up.arrivals, 120, 96, "historical_data", {}),
    ("distribution", made_up.profiles, 40, 40, "historical_profiles", {}),
    ("pattern", made_up.batches, 15, 12, "historical_data", {"column": "order_id"}),
    ("sequence", made_up.hours, 35 * 24, 28, "historical_data", {"metrics": ["orders"], "granularity": "hourly"}),
], ids=["timeliness", "distribution", "pattern", "sequence"])
def test_the_baseline_of_every_detector_is_equal_to_itself_a_while_ago(
    kind: str, make: Any, known: int, learnt: int, field: str, more: dict[str, Any]
) -> None:
    trainer = import_module(f"training.{kind}_anomaly")
    body = {"table_id": "orders", "training_days": 400, field: make(0, known), **more}
    request: Any = parse(DETECTORS[kind].train_request, json.dumps(body).encode(), 2**26)
    data = trainer.prepare(request, None)
    now = before = trainer.fit_candidate(data, trainer.FAMILIES[0])
    if learnt != known:
        before = trainer.fit_candidate(trainer.prepare(request, None, START + timedelta(days=learnt)), trainer.FAMILIES[0])
    reigning = Reigning(NAME, "3", "", before.algorithm, Artefact.load(before.payload))

    decision = promotion.decide(trainer, data, [now], reigning, request)

    assert (decision.outcome, decision.gates["p95_ms"]["holds"]) == ("equal", True), decision.reason
    assert decision.champion is not None and (decision.champion["points_judged_by_its_file"] > 0) is (learnt != known)


# In the registry


@pytest.fixture
def registry(storage: str) -> Registry:
    settings = Settings(connection_string=storage)
    return Registry(Blobs(settings), settings)


def concluded(registry: Registry, *families: str, **options: Any) -> dict[str, Any]:
    made = [candidate(family) for family in families]
    return promotion.conclude(volume_anomaly, prepared(), made, NAME, asked(**options), registry)


def test_a_table_is_trained_refused_broken_and_refreshed_and_the_record_says_so(registry: Registry, storage: str) -> None:
    first = concluded(registry, *FAMILIES)
    again = concluded(registry, *FAMILIES)
    Blobs(Settings(connection_string=storage)).put(registry.container, f"{NAME}/1/model.onnx", b"half of a fi")
    broken = concluded(registry, *FAMILIES)

    assert [one["outcome"] for one in (first, again, broken)] == ["first", "equal", "refreshed"]
    assert [one["decision"] for one in (first, again, broken)] == ["promoted", "kept", "promoted"]
    assert (again["champion"], again["challenger"]["version"], again["previous_champion"]) == ("1", "2", "1")
    assert again["challenger"]["quality"] == again["compared_with"]["quality"]
    current = registry.champion(NAME)
    assert current is not None and current.version == "3" and current.current.reason == broken["reason"]
    assert "does not have the SHA-256 it was promoted with" in broken["reason"]


def test_a_champion_that_was_moved_meanwhile_is_not_overwritten(registry: Registry) -> None:
    concluded(registry, "structural")
    against = promotion.reigning(NAME, registry)
    decision = decided(against, algorithm="seasonal_decomposition", promote="always")
    concluded(registry, "seasonal_decomposition", promote="always")

    with pytest.raises(Conflict):
        promotion.carry_out(decision, NAME, registry, against)

    now = registry.champion(NAME)
    assert now is not None and now.version == "2"


def test_where_nothing_could_be_trained_or_is_right_nothing_is_published(registry: Registry) -> None:
    short = Candidate("lof", {"algorithm": "lof", "error": "needs 42 usable points, has 10"})
    cut = replace(candidate("structural"), payload=(candidate("structural").payload or b"")[:-500])

    for made, told in ((short, "has 10"), (cut, "cannot be used")):
        with pytest.raises(InvalidRequest, match=told):
            promotion.conclude(volume_anomaly, prepared(), [made], NAME, asked(promote="always"), registry)

    assert registry.versions(NAME) == [] and promotion.reigning(NAME, registry) is None


# How long a decision takes


def test_a_decision_is_timed_on_the_real_file() -> None:
    artefact = Artefact.load(candidate("seasonal_decomposition").payload or b"")
    asks = volume_anomaly.question(prepared(), artefact)

    assert 0 < gates.p95_ms(artefact, asks) < 1000
    assert asks["time"].tolist() == [prepared().series.end + 1] and np.isfinite(artefact.run(asks)["score"]).all()


def test_the_probe_of_a_file_is_something_to_ask_it() -> None:
    payload = candidate("seasonal_decomposition").payload or b""

    assert np.isfinite(Artefact.load(payload).run(gates.probe_of(payload))["score"]).any()
