"""What a worker knows by heart: the models it serves and the recent history of the tables it is asked about."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from detectors.artefact import Artefact
from shared.blobs import NOT_MODIFIED, Blobs
from shared.cache import Cache
from shared.door import Door
from shared.errors import ModelNotFound, ModelUnavailable, StorageUnavailable
from shared.history import History, Point, Series
from shared.registry import Champion, CorruptArtefact, Promotion, Registry
from shared.settings import Settings

# A champion that was refused is tried again after this long, or as soon as the pointer moves.
REFUSED_SECONDS = 900.0
# How many champions before a refused one a worker without any model tries.
FALLBACKS = 3
# A judged point reaches storage through a queue; until then the worker that judged it adds it to what it reads.
NOTED_SECONDS = 120.0
# So much more is read than was asked for, so that asking about last week after today does not read again.
SLACK_DAYS = 31
SERIES_CACHE_BYTES = 32 * 1024 * 1024
SLOT_BYTES = 1024
# Listing so many names costs about what asking for one model does.
LISTED_FOR_ONE = 10


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to answer. `stale` says why it may not be the champion, None when it is."""

    name: str
    version: str
    sha256: str
    artefact: Artefact
    stale: str | None = None


@dataclass(frozen=True, slots=True)
class _Slot:
    """What is known of one model's name: the pointer's ETag, the model, and which version was refused and why."""

    etag: str | None = None
    loaded: Loaded | None = None
    refused: str | None = None
    reason: str | None = None
    retry_at: float = 0.0


@dataclass(frozen=True, slots=True)
class _Window:
    """The stored points of one table from `start` on, and the points noted meanwhile with the time to forget them."""

    start: datetime
    series: Series
    noted: tuple[tuple[float, Point], ...] = ()


class Catalogue:
    """One for each worker; every method may be called from any thread. A warm answer costs microseconds.

    `clock` tells seconds that only ever grow.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings, self.clock = settings, clock
        self.blobs = Blobs(settings)
        self.registry = Registry(self.blobs, settings)
        self.history = History(settings)
        self.door = Door(settings, clock)
        self._models: Cache[str, _Slot] = Cache(settings.model_cache_bytes, settings.recheck_seconds, clock,
                                                size=_slot_bytes, aged=_aged_slot)
        self._series: Cache[tuple[str, str], _Window] = Cache(SERIES_CACHE_BYTES, settings.recheck_seconds, clock,
                                                              size=_window_bytes, aged=_aged_window)
        self._memories: dict[str, Any] = {}
        self._crowded: dict[str, float] = {}  # prefixes of too many models to list, and until when that is believed

    def memory[T](self, detector: str, make: Callable[[Catalogue], T]) -> T:
        """What a detector keeps beside models and points, as long as this catalogue lives; made at its first use."""
        memory: T | None = self._memories.get(detector)
        return memory if memory is not None else self._memories.setdefault(detector, make(self))

    def model(self, name: str) -> Loaded | None:
        """The champion, or the model before it where the champion cannot be used; None where none was ever promoted.

        Raises ModelUnavailable where no champion can be used, StorageUnavailable where storage does not answer and
        nothing is in memory, InvalidRequest for a name that is none.
        """
        slot = self._models.get(name, lambda known: self._look(name, known or _Slot()))
        if slot.loaded is None and slot.reason is not None:
            raise ModelUnavailable(slot.reason, "model")
        return slot.loaded

    def rule_out(self, names: Collection[str], prefix: str) -> None:
        """Learns which of these models, whose names begin with `prefix`, were never published: a request for thousands.

        Nothing is learnt where so many others exist that asking for each is cheaper, or where storage does not answer.
        """
        if self.clock() < self._crowded.get(prefix, 0.0):
            return
        with suppress(StorageUnavailable):
            most = LISTED_FOR_ONE * len(names)
            published = set(islice(self.registry.names(prefix), most + 1))
            if len(published) > most:
                self._crowded[prefix] = self.clock() + self.settings.recheck_seconds
                return
            for name in names:
                if name not in published:
                    self._models.get(name, lambda _: _Slot())

    def series(self, detector: str, table_id: str, until: datetime | None = None) -> Series:
        """The last HISTORY_DAYS before `until` (aware; now when left out), somewhat more, and everything after it.

        Raises StorageUnavailable where storage does not answer and nothing is in memory, InvalidRequest.
        """
        start = _days_before(until or datetime.now(UTC), self.settings.history_days)
        window = self._series.get((detector, table_id), lambda known: self._read(detector, table_id, start, known),
                                  fits=lambda known: known.start <= start)
        return window.series

    def remembered(self, detector: str, table_id: str) -> Series:
        """The points in memory as they are, however old; read where there are none. Raises as `series`."""
        window = self._series.peek((detector, table_id))
        return window.series if window is not None else self.series(detector, table_id)

    def note(self, detector: str, table_id: str, point: Point) -> None:
        """Adds a point just judged to the series in memory, so that the next call sees it."""
        forget_at = self.clock() + NOTED_SECONDS
        self._series.change((detector, table_id), lambda known: replace(
            known, series=known.series.with_point(point), noted=(*known.noted, (forget_at, point))))

    def record_many(self, detector: str, points: Mapping[str, Sequence[Point]]) -> None:
        """Keeps points of many tables in the history; the next call about one of them reads it anew.

        Raises StorageUnavailable, InvalidRequest.
        """
        self.history.record_many(detector, points)
        for table_id in points:
            self.forget(detector, table_id)

    def forget(self, detector: str, table_id: str) -> None:
        """Drops the series in memory: after a bulk load or a user's word on a point."""
        self._series.drop((detector, table_id))

    def status(self) -> dict[str, Any]:
        """For health: what is in memory, what was refused and why, what storage last failed with."""
        slots = list(self._models.values())
        return {
            "models": {"loaded": sum(slot.loaded is not None for _, slot in slots), "bytes": self._models.size_bytes,
                       "limit_bytes": self.settings.model_cache_bytes},
            "series": {"loaded": sum(1 for _ in self._series.values()), "bytes": self._series.size_bytes,
                       "limit_bytes": SERIES_CACHE_BYTES},
            "refused": [{"name": name, "version": slot.refused, "reason": slot.reason}
                        for name, slot in slots if slot.reason is not None],
            "storage_error": self._models.failure or self._series.failure,
        }

    def _look(self, name: str, known: _Slot) -> _Slot:
        """Reads the pointer and loads what it points at, where that is news."""
        retry = known.reason is not None and self.clock() >= known.retry_at
        try:
            champion = self.registry.champion(name, None if retry else known.etag)
        except CorruptArtefact as error:
            return self._refusing(known, None, None, error.message)
        if champion is NOT_MODIFIED:
            return replace(known, loaded=known.loaded and replace(known.loaded, stale=known.reason))
        if champion is None:
            return _Slot()
        return self._changed(champion, known)

    def _changed(self, champion: Champion, known: _Slot) -> _Slot:
        loaded, wanted = known.loaded, champion.current
        if loaded is not None and (loaded.version, loaded.sha256) == (wanted.version, wanted.sha256):
            return _Slot(champion.etag, replace(loaded, stale=None))
        try:
            return _Slot(champion.etag, self._load(champion.name, wanted))
        except (ModelUnavailable, ModelNotFound) as error:
            reason = f"version {wanted.version} cannot be used: {error.message}"
        if loaded is None:
            known = replace(known, loaded=self._earlier(champion))
        return self._refusing(known, champion.etag, wanted.version, reason)

    def _earlier(self, champion: Champion) -> Loaded | None:
        """The latest champion before this one that can be used."""
        for promotion in champion.previous[:FALLBACKS]:
            try:
                return self._load(champion.name, promotion)
            except (ModelUnavailable, ModelNotFound):
                continue
        return None

    def _load(self, name: str, promotion: Promotion) -> Loaded:
        artefact = Artefact.load(self.registry.promoted(name, promotion))
        return Loaded(name, promotion.version, promotion.sha256, artefact)

    def _refusing(self, known: _Slot, etag: str | None, version: str | None, reason: str) -> _Slot:
        loaded = known.loaded and replace(known.loaded, stale=reason)
        return _Slot(etag, loaded, version, reason, self.clock() + REFUSED_SECONDS)

    def _read(self, detector: str, table_id: str, start: datetime, known: _Window | None) -> _Window:
        start = _days_before(start, SLACK_DAYS)
        series = self.history.read(detector, table_id, start)
        noted = tuple(n for n in known.noted if n[0] > self.clock()) if known else ()
        for _, point in noted:
            series = series.with_point(point)
        return _Window(start, series, noted)


def _days_before(moment: datetime, days: int) -> datetime:
    try:
        return moment - timedelta(days=days)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def _slot_bytes(slot: _Slot) -> int:
    return SLOT_BYTES + (slot.loaded.artefact.size_bytes if slot.loaded else 0)


def _aged_slot(slot: _Slot, reason: str) -> _Slot:
    return replace(slot, loaded=slot.loaded and replace(slot.loaded, stale=reason))


def _window_bytes(window: _Window) -> int:
    series = window.series
    return SLOT_BYTES + series.seconds.nbytes + series.values.nbytes + series.status.nbytes


def _aged_window(window: _Window, reason: str) -> _Window:
    return replace(window, series=replace(window.series, stale=reason))
