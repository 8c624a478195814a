"""A batch of values as it is judged, learnt from and kept: how often each shape came. The only place that sees values.

A shape is a mask of detectors.shapes, white space at its ends included, or one of three marks for what a mask cannot tell:

    <empty>              nothing, or nothing but white space
    <placeholder>        n/a, null, unknown, - and their like
    <doubled>A99999      a value of eight characters or more that is one text twice, with the mask of that text

No mask can be taken for a mark: its only letters are A, a and those that stand for others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from detectors import shapes

EMPTY, PLACEHOLDER, DOUBLED = "<empty>", "<placeholder>", "<doubled>"
PLACEHOLDERS = frozenset((
    "-", "--", "---", "?", "??", "???", ".", "...", "*", "n/a", "#n/a", "na", "<na>", "n.a.", "nan", "null", "(null)",
    "<null>", "none", "nil", "unknown", "undefined", "missing", "tbd", "not available", "not applicable"))
LONGEST_PLACEHOLDER = max(map(len, PLACEHOLDERS))
SHORTEST_DOUBLED = 8
# What is kept of a batch: its counts while they are few, else those of as many values, drawn at random, as are few enough.
KEPT_SHAPES, KEPT_CHARACTERS = 2_000, 200_000


@dataclass(frozen=True)
class Tally:
    """Counts by shape; `missing` values were null."""

    counts: Mapping[str, int]
    missing: int = 0

    @classmethod
    def of_values(cls, values: Sequence[str | None]) -> Tally:
        distinct = Counter(values)
        missing = distinct.pop(None, 0)
        texts: list[str] = list(distinct)  # type: ignore[arg-type]  # None is gone
        counts: dict[str, int] = {}
        for shape, count in zip(shapes_of(texts), distinct.values(), strict=True):
            counts[shape] = counts.get(shape, 0) + count
        return cls(counts, missing)

    @classmethod
    def of_counts(cls, counts: Mapping[str, int]) -> tuple[Tally, int]:
        """From counts by shape, and how many of the keys were none: they are turned into shapes, like values."""
        safe: dict[str, int] = {}
        changed = 0
        texts = [key.removeprefix(DOUBLED) for key in counts]
        for (shape, count), text, mask in zip(counts.items(), texts, shapes.masks(texts), strict=True):
            known = shape in (EMPTY, PLACEHOLDER) or (text == mask and text)
            own = shape if known else _mark(shape) or shapes.masks([shape])[0]
            changed += own != shape
            if count:
                safe[own] = safe.get(own, 0) + count
        return cls(safe), changed

    @cached_property
    def rows(self) -> int:
        """Values that were not null."""
        return sum(self.counts.values())

    @cached_property
    def key(self) -> int:
        """The same for the same counts."""
        return hash(frozenset(self.counts.items()))

    def to_document(self) -> dict[str, Any]:
        """For the history, bounded: a batch of many shapes is kept as a random part of its values."""
        return {"patterns": thinned(self.counts), "missing": self.missing, "rows": self.rows}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Tally:
        return cls(document["patterns"], document.get("missing", 0))


def shapes_of(values: Sequence[str]) -> list[str]:
    """The shape of every value, in order."""
    # Most values are neither short enough for a placeholder nor begin with what their middle begins with.
    return [mask if len(text) > LONGEST_PLACEHOLDER + 8 and text[0] != text[len(text) // 2] and text[0] != " "
            else _mark(text) or mask for text, mask in zip(values, shapes.masks(values), strict=True)]


def plain(shape: str) -> str:
    """The mask of a shape without white space at its ends, doubled values told twice; "" for what has no mask."""
    if shape[:1] == "<":
        if shape in (EMPTY, PLACEHOLDER):
            return ""
        if shape.startswith(DOUBLED):
            return 2 * shape.removeprefix(DOUBLED)
    return shape.strip()


def merged(tallies: Iterable[Tally]) -> Tally:
    """Several batches as one."""
    counts: Counter[str] = Counter()
    missing = 0
    for tally in tallies:
        counts.update(tally.counts)
        missing += tally.missing
    return Tally(dict(counts), missing)


def thinned(counts: Mapping[str, int], most: int = KEPT_SHAPES) -> dict[str, int]:
    """The counts, or those of a random half, quarter, ... of the values, until they are few enough to keep."""
    generator = np.random.default_rng(0)
    kept = dict(counts)
    while len(kept) > most or sum(map(len, kept)) > KEPT_CHARACTERS:
        halves = generator.binomial(np.fromiter(kept.values(), np.int64, len(kept)), 0.5)
        kept = {shape: int(n) for shape, n in zip(kept, halves, strict=True) if n}
    return kept


def _mark(text: str) -> str | None:
    """What a mask cannot tell."""
    half = len(text) // 2
    if half >= SHORTEST_DOUBLED // 2 and text[0] == text[half] and text[:half] + text[:half] == text:
        if text.count(text[0]) == len(text):  # 00000000 is no text twice
            return None if text.strip() else EMPTY
        return DOUBLED + shapes.masks([text[:half]])[0]
    if len(text) <= LONGEST_PLACEHOLDER + 8:
        word = text.strip().lower()
        return EMPTY if not word else PLACEHOLDER if word in PLACEHOLDERS else None
    return None if text[0] != " " or text.strip() else EMPTY
