"""Champion and challenger with real models: what is promoted, each reason why something is not, and what the record says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from importlib import import_module
from typing import Any, get_args

import numpy as np
import onnx
import pytest

from detectors.artefact import Artefact
from detectors.directory import DETECTORS
from shared.blobs import Blobs
from shared.contract import TrainRequest, parse
from shared.errors import Conflict, InvalidRequest
from shared.registry import Registry
from shared.settings import Settings
from tests.conftest import ROOT
from tools import made_up
from tools.made_up import START, counts
from training import backtest, gates, promotion, volume_anomaly
from training.candidates import Candidate
from training.evaluation import Scores
from training.promotion import Decision, Reigning
from training.volume_anomaly import Prepared

DAYS, KNOWN = 280, 250  # of the table; and those that its champion has learnt
NAME = "volume-anomaly.orders"
FAMILIES = ("structural", "seasonal_decomposition")


def asked(**options: Any) -> TrainRequest:
    body = {"table_id": "orders", "training_days": 400, "historical_data": counts(0, DAYS), **options}
    return parse(TrainRequest, json.dumps(body).encode(), 2**26)


@cache
def prepared(days: int = DAYS) -> Prepared:
    return volume_anomaly.prepare(asked(), None, START + timedelta(days=days, hours=-1))


def back_tested(data: Prepared, algorithm: str) -> Candidate:
    """A candidate of other data, but for its file, which takes seconds and is that of the table as it was made up."""
    scores, _ = backtest.held_out(algorithm, data.series, data.observed, data.held_out())
    made = candidate(algorithm)
    return replace(made, scores=scores, card=made.card | {"baseline": data.baseline})


@cache
def candidate(algorithm: str, days: int = DAYS) -> Candidate:
    made = volume_anomaly.fit_candidate(prepared(days), algorithm)
    assert made.payload is not None, made.figures
    return made


def champion(algorithm: str, days: int = KNOWN, **card: Any) -> Reigning:
    artefact = Artefact.load(candidate(algorithm, days).payload or b"")
    return Reigning(NAME, "3", "", algorithm, replace(artefact, card={**artefact.card, **card}))


def quick(artefact: Artefact, feeds: Mapping[str, Any]) -> float:
    """A third of a millisecond for every bucket that a decision goes through, whatever the machine does."""
    columns: int = feeds["history"].shape[1]
    return columns / 3


def decided(against: Reigning | None, rivals: list[Candidate] | None = None, measure: gates.Measure = quick,
            **options: Any) -> Decision:
    made = [candidate(family) for family in FAMILIES] if rivals is None else rivals
    return promotion.decide(volume_anomaly, prepared(), made, against, asked(**options), measure)


def with_scores(made: Candidate, change: Any) -> Candidate:
    """The candidate with scores that `change(normal, faulty)` made of copies of its own."""
    scores = made.scores
    assert scores is not None
    normal, faulty = scores.normal.copy(), scores.faulty.copy()
    change(normal, faulty)
    return replace(made, scores=Scores(normal, faulty, scores.said))


# What is promoted


def test_the_first_model_is_promoted() -> None:
    decision = decided(None)

    assert (decision.outcome, decision.promoted, decision.champion) == ("first", True, None)
    assert decision.best is not None and decision.best.algorithm == "structural"
    assert "The first model: structural has F1 0.99" in decision.reason


def test_a_better_family_replaces_the_champion_and_both_figures_are_told() -> None:
    decision = decided(champion("seasonal_decomposition"))

    record = decision.to_json()
    assert (decision.outcome, decision.promoted) == ("better", True)
    assert record["challenger"]["quality"]["f1"] > record["champion"]["quality"]["f1"]
    assert record["champion"]["version"] == "3" and record["champion"]["points_judged_by_its_file"] == DAYS - KNOWN
    low, high = record["interval"]["f1"]["interval"]
    assert 0 < low <= record["interval"]["f1"]["difference"] <= high
    assert "the champion, version 3, seasonal_decomposition" in decision.reason and "Better beyond noise" in decision.reason


def test_a_champion_that_cannot_be_loaded_gives_way() -> None:
    broken = Reigning(NAME, "3", "", "structural", reason="The model's probe gives another score here than in training.")

    decision = decided(broken)

    assert (decision.outcome, decision.promoted) == ("refreshed", True)
    assert "The champion cannot be used (The model's probe gives another score" in decision.reason


def test_a_broken_champion_of_a_family_that_can_no_longer_be_trained_gives_way() -> None:
    assert decided(Reigning(NAME, "3", "", "prophet", reason="gone")).outcome == "refreshed"
    assert decided(Reigning(NAME, "3", "", None, reason="gone")).outcome == "refreshed"


def test_a_champion_that_expires_within_a_fortnight_gives_way_to_one_that_is_no_worse() -> None:
    end = prepared().series.end

    soon, later, gone = (decided(champion("structural", valid_until=until)) for until in (end + 9, end + 15, end - 1))

    assert soon.outcome == "refreshed" and "expires in 9 days" in soon.reason
    assert gone.outcome == "refreshed" and "has expired" in gone.reason
    assert later.outcome == "equal"


def test_a_structural_file_gives_way_once_the_counts_since_its_training_make_it_slow() -> None:
    decision = decided(champion("structural"), measure=lambda artefact, feeds: float(feeds["history"].shape[1]))

    assert decision.outcome == "refreshed" and "it goes through every count since its training" in decision.reason
    assert decision.champion is not None and decision.champion["p95_ms"] == DAYS - KNOWN > gates.BUDGET_MS


def test_a_champion_that_knows_nothing_of_the_new_normal_gives_way() -> None:
    baseline = datetime.fromisoformat(counts(0, DAYS)[KNOWN]["timestamp"])
    request = asked(baseline=baseline.isoformat())
    moved = volume_anomaly.prepare(request, None)
    rivals = [back_tested(moved, "structural")]

    decision = promotion.decide(volume_anomaly, moved, rivals, champion("structural"), request, quick)

    assert decision.outcome == "refreshed" and "was trained without the new normal" in decision.reason
    assert decision.best is not None and decision.best.card["baseline"] == moved.baseline


def test_a_champion_that_does_not_know_a_new_level_loses_to_the_filter_that_has_learnt_it() -> None:
    points = counts(0, DAYS)
    for point in points[-28:]:
        point["row_count"] = round(1.6 * point["row_count"])
    request = asked(historical_data=points)
    data = volume_anomaly.prepare(request, None)
    rivals = [back_tested(data, family) for family in FAMILIES]

    decision = promotion.decide(volume_anomaly, data, rivals, champion("seasonal_decomposition"), request, quick)

    assert decision.outcome == "better" and decision.best is not None and decision.best.algorithm == "structural"


# What is not


def test_the_same_family_with_a_month_more_of_the_same_is_equal() -> None:
    decision = decided(champion("structural"))

    assert (decision.outcome, decision.promoted) == ("equal", False)
    assert decision.champion is not None and decision.champion["points_judged_by_its_file"] == DAYS - KNOWN


@pytest.mark.parametrize("family", FAMILIES)
def test_a_challenger_against_itself_is_equal(family: str) -> None:
    decision = decided(champion(family, DAYS), algorithm=family)

    assert decision.outcome == "equal"
    assert decision.interval == {name: {"difference": 0.0, "interval": [0.0, 0.0]} for name in ("f1", "fpr")}


def test_a_worse_challenger_is_refused() -> None:
    decision = decided(champion("structural"), algorithm="seasonal_decomposition")

    assert (decision.outcome, decision.promoted) == ("worse", False)
    assert decision.interval is not None and decision.interval["f1"]["interval"][1] < 0
    assert "Worse beyond noise" in decision.reason


def test_a_challenger_that_finds_everything_and_raises_more_false_alarms_is_worse() -> None:
    def alarm(normal: Any, faulty: Any) -> None:
        normal[::9], faulty[:] = 0.999, np.where(np.isfinite(faulty), 1.0, np.nan)

    rivals = [candidate("structural"), with_scores(candidate("seasonal_decomposition"), alarm)]
    decision = decided(champion("structural"), rivals, algorithm="seasonal_decomposition")

    assert decision.outcome == "worse" and "false positive rate is higher beyond noise" in decision.reason


def leak(normal: Any, faulty: Any) -> None:
    """Scores as if the family had been fitted to the noise of the days that it is chosen by."""
    last = len(normal) - len(normal) // 3
    normal[:last], faulty[:last] = 0.0, np.where(np.isfinite(faulty[:last]), 1.0, np.nan)
    normal[last::10] = 0.999


def dull(normal: Any, faulty: Any) -> None:
    """One kind of fault is hardly ever found."""
    faulty[:, 3] = np.where(np.isfinite(faulty[:, 3]), 0.5, np.nan)


def test_a_challenger_that_is_good_on_the_days_it_was_chosen_by_alone_is_overfitted() -> None:
    rivals = [with_scores(candidate("structural"), dull), with_scores(candidate("seasonal_decomposition"), leak)]
    decision = decided(champion("structural"), rivals)

    overfitting = decision.gates["overfitting"]
    assert (decision.outcome, decision.promoted) == ("overfitted", False)
    assert overfitting["earlier"]["f1"]["interval"][0] > 0 >= overfitting["last"]["f1"]["difference"]
    assert f"its F1 is ahead by {overfitting['earlier']['f1']['difference']:.3f}" in decision.reason


def test_a_first_model_that_does_not_hold_what_it_promised_is_the_baseline() -> None:
    rivals = [with_scores(candidate("structural"), dull), with_scores(candidate("seasonal_decomposition"), leak)]

    decision = decided(None, rivals)

    assert decision.outcome == "first" and decision.best is not None and decision.best.algorithm == "structural"


def test_a_slow_challenger_is_refused() -> None:
    decision = decided(champion("seasonal_decomposition"), measure=lambda artefact, feeds: 40.0)

    assert (decision.outcome, decision.promoted) == ("slow", False)
    assert decision.gates["p95_ms"] == {"holds": False, "measured": 40.0, "most": gates.BUDGET_MS}
    assert "structural takes 40.0 ms" in decision.reason


def test_a_challenger_that_is_too_large_is_refused() -> None:
    made = candidate("structural")
    model = onnx.load_from_string(made.payload or b"")
    model.doc_string = "x" * gates.MOST_BYTES

    decision = decided(None, [replace(made, payload=model.SerializeToString())])

    assert (decision.outcome, decision.promoted) == ("too_large", False)
    assert not decision.gates["bytes"]["holds"] and "more than 4,194,304" in decision.reason


def test_a_challenger_whose_graph_is_not_its_library_is_refused() -> None:
    made = candidate("structural")
    differs = {**made.figures["parity"], "label_differences": 1}

    decision = decided(None, [replace(made, figures=made.figures | {"parity": differs})])

    assert (decision.outcome, decision.promoted) == ("parity", False)


def test_a_challenger_whose_file_answers_otherwise_than_in_training_is_refused() -> None:
    made = candidate("seasonal_decomposition")
    model = onnx.load_from_string(made.payload or b"")
    learnt = next(one for one in model.graph.initializer if one.data_type == onnx.TensorProto.DOUBLE and one.dims)
    learnt.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(learnt) + 1, learnt.name))

    for promote in ("if_better", "always", "never"):
        decision = decided(None, [replace(made, payload=model.SerializeToString())], promote=promote)
        assert (decision.outcome, decision.promoted) == ("parity", False)
        assert "cannot be used: The model's probe gives another" in decision.reason


def test_where_no_file_is_right_the_outcome_says_so_and_nothing_is_published() -> None:
    wrong = Candidate("lof", {"algorithm": "lof", "error": "the ONNX graph differs from its library",
                              "parity": {"max_difference": 3.0, "label_differences": 9, "rows": 14}})
    short = Candidate("lof", {"algorithm": "lof", "error": "needs 42 usable points, has 10"})

    assert decided(None, [wrong]).outcome == "parity" and "differs" in decided(None, [wrong]).reason
    assert decided(None, [short]).outcome == "untrainable" and "has 10" in decided(None, [short]).reason


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
