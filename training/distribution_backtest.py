"""Held-out batches: every family judges what it has not seen, as it was and with the faults that tables have.

The last part of the history is cut into blocks; a family is fitted to what came before a block and judges its batches. A
calibration is made of all the others, so that no batch helps to judge itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from detectors.distribution_history import weekdays
from detectors.distribution_model import feeds
from detectors.profiles import Batch, aligned
from training import calibration
from training.calibration import Calibration
from training.distribution_families import BASELINE, FEWEST, Family, fit
from training.distribution_faults import KINDS, faulty
from training.evaluation import Scores
from training.series import NotEnoughHistory

HELD_OUT = 0.45
BLOCK = 28  # batches that a model judges before the next one is trained, at most; three blocks at least
THRESHOLD = 0.99


def inputs_of(family: Family, batches: Sequence[Batch], first: int, end: int, zone: str) -> dict[str, Any]:
    """What the graph would get for the batches from `first` >= 1 to before `end`, each after the one before it."""
    raw = np.stack([family.gauge.measure(batch)[0] for batch in batches[first:end]])
    last = np.stack([aligned(batch, family.gauge.features) for batch in batches[first - 1 : end - 1]])
    return feeds(raw, last, weekdays(batches[first:end], zone), THRESHOLD)


def held_out(algorithm: str, batches: Sequence[Batch], zone: str) -> tuple[Scores, Calibration | None]:
    """Scores of the held-out batches, and the calibration made of them where the family needs one.

    Raises NotEnoughHistory.
    """
    first = round(len(batches) * (1 - HELD_OUT))
    if first < FEWEST:
        raise NotEnoughHistory(math.ceil(FEWEST / (1 - HELD_OUT)), len(batches))
    if algorithm != BASELINE and len(batches) - first <= calibration.FEWEST:
        raise NotEnoughHistory(math.ceil((calibration.FEWEST + 1) / HELD_OUT), len(batches))
    blocks = max(math.ceil((len(batches) - first) / BLOCK), 3)
    edges = np.linspace(first, len(batches), blocks + 1).round().astype(int).tolist()
    parts = []
    for start, end in pairwise(edges):
        family = fit(algorithm, batches[:start], zone)
        usual = inputs_of(family, batches, start, end, zone)
        cases = [usual["x"], *(faulty(usual["x"], family.gauge.features, kind) for kind in KINDS)]
        raw = np.stack([family.raw(usual | {"x": x}) for x in cases], axis=1)
        parts.append(np.where(np.stack([np.isfinite(x).any(axis=1) for x in cases], axis=1), raw, np.nan))
    raw = np.concatenate(parts)
    if algorithm == BASELINE:
        return Scores(raw[:, 0], raw[:, 1:]), None
    scores = np.stack([Calibration.fit(np.delete(raw[:, 0], i)).score(np, row) for i, row in enumerate(raw)])
    return Scores(scores[:, 0], scores[:, 1:]), Calibration.fit(raw[:, 0])
