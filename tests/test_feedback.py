"""What a person says of a verdict, and what that changes, on real Table storage."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared import batch_items, correcting
from shared.batch_items import keep
from shared.correcting import Desk
from shared.errors import InvalidRequest, NotFound, StorageUnavailable
from shared.events import ANOMALY, RECOVERED
from shared.feedback import Said
from shared.history import Point
from tests import profiles
from tests.columns import orders
from tests.speaking import (
    LAST,
    NOW,
    ask,
    count,
    desk_after_false_alarm,
    desk_on,
    published,
    rows_of,
    say,
    status_at,
)


@pytest.fixture
def desk(storage: str) -> Desk:
    return desk_on(storage)


@pytest.fixture
def false_alarm(storage: str) -> Desk:
    return desk_after_false_alarm(storage)


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


@pytest.mark.parametrize(("body", "field"), [
    ({"detector": "pattern"}, "column"), ({"column": "id"}, "column"), ({"when": {"day": -1}}, "when"),
    ({"label": "new_normal", "scope": "always", "when": {"day": -1}}, "when"),
    ({"scope": "always", "when": {"nth": 2}}, "when.nth"),
], ids=str)
def test_fields_that_do_not_go_together_are_refused(false_alarm: Desk, body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as wrong:
        say(false_alarm, **{"label": "expected", **body})

    assert wrong.value.target == field


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
