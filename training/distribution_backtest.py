"""Held-out batches: every family judges what it has not seen, as it was and with the faults that tables have.

The last part of the history is cut into blocks; a family is fitted to what came before a block and judges its batches. A
calibration is made of all the others, so that no batch helps to judge itself. Batches that were flagged or confirmed are
judged like all others, and none is learnt from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from detectors import conditional, distribution_model
from detectors.artefact import Artefact
from detectors.distances import Gauge, measured
from detectors.distribution_history import Row, learnable, learnt_from, weekdays
from detectors.distribution_model import Reading, feeds
from detectors.metrics import BoolArray
from detectors.profiles import Batch, aligned
from training import calibration
from training.calibration import Calibration
from training.distribution_families import BASELINE, FEWEST, fit
from training.distribution_faults import KINDS, able_columns, faulty
from training.evaluation import Scores
from training.held_out import is_new, said_of
from training.series import FloatArray, IntArray, NotEnoughHistory

HELD_OUT = 0.45
BLOCK = 28  # batches that a model judges before the next one is trained, at most; three blocks at least
THRESHOLD = 0.99


def inputs_of(gauge: Gauge, rows: Sequence[Row], places: IntArray, zone: str) -> dict[str, Any]:
    """What a graph would get for the batches at some places, each after the last before it that may be learnt from."""
    known, batches = np.flatnonzero(learnable(rows)), _batches(rows, places)
    raw = np.stack([gauge.measure(batch)[0] for batch in batches])
    last = np.full_like(raw, np.nan)
    before = np.searchsorted(known, places) - 1
    some = np.flatnonzero(before >= 0)
    last[some] = [aligned(batch, gauge.features) for batch in _batches(rows, known[before[some]])]
    return feeds(raw, last, weekdays(batches, zone), THRESHOLD)


def held_out(algorithm: str, rows: Sequence[Row], zone: str) -> tuple[Scores, Calibration | None]:
    """Scores of the held-out batches, and the calibration made of them where the family needs one.

    Raises NotEnoughHistory.
    """
    learnt = learnable(rows)
    blocks = blocks_of(learnt)
    fewest = calibration.FEWEST + 1
    if algorithm != BASELINE and learnt[blocks[0][0] :].sum() < fewest:
        raise NotEnoughHistory(math.ceil(fewest / HELD_OUT), int(learnt.sum()))
    parts = []
    for block in blocks:
        family = fit(algorithm, _batches(rows, np.flatnonzero(learnt[: block[0]])), zone)
        usual = inputs_of(family.gauge, rows, block, zone)
        cases = [usual["x"], *(faulty(usual["x"], family.gauge.features, kind) for kind in KINDS)]
        raw = np.stack([family.raw(usual | {"x": x}) for x in cases], axis=1)
        parts.append(np.where(np.stack([np.isfinite(x).any(axis=1) for x in cases], axis=1), raw, np.nan))
    raw, held = np.concatenate(parts), np.concatenate(blocks)
    if algorithm == BASELINE:
        return _scores(raw, rows, held, learnt), None
    witness = np.where(learnt[held], raw[:, 0], np.nan)
    scores = np.stack([Calibration.fit(np.delete(witness, i)).score(np, row) for i, row in enumerate(raw)])
    return _scores(scores, rows, held, learnt), Calibration.fit(witness)


def judged_by(rows: Sequence[Row], champion: Artefact) -> Scores:
    """The same batches with the same faults by a file: NaN where it has learnt from a batch, or knows too little of it.

    A fault in a column that the file does not know changes nothing for it. Raises NotEnoughHistory.
    """
    learnt = learnable(rows)
    gauge, zone = Reading.of(champion).gauge, champion.card["timezone"]
    parts = []
    for block in blocks_of(learnt):
        before = _batches(rows, np.flatnonzero(learnt[: block[0]]))
        own, _ = measured(learnt_from(before), conditional.FEWEST_BATCHES)
        injected = inputs_of(own, rows, block, zone)["x"]
        usual = inputs_of(gauge, rows, block, zone)
        unseen = np.isfinite(usual["x"]).mean(axis=1) < distribution_model.LEAST_KNOWN
        cases = [np.where(unseen[:, None], np.nan, usual["x"])]
        for kind in KINDS:
            changed = faulty(cases[0], gauge.features, kind, able_columns(own.features, kind))
            changed = np.where(np.isfinite(changed).any(axis=1)[:, None], changed, cases[0])
            there = np.isfinite(faulty(injected, own.features, kind)).any(axis=1)
            cases.append(np.where(there[:, None], changed, np.nan))
        told = [np.where(np.isfinite(x).any(axis=1), champion.run(usual | {"x": x})["score"], np.nan) for x in cases]
        parts.append(np.stack(told, axis=1))
    scores, held = np.concatenate(parts), np.concatenate(blocks_of(learnt))
    scores[[not is_new(batch.moment, champion.card) for batch in _batches(rows, held)]] = np.nan
    return _scores(scores, rows, held, learnt)


def blocks_of(learnt: BoolArray) -> list[IntArray]:
    """(m,) which batches are learnt from -> the places of held-out ones, block by block. Raises NotEnoughHistory."""
    known = np.flatnonzero(learnt)
    first = round(len(known) * (1 - HELD_OUT))
    if first < FEWEST:
        raise NotEnoughHistory(math.ceil(FEWEST / (1 - HELD_OUT)), len(known))
    blocks = max(math.ceil((len(known) - first) / BLOCK), 3)
    edges = np.append(known, len(learnt))[np.linspace(first, len(known), blocks + 1).round().astype(int)]
    return [np.arange(start, end) for start, end in pairwise(edges.tolist())]


def _scores(scores: FloatArray, rows: Sequence[Row], held: IntArray, learnt: BoolArray) -> Scores:
    """No fault is put into a batch that is odd already."""
    return Scores(scores[:, 0], np.where(learnt[held, None], scores[:, 1:], np.nan),
                  said_of(rows[place][1] for place in held.tolist()))


def _batches(rows: Sequence[Row], places: IntArray) -> list[Batch]:
    return [rows[place][0] for place in places.tolist()]
