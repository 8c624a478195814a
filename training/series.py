"""The training data of one table: a regular series of counts with its calendar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

type FloatArray = NDArray[np.float64]
type IntArray = NDArray[np.int64]


class NotEnoughHistory(ValueError):
    """A family needs more usable points than the series has: it sits the comparison out, the job goes on."""

    def __init__(self, needs: int, has: int) -> None:
        super().__init__(f"needs {needs} usable points, has {has}")
        self.needs, self.has = needs, has


@dataclass(frozen=True, slots=True)
class TrainingSeries:
    """Buckets without gaps: what is not known is NaN, in its place.

    `start` is the bucket of `values[0]`: days since 1970-01-01 in the table's own calendar (hours for hourly tables).
    `values` (m,) rows; NaN where missing, excluded or anomalous. `holiday` (m,) 0 none, 1 next to a holiday, 2 holiday.
    `names` gives the holiday's name by bucket, for the training days and the days a model may be asked about later.
    """

    start: int
    values: FloatArray
    holiday: IntArray
    names: Mapping[int, str] = field(default_factory=dict)
    granularity: str = "daily"

    def __post_init__(self) -> None:
        if self.values.shape != self.holiday.shape or self.values.ndim != 1:
            raise ValueError(f"values {self.values.shape} and holiday {self.holiday.shape} must be (m,) and alike")

    @property
    def end(self) -> int:
        """The bucket of the last value."""
        return self.start + len(self.values) - 1

    @property
    def time(self) -> IntArray:
        """(m,) bucket of every value."""
        return np.arange(self.start, self.start + len(self.values), dtype=np.int64)

    @property
    def usable(self) -> int:
        """How many values are known."""
        return int(np.isfinite(self.values).sum())

    def until(self, end: int) -> TrainingSeries:
        """The same series up to and including bucket `end`: what a model trained on that day would have seen."""
        m = end - self.start + 1
        return TrainingSeries(self.start, self.values[:m], self.holiday[:m], self.names, self.granularity)
