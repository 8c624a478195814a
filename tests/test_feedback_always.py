"""Words that hold always: which days they are for, and what the table's next such day is like. On real Table storage."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared import observations
from shared.contract_sequence import SequenceAnswer
from shared.correcting import Desk
from shared.documents import Documents
from shared.errors import InvalidRequest
from shared.events import ANOMALY
from shared.history import Point
from shared.recent_documents import RecentDocuments
from shared.settings import Settings
from shared.tables import Tables
from tests import columns, profiles, sequences
from tests.columns import orders
from tests.speaking import LAST, NEXT, NOW, ask, count, counts, desk_after_false_alarm, desk_on, say, status_at
from tests.test_freshness import Fleet, at


@pytest.fixture
def desk(storage: str) -> Desk:
    return desk_on(storage)


@pytest.fixture
def false_alarm(storage: str) -> Desk:
    return desk_after_false_alarm(storage)


def judged_next(desk: Desk, day: datetime, last: datetime) -> dict[str, bool]:
    """What would be told of a day, once everything until then was counted."""
    desk.catalogue.record_many("volume", {"orders": counts(last + timedelta(1), day - timedelta(1))})
    half = 5_000 if day.weekday() < 5 else 2_500
    cases = {"as before": (day, half), "far less": (day, half * 0.7), "outage": (day, 0), "twice": (day, 4 * half),
             "day before": (day - timedelta(1), 2_000)}
    return {name: count(desk, at, rows, record=False).is_anomaly for name, (at, rows) in cases.items()}


def test_the_next_first_monday_is_quiet_and_an_outage_that_day_is_told(false_alarm: Desk) -> None:
    told = say(false_alarm, "expected", scope="always", note="closing")

    judged = judged_next(false_alarm, NEXT, LAST)

    assert told["rule"]["words"] == "every first Monday of the month" and told["rule"]["note"] == "closing"
    assert told["rule"]["next"] == "2026-11-02" and told["follows"][-1].startswith("The rule holds every first Monday")
    assert told["explanation"] == "every first Monday of the month: 3 of the 3 others were like it"
    assert {"when": {"weekday": "monday"}, "words": "every Monday", "alike": 3, "others": 14} in told["alternatives"]
    assert judged == {"as before": False, "far less": True, "outage": True, "twice": True, "day before": True}


def test_without_the_rule_the_next_first_monday_is_told(false_alarm: Desk) -> None:
    say(false_alarm, "expected")

    assert judged_next(false_alarm, NEXT, LAST)["as before"]


def test_a_month_end_that_nothing_in_the_history_is_like_becomes_a_rule_once_its_days_are_chosen(desk: Desk) -> None:
    low, following = datetime(2026, 9, 30, 2, tzinfo=UTC), datetime(2026, 10, 31, 2, tzinfo=UTC)
    desk.catalogue.history.record("volume", "orders", counts(datetime(2026, 6, 23, 2, tzinfo=UTC), low - timedelta(1)))
    assert count(desk, low, 5_000).is_anomaly

    first = say(desk, "expected", scope="always", timestamp="2026-09-30")
    offered = next(one["when"] for one in first["alternatives"] if one["words"] == "every last day of the month")
    chosen = say(desk, "expected", scope="always", timestamp="2026-09-30", when=offered)

    assert first["rule"] is None and first["kept_once"].startswith("No day of the calendar explains it")
    assert chosen["changed"] and chosen["rule"]["words"] == "every last day of the month"
    judged = judged_next(desk, following, low)
    assert judged == {"as before": False, "far less": True, "outage": True, "twice": True, "day before": True}


def test_days_may_be_chosen_and_must_have_the_point_among_them(false_alarm: Desk) -> None:
    told = say(false_alarm, "expected", scope="always", when={"day": 5})

    assert told["rule"]["words"] == "every fifth day of the month"
    with pytest.raises(InvalidRequest, match="leaves the point itself out"):
        say(false_alarm, "expected", scope="always", when={"weekday": "friday"})


def test_another_word_always_replaces_the_days_of_the_rule(false_alarm: Desk) -> None:
    say(false_alarm, "expected", scope="always", when={"weekday": "monday", "nth": 1})
    say(false_alarm, "ignore", scope="always", when={"day": 5})

    [rule] = (false_alarm.tables.get("orders") or pytest.fail()).settings.rules.values()
    assert rule.label == "ignore" and rule.when is not None
    assert rule.when.model_dump(exclude_none=True) == {"day": 5} and not rule.bounds


def test_where_the_calendar_explains_nothing_the_word_is_kept_once(false_alarm: Desk) -> None:
    tuesday = datetime(2026, 9, 15, 2, tzinfo=UTC)
    false_alarm.catalogue.record_many("volume", {"orders": [Point(tuesday, 2_000)]})

    told = say(false_alarm, "expected", scope="always", timestamp=tuesday.isoformat())

    assert told["rule"] is None and told["kept_once"].startswith("No day of the calendar explains it")
    assert {one["words"] for one in told["alternatives"]} >= {"every Tuesday", "every third Tuesday of the month"}
    assert status_at(false_alarm, tuesday) == "expected"


def test_a_value_that_is_always_wrong_is_a_bound_unless_most_of_what_it_tells_is_normal(false_alarm: Desk) -> None:
    tuesday = LAST + timedelta(1)
    count(false_alarm, tuesday, 150)

    told = say(false_alarm, "anomaly", scope="always", timestamp=tuesday.isoformat())
    common = say(false_alarm, "anomaly", scope="always")  # as many as at weekends

    assert told["rule"]["words"] == "always" and told["rule"]["bounds"][0]["value"] == 150
    assert common["rule"] is None and "normal" in common["kept_once"]


def test_what_was_confirmed_before_is_no_reason_against_a_bound(false_alarm: Desk) -> None:
    tuesday = LAST + timedelta(1)
    outages = [Point(LAST - timedelta(20 + n), 100, "confirmed") for n in range(6)]
    false_alarm.catalogue.record_many("volume", {"orders": outages})
    count(false_alarm, tuesday, 150)

    told = say(false_alarm, "anomaly", scope="always", timestamp=tuesday.isoformat())

    assert told["rule"] is not None and told["rule"]["bounds"][0]["value"] == 150


def test_a_word_taken_back_on_another_worker_takes_its_rule_and_its_new_normal_along(false_alarm: Desk) -> None:
    for label, scope in (("expected", "always"), ("new_normal", "once")):
        other = replace(false_alarm, tables=Tables(false_alarm.catalogue.history, "described"))
        other.tables.get("orders")  # and remembers it for a minute
        say(false_alarm, label, scope=scope)
        said = (false_alarm.tables.current("orders") or pytest.fail()).settings

        say(other, "none")

        left = (false_alarm.tables.current("orders") or pytest.fail()).settings
        assert said.rules or said.baselines
        assert not left.rules and not left.baselines


def test_a_table_has_so_many_rules_and_one_is_removed_by_its_name(false_alarm: Desk) -> None:
    many = {f"rule{n}": {"detector": "volume", "label": "ignore", "when": {"month": 2}, "created_at": NOW.isoformat()}
            for n in range(50)}
    false_alarm.tables.put("orders", {"settings": {"rules": many}})

    with pytest.raises(InvalidRequest, match="at most 50 rules"):
        say(false_alarm, "expected", scope="always")
    assert status_at(false_alarm, LAST) == "anomaly"

    false_alarm.tables.put("orders", {"settings": {"rules": {"rule7": None}}})
    assert say(false_alarm, "expected", scope="always")["rule"]


# A new normal


def test_a_new_normal_begins_with_its_point_and_what_was_flagged_since_is_expected(false_alarm: Desk) -> None:
    since = [LAST + timedelta(n) for n in (1, 2, 3)]
    false_alarm.catalogue.record_many("volume", {"orders": [Point(day, 3_000, "anomaly", 0.999) for day in since]})

    told = say(false_alarm, "new_normal", NOW + timedelta(5))

    assert (told["status"], told["points"]) == ("expected", 4)
    assert (false_alarm.tables.get("orders") or pytest.fail()).settings.baselines == {"volume": LAST}
    assert {status_at(false_alarm, day) for day in since} == {"expected"}

    back = say(false_alarm, "none")
    assert back["points"] == 4 and {status_at(false_alarm, day) for day in since} == {"anomaly"}
    assert not (false_alarm.tables.get("orders") or pytest.fail()).settings.baselines


def test_another_word_ends_a_new_normal(false_alarm: Desk) -> None:
    later = LAST + timedelta(1)
    false_alarm.catalogue.record_many("volume", {"orders": [Point(later, 3_000, "anomaly", 0.999)]})
    say(false_alarm, "new_normal")

    say(false_alarm, "expected")

    assert [status_at(false_alarm, day) for day in (LAST, later)] == ["expected", "anomaly"]
    assert not (false_alarm.tables.get("orders") or pytest.fail()).settings.baselines


def test_a_new_normal_taken_back_of_one_column_leaves_nothing_of_it_where_another_column_was_spoken_of(desk: Desk) -> None:
    documents, later = Documents(desk.catalogue.history), LAST + timedelta(1)
    for column in ("id", "zip"):
        for day in (LAST, later):
            documents.observe(f"pattern.{column}", "orders", day, {"patterns": {"A": 1}, "score": 0.999}, "anomaly")
    say(desk, "new_normal", detector="pattern", column="id")
    say(desk, "expected", detector="pattern", column="zip", timestamp=later.isoformat())

    say(desk, "none", detector="pattern", column="id")

    assert [status for _, status in documents.statuses("pattern.id", "orders")] == ["anomaly", "anomaly"]


# Hours, feeds and documents


def test_of_hours_any_minute_will_do_and_the_hour_may_be_the_rule(desk: Desk) -> None:
    first = datetime(2026, 9, 1, tzinfo=UTC)
    hours = [first + timedelta(hours=n) for n in range(24 * 14)]
    points = [Point(hour, 1_000.0 + hour.hour if (hour.day, hour.hour) != (14, 3) else 100.0) for hour in hours]
    desk.catalogue.record_many("volume", {"orders": points})
    desk.tables.put("orders", {"settings": {"granularity": "hourly"}})

    told = say(desk, "ignore", scope="always", timestamp="2026-09-14T03:59:00Z", when={"hour": 3})

    assert (told["timestamp"], told["rule"]["words"]) == ("2026-09-14T03:00:00Z", "every day at 03:00")
    assert count(desk, datetime(2026, 9, 15, 3, tzinfo=UTC), 0, record=False).status == "not_evaluated"
    assert count(desk, datetime(2026, 9, 15, 4, tzinfo=UTC), 0, record=False).is_anomaly


@pytest.mark.parametrize(("rule", "told"), [
    ({"label": "expected", "bounds": [{"name": "minutes_after_due", "value": 120, "expected": 0}]}, [0, 1]),
    ({"label": "ignore"}, [0, 0]),
    ({"label": "ignore", "when": {"weekday": "friday"}}, [1, 1]),
], ids=["expected", "ignored", "another day"])
def test_the_sweep_waits_for_a_feed_as_its_rules_say(storage: str, rule: dict[str, object], told: list[int]) -> None:
    fleet = Fleet(storage)
    fleet.came(["orders"], at("02:30", -40), 40)
    rule = {"detector": "timeliness", "when": {"weekday": "monday"}, **rule}
    fleet.tables.put("orders", {"settings": {"rules": {"mondays": rule}}})
    fleet.sweep.run(at("01:00"))

    late = [fleet.sweep.run(at("04:00")).late, fleet.sweep.run(at("05:30")).late]

    assert late == told
    assert fleet.kinds() == ([(ANOMALY, "orders")] if any(told) else [])


def test_a_worker_that_has_just_judged_a_document_hears_of_the_word_said_elsewhere(desk: Desk) -> None:
    documents = Documents(desk.catalogue.history)
    recent = RecentDocuments(documents, "pattern.id", Settings(recheck_seconds=0), lambda _, document: document, len)
    documents.observe("pattern.id", "orders", LAST, {"patterns": {"A": 1}}, "anomaly")
    recent.of("orders")
    recent.note("orders", LAST, {"patterns": {"A": 1}}, "anomaly")

    documents.set_status("pattern.id", "orders", LAST, "expected")

    assert [status for _, status in recent.of("orders", NOW).rows()] == ["expected"]


def doubled(n: int) -> dict[str, Any]:
    """The profile of day n, its amounts twice as high."""
    odd = profiles.batch(n)
    amount = profiles.column(odd, "amounts000")
    amount |= {name: 2 * amount[name] for name in ("minValue", "maxValue", "mean", "stddev")}
    amount["quantiles"] = {level: 2 * value for level, value in amount["quantiles"].items()}
    return odd


def test_an_odd_column_said_to_be_expected_on_its_days_is_quiet_there_and_another_is_not(desk: Desk) -> None:
    rows = [{"detector": "distribution", "table_id": "orders", "profile": profiles.batch(n)} for n in range(29)]
    observations.load(json.dumps(rows).encode(), desk.catalogue)
    assert ask(desk, "distribution", table_id="orders", current_profile=doubled(29)).is_anomaly  # 31 March

    told = say(desk, "expected", detector="distribution", timestamp="2026-03-31", scope="always")
    other = doubled(59)
    profiles.column(other, "flags003")["mean"] = 0.9
    same, also = (ask(desk, "distribution", table_id="orders", current_profile=profile, record=False)
                  for profile in (doubled(59), other))

    assert told["rule"]["words"] == "every last day of the month"
    assert {bound["name"].partition(".")[0] for bound in told["rule"]["bounds"]} >= {"amounts000"}
    assert (same.is_anomaly, also.is_anomaly) == (False, True)


def test_a_frozen_day_of_a_sequence_said_to_be_expected_is_quiet_on_its_days(desk: Desk) -> None:
    values = sequences.with_fault("frozen")
    asked = json.loads(sequences.request(values, sequences.DAY).model_dump_json(exclude_unset=True))
    answer = ask(desk, "sequence", sequences.NOW, table_id="orders", **asked)
    assert isinstance(answer, SequenceAnswer) and answer.steps

    for step in answer.steps:
        say(desk, "expected", detector="sequence", timestamp=step.timestamp, scope="always",
            when={"weekday": "monday", "hour": datetime.fromisoformat(step.timestamp).hour})
    again = ask(desk, "sequence", sequences.NOW, table_id="orders", **asked)

    assert isinstance(again, SequenceAnswer) and (again.is_anomaly, again.steps) == (False, [])


def test_an_odd_format_said_to_be_expected_on_its_days_is_quiet_there(desk: Desk) -> None:
    for n in range(1, 30):
        desk.catalogue.history._list("pattern.id", ["orders"])
        ask(desk, "pattern", table_id="orders", column="id", values=orders(200, n), timestamp=columns.day(n).isoformat())
    odd = [*orders(180, 99), *("ORD_4711",) * 20]
    at = columns.day(30)  # 31 May
    assert ask(desk, "pattern", table_id="orders", column="id", values=odd, timestamp=at.isoformat()).is_anomaly

    told = say(desk, "expected", detector="pattern", column="id", timestamp="2026-05-31", scope="always")
    judged = {day: ask(desk, "pattern", table_id="orders", column="id", values=odd, timestamp=f"{day}T02:00:00Z",
                       record=False) for day in ("2026-06-29", "2026-06-30")}

    assert told["rule"]["words"] == "every last day of the month" and told["rule"]["column"] == "id"
    assert not judged["2026-06-30"].is_anomaly
    assert judged["2026-06-29"].rule is None
