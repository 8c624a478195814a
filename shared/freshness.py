"""Feeds that should have come by now: every table with arrivals or a schedule is asked about when its state may change.

The time of the next question is kept for each table, in the alerts table, so that a sweep reads one range and judges what is
due: a feed when its load should have come, then when it is called late, then while it stays out, less and less often.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import batched, chain
from typing import Final

from detectors import timeliness
from detectors.rules import applied
from shared.alerts import Alerts, verdict_of
from shared.catalogue import Catalogue
from shared.contract_tables import AlertPolicy, Table, with_defaults
from shared.contract_timeliness import TimelinessAnswer, TimelinessRequest
from shared.entities import Entities, quoted
from shared.errors import ServiceError, StorageUnavailable
from shared.events import Publisher
from shared.history import History, row_key
from shared.tables import Tables
from shared.telling import Announced, announce

WORKERS: Final = 8
CHUNK: Final = 200  # tables between two looks at the clock
SWEEP_SECONDS: Final = 240.0  # then the next sweep goes on with what has waited longest
GRACE: Final = timedelta(minutes=1)  # an arrival may still be on the observations queue
LOOK_AGAIN: Final = timedelta(minutes=15)  # for tables that are new
LEARNING: Final = timedelta(hours=1)
LONGEST: Final = timedelta(hours=6)  # a model or a schedule may be new meanwhile
OUT: Final = (timedelta(minutes=4), timedelta(minutes=30))  # between questions about a load that stays out
_WATCHED, _LOOKED = ":freshness", ":freshness-looked"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Check:
    """When a table is asked about next; `wrong` while the last load was not well, so that the next good one counts."""

    table_id: str
    at: datetime
    wrong: bool = False


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did: tables due, judged and found late, those that could not be judged, and what was told."""

    due: int
    judged: int
    late: int
    failed: int
    told: Announced


class Watch:
    """The next questions of all tables; every method may be called from any thread. Raises StorageUnavailable."""

    def __init__(self, history: History, name: str) -> None:
        self._history, self._entities = history, Entities(history, name)

    def due(self, now: datetime) -> list[Check]:
        """The tables to ask about, longest waiting first."""
        where = f"PartitionKey eq '{_WATCHED}' and check_at le {quoted(row_key(now))}"
        rows = self._entities.query(where, ["RowKey", "check_at", "wrong"])
        return sorted((Check(row["RowKey"], datetime.fromisoformat(row["check_at"]), row["wrong"]) for row in rows),
                      key=lambda check: (check.at, check.table_id))

    def keep(self, checks: Sequence[Check]) -> None:
        """Writes down when to ask next."""
        self._entities.put_many([{"PartitionKey": _WATCHED, "RowKey": check.table_id, "check_at": row_key(check.at),
                                  "wrong": check.wrong} for check in checks])

    def soon(self, table_id: str, now: datetime, is_new: bool) -> None:
        """Asks at the next sweep about a table whose settings changed; about one that is not watched only if `is_new`."""
        found = self._entities.get(_WATCHED, table_id)
        if found is not None or is_new:
            self.keep([Check(table_id, now, bool(found and found[0]["wrong"]))])

    def tables(self) -> Iterator[str]:
        """The ids of all tables watched, sorted."""
        return (row["RowKey"] for row in self._entities.query(f"PartitionKey eq '{_WATCHED}'", ["RowKey"]))

    def look(self, tables: Tables, now: datetime) -> None:
        """Finds tables that have arrivals or a schedule and are not watched yet, where nobody looked for a while."""
        looked = self._entities.get(_LOOKED, "last")
        if looked is not None and looked[0]["at"] > row_key(now - LOOK_AGAIN):
            return
        watched = set(self.tables())
        found = set(chain(self._history.tables(timeliness.DETECTOR), tables.scheduled()))
        self.keep([Check(table_id, now) for table_id in sorted(found - watched)])
        self._entities.put_many([{"PartitionKey": _LOOKED, "RowKey": "last", "at": row_key(now)}])


@dataclass(frozen=True, slots=True)
class Sweep:
    """Asks about every feed that is due, and tells what is late and what has come after all, incidents as one."""

    catalogue: Catalogue
    tables: Tables
    alerts: Alerts
    watch: Watch
    publisher: Publisher

    def run(self, now: datetime, seconds: float = SWEEP_SECONDS) -> Swept:
        """Raises StorageUnavailable: what was done by then stays done, and the next sweep goes on."""
        ends = time.monotonic() + seconds
        self.watch.look(self.tables, now)
        due = self.watch.due(now)
        described = self._described([check.table_id for check in due])
        judged = late = failed = 0
        with ThreadPoolExecutor(WORKERS) as pool:
            for some in batched(due, CHUNK, strict=False):
                checks = list(pool.map(lambda check: self._judge(check, described, now), some))
                self.watch.keep([check for check in checks if check is not None])
                judged, late = judged + len(some), late + sum(check is not None and check.wrong for check in checks)
                failed += sum(check is None for check in checks)
                if time.monotonic() >= ends:
                    break
        told = announce(timeliness.DETECTOR, self.alerts, self.publisher, self._labels)
        return Swept(len(due), judged, late, failed, told)

    def _described(self, due: Sequence[str]) -> Mapping[str, Table | None] | None:
        """The settings of many tables in one look; None where they are few, and asked about one by one."""
        if len(due) <= CHUNK:
            return None
        wanted = set(due)
        return {table_id: table for table_id, table in self.tables.scan() if table_id in wanted}

    def _judge(self, check: Check, described: Mapping[str, Table | None] | None, now: datetime) -> Check | None:
        """The next question about a table, after this one; None where it has to be repeated as it is."""
        table_id = check.table_id
        try:
            table = self.tables.get(table_id) if described is None else described.get(table_id)
            request = with_defaults(TimelinessRequest(table_id=table_id, record=False), table, timeliness.DETECTOR)
            answer = applied(request, timeliness.detect(request, self.catalogue, now), now)
            if self.catalogue.series(timeliness.DETECTOR, table_id).stale:
                return None  # a load may have come that this worker could not read of
        except StorageUnavailable:
            raise
        except ServiceError as error:
            log.warning("Table %s cannot be watched: %s", table_id, error.message)
            return Check(table_id, now + LONGEST, check.wrong)
        wrong = check.wrong
        out = answer.is_anomaly and answer.missing_loads > 0
        # A load that came late is told by the call that saw it come; here it only ends what was told before.
        if (out or wrong) and answer.state is not None:
            told = verdict_of(answer.model_copy(update={"status": "evaluated"}), now)
            if told is not None:
                policy = table.policy(timeliness.DETECTOR) if table else AlertPolicy()
                seen = self.alerts.consider(told, policy).state.seen
                wrong = bool(seen) and seen[-1].wrong
        return Check(table_id, next_question(answer, now, out), wrong)

    def _labels(self) -> Mapping[str, Mapping[str, str]]:
        """The labels of every table that is watched."""
        described = {table_id: table.labels for table_id, table in self.tables.scan()}
        return {table_id: described.get(table_id, {}) for table_id in self.watch.tables()}


def next_question(answer: TimelinessAnswer, now: datetime, out: bool) -> datetime:
    """When the answer about a feed may be another one; after `now`, and at most LONGEST later."""
    late_after, expected, due = (datetime.fromisoformat(text) if text else None for text in (
        answer.late_after, answer.expected_next_arrival, answer.due_at))
    if out and due is not None:
        at = now + min(max((now - due) / 10, OUT[0]), OUT[1])
    elif answer.state == "pending":
        at = (late_after or expected or now + LEARNING) + GRACE
    elif answer.state is None:
        at = now + LEARNING
    else:
        at = (expected or now + LONGEST) + GRACE
    return min(max(at, now + GRACE), now + LONGEST)
