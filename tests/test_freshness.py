"""Feeds that fall silent: who is asked about when, what is told of them, and that it is told once."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from shared import tables
from shared.alerts import Alerts
from shared.catalogue import Catalogue
from shared.contract_tables import Table
from shared.contract_timeliness import TimelinessAnswer
from shared.errors import StorageUnavailable
from shared.events import ANOMALY, INCIDENT, RECOVERED, Publisher
from shared.freshness import GRACE, LONGEST, Check, Sweep, Watch, next_question
from shared.history import Point
from shared.queues import Queues
from shared.settings import Settings
from shared.tables import Tables

TODAY = datetime(2026, 9, 21, tzinfo=UTC)
EVERY = timedelta(days=1)


def at(clock: str, day: int = 0) -> datetime:
    return TODAY + timedelta(days=day, hours=int(clock[:2]), minutes=int(clock[3:]))


class Fleet:
    """Feeds that come every night about half past two, watched by sweeps on an account of their own."""

    def __init__(self, storage: str) -> None:
        settings = Settings(connection_string=storage, recheck_seconds=0)
        self.catalogue, self.queues = Catalogue(settings), Queues(settings)
        history = self.catalogue.history
        self.tables, self.alerts = Tables(history, "described", 0), Alerts(history, "alerts")
        self.watch = Watch(history, "alerts")
        self.sweep = Sweep(self.catalogue, self.tables, self.alerts, self.watch, Publisher(self.queues, settings))

    def came(self, ids: list[str], first: datetime, loads: int = 1, sd: float = 3.0) -> None:
        chance = np.random.default_rng(5)
        rows = {table_id: [Point(first + n * EVERY + timedelta(minutes=float(chance.normal(0, sd))), 0.0)
                           for n in range(loads)] for table_id in ids}
        self.catalogue.record_many("timeliness", rows)

    def told(self) -> list[dict[str, Any]]:
        events = []
        for message in self.queues.take("anomalies"):
            events.append(json.loads(message.text))
            message.delete()
        return sorted(events, key=lambda event: (event["type"], event["subject"]))

    def kinds(self) -> list[tuple[str, str]]:
        return [(event["type"], event["subject"]) for event in self.told()]


@pytest.fixture
def fleet(storage: str) -> Fleet:
    return Fleet(storage)


def test_a_feed_that_falls_silent_is_told_once_and_so_is_its_return(fleet):
    fleet.came(["orders", "stock"], at("02:30", -40), 40)

    assert (fleet.sweep.run(at("01:00")).judged, fleet.kinds()) == (2, [])
    assert fleet.sweep.run(at("01:05")).due == 0
    fleet.came(["stock"], at("02:31"))
    assert fleet.sweep.run(at("04:00")).late == 1
    (alert,) = fleet.told()
    assert (alert["type"], alert["subject"]) == (ANOMALY, "orders")
    assert alert["data"]["state"] == "late" and alert["data"]["due_at"] < "2026-09-21T02:40"
    for clock in ("04:05", "04:30", "09:00"):
        fleet.sweep.run(at(clock))
    assert fleet.kinds() == []

    fleet.came(["orders"], at("10:00"))
    fleet.sweep.run(at("10:31"))
    assert fleet.kinds() == [(RECOVERED, "orders")]
    fleet.sweep.run(at("11:30"))
    assert fleet.kinds() == []


def test_many_silent_feeds_of_one_source_are_one_incident_and_their_return_is_one_event(fleet):
    ids = [f"t{n:02d}" for n in range(30)]
    for table_id in ids[:12]:
        fleet.tables.put(table_id, {"labels": {"source": "sap"}, "settings": {"sla_minutes": 30}})
    fleet.came(ids, at("02:30", -25), 25, sd=1.0)
    fleet.sweep.run(at("01:00"))
    fleet.came(ids[12:], at("02:30"), sd=1.0)

    swept = fleet.sweep.run(at("04:30"))

    assert (swept.judged, swept.late, swept.told.incidents, swept.told.anomalies) == (30, 12, 1, 0)
    (incident,) = fleet.told()
    assert incident["type"] == INCIDENT and incident["data"]["factors"][0]["value"] == "sap"
    assert incident["data"]["table_ids"] == ids[:12]
    fleet.came(ids[:12], at("05:00"))
    fleet.sweep.run(at("05:10"))
    assert fleet.kinds() == [(RECOVERED, incident["subject"])]


def test_a_load_that_never_came_at_all_is_missed_where_the_table_has_a_schedule(fleet):
    fleet.tables.put("new-feed", {"settings": {"schedule": {"cron": "0 3 * * *"}, "sla_minutes": 60}})

    fleet.sweep.run(at("02:00"))
    fleet.sweep.run(at("05:00"))

    assert fleet.kinds() == [(ANOMALY, "new-feed")]


def test_settings_that_change_are_heard_at_the_next_sweep(fleet):
    fleet.came(["orders"], at("02:30", -40), 41)
    fleet.sweep.run(at("02:50"))
    assert fleet.watch.due(at("03:00")) == []

    fleet.watch.soon("orders", at("03:00"), is_new=False)
    fleet.watch.soon("nobody-knows", at("03:00"), is_new=False)

    assert [check.table_id for check in fleet.watch.due(at("03:00"))] == ["orders"]


def test_a_table_that_cannot_be_judged_stops_nobody(fleet):
    wrong = Table.model_validate({"settings": {"holidays": {"country": "QQ"}}})  # a calendar that was there once
    fleet.tables._entities.swap(tables._entity("wrong", wrong), None)
    fleet.came(["wrong", "orders"], at("02:30", -40), 40)

    fleet.sweep.run(at("01:00"))
    swept = fleet.sweep.run(at("05:00"))

    assert swept.late == 1 and fleet.kinds() == [(ANOMALY, "orders")]


def test_a_sweep_that_runs_out_of_time_leaves_the_rest_to_the_next(fleet, monkeypatch):
    monkeypatch.setattr("shared.freshness.CHUNK", 2)
    fleet.came([f"t{n}" for n in range(5)], at("02:30", -20), 20)

    first, second, third = (fleet.sweep.run(at("01:00"), seconds=0) for _ in range(3))

    assert [(s.due, s.judged) for s in (first, second, third)] == [(5, 2), (3, 2), (1, 1)]


def test_the_settings_of_many_tables_are_read_in_one_look(fleet, monkeypatch):
    monkeypatch.setattr("shared.freshness.CHUNK", 1)
    for table_id in ("a", "b"):
        fleet.tables.put(table_id, {"settings": {"schedule": {"cron": "0 3 * * *"}, "sla_minutes": 60}})
    fleet.tables.put("not-watched", {"settings": {"sensitivity": 50}})
    fleet.tables.get = None  # nobody asks for one

    fleet.sweep.run(at("02:00"))
    fleet.sweep.run(at("05:00"))

    assert fleet.kinds() == [(ANOMALY, "a"), (ANOMALY, "b")]


def test_an_empty_account_has_nothing_to_sweep(fleet):
    assert fleet.sweep.run(TODAY).due == 0


def test_what_waits_longest_is_asked_first(fleet):
    fleet.watch.keep([Check("a", at("03:00")), Check("b", at("02:00")), Check("c", at("05:00"))])

    assert [check.table_id for check in fleet.watch.due(at("04:00"))] == ["b", "a"]


def judged(**more: Any) -> TimelinessAnswer:
    answer = {"is_anomaly": False, "severity": "none", "confidence": 0.0, "expected_range": (None, None), "message": "",
              "status": "evaluated", "history": {"points": 0, "used": 0, "excluded": 0, "missing": 0},
              "model": {"name": None, "version": "1", "algorithm": "a"}}
    return TimelinessAnswer.model_validate(answer | more)


@pytest.mark.parametrize(("more", "out", "expected"), [
    ({"state": "pending", "late_after": "2026-09-21T03:00:00Z"}, False, at("03:00") + GRACE),
    ({"state": "pending", "late_after": "2026-09-21T02:00:00Z"}, False, at("02:30") + GRACE),
    ({"state": "on_time", "expected_next_arrival": "2026-09-21T05:30:00Z"}, False, at("05:30") + GRACE),
    ({"state": "on_time", "expected_next_arrival": "2026-09-25T05:30:00Z"}, False, at("02:30") + LONGEST),
    ({"state": None}, False, at("03:30")),
    ({"state": "late", "due_at": "2026-09-21T02:20:00Z"}, True, at("02:34")),
    ({"state": "late", "due_at": "2026-09-21T00:00:00Z"}, True, at("02:45")),
    ({"state": "stopped", "due_at": "2026-09-01T00:00:00Z"}, True, at("03:00")),
])
def test_the_next_question_comes_when_the_answer_may_be_another(more, out, expected):
    assert next_question(judged(**more), at("02:30"), out) == expected


def test_storage_that_does_not_answer_stops_the_sweep_and_tells_nobody_wrong():
    settings = Settings(connection_string="AccountName=a;AccountKey=a2V5;TableEndpoint=http://127.0.0.1:9/a")
    catalogue = Catalogue(settings)
    alerts, watch = Alerts(catalogue.history, "alerts"), Watch(catalogue.history, "alerts")
    sweep = Sweep(catalogue, Tables(catalogue.history, "described"), alerts, watch, Publisher(Queues(settings), settings))

    with pytest.raises(StorageUnavailable):
        sweep.run(TODAY)
