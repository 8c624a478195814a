"""Columns that are new, gone, or of another type than in the batch before: findings of their own, whatever the metrics say.

A change is told once, at the batch that brings it. How likely one is comes from the column's own past: a column that comes
and goes is expected to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from detectors.profiles import Batch

type Change = Literal["new_column", "vanished_column", "type_changed"]

# A column that never changed changes in about one of 1,000 batches, and that guess counts as much as 100 batches.
PRIOR_CHANGES, PRIOR_BATCHES = 0.1, 100.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One column's change: `before` and `after` are its types, `score` one minus the probability of such a change."""

    column: str
    change: Change
    before: str | None
    after: str | None
    score: float


def changes(batch: Batch, history: Sequence[Batch]) -> list[Finding]:
    """What changed since the last batch, by column. `history` holds every batch there was, oldest first, odd ones too."""
    if not history or history[-1].layout is batch.layout:
        return []
    before, after = dict(history[-1].layout.columns), dict(batch.layout.columns)
    found = []
    for column in sorted(before.keys() | after.keys()):
        old, new = before.get(column), after.get(column)
        if old == new or "other" in (old, new):
            continue
        past = [dict(b.layout.columns).get(column) for b in history]
        switches = sum(a != b for a, b in pairwise(past))
        probability = (switches + PRIOR_CHANGES) / (len(history) + PRIOR_BATCHES)
        kind: Change = "new_column" if old is None else "vanished_column" if new is None else "type_changed"
        found.append(Finding(column, kind, old, new, 1.0 - min(probability, 1.0)))
    return found
