"""Is the load that is due on time, late, early, not due yet, or has the feed stopped?"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pytest

from detectors.schedule import Monthly, Weekly
from detectors.timeliness_case import days_away
from shared.contract import Holidays
from shared.errors import InvalidRequest
from tests.feeds import BERLIN, DAILY, HOURLY, WORKDAYS, ask, at, detect, feed, iso, jitter, weekly

MINUTE, HOUR, DAY = 60, 3600, 86_400
FRIDAY = at("2026-03-20")  # the day after the last load of the daily feed


@pytest.fixture(scope="module")
def loads() -> Any:
    """A daily feed that is due at half past two, until 19 March."""
    return feed(DAILY, "2026-01-05", "2026-03-20", jitter(4))


def clock(text: str) -> int:
    """`03:10` on the Friday, `1d 03:10` the day after."""
    days, _, time = text.rpartition("d ")
    return FRIDAY + int(days or 0) * DAY + int(time[:2]) * HOUR + int(time[3:]) * MINUTE


# States


@pytest.mark.parametrize("moment", ["00:30", "02:00", "02:29", "02:35"])
def test_before_it_is_due_a_load_is_pending_and_never_an_anomaly(loads: Any, moment: str) -> None:
    verdict = ask(loads, clock(moment))

    assert (verdict.state, verdict.status, verdict.is_anomaly) == ("pending", "not_evaluated", False)
    assert (verdict.severity, verdict.confidence, verdict.value) == ("none", 0, None)
    assert verdict.reason and verdict.due_at is not None and verdict.due_at.startswith("2026-03-20T01:3")


def test_once_it_has_come_a_load_is_on_time_until_the_next_is_near(loads: Any) -> None:
    came = np.append(loads, clock("02:33"))

    for moment in ("02:34", "09:00", "19:00"):
        verdict = ask(came, clock(moment))
        assert (verdict.state, verdict.status, verdict.is_anomaly) == ("on_time", "evaluated", False)
        assert verdict.value is not None and abs(verdict.value) < 10
        assert verdict.expected_next_arrival is not None and verdict.expected_next_arrival.startswith("2026-03-21T01:")
    assert ask(came, clock("23:30")).state == "pending"


def test_a_load_that_is_out_is_late_from_late_after_on_and_not_before(loads: Any) -> None:
    waiting = ask(loads, clock("02:00"))
    late_after = int(datetime.fromisoformat(waiting.late_after or "").timestamp())

    assert clock("02:35") < late_after < clock("03:10")
    assert ask(loads, late_after - 30).state == "pending"
    late = ask(loads, late_after + 90)
    assert (late.state, late.is_anomaly, late.missing_loads) == ("late", True, 1)
    assert late.value is not None and late.expected_range[1] is not None and late.value > late.expected_range[1]


def test_the_longer_a_load_is_out_the_worse_it_is(loads: Any) -> None:
    steps = [ask(loads, clock(moment)) for moment in ("03:05", "04:00", "08:00", "1d 03:30")]
    scores = [step.deviation.score for step in steps if step.deviation]

    assert scores == sorted(scores) and len(scores) == 4
    assert [step.state for step in steps] == ["late"] * 4 and steps[-1].severity == "critical"


def test_a_feed_without_three_loads_has_stopped_and_stays_so(loads: Any) -> None:
    for moment, missing in (("2d 04:00", 3), ("9d 04:00", 10)):
        verdict = ask(loads, clock(moment))
        assert (verdict.state, verdict.severity, verdict.missing_loads) == ("stopped", "critical", missing)
        assert verdict.due_at is not None and verdict.due_at.startswith("2026-03-20T01:3")


@pytest.mark.parametrize(("moment", "state"), [("02:36", "on_time"), ("05:00", "late"), ("00:40", "early")])
def test_an_arrival_is_judged_by_its_minutes_after_due(loads: Any, moment: str, state: str) -> None:
    verdict = ask(np.append(loads, clock(moment)), clock(moment) + 60)

    low, high = verdict.expected_range
    assert verdict.state == state and verdict.is_anomaly == (state != "on_time")
    assert low is not None and high is not None and verdict.value is not None
    assert verdict.is_anomaly == (not low <= verdict.value <= high)
    assert verdict.deviation is not None
    assert verdict.is_anomaly == (verdict.deviation.score >= verdict.deviation.threshold - 1e-6)
    assert f"{abs(verdict.value):.0f} minutes" in verdict.message or "h " in verdict.message


def test_a_rerun_changes_nothing(loads: Any) -> None:
    came = np.append(loads, clock("02:33"))

    assert ask(np.append(came, clock("07:00")), clock("08:00")).value == ask(came, clock("08:00")).value


def test_the_day_after_a_missing_load_the_next_one_is_on_time(loads: Any) -> None:
    verdict = ask(np.append(loads, clock("1d 02:31")), clock("1d 04:00"))

    assert (verdict.state, verdict.history.missing) == ("on_time", 1)


# Feeds


@pytest.mark.parametrize("lags", [jitter(5), lambda rng, n: 5 * rng.lognormal(0, 0.7, n)], ids=["normal", "lognormal"])
def test_a_normal_feed_is_rarely_called_late(lags: Any) -> None:
    came = feed(DAILY, "2026-01-05", "2026-06-30", lags, seed=3)

    alarms = [ask(came[:i], came[i - 1] + 60).is_anomaly for i in range(30, len(came), 2)]
    assert sum(alarms) <= 3


@pytest.mark.parametrize(("start", "end"), [("2026-01-20", "2026-03-27"), ("2026-08-20", "2026-10-23")])
def test_a_load_at_half_past_two_survives_both_clock_changes(start: str, end: str) -> None:
    came = feed(DAILY, start, end, jitter(3))

    for day in range(5):
        midnight = datetime.fromisoformat(end).replace(day=int(end[-2:]) + day, tzinfo=None).isoformat()
        expected = at(f"{midnight[:10]}T02:30")
        assert not ask(came, expected - HOUR).is_anomaly and not ask(came, expected).is_anomaly
        came = np.append(came, expected + 60)
        assert ask(came, expected + 90).state == "on_time"


def test_a_load_that_stays_out_on_the_day_of_a_clock_change_is_late_all_the_same() -> None:
    came = feed(DAILY, "2026-01-20", "2026-03-29", jitter(3))

    assert ask(came, at("2026-03-29T05:00")).state == "late"


def test_a_feed_that_moves_to_another_hour_for_good_is_accepted_after_twelve_loads() -> None:
    came = feed(DAILY, "2026-01-05", "2026-03-20", jitter(4))
    moved = feed(weekly(range(7), "05:30"), "2026-03-20", "2026-05-20", jitter(4), seed=1)

    late = [ask(np.append(came, moved[:i + 1]), moved[i] + 60).is_anomaly for i in range(40)]

    assert late == [True] * 12 + [False] * 28


def test_weekends_are_learnt_as_days_without_loads() -> None:
    came = feed(WORKDAYS, "2026-01-05", "2026-03-21", jitter(4))

    assert ask(came, at("2026-03-21T12:00")).state == "on_time"
    assert ask(came, at("2026-03-22T23:00")).state in ("on_time", "pending")
    assert ask(came, at("2026-03-23T09:00")).state == "late"


def test_holidays_are_days_on_which_a_load_may_stay_away() -> None:
    came = feed(WORKDAYS, "2025-10-01", "2026-04-03", jitter(4))
    away = days_away(Holidays(country="DE"), came, int(came[-1]), BERLIN)
    came = came[[int(second + 2 * HOUR) // DAY not in away for second in came]]
    good_friday, tuesday = at("2026-04-03T12:00"), at("2026-04-07T12:00")

    assert ask(came, good_friday).state == "late"
    assert ask(came, good_friday, holidays={"country": "DE"}).state == "on_time"
    assert ask(came, good_friday, holidays={"dates": ["2026-04-03"]}).state == "on_time"
    assert ask(came, tuesday, holidays={"country": "DE"}).due_at == "2026-04-07T04:30:00Z"


def test_a_feed_that_works_on_holidays_is_expected_on_them() -> None:
    came = feed(WORKDAYS, "2025-10-01", "2026-04-03", jitter(4))

    assert ask(came, at("2026-04-03T12:00"), holidays={"country": "DE"}).state == "late"


def test_a_month_end_feed_is_due_on_the_last_working_day() -> None:
    came = feed(Monthly("last_working_day", 1, 300), "2025-03-05", "2026-03-05", jitter(15))

    assert ask(came, at("2026-03-20")).state == "on_time"
    assert ask(came, at("2026-03-31T04:00")).state == "pending"
    assert ask(came, at("2026-03-31T18:00")).state == "late"


def test_an_hourly_feed_is_late_within_the_hour() -> None:
    came = feed(HOURLY, "2026-03-01", "2026-03-20T12:00", jitter(2))

    assert ask(came, at("2026-03-20T11:50")).state in ("on_time", "pending")
    assert ask(came, at("2026-03-20T12:30")).state == "late"
    assert ask(came, at("2026-03-20T15:00")).state == "stopped"


def test_a_feed_without_a_clock_is_late_when_its_usual_gap_is_long_over() -> None:
    rng = np.random.default_rng(0)
    came = at("2026-03-01") + np.cumsum(rng.normal(47, 2, 400) * 60).astype(np.int64)

    assert ask(came, came[-1] + 20 * MINUTE).state in ("on_time", "pending")
    assert ask(came, came[-1] + 70 * MINUTE).state == "late"


# Schedules that are given or told


def test_a_cron_schedule_counts_from_its_own_due_time(loads: Any) -> None:
    verdict = ask(np.append(loads, clock("02:33")), clock("03:00"), schedule={"cron": "0 2 * * *"})

    assert verdict.schedule is not None and verdict.schedule.source == "given"
    assert verdict.value == pytest.approx(33, abs=0.1) and verdict.expected_value == pytest.approx(30, abs=2)
    assert verdict.state == "on_time"


def test_due_times_that_the_caller_tells_need_no_schedule() -> None:
    due = [at("2026-01-01T21:50") + DAY * i for i in range(40)]
    told = [{"expected_at": iso(second), "lag_minutes": None if i == 20 else i % 7 - 3.0} for i, second in enumerate(due)]
    body = {"historical_data": told, "due_at": iso(due[-1] + DAY)}

    assert detect(as_of=iso(due[-1] + DAY), **body).state == "pending"
    assert detect(as_of=iso(due[-1] + DAY + 3 * HOUR), **body).state == "late"
    came = detect(as_of=iso(due[-1] + DAY + HOUR), last_arrival=iso(due[-1] + DAY + 120), **body)
    assert (came.state, came.value, came.history.used) == ("on_time", 2, 39)


def test_plain_minutes_are_a_history_where_the_due_time_is_known() -> None:
    body = {"historical_data": [5, 7, None, 4, 6, 5, 8, 3, 6], "as_of": "2026-03-20T09:00:00Z"}

    assert detect(**body, due_at="2026-03-20T02:00:00Z").state == "late"
    assert detect(**body, schedule={"cron": "0 2 * * *"}).state == "late"
    with pytest.raises(InvalidRequest, match="due_at or a schedule"):
        detect(**body)


# What the user asks for


def test_the_agreed_minutes_are_a_hard_limit_on_top(loads: Any) -> None:
    verdict = ask(loads, clock("02:45"), sla_minutes=8)

    assert (verdict.state, verdict.confidence, verdict.expected_range[1]) == ("late", 0.9999, 8.0)
    assert "Agreed" in verdict.message and ask(loads, clock("02:45")).state == "pending"


def test_an_agreement_counts_from_the_first_day() -> None:
    body = {"schedule": {"cron": "30 2 * * *"}, "timezone": BERLIN, "sla_minutes": 30}

    assert detect(as_of="2026-03-20T01:45:00Z", **body).status == "learning"
    assert detect(as_of="2026-03-20T02:15:00Z", **body).state == "late"


def test_direction_and_smallest_change_hold_back_what_nobody_wants_to_know(loads: Any) -> None:
    late, early = np.append(loads, clock("05:00")), np.append(loads, clock("00:40"))

    assert not ask(late, clock("05:01"), direction="drop").is_anomaly
    assert not ask(early, clock("00:41"), direction="spike").is_anomaly
    assert not ask(late, clock("05:01"), min_change={"absolute": 200}).is_anomaly
    assert ask(late, clock("05:01"), min_change={"absolute": 60}).is_anomaly


def test_more_sensitive_is_never_less_strict(loads: Any) -> None:
    limits = [ask(loads, clock("02:00"), sensitivity=s).expected_range[1] for s in (0, 45, 90, 99)]

    assert limits == sorted(limits, reverse=True) and len(set(limits)) == 4


@pytest.mark.parametrize("known", [0, 1, 4])
def test_too_few_arrivals_are_learning_and_never_an_error(loads: Any, known: int) -> None:
    for body in ({}, {"schedule": {"cron": "30 2 * * *"}}):
        verdict = ask(loads[:known], (loads[known - 1] if known else clock("02:00")) + HOUR, **body)
        assert (verdict.status, verdict.is_anomaly, verdict.confidence) == ("learning", False, 0)
        assert verdict.reason is not None and "of 5 arrivals known" in verdict.reason


def test_a_feed_that_stops_while_it_is_learnt_has_stopped(loads: Any) -> None:
    verdict = ask(loads[:3], loads[2] + 5 * DAY, schedule={"cron": "30 2 * * *"})

    assert (verdict.state, verdict.status) == ("stopped", "evaluated")


# Event time


def test_old_events_in_a_load_on_time_are_an_anomaly_of_their_own(loads: Any) -> None:
    history = [{"timestamp": iso(s), "event_time": iso(s - 1200 - 7 * (s % 60))} for s in loads]
    body = {"historical_data": history[:-1], "last_arrival": iso(loads[-1]), "as_of": iso(loads[-1] + 60)}

    fresh = detect(**body, timezone=BERLIN, last_event_time=iso(loads[-1] - 1300))
    stale = detect(**body, timezone=BERLIN, last_event_time=iso(loads[-1] - DAY))

    assert not fresh.is_anomaly and fresh.unit == "minutes_after_due" and fresh.event_lag_minutes == pytest.approx(21.67)
    assert fresh.event_check is not None and fresh.event_check.status == "evaluated"
    assert stale.is_anomaly and (stale.state, stale.unit, stale.value) == ("on_time", "event_lag_minutes", 1440)
    assert stale.expected_range[1] is not None and stale.expected_range[1] < 60 and "newest event" in stale.message


def test_later_arrivals_never_change_an_earlier_verdict() -> None:
    came = feed(Weekly((*WORKDAYS.times, (5, 600))), "2026-01-05", "2026-04-01", jitter(6))
    moment = at("2026-03-10T12:00")
    told = {"as_of": iso(moment), "timezone": BERLIN}

    now = detect(**told, historical_data=[iso(s) for s in came if s <= moment])
    later = detect(**told, historical_data=[iso(s) for s in came])

    assert now.model_dump(exclude={"latency_ms"}) == later.model_dump(exclude={"latency_ms"})


@pytest.mark.parametrize(("as_of", "cron"), [("2190-01-01T00:00", None), ("2190-01-01T00:00", "* * * * *"),
                                             ("2026-03-20T09:00", "* * * * *"), ("1990-01-01T00:00", None)])
def test_absurd_moments_have_a_verdict_in_bounded_time(loads: Any, as_of: str, cron: str | None) -> None:
    verdict = ask(loads, at(as_of), **({"schedule": {"cron": cron}} if cron else {}))

    assert verdict.state == ("stopped" if as_of > "2000" else None) and verdict.latency_ms < 5000


def test_absurd_lags_have_a_verdict() -> None:
    verdict = detect(historical_data=[9e6, -9e6, 0, 5e6, 1, 2], as_of="2026-03-20T09:00:00Z", due_at="2026-03-20T02:00:00Z")

    assert verdict.state == "pending" and "NaN" not in verdict.model_dump_json()
