"""The documents of the tables a worker is asked about, kept in memory in the form its detector wants.

A history of documents is megabytes, so it is read once; after that only what storage says has changed since is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from shared.cache import Cache
from shared.documents import Document, Documents
from shared.history import SAID
from shared.settings import Settings

CACHE_BYTES = 64 * 1024 * 1024
# A judged document reaches storage through a queue; until then the worker that judged it adds it to what it reads.
NOTED_SECONDS = 120.0
# So much more is read than was asked for, so that asking about last week after today does not read again.
SLACK_DAYS = 31
SLOT_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Recent[V]:
    """The documents of one table from `start` on, by time: what the detector made of each, and its status.

    `stale` says why it may lack the latest, None when it lacks none.
    """

    start: datetime
    entries: dict[datetime, tuple[V, str]]
    latest_change: datetime | None = None
    noted: dict[datetime, tuple[float, V, str]] = field(default_factory=dict)
    stale: str | None = None

    def rows(self) -> list[tuple[V, str]]:
        """By time; the noted ones in place of what storage had, unless a person has said something of that."""
        merged = self.entries | {moment: (value, status) for moment, (_, value, status) in self.noted.items()
                                 if moment not in self.entries or self.entries[moment][1] not in SAID}
        return [merged[moment] for moment in sorted(merged)]


class RecentDocuments[V]:
    """One for each worker and detector; every method may be called from any thread."""

    def __init__(self, documents: Documents, detector: str, settings: Settings, digest: Callable[[datetime, Document], V],
                 size: Callable[[V], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._documents, self._detector, self._digest, self._size, self._clock = documents, detector, digest, size, clock
        self._days = settings.history_days
        self._tables: Cache[str, Recent[V]] = Cache(CACHE_BYTES, settings.recheck_seconds, clock, size=self._weigh,
                                                    aged=lambda known, reason: replace(known, stale=reason))

    def of(self, table_id: str, until: datetime | None = None) -> Recent[V]:
        """The last HISTORY_DAYS before `until` (aware; now when left out), somewhat more, and everything after it.

        Raises StorageUnavailable where storage does not answer and nothing is in memory, InvalidRequest.
        """
        start = _days_before(until or datetime.now(UTC), self._days)
        return self._tables.get(table_id, lambda known: self._read(table_id, start, known),
                                fits=lambda known: known.start <= start)

    def note(self, table_id: str, timestamp: datetime, value: V, status: str) -> None:
        """Adds a document just judged to those in memory, so that the next call sees it."""
        noted = (self._clock() + NOTED_SECONDS, value, status)
        self._tables.change(table_id, lambda known: replace(known, noted=known.noted | {timestamp: noted}))

    def forget(self, table_id: str) -> None:
        """Drops a table from memory: after a bulk load or a user's word on a batch."""
        self._tables.drop(table_id)

    def _read(self, table_id: str, start: datetime, known: Recent[V] | None) -> Recent[V]:
        noted = {m: note for m, note in known.noted.items() if note[0] > self._clock()} if known else {}
        if known is None or known.start > start:
            start, known = _days_before(start, SLACK_DAYS), None
        else:
            start = known.start
        since = known.latest_change if known else None
        found, latest = self._documents.changes(self._detector, table_id, start, since)
        new = {moment: (self._digest(moment, document), status) for moment, document, status in found}
        entries = (known.entries | new) if known else new
        return Recent(start, entries, latest, noted)

    def _weigh(self, known: Recent[V]) -> int:
        values = [value for value, _ in known.entries.values()] + [value for _, value, _ in known.noted.values()]
        return SLOT_BYTES + sum(map(self._size, values))


def _days_before(moment: datetime, days: int) -> datetime:
    try:
        return moment - timedelta(days=days)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)
