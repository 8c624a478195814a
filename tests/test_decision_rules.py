"""From a score to a verdict: thresholds, directions, smallest changes, and what a count can be."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.decision import Judgement, decide, threshold_of
from shared.contract import VolumeRequest, parse


def request(**options: Any) -> VolumeRequest:
    return parse(VolumeRequest, json.dumps({"current_row_count": 1, **options}).encode())


USUAL = Judgement(score=0.5, expected=1000.0, lower=900.4, upper=1099.6)


def test_the_default_sensitivity_asks_for_one_alarm_in_a_hundred() -> None:
    assert threshold_of(request()) == pytest.approx(0.99)
    assert threshold_of(request(sensitivity=45)) == pytest.approx(0.999)
    assert threshold_of(request(sensitivity=0)) == pytest.approx(0.9999)


def test_more_sensitivity_never_raises_the_threshold() -> None:
    thresholds = [threshold_of(request(sensitivity=s)) for s in range(100)]

    assert thresholds == sorted(thresholds, reverse=True)


def test_a_wanted_number_of_alerts_only_raises_the_threshold() -> None:
    assert threshold_of(request(max_alerts_per_month=0.1)) == pytest.approx(1 - 0.1 / 30.44)
    assert threshold_of(request(max_alerts_per_month=20)) == pytest.approx(0.99)


def test_the_range_of_a_count_is_whole_numbers_from_zero_on() -> None:
    decision = decide(Judgement(0.5, 3.0, -7.2, 9.7), 3, 0.99, request())

    assert (decision.lower, decision.upper) == (0, 9)


def test_an_empty_load_is_one_step_more_severe() -> None:
    low = decide(Judgement(0.992, 1000, 900, 1100), 850, 0.99, request())
    empty = decide(Judgement(0.992, 1000, 900, 1100), 0, 0.99, request())

    assert (low.severity, empty.severity) == ("low", "medium")


def test_a_direction_that_is_not_watched_is_no_anomaly_and_its_end_is_open() -> None:
    spike = decide(Judgement(0.9999, 1000, 900, 1100), 2000, 0.99, request(direction="drop"))

    assert not spike.is_anomaly and spike.upper is None and spike.score < 0.99
    assert spike.held_back == "but only drops are watched for"


def test_a_change_has_to_exceed_both_parts_of_the_smallest_change() -> None:
    judged = Judgement(0.9999, 1000, 990, 1010)
    options = {"min_change": {"percent": 2, "absolute": 50}}

    assert not decide(judged, 960, 0.99, request(**options)).is_anomaly
    assert decide(judged, 940, 0.99, request(**options)).is_anomaly


def test_a_repeat_is_outside_the_range_that_is_shown() -> None:
    below, above = (decide(Judgement(0.999, 1000, 900, 1100), value, 0.99, request()) for value in (980, 1020))

    assert (below.lower, below.direction) == (981, "stuck")
    assert (above.upper, above.direction) == (1019, "stuck")


@given(score=st.floats(0, 1), value=st.integers(0, 3000), expected=st.floats(0, 2000), below=st.floats(0, 3000),
       above=st.floats(0, 3000), direction=st.sampled_from(["both", "drop", "spike"]), percent=st.floats(0, 100),
       sensitivity=st.integers(0, 99))
def test_an_anomaly_is_exactly_what_lies_outside_the_range_with_a_score_over_the_threshold(
        score: float, value: int, expected: float, below: float, above: float, direction: str, percent: float,
        sensitivity: int) -> None:
    wanted = request(direction=direction, min_change={"percent": percent}, sensitivity=sensitivity)
    threshold = threshold_of(wanted)

    decision = decide(Judgement(score, expected, expected - below, expected + above), value, threshold, wanted)

    inside = decision.lower <= value and (decision.upper is None or value <= decision.upper)
    assert decision.is_anomaly == (not inside)
    assert decision.is_anomaly == (decision.score >= threshold)
    assert (decision.severity != "none") == decision.is_anomaly
    assert 0 <= decision.confidence <= 1
    assert decision.upper is None or decision.lower <= decision.upper


def test_confidence_grows_with_the_distance_from_the_threshold() -> None:
    sure, unsure = (decide(Judgement(s, 1000, 900, 1100), 500, 0.99, request()).confidence for s in (0.9999, 0.99))

    assert sure > unsure
    assert decide(USUAL, 1000, 0.99, request()).confidence > 0.9
