"""What a chunk of a batch is made into: every item an answer or what was wrong with it, and the counts of all."""

from __future__ import annotations

import heapq
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any, Final

from detectors import many
from detectors.directory import DETECTORS
from shared.alerts import Verdict, verdict_of
from shared.batch_input import Item
from shared.batches import Figures, fault_of
from shared.catalogue import Catalogue
from shared.contract import Answer, DetectOptions, JudgedObservation, parse
from shared.contract_tables import Table, with_defaults
from shared.errors import ServiceError, StorageUnavailable
from shared.history import Point
from shared.tables import Tables

SLOWEST: Final = 10
COLUMNS: Final = ("item_id", "status", "is_anomaly", "severity", "confidence", "lower", "upper", "message", "error")
WORKERS: Final = 8
MOST_BETWEEN: Final = 1_000
log = logging.getLogger(__name__)


class InternalError(ServiceError):
    """A detector failed on one item; the log has the reason."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One item: its line, what it is called, and its answer or its error; `observation` is the message that keeps it."""

    line: int
    item_id: str | None
    answer: Answer | None = None
    error: ServiceError | None = None
    observation: str | None = None

    def render(self) -> bytes:
        """One line of a part."""
        head = json.dumps({"line": self.line, "item_id": self.item_id})[:-1]
        if self.answer is not None:
            return f'{head}, "answer": {self.answer.model_dump_json()}}}'.encode()
        return f'{head}, "error": {json.dumps(fault_of(self.error or InternalError("No answer.")))}}}'.encode()

    def row(self) -> dict[str, Any]:
        """One row of a table of verdicts, with the COLUMNS."""
        if self.answer is None:
            return {"item_id": self.item_id, "error": (self.error or InternalError("No answer.")).message}
        shown = {name: getattr(self.answer, name) for name in COLUMNS if hasattr(self.answer, name)}
        lower, upper = self.answer.expected_range
        return {**shown, "item_id": self.item_id, "lower": lower, "upper": upper}


type Scorer = Callable[[str, Sequence[Any], Catalogue, datetime], list[many.Outcome]]


def judge(name: str, items: Iterable[Item], catalogue: Catalogue, now: datetime, tables: Tables | None = None,
          score: Scorer = many.score) -> list[Judged]:
    """Every item with its verdict, or with what was wrong with it, in their order.

    What `tables` know of an item's table counts where the item does not say otherwise. Raises StorageUnavailable where items
    could not be judged for that: trying again later may help.
    """
    judged: list[Judged] = []
    asked: list[tuple[int, Any]] = []
    for line, item in items:
        try:
            if isinstance(item, ServiceError):
                raise item
            request = parse(DETECTORS[name].request, item)
            asked.append((len(judged), request))
            judged.append(Judged(line, request.request_id or request.table_id))
        except ServiceError as error:
            judged.append(Judged(line, _name_of(item), error=error))
    requests = _settled(name, [request for _, request in asked], tables)
    outcomes = _score(score, name, requests, catalogue, now)
    for (place, _), outcome in zip(asked, outcomes, strict=True):
        if isinstance(outcome.error, StorageUnavailable):
            raise outcome.error
        judged[place] = replace(judged[place], answer=outcome.answer, error=outcome.error, observation=outcome.observation)
    return judged


def keep(name: str, judged: Sequence[Judged], catalogue: Catalogue) -> None:
    """Puts what was seen into the history, many at a time. Harmless when repeated. Raises StorageUnavailable."""
    seen = [one for one in judged if one.observation is not None]
    if name == "volume":
        _keep_counts(seen, catalogue)
        return

    def observe(one: Judged) -> None:
        try:
            DETECTORS[name].observe((one.observation or "").encode(), catalogue.history)
        except StorageUnavailable:
            raise
        except Exception:
            log.exception("An observation of line %d was not kept.", one.line)
            if one.answer:
                one.answer.warnings.append("What was seen could not be kept in the history.")

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(observe, seen))


def _keep_counts(seen: Sequence[Judged], catalogue: Catalogue) -> None:
    """In transactions, a third of the work: what is judged now was not observed later by anybody else.

    What a person said of a value is in the series that it was judged by, which is still in memory.
    """
    points: dict[str, list[Point]] = defaultdict(list)
    for one in seen:
        count = JudgedObservation.model_validate_json(one.observation or "")
        known = catalogue.remembered("volume", count.table_id)
        status = known.said_of(int(count.timestamp.timestamp()), count.value) or count.status
        points[count.table_id].append(Point(count.timestamp, count.value, status, count.score, count.model))
    catalogue.history.record_many("volume", points)


def verdicts(judged: Sequence[Judged], now: datetime) -> list[Verdict]:
    """What alerts are to know of: the verdicts of calls that leave a trace."""
    return [verdict for one in judged if one.observation is not None and one.answer is not None
            and (verdict := verdict_of(one.answer, now)) is not None]


def figures(judged: Sequence[Judged]) -> Figures:
    """The counts of a chunk."""
    answers = [one.answer for one in judged if one.answer]
    return Figures(len(judged), len(judged) - len(answers), sum(a.is_anomaly for a in answers),
                   dict(Counter(a.severity for a in answers)), dict(Counter(a.status for a in answers)))


def digest(judged: Sequence[Judged]) -> dict[str, Any]:
    """What the summary of the batch wants to know of a chunk: failures, the slowest items, anomalies, the tables."""
    answers = [(one, one.answer) for one in judged if one.answer]
    # Items that were scored together took the same time: the first stands for them.
    times = {a.latency_ms: {"line": one.line, "item_id": one.item_id, "latency_ms": a.latency_ms}
             for one, a in reversed(answers)}
    return {
        "failures": [{"line": one.line, "item_id": one.item_id, **fault_of(one.error)} for one in judged if one.error],
        "slowest": [times[latency] for latency in heapq.nlargest(SLOWEST, times)],
        "anomalies": [{"line": one.line, "item_id": one.item_id, "detector": a.detector, "table_id": a.table_id,
                       "timestamp": a.timestamp, "severity": a.severity, "message": a.message}
                      for one, a in answers if a.is_anomaly],
        "tables": sorted({a.table_id for _, a in answers if a.table_id}),
    }


def _settled(name: str, requests: Sequence[DetectOptions], tables: Tables | None) -> Sequence[DetectOptions]:
    named = sorted({request.table_id for request in requests if request.table_id})
    if tables is None or not named:
        return requests
    known = described(named, tables)
    return [with_defaults(request, known.get(request.table_id or ""), name) for request in requests]


def described(named: Sequence[str], tables: Tables) -> dict[str, Table | None]:
    """What is known of the tables `named`, in order of their ids. Raises StorageUnavailable.

    Nothing was said about most tables, so one look at what lies between the first and the last finds the others; where that
    is very much, the rest is asked about one by one.
    """
    first, last = named[0], named[-1]
    known = {first: tables.get(first)}
    between = list(islice(tables.scan(after=first, where=f"RowKey le '{last}'"), MOST_BETWEEN)) if len(named) > 1 else []
    known.update(between)
    rest = [table_id for table_id in named if table_id > between[-1][0]] if len(between) == MOST_BETWEEN else []
    with ThreadPoolExecutor(WORKERS) as pool:
        return known | dict(zip(rest, pool.map(tables.get, rest), strict=True))


def _score(score: Scorer, name: str, requests: Sequence[Any], catalogue: Catalogue, now: datetime) -> list[many.Outcome]:
    try:
        return score(name, requests, catalogue, now)
    except ServiceError:
        raise
    except Exception:
        log.exception("A chunk could not be scored in one go; its items are scored one by one.")
        outcomes = list(_one_by_one(score, name, requests, catalogue, now))
        if len(outcomes) > 1 and all(isinstance(outcome.error, InternalError) for outcome in outcomes):
            raise  # it is not the items
        return outcomes


def _one_by_one(score: Scorer, name: str, requests: Sequence[Any], catalogue: Catalogue,
                now: datetime) -> Iterator[many.Outcome]:
    for request in requests:
        try:
            yield score(name, [request], catalogue, now)[0]
        except ServiceError:
            raise
        except Exception as error:  # the log has the first of them, from the whole chunk
            yield many.Outcome(error=InternalError(f"The detector failed ({type(error).__name__}); the log says why."))


def _name_of(item: bytes | ServiceError) -> str | None:
    """What a broken item calls itself, as far as it can be read."""
    if isinstance(item, ServiceError):
        return None
    try:
        given = json.loads(item)
    except ValueError:
        return None
    names = (given.get(name) for name in ("request_id", "table_id")) if isinstance(given, dict) else ()
    return next((name[:200] for name in names if isinstance(name, str) and name), None)
