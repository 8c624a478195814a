"""Champion and challenger with real models: what is promoted, and each reason why something is not."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import onnx
import pytest

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
from tools.made_up import counts
from training import gates, promotion, volume_anomaly
from training.candidates import Candidate
from training.promotion import Reigning

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
