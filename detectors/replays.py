"""The structural filter's state after a table's history, kept between calls: the next day then costs one step."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from threading import Lock
from typing import NamedTuple

import numpy as np

from detectors import fleet, structural
from detectors.context import FloatArray, IntArray
from detectors.filter_bank import State

KEPT = 4096  # tables
KEPT_BYTES = 48 * 1024 * 1024  # a daily table takes about 2 KB, an hourly one 27 KB

# A table that was not asked about for so many buckets, while others of its shard were, is not packed any more.
FORGOTTEN = 400


class Told(NamedTuple):
    """A table's history: (m,) counts from bucket `start` on (NaN where unknown) with their holiday classes."""

    table_id: str | None
    start: int
    values: FloatArray
    holiday: IntArray


@dataclass(frozen=True, slots=True)
class _Kept:
    start: int
    length: int
    digest: bytes  # of what the state was made of
    row: FloatArray  # the state, as `fleet` writes it

    def begins(self, told: Told) -> bool:
        m = self.length
        return self.start == told.start and m <= len(told.values) and self.digest == _digest(told, m)

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def bytes(self) -> int:
        return self.row.nbytes


class Replays:
    """The latest state of each of the last KEPT tables. May be used from any thread.

    A state is only used where the history still begins with exactly what it was made of, so a wrong or shared key costs time
    and never the verdict.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._most, self._lock, self._bytes = kept, Lock(), 0
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()

    def state(self, table_id: str | None, start: int, values: FloatArray, holiday: IntArray,
              granularity: str) -> State:
        """The state after the last bucket of a history of at least one."""
        told = Told(table_id, start, values, holiday)
        past = self._past(told, granularity)
        state = None if past.known is None else fleet.state_of(past.known[None], granularity)
        if not len(past.values) and state is not None:
            return state
        time = np.arange(past.start, past.start + len(past.values))
        state = structural.replay(past.values, time, past.holiday, granularity, state)
        self._keep([(table_id, _made_of(told, fleet.rows_of(state)[0]))], granularity)
        return state

    def rows(self, told: Sequence[Told], granularity: str) -> list[FloatArray]:
        """The same for many tables in one pass, each state as a row of numbers."""
        pasts = [self._past(one, granularity) for one in told]
        rows = fleet.replay(pasts, granularity)
        new = [i for i, past in enumerate(pasts) if len(past.values)]
        self._keep([(told[i].table_id, _made_of(told[i], rows[i])) for i in new], granularity)
        return rows

    def packed(self, table_ids: Iterable[str], granularity: str) -> bytes:
        """What is kept of these tables as one file for `unpack`: arrays with a row a table, without pickles."""
        with self._lock:
            found = [(table_id, self._kept.get((table_id, granularity))) for table_id in sorted(set(table_ids))]
        latest = max((some.end for _, some in found if some is not None), default=0)
        kept = [(table_id, some) for table_id, some in found if some is not None and some.end > latest - FORGOTTEN]
        arrays = {}
        for length in sorted({len(some.row) for _, some in kept}):
            alike = [(table_id, some) for table_id, some in kept if len(some.row) == length]
            arrays[f"{length}.table"] = np.array([table_id for table_id, _ in alike])
            arrays[f"{length}.begin"] = np.array([(some.start, some.length) for _, some in alike])
            arrays[f"{length}.digest"] = np.array([list(some.digest) for _, some in alike], np.uint8)
            arrays[f"{length}.state"] = np.stack([some.row for _, some in alike])
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **arrays)
        return file.getvalue()

    def unpack(self, file: bytes, granularity: str) -> list[str]:
        """Keeps what `packed` wrote and tells of which tables. A file that cannot be read costs time and nothing else."""
        try:
            kept = list(_unpacked(file))
        except (EOFError, KeyError, NotImplementedError, OSError, TypeError, ValueError, zipfile.BadZipFile):
            return []
        self._keep(kept, granularity)
        return [table_id for table_id, _ in kept]

    def _past(self, told: Told, granularity: str) -> fleet.Past:
        """What is new of a history, and the state before it."""
        with self._lock:
            kept = self._kept.get((told.table_id or "", granularity))
        if kept is None or not kept.begins(told):
            return fleet.Past(told.start, told.values, told.holiday)
        m = kept.length
        return fleet.Past(told.start + m, told.values[m:], told.holiday[m:], kept.row)

    def _keep(self, kept: Sequence[tuple[str | None, _Kept]], granularity: str) -> None:
        with self._lock:
            for table_id, some in kept:
                before = self._kept.pop((table_id or "", granularity), None)
                self._kept[table_id or "", granularity] = some
                self._bytes += some.bytes - (before.bytes if before else 0)
            while len(self._kept) > self._most or self._bytes > KEPT_BYTES:
                self._bytes -= self._kept.popitem(last=False)[1].bytes


def _made_of(told: Told, row: FloatArray) -> _Kept:
    return _Kept(told.start, len(told.values), _digest(told, len(told.values)), row)


def _digest(told: Told, length: int) -> bytes:
    """Of the first `length` buckets."""
    return blake2b(told.values[:length].tobytes() + told.holiday[:length].tobytes(), digest_size=16).digest()


def _unpacked(file: bytes) -> Iterator[tuple[str, _Kept]]:
    with np.load(io.BytesIO(file), allow_pickle=False) as arrays:
        for length in {name.partition(".")[0] for name in arrays}:
            table, begin, digest, state = (arrays[f"{length}.{name}"] for name in ("table", "begin", "digest", "state"))
            for table_id, (start, m), of, row in zip(table.tolist(), begin.tolist(), digest, state, strict=True):
                yield table_id, _Kept(start, m, of.tobytes(), row)
