"""Files of training data, as the histories that training requests take.

    volume, sequence   a row a bucket: a time, and a count or several metrics
    timeliness         a row a load: when it came, and if known when it was due and what it held
    pattern            a row a value; the values of one day are a batch
    distribution       a profile a row (JSON, NDJSON, Parquet), as POST /api/v1/detect/distribution takes it

Rows may come in any order.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from shared.contract import MAX_HISTORY
from shared.contract_distribution import MAX_PROFILES
from shared.errors import InvalidRequest
from training.table_file import Row, TableFile

TIMES = ("timestamp", "date", "time", "ds", "day")
COUNTS = ("row_count", "value", "rows", "count", "y")
ARRIVALS = ("arrived_at", "arrival", *TIMES)
EVENTS, DUES, LAGS = ("event_time", "last_event_time"), ("due_at", "expected_at"), ("lag_minutes",)


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns to read where their names do not tell it; None and () for the usual names."""

    time: str | None = None
    value: str | None = None
    metrics: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Told:
    """What a file says: fields of a training request, where each entry of its history stands, and what was done to it."""

    file: str
    fields: dict[str, Any]
    places: Sequence[str]
    remarks: Sequence[str] = ()

    def located(self, error: InvalidRequest) -> InvalidRequest:
        """An error about an entry of the history with its place in the file; any other as it is."""
        found = re.fullmatch(r"\w+\[(\d+)\](.*)", error.target or "")
        if found is None or int(found[1]) >= len(self.places):
            return error
        field, reason = found[2].strip("."), error.details[0]["message"] if error.details else error.message
        where = ", ".join([self.file, self.places[int(found[1])], *([field] if field else [])])
        return InvalidRequest(f"{where}: {reason}.", error.target)


# An entry of a history: when it is of, None where nobody told; its place in the file; what the request says.
type Entry = tuple[datetime | None, str, Any]


def read(detector: str, path: Path, columns: Columns, timezone: str, encoding: str = "utf-8") -> Told:
    """What a file says for a detector's training request; a time without a zone is of `timezone`.

    Raises InvalidRequest naming file, line and column.
    """
    return _READERS[detector](TableFile(path, encoding), columns, ZoneInfo(timezone))


def _volume(file: TableFile, columns: Columns, zone: ZoneInfo) -> Told:
    time, value = file.column(columns.time, TIMES, "--time-column"), file.column(columns.value, COUNTS, "--value-column")
    entries: list[Entry] = []
    for row in file.rows:
        moment, count = file.time(row, time, zone), file.number(row, value)
        entries.append((moment, row.place, None if count is None else {"timestamp": moment.isoformat(), "row_count": count}))
    _check_once(file, entries)
    return _told(file, entries)


def _sequence(file: TableFile, columns: Columns, zone: ZoneInfo) -> Told:
    time = file.column(columns.time, TIMES, "--time-column")
    metrics = [file.column(name, (), "--metrics") for name in columns.metrics]
    metrics = metrics or [name for name in file.columns if name and name != time]
    if not metrics:
        raise file.refuses(None, "there is no metric: every column but the time is one")
    entries: list[Entry] = []
    for row in file.rows:
        moment = file.time(row, time, zone)
        values = [file.number(row, metric) for metric in metrics]
        entries.append((moment, row.place, {"timestamp": moment.isoformat(), "values": values}))
    _check_once(file, entries)
    return _told(file, entries, metrics=metrics)


def _timeliness(file: TableFile, columns: Columns, zone: ZoneInfo) -> Told:
    event, due, lag = (file.column_if_there(usual) for usual in (EVENTS, DUES, LAGS))
    by_due = due is not None and columns.time is None
    arrived = file.column_if_there(ARRIVALS) if by_due else file.column(columns.time, ARRIVALS, "--time-column")
    times = {name: column for name, column in
             (("timestamp", arrived), ("event_time", event), ("due_at", due)) if column is not None}
    entries: list[Entry] = []
    for row in file.rows:
        found = {name: moment for name, column in times.items() if (moment := file.time_if_there(row, column, zone))}
        entry: dict[str, Any] = {name: moment.isoformat() for name, moment in found.items()}
        if lag is not None and (minutes := file.number(row, lag)) is not None:
            entry["lag_minutes"] = minutes
        entries.append((min(found.values(), default=None), row.place, entry if found else None))
    return _told(file, entries)


def _pattern(file: TableFile, columns: Columns, zone: ZoneInfo) -> Told:
    value = file.column(columns.value, (), "--column")
    time = file.column(columns.time, (), "--time-column") if columns.time else file.column_if_there(TIMES)
    batches: dict[datetime | None, list[str | None]] = defaultdict(list)
    for row in file.rows:
        cell = row.cells.get(value)
        moment = file.time(row, time, zone) if time and time != value else None
        day = moment and moment.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
        # "NA" may be a value of a column of texts: only what is empty is missing.
        batches[day].append(None if cell in (None, "") else str(cell))
    return _told(file, [(day, f"the values of {day.date()}" if day else "the values",
                         {"values": values} | ({"timestamp": day.isoformat()} if day else {}))
                        for day, values in batches.items()])


def _distribution(file: TableFile, columns: Columns, zone: ZoneInfo) -> Told:
    entries: list[Entry] = []
    for row in file.rows:
        profile = row.cells.get("profile", row.cells)
        if not isinstance(profile, dict) or not {"columnProfiles", "columns"} & profile.keys():
            raise file.refuses(row.place, "this is no profile, it has no columnProfiles; profiles are JSON, NDJSON or "
                                          "Parquet in the shape of POST /api/v1/detect/distribution")
        told = Row(row.place, {"timestamp": row.cells.get("timestamp"), **profile})
        time = columns.time or next((name for name in ("profiledAt", "profiled_at") if name in profile), "timestamp")
        moment = file.time_if_there(told, time, zone)
        entries.append((moment, row.place, {**profile, "profiledAt": moment.isoformat()} if moment else profile))
    _check_once(file, entries)
    return _told(file, entries, "historical_profiles", MAX_PROFILES)


_READERS: dict[str, Callable[[TableFile, Columns, ZoneInfo], Told]] = {
    "volume": _volume, "distribution": _distribution, "pattern": _pattern, "timeliness": _timeliness, "sequence": _sequence}


def _check_once(file: TableFile, entries: Sequence[Entry]) -> None:
    """Raises InvalidRequest where two entries are of the same moment: nobody can say which one is right."""
    first: dict[datetime, str] = {}
    for moment, place, _ in entries:
        if moment is not None and (before := first.setdefault(moment, place)) != place:
            raise file.refuses(place, f"{moment.isoformat()} comes again, after {before}: keep one of them")


def _told(file: TableFile, entries: Sequence[Entry], history: str = "historical_data", most: int = MAX_HISTORY,
          **fields: Any) -> Told:
    """The entries oldest first, those without a value left out, at most the last `most` of them. Raises InvalidRequest."""
    remarks = []
    known = [entry for entry in entries if entry[2] is not None]
    if not known:
        raise file.refuses(None, "no row has a value")
    if len(known) < len(entries):
        remarks.append(f"{len(entries) - len(known):,} rows without a value were left out")
    ordered = sorted(known, key=lambda entry: entry[0].timestamp() if entry[0] else 0.0)
    if ordered != known:
        remarks.append("the rows were not in the order of time and have been sorted")
    if len(ordered) > most:
        remarks.append(f"only the last {most:,} of {len(ordered):,} were taken")
    taken = ordered[-most:]
    return Told(file.name, {history: [entry for _, _, entry in taken], **fields}, [place for _, place, _ in taken],
                [f"{file.name}: {remark}." for remark in remarks])
