"""Held-out values of a column, as they were and with the faults that values have: how well does a family tell them apart?

Beside them the batches that a person spoke of, each as a whole: that is what a verdict is about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count as count_up
from random import Random

import numpy as np

from detectors import shapes, tally
from detectors.artefact import Artefact
from detectors.formats import FEATURES, UNUSUAL
from detectors.pattern_column import Batch, Column
from detectors.pattern_history import Row, usable
from detectors.pattern_judge import report_of, run
from detectors.tally import Tally
from shared.history import LEFT_OUT
from training.evaluation import Scores
from training.held_out import is_new, said_of
from training.pattern_families import fit
from training.pattern_faults import FAULTS, PLACEHOLDERS
from training.series import FloatArray, NotEnoughHistory

HELD_OUT = 1 / 3
MOST_VALUES = 400  # held out, drawn at random
FEWEST = 100  # values in all, without which nothing is held out
THRESHOLD = 0.99  # of the figures; a value is unusual from 1 - UNUSUAL on, and its score is put on that scale

type Nats = Callable[[list[str]], FloatArray]  # (n,) shapes -> (n, f) nats of surprise


@dataclass(frozen=True, slots=True)
class Trials:
    """What is judged, batch by batch: `rows` held out, and `drawn` (len(rows)) shapes of each with their faulty versions.

    `before` is what a family may learn from; a faulty shape is None where there is no fault to find.
    """

    before: list[Batch]
    rows: list[Row]
    drawn: list[list[tuple[str, list[str | None]]]]


def held_out(algorithm: str, rows: Sequence[Row]) -> Scores:
    """Scores (d,) of held-out values, and (d, len(FAULTS)) of the same with each fault, NaN where that changes no format.

    Held out are the last batches, or of a few batches values drawn at random. Raises NotEnoughHistory.
    """
    trials, column = trials_of(rows)
    fitted = fit(algorithm, column, tally.merged(batch.tally for batch in trials.before))
    return _scores(trials, fitted.column, lambda some: fitted.judge(np, fitted.inputs(some))["contribution"])


def judged_by(rows: Sequence[Row], champion: Artefact) -> Scores:
    """The same values and batches by a file: NaN where it has learnt from them, all where it reads other features.

    Raises NotEnoughHistory.
    """
    trials, _ = trials_of(rows)
    column = Column.from_json(champion.card["column"])

    def nats(some: list[str]) -> FloatArray:
        contribution: FloatArray = run(champion, column.formats.look(some), some)["contribution"]
        return contribution

    scores = _scores(trials, column, nats if _fits(champion) else lambda some: np.full((len(some), 1), np.nan))
    new = [is_new(batch.timestamp, champion.card) for batch, _ in trials.rows]
    own = np.repeat(new, [len(drawn) + _is_told(row) for row, drawn in zip(trials.rows, trials.drawn, strict=True)])
    return Scores(np.where(own, scores.normal, np.nan), np.where(own[:, None], scores.faulty, np.nan), scores.said)


def trials_of(rows: Sequence[Row]) -> tuple[Trials, Column]:
    """What is held out, and the column as it was known before. Raises NotEnoughHistory."""
    batches, _ = usable(rows)
    count = sum(batch.tally.rows for batch in batches)
    if count < FEWEST:
        raise NotEnoughHistory(FEWEST, count)
    before, held = _parted(rows, batches)
    column = Column.of(before)
    if column is None:
        raise NotEnoughHistory(FEWEST, count)
    number = count_up()
    drawn = [[(shape, _damages(shape, next(number), column)) for shape in some] for some in _drawn(held)]
    return Trials(before, held, drawn), column


def _parted(rows: Sequence[Row], batches: Sequence[Batch]) -> tuple[list[Batch], list[Row]]:
    """What is learnt from, and what is held out: with the last batches those between and after them that were confirmed."""
    last = round(len(batches) * HELD_OUT)
    if last:
        begin = next(place for place, (batch, _) in enumerate(rows) if batch is batches[-last])
        return list(batches[:-last]), list(rows[begin:])
    generator = np.random.default_rng(0)
    whole, [moment, *_] = tally.merged(batch.tally for batch in batches), [batch.timestamp for batch in batches]
    counts = np.fromiter(whole.counts.values(), np.int64, len(whole.counts))
    out = generator.binomial(counts, HELD_OUT)
    before, after = (Tally({shape: n for shape, n in zip(whole.counts, part.tolist(), strict=True) if n})
                     for part in (counts - out, out))
    return [Batch(moment, before)], [(Batch(moment, after), "ok")]


def _drawn(held: Sequence[Row]) -> list[list[str]]:
    """Shapes of every held-out batch, MOST_VALUES in all, at random; none of one that nobody learns from.

    Raises NotEnoughHistory where no value came.
    """
    entries = [(place, shape, count) for place, (batch, status) in enumerate(held) if status not in LEFT_OUT
               for shape, count in batch.tally.counts.items()]
    if not entries:
        raise NotEnoughHistory(FEWEST, 0)
    counts = np.array([count for *_, count in entries], np.float64)
    drawn = np.sort(np.random.default_rng(0).choice(len(entries), MOST_VALUES, p=counts / counts.sum()))
    shapes_of: list[list[str]] = [[] for _ in held]
    for i in drawn.tolist():
        shapes_of[entries[i][0]].append(entries[i][1])
    return shapes_of


def _scores(trials: Trials, column: Column, nats: Nats) -> Scores:
    """By batch the values drawn from it, then itself where a person spoke of it."""
    every = [shape for drawn in trials.drawn for own, faulty in drawn for shape in (own, *faulty) if shape is not None]
    asked = list(dict.fromkeys(every))
    scores = dict(zip(asked, _of_values(nats(asked)).tolist(), strict=True)) | {None: math.nan}
    normal, changed, statuses = [], [], []
    for row, drawn in zip(trials.rows, trials.drawn, strict=True):
        for shape, faulty in drawn:
            normal.append(scores[shape])
            changed.append([scores[kind] for kind in faulty])
        if _is_told(row):
            normal.append(_of_batch(row[0].tally, column, nats))
            changed.append([math.nan] * len(FAULTS))
        statuses += ["ok"] * len(drawn) + [row[1]] * _is_told(row)
    return Scores(np.array(normal), np.array(changed).reshape(-1, len(FAULTS)), said_of(statuses))


def _of_values(nats: FloatArray) -> FloatArray:
    scores: FloatArray = 1.0 - np.exp(-nats.max(axis=1)) * (1.0 - THRESHOLD) / UNUSUAL
    return np.maximum(scores, 0.0)


def _of_batch(batch: Tally, column: Column, nats: Nats) -> float:
    """As the service judges it: by the number of its unusual values, and by formats that did not come."""
    some = list(batch.counts)
    judged = nats(some)
    if not len(some) or np.isnan(judged).all():
        return math.nan
    findings = report_of(batch, column, column.formats.look(some), judged, THRESHOLD).findings
    return findings[0].score if findings else 0.0


def _is_told(row: Row) -> bool:
    return row[1] in ("expected", "confirmed")


def _fits(champion: Artefact) -> bool:
    return champion.card["features"] in ([*FEATURES], [*FEATURES, *shapes.FEATURES])


def _damages(shape: str, number: int, column: Column) -> list[str | None]:
    """The shape with each fault."""
    return [_damaged(kind, shape, number, column) for kind in FAULTS]


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
