"""How far a column's distribution is from the usual one: population stability index and Jensen-Shannon distance.

Numbers are compared between the usual quantiles of the column, texts by the shares of their frequent values. What a change
of the mix means for a table is learnt from its own batches: the distance of every past batch to the others is a metric too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from detectors.metrics import TABLE, FloatArray, IntArray, medians
from detectors.profiles import REST, Batch, Shares, Table, aligned, table_of

# The customary floor of a share in the stability index, so that an empty bin does not make it infinite.
EMPTY = 1e-4
MOST_LABELS = 200
MOST_BATCHES = 100  # of the latest that say what is usual between quantiles


@dataclass(frozen=True, slots=True)
class Mixes:
    """The usual shares of the labels of k columns, all in one row: `usual` (l,), `starts` (k,) where each column's begin.

    `keys` and `labels` (k) are the column with the kind (value, pattern), and its labels; the last of them is REST, with
    what is rare in the history. `places` (k,) is where among the metrics the distances stand.
    """

    keys: tuple[tuple[str, str], ...]
    labels: tuple[tuple[int, ...], ...]
    places: IntArray
    starts: IntArray
    usual: FloatArray

    @classmethod
    def of(cls, mixes: Mapping[tuple[str, str], tuple[int, Shares]]) -> Self:
        """From the place and the usual shares by column and kind."""
        places = np.array([place for place, _ in mixes.values()], np.int64)
        sizes = np.array([len(usual) for _, usual in mixes.values()], np.int64)
        flat = np.array([share for _, usual in mixes.values() for share in usual.values()], np.float64)
        return cls(tuple(mixes), tuple(tuple(usual) for _, usual in mixes.values()), places, np.cumsum(sizes) - sizes, flat)

    def distance(self, shares: Mapping[tuple[str, str], Shares]) -> tuple[FloatArray, FloatArray]:
        """(k,) psi and js of a batch to the usual, NaN where it has no labels."""
        if not self.keys:
            return np.empty(0), np.empty(0)
        known, flat = [], list[float]()
        for key, labels in zip(self.keys, self.labels, strict=True):
            of = shares.get(key, {})
            known.append(bool(of))
            flat += [of.get(label, 0.0) for label in labels]
        own, rest = np.array(flat), np.append(self.starts[1:], len(flat)) - 1
        own[rest] = 0.0
        own[rest] = np.maximum(1.0 - np.add.reduceat(own, self.starts), 0.0)
        psi = np.add.reduceat(_instability(self.usual, own), self.starts)
        js = np.sqrt(np.maximum(np.add.reduceat(_divergence(self.usual, own), self.starts), 0.0))
        return np.where(known, psi, np.nan), np.where(known, js, np.nan)

    def to_json(self) -> list[Any]:
        usual = np.split(self.usual, self.starts[1:])  # one empty part where there are no columns
        return [[*key, place, {f"{label:x}": share for label, share in zip(labels, own.tolist(), strict=True)}]
                for key, place, labels, own in zip(self.keys, self.places.tolist(), self.labels, usual, strict=False)]

    @classmethod
    def from_json(cls, told: Sequence[Any]) -> Self:
        return cls.of({(column, kind): (place, {int(label, 16): share for label, share in usual.items()})
                       for column, kind, place, usual in told})


@dataclass(frozen=True, slots=True)
class Bins:
    """Columns of numbers with the same quantiles: `levels` (q,) of the CDF, `places` (c, q) of those metrics in a row.

    `edges` (c, e) are the usual inner quantiles, `usual` (c, e + 1) the shares of the bins they make.
    """

    columns: tuple[str, ...]
    levels: FloatArray
    places: IntArray
    edges: FloatArray
    usual: FloatArray

    def distance(self, raw: FloatArray) -> dict[str, tuple[float, float]]:
        """(p,) metrics of a batch -> (psi, js) of every column whose quantiles it has."""
        own = _shares(raw[self.places], self.levels, self.edges)
        known = np.isfinite(own).all(axis=1)
        psi, js = _instability(self.usual, own).sum(axis=1).tolist(), js_distance(self.usual, own).tolist()
        return {column: (psi[i], js[i]) for i, column in enumerate(self.columns) if known[i]}


@dataclass(frozen=True, slots=True, eq=False)
class Gauge:
    """How a batch of one table is measured: `features` (p,) column and metric, sorted, and what the distances are to."""

    features: tuple[tuple[str, str], ...]
    mixes: Mixes
    bins: list[Bins]

    def measure(self, batch: Batch) -> tuple[FloatArray, dict[str, tuple[float, float]]]:
        """(p,) the batch's metrics, NaN where it has none, and (psi, js) to the usual by column."""
        raw = aligned(batch, self.features)
        psi, js = self.mixes.distance(batch.shares)
        raw[self.mixes.places] = js
        # Of values after that of patterns: it is the one that is told.
        distance = {column: (p, d) for (column, _), p, d in zip(self.mixes.keys, psi.tolist(), js.tolist(), strict=True)
                    if not math.isnan(p)}
        for bins in self.bins:
            distance |= bins.distance(raw)
        return raw, distance

    def to_json(self) -> dict[str, Any]:
        """For a model's card."""
        bins = [[b.columns, b.levels.tolist(), b.places.tolist(), b.edges.tolist(), b.usual.tolist()] for b in self.bins]
        return {"features": self.features, "mixes": self.mixes.to_json(), "bins": bins}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        bins = [Bins(tuple(columns), np.array(levels), np.array(places, np.int64), np.array(edges), np.array(usual))
                for columns, levels, places, edges, usual in told["bins"]]
        return cls(tuple((column, metric) for column, metric in told["features"]), Mixes.from_json(told["mixes"]), bins)

    @property
    def size_bytes(self) -> int:
        return 4096 + 400 * len(self.features) + 100 * len(self.mixes.usual)


def js_distance(p: FloatArray, q: FloatArray) -> FloatArray:
    """(..., k) shares -> (...) Jensen-Shannon distance, the root of the divergence to base 2, from 0 to 1."""
    return np.asarray(np.sqrt(np.maximum(_divergence(p, q).sum(axis=-1), 0.0)))


def _divergence(p: FloatArray, q: FloatArray) -> FloatArray:
    """(...) pairs of shares -> (...) what each adds to the Jensen-Shannon divergence."""
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(x > 0, x * np.log2(x / middle), 0.0) for x in (p, q)]
    return np.asarray((terms[0] + terms[1]) / 2)


def _instability(usual: FloatArray, own: FloatArray) -> FloatArray:
    """(...) pairs of shares -> (...) what each adds to the population stability index."""
    low, high = np.maximum(usual, EMPTY), np.maximum(own, EMPTY)
    return np.asarray((high - low) * np.log(high / low))


def measured(batches: Sequence[Batch], fewest: int) -> tuple[Gauge, Table]:
    """What is known in at least `fewest` of the batches: how to measure it, and the history so measured.

    The distance of a past batch to the usual mix is that to the mix of all others.
    """
    table = table_of(batches, fewest)
    usual, features, past = {}, list(table.features), [table.raw]
    for column, kind in sorted({key for batch in batches for key in batch.shares}):
        at = [i for i, batch in enumerate(batches) if (column, kind) in batch.shares]
        if len(at) < fewest:
            continue
        shares, labels = _matrix([batches[i].shares[column, kind] for i in at])
        others = (shares.sum(axis=0) - shares) / (len(at) - 1)
        distance = np.full((len(batches), 1), np.nan)
        distance[at, 0] = js_distance(shares, others)
        usual[column, kind] = dict(zip(labels, shares.mean(axis=0).tolist(), strict=True))
        features.append((column, f"{kind}_shift"))
        past.append(distance)
    order = sorted(range(len(features)), key=features.__getitem__)
    whole = Table(tuple(features[i] for i in order), np.concatenate(past, axis=1)[:, order], table.rows)
    places = {feature: place for place, feature in enumerate(whole.features)}
    mixes = {(column, kind): (places[column, f"{kind}_shift"], shares) for (column, kind), shares in usual.items()}
    return Gauge(whole.features, Mixes.of(mixes), bins_of(whole)), whole


def bins_of(table: Table) -> list[Bins]:
    """The columns that have a smallest and a largest value and at least one quantile, by the quantiles they have."""
    own: dict[str, dict[float, int]] = {}
    for place, (column, metric) in enumerate(table.features):
        level = _level(metric)
        if level is not None and column != TABLE:
            own.setdefault(column, {})[level] = place
    groups: dict[tuple[float, ...], list[str]] = {}
    for column, measured in own.items():
        if len(measured) > 2 and {0.0, 1.0} <= measured.keys():
            groups.setdefault(tuple(sorted(measured)), []).append(column)
    found = []
    for levels, columns in groups.items():
        places = np.array([[own[column][level] for level in levels] for column in columns], np.int64)
        edges = medians(table.raw[:, places[:, 1:-1].ravel()]).reshape(len(columns), -1)
        past = np.stack([_shares(row[places], np.array(levels), edges) for row in table.raw[-MOST_BATCHES:]])
        usual = np.nanmean(past, axis=0, where=np.isfinite(past))
        found.append(Bins(tuple(columns), np.array(levels), places, edges, usual))
    return found


def _shares(points: FloatArray, levels: FloatArray, edges: FloatArray) -> FloatArray:
    """(c, q) quantiles of c columns, (q,) their levels, (c, e) edges -> (c, e + 1) shares between the edges.

    The distribution is a straight line between quantiles; where several quantiles are one value, all of them lie there.
    """
    low, high = points[:, None, :-1], points[:, None, 1:]
    width = np.where(high > low, high - low, 1.0)
    filled = np.where(high > low, np.clip((edges[:, :, None] - low) / width, 0.0, 1.0), edges[:, :, None] >= high)
    below = (filled * np.diff(levels)).sum(axis=2)
    below = np.where(np.isfinite(points).all(axis=1)[:, None], below, np.nan)
    return np.diff(below, axis=1, prepend=0.0, append=1.0)


def _matrix(shares: Sequence[Mapping[int, float]]) -> tuple[FloatArray, list[int]]:
    total: dict[int, float] = {}
    for one in shares:
        for label, share in one.items():
            total[label] = total.get(label, 0.0) + share
    total.pop(REST, None)
    labels = sorted(total, key=lambda label: (-total[label], label))[:MOST_LABELS]
    matrix = np.array([[one.get(label, 0.0) for label in labels] for one in shares]).reshape(len(shares), -1)
    rest = np.maximum(1.0 - matrix.sum(axis=1, keepdims=True), 0.0)
    return np.append(matrix, rest, axis=1), [*labels, REST]


def _level(metric: str) -> float | None:
    if metric in ("min", "max"):
        return float(metric == "max")
    return float(metric[1:]) / 100 if metric[:1] == "q" and metric[1:].replace(".", "").isdecimal() else None
