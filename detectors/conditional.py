"""The conditional residual: a batch is as odd as its oddest metric, given time, the other columns and the metric's own past.

    raw metrics -> even scale -> minus rhythm -> minus what the other columns predict -> evidence -> score
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detectors.evidence import Sizes, floor_of, past_evidence, sizes_of
from detectors.metrics import FloatArray, IntArray, Scale, medians, sampling_noise, scale_of
from detectors.relations import Relations, relate
from detectors.rhythm import Rhythm, forward_filled, rhythm_of
from detectors.tails import Tail, tail_of

FEWEST_BATCHES = 8
MOST_BATCHES = 400
# Batches times metrics: wider tables are judged by fewer batches, so that the first answer takes about a second.
MOST_CELLS = 1_000_000


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict on n batches with p metrics: `evidence` (n, p), and what was `expected` with its bounds, in own units.

    A model that looks at all metrics at once has a `score` (n,) of its own.
    """

    evidence: FloatArray
    expected: FloatArray
    lower: FloatArray
    upper: FloatArray
    score: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Conditional:
    """The fitted detector of one table. `last` (p,) is the latest known value of each metric, on the even scale."""

    scale: Scale
    rhythm: Rhythm
    relations: Relations
    sizes: Sizes
    tail: Tail
    last: FloatArray
    batches: int

    def judge(self, raw: FloatArray, weekday: int, line: float) -> Judged:
        """(n, p) metrics of batches of one weekday (-1 where unknown), and the evidence from which on a metric is odd."""
        level = self.rhythm.level(np, self.last[None, :], self.rhythm.weekday[None, weekday])
        even = self.scale.stabilise(np, raw)
        _, residual = self.relations.residual(np, even - level)
        reach = self.sizes.reach(np, np.array([[line]])) * self.relations.scale
        expected = even - residual * self.relations.scale
        return Judged(self.sizes.evidence(np, residual), self.scale.restore(np, expected),
                      self.scale.restore(np, expected - reach), self.scale.restore(np, expected + reach))

    @property
    def size_bytes(self) -> int:
        return self.relations.size_bytes + 256 * len(self.last)


def fit(raw: FloatArray, rows: FloatArray, columns: Sequence[str], metrics: Sequence[str], weekday: IntArray) -> Conditional:
    """(h, p) metrics of h >= 8 batches, oldest first, NaN where not measured; (h,) rows and weekdays; (p,) names.

    Metrics are sorted by column, and each is known in at least FEWEST_BATCHES of the batches.
    """
    scale, spread = scale_of(metrics, columns, raw)
    even = scale.stabilise(np, raw)
    noise = sampling_noise(metrics, float(np.median(rows)), medians(raw), spread)
    floor = floor_of(noise, len(raw))
    rhythm, steady = rhythm_of(even, floor, weekday)
    relations, past = relate(steady, floor, columns)
    unit_floor = floor / relations.scale
    live = int((np.nanmax(raw, axis=0) > np.nanmin(raw, axis=0)).sum())
    sizes = sizes_of(past, unit_floor)
    tail = tail_of(past_evidence(past, unit_floor), live, float(np.median(sizes.freedom)))
    return Conditional(scale, rhythm, relations, sizes, tail, forward_filled(even)[-1], len(raw))


