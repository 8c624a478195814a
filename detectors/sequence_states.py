"""The filter's state after a table's history, kept between calls: a warm call pays for new buckets only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from threading import Lock

import numpy as np

from detectors.context import FloatArray
from detectors.sequence_filter import RHYTHMS, Filter

KEPT_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class _Kept:
    start: int
    values: FloatArray
    state: Filter

    def begins(self, start: int, values: FloatArray) -> bool:
        n = len(self.values)
        return self.start == start and n <= len(values) and np.array_equal(values[:n], self.values, equal_nan=True)

    @property
    def size_bytes(self) -> int:
        # A metric's history, its profile, what it was a week ago, and some hundred numbers more.
        return 4096 + int(self.values.nbytes) + 12_000 * int(self.values.shape[1])


class States:
    """The latest state of each table that there is room for. May be used from any thread.

    A state is only used where the history still begins with exactly what it was made of, so a wrong or shared key costs time
    and never the verdict.
    """

    def __init__(self, limit_bytes: int = KEPT_BYTES) -> None:
        self._limit, self._bytes, self._lock = limit_bytes, 0, Lock()
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()

    def after(self, key: Hashable, start: int, values: FloatArray, granularity: str) -> Filter:
        """(n, m) the history from bucket `start` on, n >= the rhythm's setup -> a copy of the state after it."""
        rhythm = RHYTHMS[granularity]
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None and kept.begins(start, values):
            done, state = len(kept.values), kept.state.copy()
        else:
            done, state = 0, Filter.begin(values[: rhythm.setup], start, rhythm)
        for row in values[done:]:
            state.step(row)
        if done < len(values) and key is not None:
            self._keep(key, _Kept(start, values, state))
            state = state.copy()
        return state

    def _keep(self, key: Hashable, kept: _Kept) -> None:
        with self._lock:
            old = self._kept.pop(key, None)
            self._kept[key] = kept
            self._bytes += kept.size_bytes - (old.size_bytes if old else 0)
            while self._bytes > self._limit and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].size_bytes
