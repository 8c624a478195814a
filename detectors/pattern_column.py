"""All that is known of a string column from its batches: its formats, and how much of a batch is usually unusual.

What is usual is a share learnt from the history, as uncertain as that is short, and as unsteady as it was from batch to
batch: a beta-binomial count. The evidence is a likelihood ratio, the batch's own share against the usual ones; half its
inverse stands for the tail probability, and one minus that is the score.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from detectors import formats, tally
from detectors.formats import NEW, SEQUENCE, UNUSUAL, Formats
from detectors.tally import Tally

type FloatArray = NDArray[np.float64]

MOST_BATCHES = 60  # the latest that are learnt from
GONE_AFTER = 7  # batches in a row without a format, after which nobody waits for it: the column has changed
KEPT_SHAPES = 500  # of a batch, where there are several
BURST = 0.05  # a shape of this share in one batch that no other of FEWEST_BATCHES has is no format of the column yet
SHAPE = "unusual shape"
SERIES_BYTES = 200  # of a name with its numbers in memory
UNUSUAL_NATS = -math.log(UNUSUAL) - 1e-9

UNSEEN = 0.5  # values of a kind that is yet to be seen, in any history
NEVER = 0.25  # the prior chance that what a strict column never showed never happens
FEWEST_BATCHES = 5  # without which nothing is known of how batches differ ...
MIX, NOVELTY = 50.0, 200.0  # ... and the mix of formats, and how many are new, for as steady as so many values would show


class Batch(NamedTuple):
    """Values that came together; without a timestamp where none was told."""

    timestamp: datetime | None
    tally: Tally


@dataclass(frozen=True, slots=True)
class Usual:
    """`count` of `rows` values in the history; `concentration` of the share between batches, in values; inf is steady.

    `never`: where `count` is 0 it may well be that this never happens.
    """

    count: float
    rows: float
    concentration: float = math.inf
    never: bool = False

    @property
    def share(self) -> float:
        return (self.count + UNSEEN) / (self.rows + 1.0)

    def score(self, k: int, n: int) -> float:
        """How unusual are k of n values? 0 at the usual share, close to 1 far above or below it."""
        if not n or k == round(n * self.share):
            return 0.0
        a, b = self._beta()
        null = _beta_binomial(k, n, a, b)
        if self.never and not self.count and k:
            # The longer the history without one, the surer that there is none.
            other = math.exp(_beta_binomial(0, round(self.rows), UNSEEN, UNSEEN))
            null += math.log((1 - NEVER) * other / (NEVER + (1 - NEVER) * other))
        return 1.0 - min(0.5 * math.exp(null - _binomial(k, n)), 1.0)

    def most(self, n: int, threshold: float) -> int:
        """The largest count of n values whose score is below the threshold: above it is an anomaly."""
        low, high = math.floor(n * self.share), n
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.score(middle, n) < threshold else (low, middle - 1)
        return low

    def least(self, n: int, threshold: float) -> int:
        """The smallest such count."""
        low, high = 0, math.floor(n * self.share)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.score(middle, n) < threshold else (middle + 1, high)
        return high

    def _beta(self) -> tuple[float, float]:
        share = self.share
        weight = 1.0 / (1.0 / self.concentration + 1.0 / (self.rows + 1.0))
        return share * weight, (1.0 - share) * weight


def concentration(counts: Sequence[int], sizes: Sequence[int]) -> float:
    """Of a share that was counts[i] of sizes[i] values in batch i, by moments; inf where batches differ no more than chance.

    None is known from fewer than FEWEST_BATCHES: inf.
    """
    k, n = np.asarray(counts, np.float64), np.asarray(sizes, np.float64)
    k, n = k[n > 0], n[n > 0]  # of a batch that was nothing but a burst none is left
    share = (k.sum() + UNSEEN) / (n.sum() + 1.0)
    if len(k) < FEWEST_BATCHES or n.max() < 2:
        return math.inf
    excess = float(((k - n * share) ** 2 / (n * share * (1.0 - share))).sum()) / (len(k) - 1)
    # A few batches say little: the excess over chance is drawn towards none.
    excess = 1.0 + (excess - 1.0) * len(k) / (len(k) + FEWEST_BATCHES)
    return math.inf if excess <= 1.0 else max((float(n.mean()) - 1.0) / (excess - 1.0) - 1.0, 1.0)


@dataclass(frozen=True)
class Column:
    """`usual` is how many values are unusual in each way, `shares` how many have each core format, both with what is known
    of how steady that is; `first_seen` when a format that is not core, or a kind of damage, first came (ISO 8601)."""

    formats: Formats
    batches: int
    rows: int
    usual: Mapping[str, Usual]
    shares: Mapping[str, Usual]
    first_seen: Mapping[str, str]

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> Self | None:
        """From the batches of a history, oldest first; None where they hold too few values."""
        batches = without_bursts(batches[-MOST_BATCHES:])
        some_values = Tally(tally.thinned(tally.merged(batch.tally for batch in batches).counts, formats.MOST_SHAPES))
        learnt, rows = formats.learn(some_values), some_values.rows
        if learnt is None:
            return None
        most = KEPT_SHAPES if len(batches) > 1 else formats.MOST_SHAPES
        counts = [tally.thinned(batch.tally.counts, most) for batch in batches]
        some = list(dict.fromkeys(shape for batch in counts for shape in batch))
        seen = learnt.look(some)
        kinds = dict(zip(some, kinds_of(formats.judge(np, seen.x, learnt.rules), seen.damage), strict=True))
        keys = dict(zip(some, seen.keys, strict=True))
        by_kind = [_summed(batch, kinds) for batch in counts]
        by_key = [_summed(batch, keys) for batch in counts]
        sizes = [sum(batch.values()) for batch in counts]
        mixed, new = (MIX, NOVELTY) if len(batches) < FEWEST_BATCHES else (math.inf, math.inf)
        usual = {}
        for kind in {*learnt.usual, *(k for b in by_kind for k in b)} - {""}:
            never = learnt.strict or kind not in (NEW, SEQUENCE)
            steady = concentration([b[kind] for b in by_kind], sizes)
            usual[kind] = Usual(learnt.usual.get(kind, 0), rows, steady if never else min(new, steady), never)
        gone = {key for key in learnt.core if len(by_key) > GONE_AFTER and not any(b[key] for b in by_key[-GONE_AFTER:])}
        shares = {key: Usual(0 if key in gone else count, learnt.rows,
                             min(mixed, concentration([b[key] for b in by_key], sizes)))
                  for key, count in learnt.core.items()}
        return cls(learnt, len(batches), rows, usual, shares, _first_seen(batches, kinds, keys, learnt.core))

    def usually(self, kind: str) -> Usual:
        """How many values are unusual in this way."""
        never = self.formats.strict or kind not in (NEW, SEQUENCE, SHAPE)
        return self.usual.get(kind) or Usual(0, self.rows, never=never)

    @property
    def size_bytes(self) -> int:
        """In memory, roughly."""
        return self.formats.size_bytes + SERIES_BYTES * (len(self.usual) + len(self.shares) + len(self.first_seen))

    def to_json(self) -> dict[str, Any]:
        return {"formats": self.formats.to_json(), "batches": self.batches, "rows": self.rows,
                "usual": {kind: _listed(usual) for kind, usual in self.usual.items()},
                "shares": {key: _listed(usual) for key, usual in self.shares.items()}, "first_seen": dict(self.first_seen)}

    @classmethod
    def from_json(cls, own: Mapping[str, Any]) -> Self:
        usual, shares = ({name: Usual(u[0], u[1], u[2] or math.inf, u[3]) for name, u in own[part].items()}
                         for part in ("usual", "shares"))
        return cls(Formats.from_json(own["formats"]), own["batches"], own["rows"], usual, shares, own["first_seen"])


def kinds_of(nats: FloatArray, damage: Sequence[str]) -> list[str]:
    """(n, f) nats of surprise and the damage shown -> in what way each value is unusual, "" where it is not."""
    names = (NEW, "", SEQUENCE, SHAPE)
    kinds = [""] * len(damage)
    for i in np.flatnonzero(nats.max(axis=1, initial=0.0) >= UNUSUAL_NATS).tolist():
        kinds[i] = damage[i] or names[min(int(nats[i].argmax()), 3)]
    return kinds


def without_bursts(batches: Sequence[Batch]) -> list[Batch]:
    """The batches without what fills a good part of one and is in none of the others: one bad load teaches nothing.

    Nothing is left out while there are fewer than FEWEST_BATCHES.
    """
    if len(batches) < FEWEST_BATCHES:
        return list(batches)
    seen = Counter(shape for batch in batches for shape in batch.tally.counts)
    calm = []
    for batch in batches:
        most = BURST * batch.tally.rows
        counts = {shape: count for shape, count in batch.tally.counts.items() if seen[shape] > 1 or count <= max(most, 1)}
        calm.append(Batch(batch.timestamp, Tally(counts, batch.tally.missing)))
    return calm


def _first_seen(batches: Sequence[Batch], kinds: Mapping[str, str], keys: Mapping[str, str],
                core: Mapping[str, int]) -> dict[str, str]:
    first: dict[str, str] = {}
    for batch in batches:
        if batch.timestamp is not None:
            stamp = batch.timestamp.isoformat().replace("+00:00", "Z")
            for shape in batch.tally.counts:
                for name in (kinds.get(shape, ""), keys.get(shape, "")):
                    if name and name not in core:
                        first.setdefault(name, stamp)
    return first


def _summed(counts: Mapping[str, int], names: Mapping[str, str]) -> Counter[str]:
    total: Counter[str] = Counter()
    for shape, count in counts.items():
        total[names[shape]] += count
    return total


def _listed(usual: Usual) -> list[Any]:
    return [usual.count, usual.rows, usual.concentration if math.isfinite(usual.concentration) else None, usual.never]


def _binomial(k: int, n: int) -> float:
    """Log-likelihood of k of n at its own share."""
    inside = 0.0 if k in (0, n) else k * math.log(k / n) + (n - k) * math.log1p(-k / n)
    return _choices(k, n) + inside


def _beta_binomial(k: int, n: int, a: float, b: float) -> float:
    """Log-probability of k of n where the share has a beta distribution."""
    log = math.lgamma
    return _choices(k, n) + log(k + a) + log(n - k + b) - log(n + a + b) + log(a + b) - log(a) - log(b)


def _choices(k: int, n: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
