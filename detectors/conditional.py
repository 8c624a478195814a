"""The conditional residual: a batch is as odd as its oddest metric, given time, the other columns and the metric's own past.

    raw metrics -> even scale -> minus rhythm -> minus what the other columns predict -> evidence -> score
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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

    A model that looks at all metrics at once has a `score` (n,) of its own. In a graph these are its outputs.
    """

    evidence: Any
    expected: Any
    lower: Any
    upper: Any
    score: Any = None


@dataclass(frozen=True, slots=True)
class Conditional:
    """The fitted detector of one table. `last` (p,) is the latest known value of each metric."""

    scale: Scale
    rhythm: Rhythm
    relations: Relations
    sizes: Sizes
    tail: Tail
    last: FloatArray

    def judge(self, raw: FloatArray, weekday: int, line: float) -> Judged:
        """(n, p) metrics of batches of one weekday (-1 where unknown), and the evidence from which on a metric is odd."""
        n = len(raw)
        level, z = self.standardise(np, raw, np.repeat(self.last[None], n, axis=0), np.full(n, weekday))
        return self.decide(np, level, z, np.array([[line]]))

    def standardise(self, xp: Any, raw: Any, last: Any, weekday: Any) -> tuple[Any, Any]:
        """(n, p) metrics, those of the batches before, (n,) weekdays -> (n, p) what time explains, and the z of the rest."""
        effects = xp.take(xp.asarray(self.rhythm.weekday), weekday, axis=0)
        # Several matrices in one pass: in a graph the number of steps costs more than their size.
        both = xp.reshape(self.scale.stabilise(xp, xp.concat([raw, last], axis=0)), (2, -1, len(self.last)))
        level = self.rhythm.level(xp, both[1, ...], effects)
        return level, self.relations.standardise(xp, both[0, ...] - level)

    def decide(self, xp: Any, level: Any, z: Any, line: Any) -> Judged:
        """From `standardise`, with (n, 1) the evidence from which on a metric is odd."""
        residual = self.relations.residual(xp, z)
        unit = xp.asarray(self.relations.scale)
        reach = self.sizes.reach(xp, line) * unit
        expected = level + xp.asarray(self.relations.centre) + (z - residual) * unit
        told = self.scale.restore(xp, xp.concat([expected, expected - reach, expected + reach], axis=0))
        told = xp.reshape(told, (3, -1, len(self.last)))
        return Judged(self.sizes.evidence(xp, residual), told[0, ...], told[1, ...], told[2, ...])

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
    return Conditional(scale, rhythm, relations, sizes, tail, forward_filled(raw)[-1])


