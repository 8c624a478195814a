"""Which verdicts were given, as Parquet files by detector and day, for whoever watches models from outside.

    {container}/{detector}/date=2026-09-21/batch-{batch}-00001.parquet    of a batch, with expected values and severities
    {container}/{detector}/date=2026-09-21/history-00001.parquet          what the history tells of all doors

The day is that of the point, in UTC. A file that is written again has the same name. A point may be in several of them: the
columns `table_id`, `column` and `timestamp` tell which it is. Nothing is written while a request waits.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import batched, chain
from typing import Any, Final

from detectors.pattern_history import slug
from shared import parquet
from shared.batches import Batches
from shared.blobs import Blobs
from shared.history import History
from shared.verdicts import verdicts

PARTS_A_FILE: Final = 100
SERIES_A_FILE: Final = 1_000  # all of them in memory at a time would be gigabytes of a large fleet
READERS: Final = 8
COLUMNS: Final = {"timestamp": "moment", "table_id": "string", "column": "string", "value": "float64", "expected": "float64",
                  "score": "float64", "is_anomaly": "bool", "severity": "string", "algorithm": "string",
                  "model_version": "string", "correlation_id": "string"}


@dataclass(frozen=True, slots=True)
class Logged:
    """One verdict about the point at `timestamp` (aware). None is what was not said, or is not kept.

    `column` is that of pattern, as in a model's name. `is_anomaly` is None where a person's word took the verdict's place,
    `model_version` where no model answered.
    """

    timestamp: datetime
    table_id: str | None
    value: float | None = None
    expected: float | None = None
    score: float | None = None
    is_anomaly: bool | None = None
    severity: str | None = None
    algorithm: str | None = None
    model_version: str | None = None
    correlation_id: str | None = None
    column: str | None = None


def write_log(detector: str, logged: Iterable[Logged], source: str, blobs: Blobs, container: str) -> list[str]:
    """Writes one file a day, called after its source; returns their names. It may be repeated. Raises StorageUnavailable."""
    days: dict[date, list[dict[str, Any]]] = defaultdict(list)
    for one in logged:
        days[one.timestamp.astimezone(UTC).date()].append(asdict(one))
    names = []
    for day, rows in sorted(days.items()):
        names.append(f"{detector}/date={day.isoformat()}/{source}.parquet")
        blobs.put(container, names[-1], parquet.write(rows, COLUMNS))
    return names


def log_batch(batch_id: str, batches: Batches, blobs: Blobs, container: str) -> list[str]:
    """Writes the verdicts of a batch that has ended. Raises NotFound, StorageUnavailable."""
    record = batches.record(batch_id)
    began = datetime.fromisoformat(record["created_at"])
    names = []
    for number, some in enumerate(batched(range(1, (record["chunks"] or 0) + 1), PARTS_A_FILE, strict=False), 1):
        lines = chain.from_iterable(batches.part(batch_id, chunk).splitlines() for chunk in some)
        found = (one for line in lines if (one := of_answer(json.loads(line).get("answer"), began, batch_id)) is not None)
        names += write_log(record["detector"], found, f"batch-{batch_id}-{number:05d}", blobs, container)
    return names


def log_day(detector: str, day: date, history: History, blobs: Blobs, container: str) -> list[str]:
    """Writes what the history has of all tables on one day, so many in a file. Raises StorageUnavailable."""
    start = datetime.combine(day, time(), UTC)

    def of(series: tuple[str | None, str]) -> list[Logged]:
        column, table_id = series
        return list(of_history(detector, table_id, history, start, start + timedelta(days=1), column))

    known: Iterable[tuple[str | None, str]] = ((None, table_id) for table_id in history.tables(detector))
    if detector == "pattern":  # of it alone every column is watched on its own
        known = ((name.removeprefix(f"{detector}."), table_id) for name, table_id in history.listed(f"{detector}."))
    names = []
    with ThreadPoolExecutor(READERS) as pool:
        for number, some in enumerate(batched(known, SERIES_A_FILE, strict=False), 1):
            names += write_log(detector, chain.from_iterable(pool.map(of, some)), f"history-{number:05d}", blobs, container)
    return names


def of_answer(answer: Mapping[str, Any] | None, judged_at: datetime, correlation_id: str) -> Logged | None:
    """The verdict in the JSON of an answer, at `judged_at` where it names no time; None where none was given."""
    if answer is None or answer["status"] != "evaluated":
        return None
    moment = datetime.fromisoformat(answer["timestamp"]) if answer["timestamp"] else judged_at
    score = (answer.get("deviation") or {}).get("score", answer.get("table_score"))
    model = answer["model"]
    return Logged(moment if moment.tzinfo else moment.replace(tzinfo=UTC), answer["table_id"], answer.get("value"),
                  answer.get("expected_value"), score, answer["is_anomaly"], answer["severity"], model["algorithm"],
                  model["version"] if model["name"] else None, answer["request_id"] or correlation_id,
                  slug(answer["column"]) if answer["detector"] == "pattern" else None)


def of_history(detector: str, table_id: str, history: History, start: datetime, end: datetime,
               column: str | None = None) -> Iterator[Logged]:
    """The verdicts on a table's points from `start` on and before `end`, as far as the history keeps them."""
    for seen in verdicts(history, detector, table_id, column, start, end):
        if seen.judged:
            flagged = {"anomaly": True, "ok": False}.get(seen.status)
            yield Logged(seen.timestamp, table_id, seen.value, score=seen.score, is_anomaly=flagged,
                         model_version=seen.model, column=column)
