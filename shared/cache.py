"""Values kept in memory that storage may change: looked up without a lock while fresh, renewed by one caller at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from threading import Lock

from shared.errors import StorageUnavailable

# After a failure storage is left alone this long: one caller waits for it and not everybody.
OUTAGE_SECONDS = 3.0
# Evicting sorts all entries, so it makes room for more than one.
KEPT_SHARE = 0.9


@dataclass(slots=True, eq=False)
class _Entry[V]:
    lock: Lock = field(default_factory=Lock)
    value: V | None = None
    due: float = 0.0
    used: float = 0.0
    size: int = 0


class Cache[K: Hashable, V]:
    """An LRU bounded in bytes whose values are renewed once they are `recheck_seconds` old.

    `size` tells a value's bytes; `aged(value, reason)` is the value to go on with when storage does not answer.
    """

    def __init__(self, limit_bytes: int, recheck_seconds: float, clock: Callable[[], float],
                 size: Callable[[V], int], aged: Callable[[V, str], V]) -> None:
        self._limit, self._recheck, self._clock, self._size, self._aged = limit_bytes, recheck_seconds, clock, size, aged
        self._entries: dict[K, _Entry[V]] = {}
        self._lock = Lock()
        self._bytes = 0
        self._failure, self._closed_until = "", 0.0

    def get(self, key: K, renew: Callable[[V | None], V], fits: Callable[[V], bool] = lambda _: True) -> V:
        """The value while it is fresh and fits, else what `renew` makes of it; `renew(None)` the first time.

        When `renew` raises StorageUnavailable, a value that fits is aged and goes on; without one the error rises.
        """
        now = self._clock()
        entry = self._entries.get(key)
        if entry is not None:
            value = entry.value
            if value is not None and now < entry.due and fits(value):
                entry.used = now
                return value
        return self._renewed(key, renew, fits)

    def peek(self, key: K) -> V | None:
        """The value in memory however old it is, None where there is none."""
        entry = self._entries.get(key)
        return entry.value if entry is not None else None

    def change(self, key: K, change: Callable[[V], V]) -> None:
        """Puts a changed value in the place of one that is there."""
        entry = self._entries.get(key)
        if entry is not None:
            with entry.lock:
                if entry.value is not None:
                    entry.value = change(entry.value)

    def drop(self, key: K) -> None:
        """Forgets a value, so that the next `get` renews it from nothing."""
        with self._lock:
            entry = self._entries.pop(key, None)
            self._bytes -= entry.size if entry else 0

    def values(self) -> Iterator[tuple[K, V]]:
        for key, entry in list(self._entries.items()):
            if entry.value is not None:
                yield key, entry.value

    @property
    def size_bytes(self) -> int:
        return self._bytes

    @property
    def failure(self) -> str | None:
        """What storage said when it last failed, None once it has answered again."""
        return self._failure or None

    def _renewed(self, key: K, renew: Callable[[V | None], V], fits: Callable[[V], bool]) -> V:
        entry = self._entries.setdefault(key, _Entry())
        value = entry.value
        warm = value is not None and fits(value)
        if not entry.lock.acquire(blocking=not warm) and value is not None:
            return value  # somebody is renewing it: until then the value as it was
        try:
            value, now = entry.value, self._clock()
            warm = value is not None and fits(value)
            if value is not None and warm and now < entry.due:
                return value  # somebody renewed it while this caller waited
            try:
                value = self._asked(renew, value)
                entry.due = self._clock() + self._recheck
            except StorageUnavailable as error:
                if value is None or not warm:
                    raise
                value = self._aged(value, error.message)
                entry.due = self._clock() + min(self._recheck, OUTAGE_SECONDS)
            entry.value, entry.used = value, now
            return value
        finally:
            self._weigh(key, entry)
            entry.lock.release()

    def _asked(self, renew: Callable[[V | None], V], value: V | None) -> V:
        if self._failure and self._clock() < self._closed_until:
            raise StorageUnavailable(self._failure)
        try:
            renewed = renew(value)
        except StorageUnavailable as error:
            self._failure, self._closed_until = error.message, self._clock() + OUTAGE_SECONDS
            raise
        self._failure = ""
        return renewed

    def _weigh(self, key: K, entry: _Entry[V]) -> None:
        with self._lock:
            if self._entries.get(key) is not entry:
                return  # dropped meanwhile: what was read may be older than that
            if entry.value is None:
                del self._entries[key]
                return
            size = self._size(entry.value)
            self._bytes += size - entry.size
            entry.size = size
            if self._bytes > self._limit:
                self._evict(entry)

    def _evict(self, newest: _Entry[V]) -> None:
        for key, entry in sorted(self._entries.items(), key=lambda item: item[1].used):
            if self._bytes <= self._limit * KEPT_SHARE:
                return
            if entry is not newest and not entry.lock.locked():
                del self._entries[key]
                self._bytes -= entry.size
