"""Held-out values of a column, as they were and with the faults that values have: how well does a family tell them apart?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import numpy as np

from detectors import tally
from detectors.formats import UNUSUAL
from detectors.pattern_column import Batch, Column
from detectors.tally import Tally
from training.evaluation import Scores
from training.pattern_families import Family, fit
from training.pattern_faults import FAULTS, PLACEHOLDERS
from training.series import FloatArray, NotEnoughHistory

HELD_OUT = 1 / 3
MOST_VALUES = 400  # held out, drawn at random
FEWEST = 100  # values in all, without which nothing is held out
THRESHOLD = 0.99  # of the figures; a value is unusual from 1 - UNUSUAL on, and its score is put on that scale


def held_out(algorithm: str, batches: Sequence[Batch]) -> Scores:
    """Scores (d,) of held-out values, and (d, len(FAULTS)) of the same with each fault, NaN where that changes no format.

    Held out are the last batches, or of a few batches values drawn at random. Raises NotEnoughHistory.
    """
    rows = sum(batch.tally.rows for batch in batches)
    if rows < FEWEST:
        raise NotEnoughHistory(FEWEST, rows)
    before, after = _parted(batches)
    column = Column.of(before)
    if column is None:
        raise NotEnoughHistory(FEWEST, rows)
    fitted = fit(algorithm, column, tally.merged(batch.tally for batch in before))
    some = _drawn(after)
    damaged = [[_damaged(kind, shape, i, column) for kind in FAULTS] for i, shape in enumerate(some)]
    asked = list(dict.fromkeys([*some, *(shape for row in damaged for shape in row if shape is not None)]))
    scores = dict(zip(asked, _scores(fitted, asked).tolist(), strict=True))
    faulty = [[math.nan if shape is None else scores[shape] for shape in row] for row in damaged]
    return Scores(np.array([scores[shape] for shape in some]), np.array(faulty).reshape(len(some), len(FAULTS)))


def _parted(batches: Sequence[Batch]) -> tuple[list[Batch], Tally]:
    """What is learnt from, and what is held out."""
    last = round(len(batches) * HELD_OUT)
    if last:
        return list(batches[:-last]), tally.merged(batch.tally for batch in batches[-last:])
    generator = np.random.default_rng(0)
    whole = tally.merged(batch.tally for batch in batches)
    counts = np.fromiter(whole.counts.values(), np.int64, len(whole.counts))
    out = generator.binomial(counts, HELD_OUT)
    before, after = (Tally({shape: n for shape, n in zip(whole.counts, part.tolist(), strict=True) if n})
                     for part in (counts - out, out))
    return [Batch(None, before)], after


def _drawn(held: Tally) -> list[str]:
    shapes = list(held.counts)
    counts = np.fromiter(held.counts.values(), np.float64, len(shapes))
    drawn = np.random.default_rng(0).choice(len(shapes), MOST_VALUES, p=counts / counts.sum())
    return [shapes[i] for i in drawn.tolist()]


def _damaged(kind: str, shape: str, number: int, column: Column) -> str | None:
    """The shape of the value with a fault, None where there is no fault to find."""
    mask = tally.plain(shape)
    if not mask:
        return None
    value = FAULTS[kind](Random(f"{kind}:{number}"), mask)
    if value is None:
        return None
    broken = next(iter(Tally.of_values([value]).counts)) if value not in PLACEHOLDERS else tally.PLACEHOLDER
    key = column.formats.look([broken]).keys[0]
    usual = column.formats.level == 0 and key in column.formats.core and broken == tally.plain(broken)
    return None if usual or broken == shape else broken


def _scores(fitted: Family, some: list[str]) -> FloatArray:
    nats = fitted.judge(np, fitted.inputs(some))["contribution"].max(axis=1)
    scores: FloatArray = 1.0 - np.exp(-nats) * (1.0 - THRESHOLD) / UNUSUAL
    return np.maximum(scores, 0.0)
