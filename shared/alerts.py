"""Which anomalies are told: once for each outage, when there were enough in a row, and once when it is over.

What was seen of a table is kept in order of the times it is about, so that messages may arrive twice and in any order: a run
of anomalies is told when it is long enough, whichever of them arrives last. What is told is written into the table's state
first and published then (an outbox): a worker that dies in between leaves it for the next one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final
from zlib import crc32

from pydantic import BaseModel, ConfigDict, TypeAdapter

from shared import events
from shared.contract import Answer
from shared.contract_tables import AlertPolicy
from shared.entities import Entities
from shared.events import Event
from shared.history import History, row_key
from shared.ids import check_id

KEPT: Final = 16  # verdicts of a table, more than any policy wants in a row
MOST_QUIET: Final = 100_000  # tables that a worker remembers to be quiet
OUTBOX: Final = 8  # events of a table that wait at most; beyond that the oldest are given up
_SLOTS: Final = 16  # partitions of a detector, so that no single one carries every write
_FACTS: Final = ("status", "value", "expected_value", "direction", "state", "due_at", "unit", "column", "table_score")


class Verdict(BaseModel):
    """What a detector found, as far as alerts want to know; rides on the observation's message as `verdict`.

    `about` is the time of the load or the bucket, of a feed that of the due time: a later verdict about the same time takes
    the place of an earlier one. `part` is the column, where a detector judges columns. `over` says of an anomaly that
    nothing is wrong any more: the load was late, and has come.
    """

    model_config = ConfigDict(frozen=True)

    detector: str
    table_id: str
    about: datetime
    observed_at: datetime
    is_anomaly: bool
    severity: str
    confidence: float
    message: str
    expected_range: tuple[float | None, float | None]
    part: str | None = None
    over: bool = False
    facts: dict[str, Any] = {}


def verdict_of(answer: Answer, now: datetime) -> Verdict | None:
    """None for an answer that is no verdict, or that names no table."""
    if answer.table_id is None or answer.status != "evaluated":
        return None
    facts = {name: value for name in _FACTS if (value := getattr(answer, name, None)) is not None}
    state = facts.get("state")
    moment = (facts.get("due_at") if state else None) or answer.timestamp
    return Verdict(
        detector=answer.detector, table_id=answer.table_id, observed_at=now, is_anomaly=answer.is_anomaly,
        about=_aware(datetime.fromisoformat(moment), now) if moment else now, severity=answer.severity,
        confidence=answer.confidence, message=answer.message, expected_range=answer.expected_range, facts=facts,
        # Only of pattern is every column watched on its own; of distribution `column` is the worst of this verdict.
        part=facts.get("column") if answer.detector == "pattern" else None,
        over=state == "late" and not getattr(answer, "missing_loads", 0))


@dataclass(frozen=True, slots=True)
class Seen:
    """One verdict in a table's state: `about` and `observed` as sortable text; `told` with its outage, or its end."""

    about: str
    observed: str
    wrong: bool
    told: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """Of one table and detector: the latest verdicts, oldest first, the outage that is open, and what waits to be told."""

    seen: tuple[Seen, ...] = ()
    told_at: str | None = None
    opened: Event | None = None
    incident: str | None = None
    outbox: tuple[Event, ...] = ()


def step(state: State, verdict: Verdict, policy: AlertPolicy) -> State:
    """The state after one more verdict, with what is to be told added to its outbox; the same state where nothing is new."""
    about, observed = row_key(verdict.about), row_key(verdict.observed_at)
    before = next((seen for seen in state.seen if seen.about == about), None)
    if before is not None and before.observed >= observed:
        return state
    if before is None and len(state.seen) == KEPT and about < state.seen[0].about:
        return state
    told = before is not None and before.wrong and before.told
    new = Seen(about, observed, verdict.is_anomaly and not (verdict.over and told), told and verdict.is_anomaly)
    if not state.seen and not new.wrong and policy.consecutive == 1:
        return state  # nothing to recover from, and nothing that could be interrupted
    kept = sorted([*(seen for seen in state.seen if seen.about != about), new], key=lambda seen: seen.about)[-KEPT:]
    if new not in kept:
        return state
    state = replace(state, seen=tuple(kept))
    at = kept.index(new)
    return _wrong(state, at, verdict, policy) if new.wrong else _right(state, at, verdict)


def _wrong(state: State, at: int, verdict: Verdict, policy: AlertPolicy) -> State:
    """Tells the run of anomalies around place `at` unless it was told, is too short, or the last alert is too recent."""
    seen = state.seen
    first, last = at, at
    while first > 0 and seen[first - 1].wrong:
        first -= 1
    while last + 1 < len(seen) and seen[last + 1].wrong:
        last += 1
    run = seen[first : last + 1]
    told = [n for n in range(first, last + 1) if seen[n].told]
    # Of a run that was told and is said to be over, what is wrong once more is news: a count of today, judged again.
    joined = bool(told) and (state.opened is not None or any(one.told for one in seen[last + 1 :]))
    since = seen[min(told[-1] + 1, last) if told else first].about
    if not joined and (len(run) < policy.consecutive or _cooling(state, verdict, policy)):
        return state
    state = _telling(state, first, last)
    if joined:
        return state
    event = _event(events.ANOMALY, verdict, since)
    state = replace(state, outbox=(*state.outbox, event), told_at=max(state.told_at or "", row_key(verdict.observed_at)))
    if last + 1 == len(seen):
        return replace(state, opened=event, incident=None)
    # It was over before it was known: its end is told with it.
    ended = _event(events.RECOVERED, verdict, since, {"outage": event["id"], "message": "It was over by then."})
    return replace(_telling(state, last + 1, last + 1), outbox=(*state.outbox, ended))


def _right(state: State, at: int, verdict: Verdict) -> State:
    """Tells that an outage is over, where this is the first that is known after it."""
    opened = state.opened
    if opened is None or any(seen.wrong for seen in state.seen[at:]) or row_key(verdict.about) < opened["data"]["since"]:
        return state
    data = {"outage": opened["id"], "since": opened["data"]["since"], "incident_id": state.incident}
    event = _event(events.RECOVERED, verdict, opened["data"]["since"], data)
    return replace(_telling(state, at, at), opened=None, incident=None, outbox=(*state.outbox, event))


def _cooling(state: State, verdict: Verdict, policy: AlertPolicy) -> bool:
    if state.told_at is None:
        return False
    return abs(verdict.observed_at - datetime.fromisoformat(state.told_at)) < timedelta(minutes=policy.cooldown_minutes)


def _telling(state: State, first: int, last: int) -> State:
    seen = [replace(one, told=True) if first <= n <= last else one for n, one in enumerate(state.seen)]
    return replace(state, seen=tuple(seen))


def _event(kind: str, verdict: Verdict, since: str, more: Mapping[str, Any] | None = None) -> Event:
    data = {"detector": verdict.detector, "table_id": verdict.table_id, "timestamp": verdict.about.isoformat(),
            "since": since, "is_anomaly": verdict.is_anomaly, "severity": verdict.severity, "confidence": verdict.confidence,
            "message": verdict.message, "expected_range": list(verdict.expected_range), **verdict.facts, **(more or {})}
    return events.cloud_event(kind, verdict.detector, verdict.table_id, verdict.observed_at, data,
                              (verdict.part, since))


@dataclass(frozen=True, slots=True)
class Told:
    """A state as it is stored: of which table (and part of it), and under which ETag."""

    detector: str
    table_id: str
    part: str | None
    state: State = field(default_factory=State)
    etag: str | None = None


class Alerts:
    """The states of all tables in Table storage; every method may be called from any thread.

    All of them raise StorageUnavailable when the account does not answer, and InvalidRequest for an id that is none.
    """

    def __init__(self, history: History, name: str, recheck_seconds: float = 0.0,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """A table that nothing was ever wrong with is taken to be so for `recheck_seconds`: nearly all of them are."""
        self._entities, self._recheck, self._clock = Entities(history, name), recheck_seconds, clock
        self._quiet: dict[tuple[str, str, str | None], float] = {}

    def consider(self, verdict: Verdict, policy: AlertPolicy) -> Told:
        """Takes a verdict into account. What waits to be told is in the outbox of what is returned; `settle` it after.

        Where another worker opened an outage a moment ago, a good verdict may pass unseen; the next one after
        `recheck_seconds` ends it.
        """
        key = verdict.detector, verdict.table_id, verdict.part
        if not verdict.is_anomaly and self._clock() < self._quiet.get(key, 0.0):
            return Told(*key)
        while True:
            known = self.read(*key)
            state = step(known.state, verdict, policy)
            state = replace(state, outbox=state.outbox[-OUTBOX:])
            if state == known.state:
                if known.etag is None:
                    self._remember_quiet(key)
                return known
            if self._write(replace(known, state=state)):
                self._quiet.pop(key, None)
                return replace(known, state=state)

    def _remember_quiet(self, key: tuple[str, str, str | None]) -> None:
        if len(self._quiet) >= MOST_QUIET:
            self._quiet.clear()
        self._quiet[key] = self._clock() + self._recheck

    def settle(self, known: Told, told: set[str], incident: str | None = None) -> None:
        """Takes events, by their ids, out of the outbox, and notes the incident that the open outage belongs to."""
        while True:
            known = self.read(known.detector, known.table_id, known.part)
            outbox = tuple(event for event in known.state.outbox if event["id"] not in told)
            joined = incident if incident and known.state.opened else known.state.incident
            state = replace(known.state, outbox=outbox, incident=joined)
            if state == known.state or self._write(replace(known, state=state)):
                return

    def read(self, detector: str, table_id: str, part: str | None = None) -> Told:
        """The state of one table; an empty one where nothing was ever wrong."""
        partition, row = _address(detector, table_id, part)
        found = self._entities.get(partition, row)
        if found is None:
            return Told(detector, table_id, part)
        return Told(detector, table_id, part, _STATE.validate_json(found[0]["state"]), found[1])

    def open(self, detector: str) -> Iterator[Told]:
        """The states of a detector with an open outage, or the beginning of one, or with something that waits to be told."""
        for slot in range(_SLOTS):
            where = f"PartitionKey eq '{check_id(detector, 'detector')}:{slot:02d}' and (open eq true or waiting eq true)"
            for row in self._entities.query(where, ["RowKey", "state", "part"]):
                yield Told(detector, row["RowKey"].partition(":")[0], row.get("part"), _STATE.validate_json(row["state"]))

    def _write(self, known: Told) -> bool:
        partition, row = _address(known.detector, known.table_id, known.part)
        entity = {"PartitionKey": partition, "RowKey": row, "state": _STATE.dump_json(known.state).decode(),
                  "open": known.state.opened is not None or known.state.seen[-1].wrong,
                  "waiting": bool(known.state.outbox)}
        return self._entities.swap(entity | ({"part": known.part} if known.part else {}), known.etag)


_STATE = TypeAdapter(State)


def _address(detector: str, table_id: str, part: str | None) -> tuple[str, str]:
    # A column's name may hold what a key must not.
    row = check_id(table_id, "table_id") + (f":{hashlib.sha256(part.encode()).hexdigest()[:16]}" if part else "")
    return f"{check_id(detector, 'detector')}:{crc32(table_id.encode()) % _SLOTS:02d}", row


def _aware(moment: datetime, now: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)
