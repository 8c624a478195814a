"""Which run follows which: a second opinion on columns whose formats are too many to count.

A mask is a sequence of runs (`Berlin-12` -> A1 a5 -1 92) between two ends. Each run has a probability given the two before
it, smoothed with that given the one before and that of the run alone (trigrams with Dirichlet backoff: MacKay and Peto 1995,
doi:10.1017/S1351324900000218). The surprise of a value is its least probable run, in nats: one odd place makes an odd value,
however long the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import batched
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from detectors import shapes
from detectors.shapes import IntArray

type FloatArray = NDArray[np.float64]

BACKOFF = 8.0  # what a shorter context counts for, in runs seen
FEWEST = 50  # values without which there is no tail to see
# The cut is where so few normal values are expected, by an exponential tail through two quantiles of the left-out surprises:
# damaged values of the history lie beyond both. A tenth is added, and more where values are few, because the tail is rough.
RARE, BODY, TAIL, SLACK, ROUGH = 0.002, 0.1, 0.03, 1.1, 10.0
# Whatever its place, a run that follows the two before it in so many values is no rarity.
KNOWN_SHARE, KNOWN = 0.005, 3.0
# The tables are bounded: a run that is not among the commonest is like any that was never seen.
MOST_RUNS, MOST_CONTEXTS = 250, 4_000
START, STOP, UNSEEN = 0, 1, 2  # ids; those of the runs follow


@dataclass(frozen=True)
class Transitions:
    """`vocabulary` (v,) runs as detectors.shapes codes them; `trigrams` (t, 3) ids and how often each was seen, (t,).

    A surprise of `cut` nats is exceeded by RARE of normal values, and each `scale` more by 1 / e of those; `beyond` of
    the values learnt from exceed it, each with itself left out.
    """

    vocabulary: tuple[int, ...]
    trigrams: IntArray
    seen: FloatArray
    known: float = math.inf
    cut: float = math.inf
    scale: float = 1.0
    beyond: int = 0

    @classmethod
    def fit(cls, counts: Mapping[str, int]) -> Self | None:
        """From counts by mask; None below FEWEST values. Every value's surprise is taken with the value itself left out."""
        masks, weights = list(counts), np.fromiter(counts.values(), np.float64, len(counts))
        if weights.sum() < FEWEST:
            return None
        tokens, starts = shapes.runs(masks)
        known, times = np.unique(tokens[tokens != shapes.END_RUN], return_counts=True)
        vocabulary = tuple(np.sort(known[np.argsort(-times, kind="stable")[:MOST_RUNS]]).tolist())
        size = len(vocabulary) + 3
        places = _places(tokens, starts, vocabulary)
        distinct, inverse = np.unique(np.ravel_multi_index(places.ids, (size, size, size)), return_inverse=True)
        trigrams = np.stack(np.unravel_index(distinct, (size, size, size)), axis=1)
        fitted = cls(vocabulary, trigrams, np.bincount(inverse, np.repeat(weights, places.sizes), len(distinct)),
                     known=max(KNOWN, KNOWN_SHARE * float(weights.sum())))
        surprise = np.sort(np.repeat(fitted._left_out(places, inverse), weights.astype(np.int64)))
        near, far = np.quantile(surprise, [1 - BODY, 1 - TAIL])
        scale = max(float(far - near) / math.log(BODY / TAIL), 1e-3)
        cut = SLACK * (1.0 + ROUGH / len(surprise)) * (float(near) + scale * math.log(BODY / RARE))
        return replace(fitted, cut=cut, scale=scale, beyond=int((surprise > cut).sum()))

    def surprises(self, masks: Sequence[str]) -> FloatArray:
        """(n,) nats of each mask's least probable run."""
        # A thousand at a time stay in the processor's cache.
        parts = [self._surprises(part) for part in batched(masks, 1000, strict=False)]
        return np.concatenate(parts) if parts else np.empty(0)

    def _surprises(self, masks: Sequence[str]) -> FloatArray:
        places = _places(*shapes.runs(masks), self.vocabulary)
        first, second, own = places.ids
        size = len(self.vocabulary) + 3
        row = self._tables.row.take(first * size + second)
        nats = self._tables.nats.take(row * size + own)
        return np.maximum.reduceat(nats, places.starts)

    @cached_property
    def _tables(self) -> _Tables:
        size = len(self.vocabulary) + 3
        first, second, own = self.trigrams.T
        alone = np.bincount(own, self.seen, size)
        alone = (alone + BACKOFF / size) / (alone.sum() + BACKOFF)
        pairs = np.zeros((size, size))
        np.add.at(pairs, (second, own), self.seen)
        pairs = (pairs + BACKOFF * alone) / (pairs.sum(axis=1, keepdims=True) + BACKOFF)
        contexts, at, times = np.unique(first * size + second, return_inverse=True, return_counts=True)
        kept = np.sort(np.argsort(-times, kind="stable")[:MOST_CONTEXTS])
        place = np.full(len(contexts), len(kept))
        place[kept] = np.arange(len(kept))
        contexts = contexts[kept]
        triples = np.zeros((len(kept) + 1, size))
        np.add.at(triples, (place[at], own), self.seen)
        triples = triples[:-1]
        p = (triples + BACKOFF * pairs[contexts % size]) / (triples.sum(axis=1, keepdims=True) + BACKOFF)
        p[triples >= self.known] = 1.0
        row = np.tile(np.arange(size), size)
        row[contexts] = size + np.arange(len(contexts))
        return _Tables(row, -np.log(np.concatenate([pairs, p])))

    def _left_out(self, places: _Places, inverse: IntArray) -> FloatArray:
        """(n,) the surprise of every mask learnt from, had one value of it not been there."""
        size = len(self.vocabulary) + 3
        first, second, own = self.trigrams.T
        nowhere = np.zeros_like(own)
        p: FloatArray | float = 1.0 / size
        for key, context in ((own, nowhere), (second * size + own, second), (np.arange(len(own)), first * size + second)):
            seen, before = (self._elsewhere(group, places, inverse) for group in (key, context))
            p = (seen + BACKOFF * p) / (before + BACKOFF)
        return np.maximum.reduceat(-np.log(p), places.starts)

    def _elsewhere(self, key: IntArray, places: _Places, inverse: IntArray) -> FloatArray:
        """(t,) a key of each trigram -> (r,) how often the key of each place was seen, the place's own value left out."""
        groups, group = np.unique(key, return_inverse=True)
        total = np.bincount(group, self.seen, len(groups))
        place = group[inverse]
        owner = np.repeat(np.arange(len(places.sizes)), places.sizes)
        _, same, times = np.unique(owner * len(groups) + place, return_inverse=True, return_counts=True)
        return np.asarray(total[place] - times[same], np.float64)

    @property
    def size_bytes(self) -> int:
        """In memory, tables included."""
        size = len(self.vocabulary) + 3
        return 8 * (size * (2 * size + min(len(self.seen), MOST_CONTEXTS)) + 4 * len(self.seen))

    def to_json(self) -> dict[str, Any]:
        return {"vocabulary": list(self.vocabulary), "trigrams": self.trigrams.ravel().tolist(), "seen": self.seen.tolist(),
                "known": self.known, "cut": self.cut, "scale": self.scale, "beyond": self.beyond}

    @classmethod
    def from_json(cls, own: Mapping[str, Any]) -> Self:
        return cls(tuple(own["vocabulary"]), np.array(own["trigrams"], np.int64).reshape(-1, 3),
                   np.array(own["seen"], np.float64), own["known"], own["cut"], own["scale"], own["beyond"])


@dataclass(frozen=True, slots=True)
class _Tables:
    """Surprises by ids: of every pair of runs (s * s,) the row of `nats` (rows, s), its last run's where it never came."""

    row: IntArray
    nats: FloatArray


@dataclass(frozen=True, slots=True)
class _Places:
    """Every run of n masks, and the end of each: ids (3, r) of the two before it and its own; (n,) where a mask's begin."""

    ids: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]
    starts: NDArray[np.intp]

    @property
    def sizes(self) -> NDArray[np.intp]:
        return np.diff(self.starts, append=len(self.ids[0]))


def _places(tokens: NDArray[np.int32], starts: NDArray[np.intp], vocabulary: tuple[int, ...]) -> _Places:
    """From what detectors.shapes.runs returns."""
    known = np.array(vocabulary, np.int64)
    table = np.full(max([*vocabulary, shapes.END_RUN]) + 2, UNSEEN, np.int32)
    table[known] = np.arange(len(known)) + 3
    table[shapes.END_RUN] = STOP
    own = table.take(tokens, mode="clip")
    second, first = np.empty_like(own), np.empty_like(own)
    second[1:], first[2:] = own[:-1], own[:-2]
    second[starts] = first[starts] = START
    first[np.minimum(starts + 1, len(own) - 1)] = START  # the last place of all is the end of a mask: START, or no start
    return _Places((first, second, own), starts)
