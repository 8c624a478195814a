"""From verdicts to events: what one call found is told at once, what many found together is told as one.

A verdict rides on the message that keeps what was seen, as `verdict`; the queue's observer hands it on to `consider`. After
a batch or a sweep `announce` tells everything of a detector that waits: incidents as one event each, the rest one by one.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from shared import events, incidents
from shared.alerts import Alerts, Told, Verdict, verdict_of
from shared.contract import Answer, DetectOptions
from shared.contract_tables import AlertPolicy
from shared.events import Event, Publisher
from shared.history import row_key
from shared.incidents import Anomaly
from shared.tables import Tables

WORKERS: Final = 8
LONGEST_WORDS: Final = 500  # characters of a verdict's message on the queue, beside what was seen
SHOWN_TABLES: Final = 100
SAME_MOMENT: Final = timedelta(minutes=1)  # between a due time and an arrival less its lag in minutes

type LabelsOfAll = Callable[[], Mapping[str, Mapping[str, str]]]


def with_verdict(observation: str | None, request: DetectOptions, answer: Answer, now: datetime,
                 reachable: bool) -> str | None:
    """The observation's message with the verdict in it, or the verdict alone where nothing is to be kept.

    None where neither is to be sent: nobody is told of a call that leaves no trace, or while the queue is not `reachable`.
    """
    verdict = verdict_of(answer, now) if request.record else None
    if verdict is None or (observation is None and not reachable):
        return observation
    told = verdict.model_copy(update={"message": verdict.message[:LONGEST_WORDS]}).model_dump_json()
    seen = observation or json.dumps({"detector": verdict.detector, "seen": False})
    # Written into the text: a profile of hundreds of columns need not be read again.
    return f'{seen[:-1]}, "verdict": {told}}}'


def consider(message: bytes, alerts: Alerts, tables: Tables, publisher: Publisher) -> None:
    """What a message from the observations queue means for alerts; nothing where it has no verdict. It may come twice.

    Raises StorageUnavailable, and pydantic's ValidationError for a verdict that cannot be read.
    """
    body = json.loads(message)
    if not isinstance(body, dict) or "verdict" not in body:
        return
    verdict = Verdict.model_validate_json(json.dumps(body["verdict"]))
    table = tables.get(verdict.table_id)
    known = alerts.consider(verdict, table.policy(verdict.detector) if table else AlertPolicy())
    # The end of an incident's outages is told for all of them together, by the next sweep.
    now = [event for event in known.state.outbox if not _of_incident(event)]
    _tell_each(known, now, alerts, publisher)


def consider_many(detector: str, verdicts: Sequence[Verdict], alerts: Alerts, tables: Tables) -> None:
    """What many verdicts of one detector, found together, mean for alerts; `announce` tells them. It may be repeated.

    Only anomalies and tables that something was wrong with are looked at, so that a large batch costs what is wrong in it.
    """
    watched = {(known.table_id, known.part) for known in alerts.open(detector)}

    def take(verdict: Verdict) -> None:
        table = tables.get(verdict.table_id)
        alerts.consider(verdict, table.policy(detector) if table else AlertPolicy())

    _each([one for one in verdicts if one.is_anomaly or (one.table_id, one.part) in watched], take)


def withdraw(detector: str, table_id: str, part: str | None, between: tuple[datetime, datetime], words: str, now: datetime,
             alerts: Alerts, tables: Tables, publisher: Publisher) -> bool:
    """Takes the anomalies from one time to another for none, as a person says in `words`; tells whether that ends an outage.

    It may be repeated. Raises StorageUnavailable.
    """
    state = alerts.read(detector, table_id, part).state
    first, last = (row_key(moment + shift) for moment, shift in zip(between, (-SAME_MOMENT, SAME_MOMENT), strict=True))
    table, was_open = tables.get(table_id), state.opened is not None
    for about in [seen.about for seen in state.seen if seen.wrong and first <= seen.about <= last]:
        said = Verdict(detector=detector, table_id=table_id, about=datetime.fromisoformat(about), observed_at=now,
                       is_anomaly=False, severity="none", confidence=1.0, message=words, expected_range=(None, None),
                       part=part)
        known = alerts.consider(said, table.policy(detector) if table else AlertPolicy())
        _tell_each(known, [event for event in known.state.outbox if not _of_incident(event)], alerts, publisher)
        state = known.state
    return was_open and state.opened is None


@dataclass(frozen=True, slots=True)
class Announced:
    """How many events of each kind were published."""

    anomalies: int = 0
    incidents: int = 0
    recovered: int = 0


@dataclass(frozen=True, slots=True)
class _Joint:
    """One event in the place of those of several tables: `stands_for` are their ids, `states` those of the tables."""

    event: Event
    states: list[Told]
    stands_for: set[str]
    incident_id: str | None = None


def announce(detector: str, alerts: Alerts, publisher: Publisher, labels: LabelsOfAll) -> Announced:
    """Tells everything of a detector that waits. It may be repeated: what was told is not told again.

    `labels` gives those of every table that was asked about; it is called only where there may be an incident. An outage
    that is open already counts in an incident, too: who joins it later is told as its growth.
    """
    known = list(alerts.open(detector))
    waiting = [one for one in known if one.state.outbox]
    joint = [*_incidents(known, labels), *_ends(waiting)]
    for together in joint:
        publisher.publish(together.event)
        _each([(one, together) for one in together.states],
              lambda pair: alerts.settle(pair[0], pair[1].stands_for, pair[1].incident_id))
    covered = set[str]().union(*(together.stands_for for together in joint))
    alone = [(one, [event for event in one.state.outbox if event["id"] not in covered]) for one in waiting]
    _each(alone, lambda pair: _tell_each(*pair, alerts, publisher))
    kinds = Counter(event["type"] for event in [*(j.event for j in joint), *(e for _, some in alone for e in some)])
    return Announced(kinds[events.ANOMALY], kinds[events.INCIDENT], kinds[events.RECOVERED])


def _incidents(known: Iterable[Told], labels: LabelsOfAll) -> Iterator[_Joint]:
    """The incidents among the open outages that somebody was not told of yet."""
    opened = {_anomaly(one): one for one in known if one.state.opened}
    new = {one.state.opened["id"] for one in opened.values() if one.state.opened and one.state.opened in one.state.outbox}
    if len(opened) < incidents.FEWEST or not new:
        return
    for incident in incidents.group(list(opened), labels()):
        states = [opened[member] for member in incident.members]
        told = {one.state.opened["id"] for one in states if one.state.opened} & new
        if told:
            incident_id = min((one.state.incident for one in states if one.state.incident), default=incident.incident_id)
            detector = states[0].detector
            data = incident.to_json() | {"incident_id": incident_id, "detector": detector}
            yield _Joint(events.cloud_event(events.INCIDENT, detector, incident_id, incident.last, data, sorted(told)),
                         states, told, incident_id)


def _anomaly(one: Told) -> Anomaly:
    opened = one.state.opened or {}
    data = opened["data"]
    # With the column: two of one table are two anomalies.
    words = f"{one.part}: {data['message']}" if one.part else data["message"]
    # By the time that the data are of, not by when they were judged: a backfill is no outage of today.
    return Anomaly(one.detector, one.table_id, datetime.fromisoformat(data["timestamp"]), data["severity"], words)


def _ends(waiting: Iterable[Told]) -> Iterator[_Joint]:
    """For each incident one event about its outages that are over."""
    of_incident: dict[str, list[tuple[Told, Event]]] = defaultdict(list)
    for one in waiting:
        for event in filter(_of_incident, one.state.outbox):
            of_incident[event["data"]["incident_id"]].append((one, event))
    for incident_id, over in sorted(of_incident.items()):
        told = {event["id"] for _, event in over}
        tables = sorted({one.table_id for one, _ in over})
        last = max(datetime.fromisoformat(event["time"]) for _, event in over)
        detector = over[0][0].detector
        data = {"incident_id": incident_id, "detector": detector, "tables": len(tables),
                "table_ids": tables[:SHOWN_TABLES], "message": f"{len(tables):,} tables of the incident are well again."}
        yield _Joint(events.cloud_event(events.RECOVERED, detector, incident_id, last, data, sorted(told)),
                     [one for one, _ in over], told)


def _of_incident(event: Event) -> bool:
    return event["type"] == events.RECOVERED and bool(event["data"].get("incident_id"))


def _tell_each(known: Told, told: Sequence[Event], alerts: Alerts, publisher: Publisher) -> None:
    for event in told:
        publisher.publish(event)
    if told:
        alerts.settle(known, {event["id"] for event in told})


def _each[T](some: Sequence[T], work: Callable[[T], object]) -> None:
    if some:
        with ThreadPoolExecutor(min(WORKERS, len(some))) as pool:
            list(pool.map(work, some))
