"""What a person says of a verdict, and what that changes, on real Table storage."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

import pytest

from detectors.directory import DETECTORS
from shared import batch_items, correcting, observations, telling
from shared.alerts import Alerts
from shared.batch_items import keep
from shared.catalogue import Catalogue
from shared.contract import Answer, parse
from shared.correcting import Desk
from shared.errors import InvalidRequest, NotFound, StorageUnavailable
from shared.events import ANOMALY, RECOVERED, Publisher
from shared.feedback import Feedback, Said
from shared.history import Point
from shared.judging import judge
from shared.queues import Queues
from shared.settings import Settings
from shared.tables import Tables
from tests import columns, profiles
from tests.columns import orders

# A table whose first Mondays are low: the fourth of them is spoken of. No detector counts Mondays, so each is flagged.
FIRST_MONDAYS = [datetime(2026, month, day, 2, tzinfo=UTC) for month, day in ((7, 6), (8, 3), (9, 7), (10, 5), (11, 2))]
LAST, NEXT = FIRST_MONDAYS[3:]
NOW = LAST + timedelta(hours=7)


@pytest.fixture
def desk(storage: str) -> Desk:
    settings = Settings(connection_string=storage)
    catalogue = Catalogue(settings)
    return Desk(catalogue, Tables(catalogue.history, "described"), Feedback(catalogue.history, "said"),
                Alerts(catalogue.history, "alerts"), Publisher(Queues(settings), settings))


def rows_of(day: datetime) -> float:
    """10,000 on working days and half of that at weekends, give or take 3 percent; half of it on first Mondays."""
    noise = 1 + 0.06 * (crc32(day.date().isoformat().encode()) % 1000 / 1000 - 0.5)
    return round(10_000 * noise * (0.5 if day.weekday() > 4 or day in FIRST_MONDAYS else 1))


def counts(first: datetime, last: datetime) -> list[Point]:
    """A count a day; first Mondays as they were flagged."""
    days = [first + timedelta(n) for n in range((last - first).days + 1)]
    return [Point(day, rows_of(day), "anomaly" if day in FIRST_MONDAYS else "ok") for day in days]


def ask(desk: Desk, detector: str, now: datetime = NOW, **body: Any) -> Answer:
    """A verdict, with what it leaves in the history and for alerts."""
    request = parse(DETECTORS[detector].request, json.dumps(body).encode())
    judged = judge(detector, request, desk.catalogue, desk.tables, now)
    if judged.observation is not None:
        observations.observe(judged.observation.encode(), desk.catalogue.history)
        telling.consider(judged.observation.encode(), desk.alerts, desk.tables, desk.publisher)
    return judged.answer


def count(desk: Desk, day: datetime, rows: float, **body: Any) -> Answer:
    asked = {"table_id": "orders", "timestamp": day.isoformat(), "current_row_count": rows} | body
    return ask(desk, "volume", day + timedelta(hours=1), **asked)


def say(desk: Desk, label: str, now: datetime = NOW, **more: Any) -> dict[str, Any]:
    asked = {"table_id": "orders", "detector": "volume", "timestamp": LAST.isoformat(), "label": label} | more
    return correcting.say(json.dumps(asked).encode(), desk, now)


def status_at(desk: Desk, day: datetime, detector: str = "volume") -> str:
    found = desk.catalogue.history.read(detector, "orders", day, day + timedelta(microseconds=1))
    return ("ok", "anomaly", "expected", "repaired", "excluded", "confirmed")[found.status[0]]


def published(desk: Desk) -> list[str]:
    queue = desk.catalogue.settings.anomalies_queue
    return [json.loads(text)["type"] for text in Queues(desk.catalogue.settings).peek(queue).values()]


@pytest.fixture
def false_alarm(desk: Desk) -> Desk:
    """A summer of counts, and the first Monday of October flagged."""
    desk.catalogue.history.record("volume", "orders", counts(datetime(2026, 6, 23, 2, tzinfo=UTC), LAST - timedelta(1)))
    assert count(desk, LAST, rows_of(LAST)).is_anomaly
    return desk


# Once


@pytest.mark.parametrize(("label", "status"), [("expected", "expected"), ("anomaly", "confirmed"), ("ignore", "excluded")])
def test_a_word_takes_the_place_of_the_verdict(false_alarm: Desk, label: str, status: str) -> None:
    told = say(false_alarm, label, note="month closing")

    assert (told["status_before"], told["status"], told["points"], told["changed"]) == ("anomaly", status, 1, True)
    assert told["rule"] is None and told["follows"]
    assert status_at(false_alarm, LAST) == status
    assert false_alarm.catalogue.series("volume", "orders").said_of(int(LAST.timestamp()), rows_of(LAST)) == status


def test_the_word_is_kept_with_the_verdict_that_it_is_about(false_alarm: Desk) -> None:
    say(false_alarm, "expected", note="month closing")

    [said] = false_alarm.feedback.of("volume", "orders")
    assert (said.label, said.scope, said.note, said.said_at) == ("expected", "once", "month closing", NOW)
    assert (said.value, said.flagged, said.model, said.algorithm) == (rows_of(LAST), True, None, "structural")
    assert said.score is not None and said.score > 0.99
    assert said.observed_at == LAST + timedelta(hours=1)


def test_the_same_word_twice_changes_nothing_and_another_takes_its_place(false_alarm: Desk) -> None:
    say(false_alarm, "expected")
    again = say(false_alarm, "expected", NOW + timedelta(hours=1))
    other = say(false_alarm, "anomaly", NOW + timedelta(hours=2))

    assert (again["changed"], again["points"]) == (False, 0) and again["message"].startswith("Nothing changed")
    assert (other["status_before"], other["status"]) == ("expected", "confirmed")
    [said] = false_alarm.feedback.of("volume", "orders")
    assert (said.label, said.flagged, said.said_at) == ("anomaly", True, NOW + timedelta(hours=2))


def test_a_word_is_taken_back_with_what_it_changed(false_alarm: Desk) -> None:
    made = say(false_alarm, "expected", scope="always")

    told = say(false_alarm, "none")

    assert (told["status"], told["removed_rule"]) == ("anomaly", made["rule"]["id"])
    assert status_at(false_alarm, LAST) == "anomaly"
    assert false_alarm.feedback.of("volume", "orders") == []
    assert not (false_alarm.tables.get("orders") or pytest.fail()).settings.rules
    assert say(false_alarm, "none")["changed"] is False


@pytest.mark.parametrize("timestamp", ["2026-10-05", "2026-10-05T23:59:00Z", "2026-10-05T12:00:00+09:00"])
def test_any_time_of_the_day_means_the_days_count(false_alarm: Desk, timestamp: str) -> None:
    assert say(false_alarm, "expected", timestamp=timestamp)["timestamp"] == "2026-10-05T02:00:00Z"


def test_a_day_is_the_tables_own_and_the_latest_count_of_it_counts(false_alarm: Desk) -> None:
    false_alarm.tables.put("orders", {"settings": {"timezone": "Asia/Tokyo"}})
    later = LAST + timedelta(hours=2)
    false_alarm.catalogue.history.record("volume", "orders", [Point(later, rows_of(LAST))])

    assert say(false_alarm, "expected", timestamp="2026-10-05T00:30:00")["timestamp"] == "2026-10-05T04:00:00Z"
    assert say(false_alarm, "expected", timestamp=LAST.isoformat())["timestamp"] == "2026-10-05T02:00:00Z"
    with pytest.raises(NotFound, match="nearest"):
        say(false_alarm, "expected", timestamp="2026-10-05T23:30:00Z")  # a day later in Tokyo


def test_where_there_is_no_point_the_nearest_are_told(false_alarm: Desk) -> None:
    with pytest.raises(NotFound, match="nearest are at 2026-10-05T02:00:00Z") as missing:
        say(false_alarm, "expected", timestamp="2026-12-24")
    with pytest.raises(NotFound, match="there is none near it"):
        say(false_alarm, "expected", table_id="nobody")

    assert missing.value.target == "timestamp"


@pytest.mark.parametrize(("body", "field"), [
    ({"label": "wrong"}, "label"), ({"detector": "weather"}, "detector"), ({"scope": "sometimes"}, "scope"),
    ({"timestamp": "yesterday"}, "timestamp"), ({"table_id": "a b"}, "table_id"), ({"wen": {}}, "wen"),
    ({"when": {"weekday": "someday"}, "scope": "always"}, "when.weekday"), ({"note": "x" * 1001}, "note"),
    ({"when": {"day": 1}, "scope": "always"}, "when"),
], ids=lambda value: value if isinstance(value, str) else None)
def test_what_is_wrong_is_told_by_its_field(false_alarm: Desk, body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as wrong:
        say(false_alarm, **{"label": "expected", **body})

    assert wrong.value.target == field


@pytest.mark.parametrize("body", [{"detector": "pattern"}, {"column": "id"}, {"when": {"day": -1}},
                                  {"label": "new_normal", "scope": "always", "when": {"day": -1}}], ids=str)
def test_fields_that_do_not_go_together_are_refused(false_alarm: Desk, body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        say(false_alarm, **{"label": "expected", **body})


# What is judged again


def test_a_batch_that_judges_the_same_value_again_leaves_the_word(false_alarm: Desk) -> None:
    say(false_alarm, "expected")
    def batch(rows: float) -> None:
        item = {"table_id": "orders", "timestamp": LAST.isoformat(), "current_row_count": rows}
        catalogue, line = false_alarm.catalogue, json.dumps(item).encode()
        keep("volume", batch_items.judge("volume", [(1, line)], catalogue, NOW, false_alarm.tables), catalogue)

    batch(rows_of(LAST))
    assert status_at(false_alarm, LAST) == "expected"

    batch(1.0)
    assert status_at(false_alarm, LAST) == "anomaly"


def test_a_call_that_judges_the_same_value_again_leaves_the_word(false_alarm: Desk) -> None:
    say(false_alarm, "anomaly")

    count(false_alarm, LAST, rows_of(LAST))

    assert status_at(false_alarm, LAST) == "confirmed"
    known = false_alarm.catalogue.series("volume", "orders")
    assert known.said_of(int(LAST.timestamp()), rows_of(LAST)) == "confirmed"


# Always


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


# Alerts


def test_an_outage_that_was_told_is_over_once_it_is_said_to_be_expected(false_alarm: Desk) -> None:
    before = false_alarm.alerts.read("volume", "orders").state.opened

    closed, again = say(false_alarm, "expected"), say(false_alarm, "expected")

    assert before is not None and false_alarm.alerts.read("volume", "orders").state.opened is None
    assert (closed["alert_closed"], again["alert_closed"]) == (True, False)
    assert published(false_alarm) == [ANOMALY, RECOVERED]


def test_an_outage_that_is_confirmed_stays_open(false_alarm: Desk) -> None:
    assert say(false_alarm, "anomaly")["alert_closed"] is False
    assert false_alarm.alerts.read("volume", "orders").state.opened is not None


# Storage that fails


class Failing:
    """A desk whose storage fails at one of its writes, and the writes that were begun."""

    def __init__(self, desk: Desk, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self._at = 0, at
        for owner, name in ((desk.tables, "put"), (desk.feedback, "put"), (desk.catalogue.history, "mark"),
                            (desk.alerts, "consider")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, write: Any) -> Any:
        def counted(*given: Any) -> Any:
            self.begun += 1
            if self.begun == self._at:
                raise StorageUnavailable("Storage does not answer.")
            return write(*given)

        return counted


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_said_again_after_storage_failed_all_is_well(false_alarm: Desk, at: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Failing(false_alarm, at, patch)
        with pytest.raises(StorageUnavailable):
            say(false_alarm, "expected", scope="always")

    told = say(false_alarm, "expected", NOW + timedelta(hours=1), scope="always")

    assert told["rule"]["words"] == "every first Monday of the month"
    assert status_at(false_alarm, LAST) == "expected"
    [said] = false_alarm.feedback.of("volume", "orders")
    assert (said.flagged, said.rule_id) == (True, told["rule"]["id"])
    assert false_alarm.alerts.read("volume", "orders").state.opened is None
    assert say(false_alarm, "expected", scope="always")["changed"] is False


# The other detectors


def test_words_about_profiles_formats_and_steps_correct_their_documents(desk: Desk) -> None:
    about = {"distribution": "2026-03-02", "pattern": "2026-03-02", "sequence": "2026-03-02T06:00:00Z"}
    bodies: dict[str, dict[str, Any]] = {
        "distribution": {"current_profile": profiles.batch(0)},
        "pattern": {"column": "id", "values": orders(50), "timestamp": profiles.day(0)},
        "sequence": {"points": [{"timestamp": profiles.day(0), "value": 1.0}]}}
    for detector, body in bodies.items():
        ask(desk, detector, table_id="orders", **body)

    def say_of_each() -> dict[str, dict[str, Any]]:
        return {detector: say(desk, "ignore", detector=detector, timestamp=at,
                              **({"column": "id"} if detector == "pattern" else {})) for detector, at in about.items()}

    told = say_of_each()
    again = {detector: ask(desk, detector, table_id="orders", **body) for detector, body in bodies.items()}
    after = say_of_each()

    assert {one["status_before"] for one in told.values()} == {"ok"} and len(again) == 3
    assert {one["status"] for one in told.values()} == {"excluded"}
    assert not any(one["changed"] for one in after.values()), "judged again, the word stays"
    assert {said.detector for said in desk.feedback.scan()} == set(bodies)


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


def test_an_arrival_is_found_by_the_day_that_it_was_due_on(desk: Desk) -> None:
    arrival = datetime(2026, 9, 30, 0, 40, tzinfo=UTC)
    desk.catalogue.history.record("timeliness", "orders", [
        Point(arrival - timedelta(1), 2.0), Point(arrival, 100.0, "anomaly")])

    told = say(desk, "expected", detector="timeliness", timestamp="2026-09-29T23:00:00Z")

    assert told["timestamp"] == "2026-09-30T00:40:00Z"
    assert status_at(desk, arrival, "timeliness") == "expected"


# The list


def test_what_was_said_is_listed_page_by_page(desk: Desk) -> None:
    for table_id, n in (("a", 2), ("b", 3)):
        for i in range(n):
            desk.feedback.put(Said("volume", table_id, LAST + timedelta(i), "expected", "once", "", NOW))
    desk.feedback.put(Said("pattern", "b", LAST, "ignore", "once", "", NOW, column="Straße/1"))

    first = correcting.listing({"limit": "4"}, desk.feedback)
    rest = correcting.listing({"limit": "4", "after": first["next"]}, desk.feedback)
    of_b = correcting.listing({"table_id": "b"}, desk.feedback)
    of_one = correcting.listing({"table_id": "b", "detector": "volume"}, desk.feedback)

    assert [len(page["feedback"]) for page in (first, rest, of_b, of_one)] == [4, 2, 4, 3]
    assert rest["next"] is None
    assert [one["column"] for one in of_b["feedback"]] == ["Straße/1", None, None, None]
    assert [one["timestamp"] for one in of_one["feedback"]] == sorted(one["timestamp"] for one in of_one["feedback"])
    with pytest.raises(InvalidRequest):
        correcting.listing({"detector": "weather"}, desk.feedback)
