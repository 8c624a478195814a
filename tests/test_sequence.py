"""Does a series keep its order and shape? Verdicts on one metric and on several, and on what is missing."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from detectors import sequence
from detectors.sequence_verdict import combined, score_of
from shared.contract import parse
from shared.contract_sequence import SequenceRequest
from shared.errors import InvalidRequest
from tests.sequences import DAY, HOURLY, NOW, START, USUAL, ask, metrics, points, request, with_fault

# Several metrics


def test_the_alarm_rate_of_many_metrics_together_is_that_of_one() -> None:
    rng = np.random.default_rng(0)
    for dependence in (0.0, 0.5, 0.95):
        common = rng.normal(size=(20_000, 1))
        normal = np.sqrt(dependence) * common + np.sqrt(1 - dependence) * rng.normal(size=(20_000, 20))
        surprise = -np.log(np.clip(np.array([0.5 * (1 - _erf(row)) for row in normal]), 1e-16, 1))

        rate = (score_of(combined(surprise)[0]) >= 0.99).mean()

        assert 0.006 < rate < 0.0125  # three standard errors are 0.002


def _erf(x: Any) -> Any:
    """Abramowitz and Stegun 7.1.26 of x / sqrt 2: exact to 1e-7."""
    z = np.abs(x) / np.sqrt(2)
    t = 1 / (1 + 0.3275911 * z)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1 - series * np.exp(-z * z))


def test_contributions_are_shares_and_metrics_without_a_value_have_none() -> None:
    together, shares = combined(np.array([[5.0, 5.0, np.nan], [9.0, 0.0, 0.0], [np.nan, np.nan, np.nan]]))

    assert together[0] == pytest.approx(5 - np.log(1 + 0.1 * np.log(2))) and np.isnan(together[2])
    assert shares[0] == pytest.approx([0.5, 0.5, 0]) and shares[1, 0] > 0.99
    assert 9 - np.log(3.5) < together[1] < 9


def test_of_several_metrics_the_wrong_one_is_named() -> None:
    answer = ask(with_fault("reversed", metric=2, values=metrics(22, 4)))

    assert answer.is_anomaly and answer.metric == "metric2" and answer.state == "reversed"
    assert all("metric2" in step.metrics for step in answer.steps)
    worst = {verdict.metric: verdict for verdict in answer.metrics}
    assert worst["metric2"].is_anomaly and worst["metric2"].contribution > 0.9
    assert sum(verdict.contribution for verdict in answer.metrics) == pytest.approx(1, abs=1e-3)


def test_permuting_the_metrics_of_a_request_permutes_its_answer() -> None:
    values = with_fault("frozen", metric=1, values=metrics(20, 3))
    order = [2, 0, 1]

    one = ask(values)
    other = ask(values[:, order], metrics=[f"metric{j}" for j in order])

    assert one.steps and [step.timestamp for step in one.steps] == [step.timestamp for step in other.steps]
    assert {v.metric: v.score for v in one.metrics} == pytest.approx({v.metric: v.score for v in other.metrics}, abs=1e-6)
    assert one.metric == other.metric == "metric1"


# Verdicts


def test_a_usual_day_is_no_anomaly() -> None:
    answer = ask(USUAL)

    assert (answer.is_anomaly, answer.status, answer.severity, answer.state) == (False, "evaluated", "none", "normal")
    assert answer.judged == DAY and answer.steps == [] and answer.confidence > 0.9
    assert answer.message == "24 hours judged: order and shape as usual."
    assert (answer.history.points, answer.history.used, answer.history.missing) == (DAY * 21, DAY * 21, 0)


@pytest.mark.parametrize(("fault", "state"), [
    ("frozen", "frozen"), ("reversed", "reversed"), ("mirrored", "mirrored"), ("flattened", "flattened"),
    ("shifted", "later"), ("copy_of_yesterday", "copy_of_last_day"), ("copy_of_last_week", "copy_of_last_week"),
])
def test_a_fault_is_found_and_called_by_its_name(fault: str, state: str) -> None:
    answer = ask(with_fault(fault))

    assert answer.is_anomaly and state in {step.hypothesis for step in answer.steps}
    assert USUAL.min() <= min(p.value for p in answer.metrics if p.value is not None)
    assert answer.deviation is not None and answer.deviation.score >= answer.deviation.threshold - 1e-6
    assert all(step.score >= 0.99 - 1e-6 and step.severity != "none" for step in answer.steps)
    assert "unusual, the worst" in answer.message


def test_a_frozen_feed_is_found_within_some_hours() -> None:
    values = USUAL.copy()
    values[-6:] = values[-7]

    answer = ask(values, 6)

    assert answer.is_anomaly and answer.state == "frozen" and "repeats its last value" in answer.message


def test_thresholds_are_monotone_in_sensitivity() -> None:
    counts = [len(ask(with_fault("flattened"), sensitivity=s).steps) for s in (0, 45, 90, 99)]

    assert counts == sorted(counts) and counts[0] < counts[-1]


def test_without_history_everything_is_being_learnt() -> None:
    answer = ask(USUAL[:5], 5)

    assert (answer.status, answer.is_anomaly, answer.confidence, answer.severity) == ("learning", False, 0, "none")
    assert answer.reason is not None and "0 of 336 hourly points known" in answer.reason


def test_verdicts_begin_after_two_weeks_also_within_one_request() -> None:
    assert ask(USUAL[: HOURLY.setup], DAY).status == "learning"
    answer = ask(USUAL[: HOURLY.setup + 5], HOURLY.setup + 5)
    assert (answer.status, answer.judged) == ("evaluated", 5)


def test_metrics_with_gaps_are_judged_by_what_is_there() -> None:
    values = metrics(22, 2)
    values[40:90, 0] = np.nan
    values[200:230] = np.nan
    values[-DAY::2, 1] = np.nan
    values = with_fault("frozen", metric=0, values=values)

    answer = ask(values)

    assert answer.is_anomaly and answer.metric == "metric0" and answer.history.missing == 30
    assert ask(np.concatenate([values[:-DAY], np.full((1, 2), np.nan), values[-1:]]), 1).status == "evaluated"


def test_a_metric_that_has_just_begun_is_still_being_learnt() -> None:
    values = np.concatenate([metrics(22, 1), metrics(22, 1, seed=1)], axis=1)
    values[: DAY * 18, 1] = np.nan

    answer = ask(values)

    assert answer.status == "evaluated" and [v.score is None for v in answer.metrics] == [False, True]


def test_points_without_any_value_are_not_evaluated() -> None:
    body = {"points": [{"timestamp": (START + timedelta(hours=len(USUAL))).isoformat(), "values": [None]}],
            "historical_data": points(USUAL)}
    answer = sequence.detect(parse(SequenceRequest, json.dumps(body).encode()), None, NOW)  # type: ignore[arg-type]

    assert (answer.status, answer.reason) == ("not_evaluated", "The points hold no value.")


def test_daily_metrics_have_a_week_of_their_own() -> None:
    rng = np.random.default_rng(0)
    values = np.tile([100.0, 120, 130, 125, 110, 60, 40], 20)[:, None] * (1 + 0.03 * rng.normal(size=(140, 1)))
    wrong = values.copy()
    wrong[-7:] = wrong[-7:][::-1]
    body = {"granularity": "daily", "points": points(wrong[-7:], 133, timedelta(days=1)),
            "historical_data": points(wrong[:-7], 0, timedelta(days=1))}

    answer = ask(values, 7, **body)
    usual = ask(values, 7, **body | {"points": points(values[-7:], 133, timedelta(days=1))})

    assert answer.is_anomaly and "7 days are unusual" in answer.message.replace(f"{len(answer.steps)} of ", "")
    assert not usual.is_anomaly and usual.status == "evaluated"


def test_unsorted_and_repeated_points_are_put_in_order_and_told() -> None:
    asked = request(USUAL, DAY)
    twice = [*reversed(asked.points), asked.points[0]]

    answer = sequence.detect(asked.model_copy(update={"points": twice}), None, NOW)  # type: ignore[arg-type]

    assert answer.judged == DAY and any("several of one hourly bucket" in warning for warning in answer.warnings)


def test_a_bucket_that_is_still_filling_is_not_judged() -> None:
    moment = START + timedelta(hours=len(USUAL) - 1, minutes=50)

    asked = request(USUAL, 1, delay_minutes=15)
    answer = sequence.detect(asked, None, moment)  # type: ignore[arg-type]
    later = sequence.detect(asked, None, moment + timedelta(minutes=25))  # type: ignore[arg-type]

    assert (answer.status, later.status) == ("not_evaluated", "evaluated")


def test_values_that_do_not_fit_the_metrics_are_refused_by_name() -> None:
    with pytest.raises(InvalidRequest) as error:
        ask(USUAL, metrics=["a", "b"])
    assert error.value.target == "points[0].values"
    with pytest.raises(InvalidRequest, match="different names"):
        ask(USUAL, metrics=["a", "a"])
