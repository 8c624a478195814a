"""Does a series keep its order and shape? The filter, several metrics, gaps, and the history between calls."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from detectors import sequence
from detectors.sequence_filter import RHYTHMS, Filter
from detectors.sequence_verdict import FAR, combined, score_of, student_tail, surprise_of, with_range
from shared.catalogue import Catalogue
from shared.contract import parse
from shared.contract_sequence import SequenceObservation, SequenceRequest
from shared.documents import Documents
from shared.errors import InvalidRequest, StorageUnavailable
from shared.settings import Settings
from tests.catalogues import RECHECK, Clock
from tests.sequences import DAY, NOW, START, ask, metrics, points, request
from tools.azurite import Azurite, free_ports
from tools.backtest_sequence import replay_folder
from training.sequence_faults import EXPECTED

HOURLY = RHYTHMS["hourly"]
USUAL = metrics(22)


def beginning(values: Any) -> Filter:
    return Filter.begin(values[: HOURLY.setup], int(START.timestamp()) // 3600, HOURLY)


def log_odds(values: Any) -> Any:
    """(n, m) of all buckets, by a filter that begins with the first."""
    known = beginning(values)
    return np.array([known.step(row).log_odds for row in values])


def with_fault(name: str, metric: int = 0, values: Any = USUAL) -> Any:
    changed = values.copy()
    day, before, week = (values[len(values) - DAY * (1 + lag): len(values) - DAY * lag, metric] for lag in (0, 1, 7))
    changed[-DAY:, metric] = EXPECTED[name](day, before, week)
    return changed


# The filter


def test_later_points_never_change_earlier_scores() -> None:
    values = metrics(20, 2)
    changed = values.copy()
    changed[-30:] = np.random.default_rng(1).uniform(0, 500, (30, 2))

    assert np.array_equal(log_odds(values)[:-30], log_odds(changed)[:-30])
    assert not np.array_equal(log_odds(values)[-30:], log_odds(changed)[-30:])


def test_a_copy_of_the_filter_goes_its_own_way() -> None:
    known = beginning(USUAL)
    for row in USUAL[:400]:
        known.step(row)
    ahead = known.copy()
    for _ in range(30):
        ahead.step(np.array([5.0]))

    assert np.array_equal([known.step(row).log_odds for row in USUAL[400:]], log_odds(USUAL)[400:])


def test_a_filter_repeated_says_the_same_of_every_copy() -> None:
    known = beginning(USUAL)
    for row in USUAL[:400]:
        known.step(row)
    three = known.repeated(3)

    for row in USUAL[400:440]:
        assert three.step(np.repeat(row, 3)).log_odds == pytest.approx(np.repeat(known.step(row).log_odds, 3), abs=1e-9)


def test_permuting_metrics_permutes_the_evidence() -> None:
    values = metrics(18, 4)
    order = [2, 0, 3, 1]

    assert log_odds(values[:, order]) == pytest.approx(log_odds(values)[:, order], abs=1e-9)


@pytest.mark.parametrize("noise", ["normal", "poisson", "heavy", "walk"])
def test_clean_series_of_any_kind_are_rarely_flagged(noise: str) -> None:
    rng = np.random.default_rng(4)
    n = DAY * 40
    wave = metrics(40, noise=0.0)[:, 0]
    series = {"normal": wave + rng.normal(0, 10, n), "poisson": rng.poisson(wave), "heavy": wave + 5 * rng.standard_t(3, n),
              "walk": np.cumsum(rng.normal(0, 1, n))}[noise]

    surprise = surprise_of(log_odds(np.round(series, 2)[:, None])[HOURLY.setup:, 0])

    assert (score_of(surprise) >= 0.99).mean() <= 0.01


def test_what_lasts_is_the_new_usual_after_some_days() -> None:
    values = metrics(36)
    values[DAY * 20:] = np.roll(values[DAY * 20:], 6, axis=0)

    found = log_odds(values)[:, 0] > 2.3

    assert found[DAY * 20: DAY * 23].mean() > 0.5
    assert found[DAY * 30:].mean() < 0.05


def test_a_bucket_without_a_value_says_nothing_and_the_filter_goes_on() -> None:
    gaps = USUAL.copy()
    gaps[-40:-30] = np.nan

    evidence = log_odds(gaps)[:, 0]

    assert np.isnan(evidence[-40:-30]).all() and np.isfinite(evidence[-30:]).all()
    assert (evidence[-30:] < 2.3).all()


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e12])
def test_a_constant_series_is_normal_until_it_moves(value: float) -> None:
    values = np.full((DAY * 20, 1), value)
    values[-1] += max(abs(value), 1.0)

    evidence = log_odds(values)[:, 0]

    assert np.isfinite(evidence).all() and (evidence[HOURLY.setup:-1] < 2.3).all()
    assert evidence[-1] > evidence[-2] + 2


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


# The history


@pytest.fixture
def catalogue(storage: str) -> Catalogue:
    return Catalogue(Settings(connection_string=storage), Clock())


def judge(catalogue: Catalogue, values: Any, judged: int, **body: Any) -> tuple[Any, str | None]:
    """What a route does: a verdict, and the message that keeps the points."""
    asked = request(values, judged, **{"table_id": "orders", **body})
    answer = sequence.detect(asked, catalogue, NOW)
    return answer, sequence.observation(asked, answer, catalogue, NOW)


def loaded(catalogue: Catalogue, values: Any) -> None:
    rows = [{"detector": "sequence", "table_id": "orders", "timestamp": point["timestamp"],
             "values": dict(zip([f"metric{j}" for j in range(values.shape[1])], point["values"], strict=True))}
            for point in points(values)]
    sequence.load([SequenceObservation.model_validate_json(json.dumps(row)) for row in rows], catalogue)


def test_judged_points_become_the_history_of_the_next_call(catalogue: Catalogue) -> None:
    loaded(catalogue, USUAL[:-2])

    first, message = judge(catalogue, USUAL[:-1], 1, historical_data=[])
    assert message is not None
    sequence.observe(message.encode(), catalogue.history)
    sequence.observe(message.encode(), catalogue.history)
    second, _ = judge(Catalogue(catalogue.settings, Clock()), USUAL, 1, historical_data=[])

    assert (first.history.points, second.history.points) == (len(USUAL) - 2, len(USUAL) - 1)
    told = ask(USUAL, 1)
    assert second.deviation == told.deviation and second.expected_range == told.expected_range
    kept = Documents(catalogue.history).read("sequence", "orders")
    assert len(kept) == len(USUAL) - 1 and kept[-1][1]["values"] == {"metric0": float(USUAL[-2, 0])}


def test_the_next_call_of_the_same_worker_knows_points_that_storage_does_not_yet_have(catalogue: Catalogue) -> None:
    loaded(catalogue, USUAL[:-3])
    judge(catalogue, USUAL[:-2], 1, historical_data=[])
    judge(catalogue, USUAL[:-1], 1, historical_data=[])

    answer, _ = judge(catalogue, USUAL, 1, historical_data=[])

    assert answer.history.points == len(USUAL) - 1 and answer.deviation == ask(USUAL, 1).deviation


def test_what_a_user_excludes_is_not_learnt_from(catalogue: Catalogue) -> None:
    loaded(catalogue, USUAL[:-1])
    Documents(catalogue.history).set_status("sequence", "orders", START + timedelta(hours=50), "excluded")

    answer, _ = judge(catalogue, USUAL, 1, historical_data=[])

    assert (answer.history.points, answer.history.excluded, answer.history.used) == (len(USUAL) - 1, 1, len(USUAL) - 2)


def test_a_call_that_asks_to_leave_no_trace_leaves_none(catalogue: Catalogue) -> None:
    _, message = judge(catalogue, USUAL, 1, record=False)

    assert message is None and Documents(catalogue.history).read("sequence", "orders") == []


def test_more_points_than_a_message_can_carry_are_kept_at_once(catalogue: Catalogue) -> None:
    _, message = judge(catalogue, metrics(20, 60), 120)

    assert message is None and len(Documents(catalogue.history).read("sequence", "orders")) == 120


def test_a_message_that_cannot_be_read_is_an_error(catalogue: Catalogue) -> None:
    with pytest.raises(ValidationError):
        sequence.observe(b'{"detector":"sequence","table_id":"x"}', catalogue.history)


@pytest.fixture
def failing() -> Iterator[tuple[Catalogue, Clock, Azurite]]:
    """A catalogue on storage that the test may stop."""
    blob, queue, table = free_ports(3)
    with Azurite(ports=(blob, queue, table), accounts=("stopping",)) as azurite:
        clock = Clock()
        yield Catalogue(Settings(connection_string=azurite.connection_string("stopping")), clock), clock, azurite


def test_when_storage_stops_the_history_in_memory_or_of_the_request_answers(
    failing: tuple[Catalogue, Clock, Azurite]
) -> None:
    catalogue, clock, azurite = failing
    loaded(catalogue, USUAL[: HOURLY.setup + 20])
    judge(catalogue, USUAL[: HOURLY.setup + 21], 1, historical_data=[])
    azurite.stop()
    clock.pass_(RECHECK + 1)

    warm, message = judge(catalogue, USUAL[: HOURLY.setup + 22], 1, historical_data=[])
    cold, _ = judge(Catalogue(catalogue.settings), USUAL, 1)

    assert warm.status == "evaluated" and any("in memory" in warning for warning in warm.warnings)
    assert message is None and any("not kept" in warning for warning in warm.warnings)
    assert cold.status == "evaluated" and any("Storage does not answer" in warning for warning in cold.warnings)
    with pytest.raises(StorageUnavailable):
        judge(Catalogue(catalogue.settings), USUAL, 1, historical_data=[])


# Back-test


def test_the_back_test_judges_every_hour_by_those_before_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    values = with_fault("frozen")
    with (tmp_path / "in" / "feed.csv").open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["timestamp", "value", "label", "is_train"])
        for i, value in enumerate(values[:, 0]):
            moment = datetime.fromtimestamp(START.timestamp() + 3600 * i, UTC).replace(tzinfo=None)
            writer.writerow([moment, value, int(i >= len(values) - 18), int(i < 400)])

    told = list(replay_folder(tmp_path / "in", tmp_path / "out"))

    with (tmp_path / "out" / "feed.csv").open(newline="") as lines:
        judged = list(csv.DictReader(lines))
    assert len(judged) == len(values) and [row["score"] for row in judged[: HOURLY.setup]] == [""] * HOURLY.setup
    assert sum(int(row["is_anomaly"]) for row in judged[-18:]) > 12 and judged[-1]["hypothesis"] == "frozen"
    assert sum(int(row["is_anomaly"]) for row in judged[:-18]) <= 3 and "1 of 1 faults found" in told[0]
    surprise = combined(surprise_of(log_odds(values)))[0] + np.log1p(-FAR)  # no value lies far outside of its range here
    expected = np.maximum(surprise, 0.0)[HOURLY.setup:].tolist()
    assert [float(row["score"]) for row in judged[HOURLY.setup:]] == pytest.approx(expected)


def test_one_value_far_outside_of_its_range_is_found_at_once() -> None:
    inside, outside = with_range(np.array([[0.1, 3.0, np.nan]]), np.array([[1.0, 1.0, 50.0]]))[0], with_range(
        np.array([[0.1, 3.0, 0.1]]), np.array([[12.0, 12.0, np.nan]]))

    assert inside[0, :2].tolist() == pytest.approx([0.1 + np.log1p(-FAR), 3.0 + np.log1p(-FAR)]) and np.isnan(inside[0, 2])
    assert outside[1].tolist() == [[True, False, False]], "what the filter explains is told as that"
    assert (outside[0][0, :2] > -np.log(0.01)).all()
    # Student's t with five degrees of freedom: scipy.stats.t.sf(12, 5) * 2
    assert student_tail(np.array([12.0]))[0] == pytest.approx(-np.log(7.0895e-05), rel=1e-4)
