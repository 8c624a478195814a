"""A table that a person speaks of: its counts, the verdicts on them, and what is said."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

from detectors.directory import DETECTORS
from shared import correcting, observations, telling
from shared.alerts import Alerts
from shared.catalogue import Catalogue
from shared.contract import Answer, parse
from shared.correcting import Desk
from shared.events import Publisher
from shared.feedback import Feedback
from shared.history import STATUSES, Point
from shared.judging import judge
from shared.queues import Queues
from shared.settings import Settings
from shared.tables import Tables

# A table whose first Mondays are low: the fourth of them is spoken of. No detector counts Mondays, so each is flagged.
FIRST_MONDAYS = [datetime(2026, month, day, 2, tzinfo=UTC) for month, day in ((7, 6), (8, 3), (9, 7), (10, 5), (11, 2))]
LAST, NEXT = FIRST_MONDAYS[3:]
NOW = LAST + timedelta(hours=7)


def desk_on(storage: str) -> Desk:
    """Everything that a word may change, on a storage account of its own."""
    settings = Settings(connection_string=storage)
    catalogue = Catalogue(settings)
    return Desk(catalogue, Tables(catalogue.history, "described"), Feedback(catalogue.history, "said"),
                Alerts(catalogue.history, "alerts"), Publisher(Queues(settings), settings))


def desk_after_false_alarm(storage: str) -> Desk:
    """A summer of counts, and the first Monday of October flagged."""
    desk = desk_on(storage)
    desk.catalogue.history.record("volume", "orders", counts(datetime(2026, 6, 23, 2, tzinfo=UTC), LAST - timedelta(1)))
    assert count(desk, LAST, rows_of(LAST)).is_anomaly
    return desk


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
    return STATUSES[found.status[0]]


def published(desk: Desk) -> list[str]:
    queue = desk.catalogue.settings.anomalies_queue
    return [json.loads(text)["type"] for text in Queues(desk.catalogue.settings).peek(queue).values()]
