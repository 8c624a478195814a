"""The structural filter's state after a table's history, kept between calls: the next day then costs one step."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np

from detectors import structural
from detectors.context import FloatArray, IntArray
from detectors.filter_bank import State

KEPT = 4096  # tables; a daily one takes about 6 KB


@dataclass(frozen=True, slots=True)
class _Kept:
    start: int
    values: FloatArray
    holiday: IntArray
    state: State

    def begins(self, start: int, values: FloatArray, holiday: IntArray) -> bool:
        m = len(self.values)
        return (self.start == start and m <= len(values) and np.array_equal(holiday[:m], self.holiday)
                and np.array_equal(values[:m], self.values, equal_nan=True))


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
        """(m,) counts from bucket `start` on (NaN where unknown) with their holiday classes -> the state after the last."""
        key = (table_id or "", granularity)
        with self._lock:
            kept = self._kept.get(key)
        done, state = 0, None
        if kept is not None and kept.begins(start, values, holiday):
            done, state = len(kept.values), kept.state
        if done < len(values):
            time = np.arange(start + done, start + len(values))
            state = structural.replay(values[done:], time, holiday[done:], granularity, state)
            with self._lock:
                self._kept[key] = _Kept(start, values, holiday, state)
                self._kept.move_to_end(key)
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        assert state is not None, "a history has at least one bucket"
        return state

