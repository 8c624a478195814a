"""The buckets of a request in their place: what is to be judged, and what is known of the metrics before it.

A table's history is one document a bucket, `{"values": {metric: value}}`; this worker keeps it as arrays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from detectors import calendar
from detectors.context import FloatArray, IntArray, utc
from shared.contract_sequence import SequencePoint
from shared.errors import InvalidRequest
from shared.history import LEFT_OUT
from shared.recent_documents import Recent

DETECTOR = "sequence"
# The longest history that is looked at; the filter forgets with a half-life far below it.
MAX_BUCKETS = {"hourly": 24 * 112, "daily": 400}
# It begins at a whole multiple of this, so that its beginning moves now and then and not with every bucket.
ALIGNED = {"hourly": 24 * 28, "daily": 28}
SECONDS = {"hourly": 3600, "daily": 86_400}
FEW = 16
LONGEST_SPAN = 10_000  # buckets from the first judged point to the last
KEPT_TABLES = 256

type Row = tuple[tuple[str, ...], FloatArray]
_names: dict[tuple[str, ...], tuple[str, ...]] = {}


def digest(moment: datetime, document: dict[str, Any]) -> Row:
    """What is kept of a document: names, shared by all buckets that have the same, and their values."""
    values = document["values"]
    names = tuple(values)
    array = np.array([np.nan if value is None else value for value in values.values()], np.float64)
    return _names.setdefault(names, names), array


def row_bytes(row: Row) -> int:
    return 200 + row[1].nbytes


@dataclass(frozen=True, slots=True)
class Known:
    """The history before the judged points: `values` (n, m) by bucket from `start` on, NaN where unknown."""

    start: int
    values: FloatArray
    points: int = 0
    excluded: int = 0


@dataclass(frozen=True, slots=True)
class Judged:
    """The points to judge: `values` (k, m) by bucket from `first` on, and which rows (j,) were given, oldest first."""

    first: int
    values: FloatArray
    given: IntArray
    stamps: tuple[datetime, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """Buckets (n,), values (n, m), and whether the user excluded each (n,)."""

    at: IntArray
    values: FloatArray
    excluded: NDArray[np.bool_]


def places(points: Sequence[SequencePoint], metrics: Sequence[str], field: str, zone: str, granularity: str
           ) -> tuple[IntArray, FloatArray, list[datetime]]:
    """Points by time -> buckets (n,), values (n, m), moments in UTC. Raises InvalidRequest where the values do not fit."""
    for number, point in enumerate(points):
        if len(point.values) != len(metrics):
            raise InvalidRequest(f"{field}[{number}].values has {len(point.values)} values for {len(metrics)} metrics.",
                                 f"{field}[{number}].values")
    tz = ZoneInfo(zone)
    rows = sorted(((utc(point.timestamp, tz), point.values) for point in points), key=lambda row: row[0])
    moments = [moment for moment, _ in rows]
    values = np.array([values for _, values in rows], np.float64).reshape(len(rows), len(metrics))  # None becomes NaN
    return _buckets(moments, zone, granularity), values, moments


def judged_of(at: IntArray, values: FloatArray, moments: Sequence[datetime]) -> Judged:
    """Sorted points -> the stretch of buckets that they cover; the last of one bucket is kept. Raises InvalidRequest."""
    first, span = int(at[0]), int(at[-1] - at[0]) + 1
    if span > LONGEST_SPAN:
        raise InvalidRequest(f"The points lie {span:,} buckets apart; at most {LONGEST_SPAN:,} may.", "points")
    rows = np.full((span, values.shape[1]), np.nan)
    rows[at - first] = values
    stamps = dict(zip((at - first).tolist(), moments, strict=True))
    given = np.array(sorted(stamps), np.int64)
    return Judged(first, rows, given, tuple(stamps[i] for i in given.tolist()))


def known_of(parts: Sequence[Rows], before: int, metrics: int, granularity: str) -> Known:
    """The parts merged, up to and without bucket `before`: a later part counts for more than an earlier one."""
    earliest = (before - MAX_BUCKETS[granularity]) // ALIGNED[granularity] * ALIGNED[granularity]
    parts = [_within(part, earliest, before) for part in parts]
    starts = [int(part.at.min()) for part in parts if len(part.at)]
    if not starts:
        return Known(before, np.empty((0, metrics)))
    start = min(starts)
    values, excluded = np.full((before - start, metrics), np.nan), np.zeros(before - start, bool)
    seen = np.zeros(before - start, bool)
    for part in parts:
        values[part.at - start], excluded[part.at - start], seen[part.at - start] = part.values, part.excluded, True
    values[excluded] = np.nan
    return Known(start, values, int(seen.sum()), int(excluded.sum()))


def _within(part: Rows, earliest: int, before: int) -> Rows:
    if not len(part.at) or (part.at[0] >= earliest and part.at[-1] < before and np.all(part.at[1:] >= part.at[:-1])):
        return part
    inside = (part.at >= earliest) & (part.at < before)
    return Rows(part.at[inside], part.values[inside], part.excluded[inside])


class StoredRows:
    """Stored documents as arrays, kept while storage says nothing new: only what was noted since is added to them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], tuple[object, Rows]] = OrderedDict()
        self._lock = Lock()

    def of(self, table_id: str, recent: Recent[Row], metrics: tuple[str, ...], zone: str, granularity: str) -> list[Rows]:
        """The stored buckets, and those noted, of which the latter count for more."""
        key = (table_id, metrics, zone, granularity)
        with self._lock:
            kept = self._kept.get(key)
        if kept is None or kept[0] is not recent.entries:
            kept = recent.entries, _rows(recent.entries, metrics, zone, granularity)
            with self._lock:
                self._kept[key] = kept
                self._kept.move_to_end(key)
                while len(self._kept) > KEPT_TABLES:
                    self._kept.popitem(last=False)
        noted = {moment: (row, status) for moment, (_, row, status) in recent.noted.items()}
        return [kept[1], _rows(noted, metrics, zone, granularity)] if noted else [kept[1]]


def rows_of(documents: Sequence[tuple[datetime, dict[str, Any], str]], metrics: tuple[str, ...], zone: str,
            granularity: str) -> Rows:
    """Documents as they were read from storage."""
    entries = {moment: (digest(moment, document), status) for moment, document, status in documents}
    return _rows(entries, metrics, zone, granularity)


def _rows(entries: dict[datetime, tuple[Row, str]], metrics: tuple[str, ...], zone: str, granularity: str) -> Rows:
    moments = sorted(entries)
    values = np.full((len(moments), len(metrics)), np.nan)
    excluded = np.zeros(len(moments), bool)
    wanted: dict[tuple[str, ...], tuple[list[int], list[int]]] = {}
    for i, moment in enumerate(moments):
        (names, row), status = entries[moment]
        if names not in wanted:
            places = {name: j for j, name in enumerate(names)}
            have = [j for j, name in enumerate(metrics) if name in places]
            wanted[names] = have, [places[metrics[j]] for j in have]
        have, take = wanted[names]
        values[i, have] = row[take]
        excluded[i] = status in LEFT_OUT
    return Rows(_buckets(moments, zone, granularity), values, excluded)


def _buckets(moments: Sequence[datetime], zone: str, granularity: str) -> IntArray:
    """A few are looked up one by one: that is faster than to find the offsets of whole days."""
    if len(moments) > FEW:
        return calendar.buckets(np.array([int(moment.timestamp()) for moment in moments], np.int64), zone, granularity)
    tz, bucket = ZoneInfo(zone), SECONDS[granularity]
    wall = (moment.astimezone(tz) for moment in moments)
    return np.array([int(local.replace(tzinfo=UTC).timestamp()) // bucket for local in wall], np.int64)


def stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
