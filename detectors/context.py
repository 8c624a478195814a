"""The history of one table as a detector wants it: one entry a bucket, the stored points and the request's merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from operator import itemgetter
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from detectors import calendar
from shared.contract import HistoryPoint, HistoryUse, Holidays
from shared.errors import InvalidRequest
from shared.history import ANOMALY, Series, left_out

type FloatArray = NDArray[np.float64]
type IntArray = NDArray[np.int64]

# The longest history that is looked at: more would be slower and, for a table that drifts, no better.
MAX_BUCKETS = {"hourly": 24 * 90, "daily": 400, "weekly": 260, "monthly": 120}
# It begins at a whole multiple of this, so that its beginning moves now and then and not with every bucket.
ALIGNED = 28


@dataclass(frozen=True, slots=True)
class Context:
    """The history of one table up to, and without, the judged bucket; one entry a bucket, oldest first.

    `values` (m,) rows, NaN where there was no count; `status` (m,) codes of shared.history; `start` the first bucket.
    """

    start: int
    values: FloatArray
    status: NDArray[np.uint8]
    points: int
    warnings: tuple[str, ...] = ()

    @property
    def learnable(self) -> FloatArray:
        """(m,) rows with NaN for what a person ruled out: the structural filter decides about other anomalies itself."""
        return np.where(left_out(self.status), np.nan, self.values)

    @property
    def normal(self) -> FloatArray:
        """(m,) rows with NaN for excluded and anomalous points: what every other family may learn from."""
        return np.where(left_out(self.status) | (self.status == ANOMALY), np.nan, self.values)

    def until(self, count: int) -> Context:
        """The first `count` buckets: what was known before the one after them."""
        values = self.values[:count]
        return Context(self.start, values, self.status[:count], int(np.isfinite(values).sum()))

    def use(self, window: int | None = None) -> HistoryUse:
        """How much of it a model with this window used."""
        usable = np.isfinite(self.normal)
        known, used = self.points, int(np.count_nonzero(usable))
        return HistoryUse(points=known, used=int(np.count_nonzero(usable[-window:])) if window else used,
                          excluded=known - used, missing=len(self.values) - known)


def gather(entries: Sequence[float | HistoryPoint], stored: Series | None, zone: str, granularity: str,
           before: int | None = None, longest: int | None = None) -> Context:
    """The stored history with the request's merged in, up to and without bucket `before`, or all of it.

    Of several counts in one bucket the latest is kept, and the request's over the stored. Plain numbers are the buckets just
    before `before`, in order. About `longest` buckets are looked at, at most.
    """
    tz, warnings, parts = ZoneInfo(zone), [], []
    if stored is not None and len(stored.seconds):
        parts.append((calendar.buckets(stored.seconds, zone, granularity), stored.values, stored.status))
    dated = sorted(((_seconds(p.timestamp, tz), p.value) for p in entries if isinstance(p, HistoryPoint)), key=itemgetter(0))
    plain = [p for p in entries if not isinstance(p, HistoryPoint)]
    if dated:
        seconds, values = np.array([s for s, _ in dated], np.int64), np.array([v for _, v in dated], np.float64)
        parts.append((calendar.buckets(seconds, zone, granularity), values, np.zeros(len(dated), np.uint8)))
        if len(np.unique(seconds)) < len(seconds):
            warnings.append("historical_data repeats a timestamp: its last value was kept.")
        if any(isinstance(p, HistoryPoint) and p.timestamp.tzinfo is None for p in entries):
            warnings.append(f"Timestamps without a time zone were read as {zone}.")
    if plain:
        assert before is not None, "plain numbers need the bucket they lead to"
        n = len(plain)
        parts.append((np.arange(before - n, before, dtype=np.int64), np.array(plain, np.float64), np.zeros(n, np.uint8)))
    return _dense(parts, before, longest or MAX_BUCKETS[granularity], tuple(warnings))


def _dense(parts: list[tuple[IntArray, FloatArray, NDArray[np.uint8]]], before: int | None, longest: int,
           warnings: tuple[str, ...]) -> Context:
    at = np.concatenate([p[0] for p in parts]) if parts else np.empty(0, np.int64)
    before = before if before is not None else int(at.max(initial=-1)) + 1
    taken = (at < before) & (at >= (before - longest) // ALIGNED * ALIGNED)
    at = at[taken]
    if not len(at):
        return Context(before, np.empty(0), np.empty(0, np.uint8), 0, warnings)
    start = int(at.min())
    values, status = np.full(before - start, np.nan), np.zeros(before - start, np.uint8)
    # Assignment by index keeps the last of equal indices: the latest of a bucket, the request's over the stored.
    values[at - start] = np.concatenate([p[1] for p in parts])[taken]
    status[at - start] = np.concatenate([p[2] for p in parts])[taken]
    return Context(start, values, status, int(np.isfinite(values).sum()), warnings)


def calendar_of(holidays: Holidays, first: int, last: int, granularity: str) -> tuple[IntArray, dict[int, str]]:
    """(last - first + 1,) holiday classes and the names by bucket. Raises InvalidRequest where there is no such calendar."""
    try:
        own = {date.fromisoformat(day): "a day of the table's own calendar" for day in holidays.dates}
        return calendar.holiday_classes(first, last, holidays.country, holidays.subdivision, own, granularity)
    except ValueError as error:
        raise InvalidRequest(f"holidays.{error}", f"holidays.{str(error).partition(':')[0]}") from None


def utc(moment: datetime, tz: ZoneInfo) -> datetime:
    """A moment without a zone is local time of the table."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=tz)).astimezone(UTC)


def _seconds(moment: datetime, tz: ZoneInfo) -> int:
    return int((moment if moment.tzinfo else moment.replace(tzinfo=tz)).timestamp())
