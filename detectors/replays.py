"""The structural filter's state after a table's history, kept between calls: the next day then costs one step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from threading import Lock
from typing import NamedTuple

import numpy as np

from detectors import fleet, structural
from detectors.context import FloatArray, IntArray
from detectors.filter_bank import State

KEPT = 4096  # tables; a daily one takes about 3 KB


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
    state: State

    def begins(self, told: Told) -> bool:
        m = self.length
        return self.start == told.start and m <= len(told.values) and self.digest == _digest(told, m)


class Replays:
    """The latest state of each of the last KEPT tables. May be used from any thread.

    A state is only used where the history still begins with exactly what it was made of, so a wrong or shared key costs time
    and never the verdict.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._most, self._lock = kept, Lock()
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()

    def state(self, table_id: str | None, start: int, values: FloatArray, holiday: IntArray,
              granularity: str) -> State:
        """The state after the last bucket of a history of at least one."""
        told = Told(table_id, start, values, holiday)
        past = self._past(told, granularity)
        if not len(past.values) and past.state is not None:
            return past.state
        time = np.arange(past.start, past.start + len(past.values))
        state = structural.replay(past.values, time, past.holiday, granularity, past.state)
        self._keep([(told, state)], granularity)
        return state

    def states(self, told: Sequence[Told], granularity: str) -> list[State]:
        """The same for many tables in one pass."""
        pasts = [self._past(one, granularity) for one in told]
        states = fleet.replay(pasts, granularity)
        new = [i for i, past in enumerate(pasts) if len(past.values)]
        self._keep([(told[i], states[i]) for i in new], granularity)
        return states

    def _past(self, told: Told, granularity: str) -> fleet.Past:
        """What is new of a history, and the state before it."""
        with self._lock:
            kept = self._kept.get((told.table_id or "", granularity))
        if kept is None or not kept.begins(told):
            return fleet.Past(told.start, told.values, told.holiday)
        m = kept.length
        return fleet.Past(told.start + m, told.values[m:], told.holiday[m:], kept.state)

    def _keep(self, replayed: Sequence[tuple[Told, State]], granularity: str) -> None:
        lengths = [len(told.values) for told, _ in replayed]
        kept = [_Kept(told.start, m, _digest(told, m), state) for m, (told, state) in zip(lengths, replayed, strict=True)]
        with self._lock:
            for (told, _), some in zip(replayed, kept, strict=True):
                self._kept[told.table_id or "", granularity] = some
                self._kept.move_to_end((told.table_id or "", granularity))
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)


def _digest(told: Told, length: int) -> bytes:
    """Of the first `length` buckets."""
    return blake2b(told.values[:length].tobytes() + told.holiday[:length].tobytes(), digest_size=16).digest()
