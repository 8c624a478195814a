"""Batches of a table as vectors of metrics, from column profiles as they come in and as they are kept.

    Profile (contract) -> Batch -> document (storage) -> Batch;   Batches -> Table, a matrix of one row a batch

Frequent values and patterns are kept as hashes with their shares: enough to see that the mix changed, and no text of a user
is stored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from operator import attrgetter
from typing import Any, Literal

import numpy as np

from detectors.metrics import TABLE, FloatArray, IntArray
from shared.contract_distribution import ColumnProfile, Histogram, Profile, TopValue

type Family = Literal["numeric", "string", "date", "boolean", "other"]
type Shares = Mapping[int, float]

SCHEMA = 1
# Below this many values a column's statistics say little about it.
FEWEST_VALUES = 10
MOST_LABELS = 50
REST = 0  # the label of all values that are not among the frequent ones
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

_PERCENTAGES = (
    ("zero_rate", "zero_percentage"), ("neg_rate", "negative_percentage"), ("empty_rate", "empty_percentage"),
    ("top_freq", "top_percentage"), ("true_rate", "true_percentage"), ("digit_frac", "digit_percentage"),
    ("upper_frac", "upper_percentage"), ("space_frac", "space_percentage"), ("nonascii_frac", "non_ascii_percentage"),
)
_percentages = attrgetter(*(field for _, field in _PERCENTAGES))
_NO_PERCENTAGES = (None,) * len(_PERCENTAGES)
_FAMILIES: tuple[tuple[Family, re.Pattern[str]], ...] = (
    ("boolean", re.compile(r"bool|bit$")),
    ("date", re.compile(r".*(date|time)")),
    ("numeric", re.compile(r"u?int|(tiny|small|medium|big)(int|serial)|long|short|byte|float|double|decimal|numeric|number|"
                           r"real|money|serial")),
    ("string", re.compile(r".*(char|text|str|object|uuid|guid|categor|enum)")),
)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Which columns a profile has and which metrics of them, sorted; equal layouts are one object.

    `columns` name and family of every column; `features` (p,) column and metric of every value.
    """

    columns: tuple[tuple[str, Family], ...]
    features: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One batch: `values` (p,) float64 by `layout.features`, `rows` of the table, `shares` of labels by column and kind.

    `few` names the columns with too few values to judge, with the number of values; of these only the null rate is known.
    """

    moment: datetime | None
    rows: float
    layout: Layout
    values: FloatArray
    shares: Mapping[tuple[str, str], Shares]
    few: Mapping[str, int]

    @property
    def size_bytes(self) -> int:
        """About what it keeps in memory."""
        return 4096 + self.values.nbytes + 80 * sum(map(len, self.shares.values()))

    def to_document(self) -> dict[str, Any]:
        """For JSON; the moment is kept beside it."""
        metrics: dict[str, dict[str, float]] = {name: {} for name, _ in self.layout.columns}
        for (column, metric), value in zip(self.layout.features, self.values.tolist(), strict=True):
            metrics.setdefault(column, {})[metric] = float(f"{value:.9g}")
        shares = [[column, kind, {f"{label:x}": round(share, 6) for label, share in labels.items()}]
                  for (column, kind), labels in self.shares.items()]
        return {"schema": SCHEMA, "rows": self.rows, "columns": dict(self.layout.columns), "metrics": metrics,
                "shares": shares, "few": dict(self.few)}

    @classmethod
    def from_document(cls, moment: datetime | None, document: Mapping[str, Any]) -> Batch:
        """Raises KeyError, TypeError or ValueError for a document that is none of these."""
        shares = {(str(column), str(kind)): {int(label, 16): float(share) for label, share in labels.items()}
                  for column, kind, labels in document["shares"]}
        families, metrics = document["columns"], document["metrics"]
        shape = tuple((column, families.get(column), tuple(own)) for column, own in metrics.items())
        values = [value for own in metrics.values() for value in own.values()]
        return _batch(moment, float(document["rows"]), shape, values, shares, document["few"])


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The history of one table: `raw` (h, p) metrics of h batches, oldest first, NaN where one was not measured."""

    features: tuple[tuple[str, str], ...]
    raw: FloatArray
    rows: FloatArray

    @property
    def columns(self) -> list[str]:
        return [column for column, _ in self.features]

    @property
    def metrics(self) -> list[str]:
        return [metric for _, metric in self.features]


def batch_of(profile: Profile, zone: Any = UTC, moment: datetime | None = None) -> Batch:
    """What a profile says in metrics. Without a `moment` its own time holds, local in `zone` where it has no zone."""
    if moment is None and (moment := profile.profiled_at) is not None:
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
    rows = profile.row_count
    table = {"row_count": rows}
    if profile.duplicate_row_percentage is not None:
        table["dup_row_rate"] = profile.duplicate_row_percentage / 100
    shape: list[_Measured] = [(TABLE, None, tuple(table))]
    values = list(table.values())
    shares: dict[tuple[str, str], Shares] = {}
    few: dict[str, int] = {}
    for column in profile.columns:
        family, nulls = _family(column), _nulls(column, rows)
        # Of a handful of rows not even the share of nulls says anything.
        own: dict[str, float] = {} if nulls is None or rows < FEWEST_VALUES else {"null_rate": nulls}
        present = rows * (1 - (nulls or 0.0))
        if present < FEWEST_VALUES:
            few[column.name] = round(present)
        else:
            _add_metrics(own, column, family, rows, moment)
            if column.top_values:
                _add_top_values(own, shares, column.name, column.top_values, present)
            if column.patterns:
                _add_patterns(own, shares, column.name, column.patterns)
        shape.append((column.name, family, tuple(own)))
        values += own.values()
    return _batch(moment, rows, tuple(shape), values, shares, few)


def table_of(batches: Sequence[Batch], fewest: int) -> Table:
    """The matrix of the metrics that are known in at least `fewest` batches."""
    layouts = {id(b.layout): b.layout for b in batches}
    every = tuple(sorted({feature for layout in layouts.values() for feature in layout.features}))
    places = {key: _places(layout, every) for key, layout in layouts.items()}
    raw = np.stack([np.append(b.values, np.nan)[places[id(b.layout)]] for b in batches])
    kept = np.flatnonzero(np.isfinite(raw).sum(axis=0) >= fewest)
    return Table(tuple(every[j] for j in kept), raw[:, kept], np.array([b.rows for b in batches]))


def aligned(batch: Batch, features: tuple[tuple[str, str], ...]) -> FloatArray:
    """(p,) the batch's metrics in the order of `features`, NaN where it has none."""
    values: FloatArray = np.append(batch.values, np.nan)[_kept_places(batch.layout, ById(features))]
    return values


class ById:
    """A tuple compared as an object: hashing a thousand names takes longer than judging them."""

    __slots__ = ("features",)

    def __init__(self, features: tuple[tuple[str, str], ...]) -> None:
        self.features = features

    def __hash__(self) -> int:
        return id(self.features)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ById) and self.features is other.features


@lru_cache(64)
def columns_of(key: ById) -> frozenset[str]:
    """The columns that have these features, without the table itself."""
    return frozenset(column for column, _ in key.features) - {TABLE}


@lru_cache(64)
def _kept_places(layout: Layout, key: ById) -> IntArray:
    return _places(layout, key.features)


def _places(layout: Layout, features: tuple[tuple[str, str], ...]) -> IntArray:
    where = {feature: place for place, feature in enumerate(layout.features)}
    return np.array([where.get(feature, -1) for feature in features], np.int64)


# A column, or the table itself, which has no family, with the names of the metrics that are known of it.
type _Measured = tuple[str, Family | None, tuple[str, ...]]


@lru_cache(1024)
def _arranged(shape: tuple[_Measured, ...]) -> tuple[Layout, IntArray]:
    """The layout of columns with their metrics in any order, and where each sorted value comes from."""
    flat = [(column, metric) for column, _, metrics in shape for metric in metrics]
    order = sorted(range(len(flat)), key=flat.__getitem__)
    families = tuple(sorted((column, family) for column, family, _ in shape if family is not None))
    return _layout(families, tuple(flat[i] for i in order)), np.array(order, np.int64)


@lru_cache(1024)
def _layout(columns: tuple[tuple[str, Family], ...], features: tuple[tuple[str, str], ...]) -> Layout:
    return Layout(columns, features)


def _batch(moment: datetime | None, rows: float, shape: tuple[_Measured, ...], values: Sequence[float],
           shares: Mapping[tuple[str, str], Shares], few: Mapping[str, int]) -> Batch:
    """From the values of every metric of `shape` in its order."""
    layout, order = _arranged(shape)
    return Batch(moment, rows, layout, np.array(values, np.float64)[order], shares, few)


def _nulls(column: ColumnProfile, rows: float) -> float | None:
    if column.null_percentage is not None:
        return column.null_percentage / 100
    return min(column.null_count / rows, 1.0) if column.null_count is not None and rows else None


def _add_metrics(own: dict[str, float], column: ColumnProfile, family: Family, rows: float, moment: datetime | None) -> None:
    """The metrics of one column, but for its nulls and labels."""
    shares = _percentages(column)
    if shares != _NO_PERCENTAGES:
        own |= {metric: share / 100 for (metric, _), share in zip(_PERCENTAGES, shares, strict=True) if share is not None}
    if (distinct := column.distinct_count) is not None:
        own["distinct_count"], own["distinct_ratio"] = distinct, min(distinct / rows, 1.0)
    if (lengths := column.lengths) is not None:
        _add_known(own, (("len_min", lengths.min), ("len_max", lengths.max), ("len_mean", lengths.mean),
                         ("len_std", lengths.std)))
    if family == "boolean":
        if column.mean is not None:
            own["true_rate"] = min(max(column.mean, 0.0), 1.0)
    elif family == "date":
        _add_known(own, (("first_age", _age(column.min_value, moment)), ("last_age", _age(column.max_value, moment))))
    elif family == "numeric":
        _add_numbers(own, column)


def _add_known(own: dict[str, float], metrics: Iterable[tuple[str, float | None]]) -> None:
    own |= {metric: value for metric, value in metrics if value is not None}


def _add_numbers(own: dict[str, float], column: ColumnProfile) -> None:
    quantiles = column.quantiles or {}
    if column.histogram is not None:
        quantiles = _read_from(column.histogram) | quantiles
    low, high = _number(column.min_value), _number(column.max_value)
    low, high = quantiles.get(0.0) if low is None else low, quantiles.get(1.0) if high is None else high
    _add_known(own, (("min", low), ("max", high), ("mean", column.mean), ("std", column.stddev)))
    for level, value in quantiles.items():
        if 0 < level < 1:
            own[_quantile_name(level)] = value


def _read_from(histogram: Histogram) -> dict[float, float]:
    """The quantiles of a histogram; none of one that is empty."""
    counts, edges = np.array(histogram.counts), np.array(histogram.edges)
    if counts.sum() <= 0:
        return {}
    rising = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    # Where bins are empty the distribution stands still; the lower end is taken.
    return dict(zip(QUANTILES, np.interp(QUANTILES, *_strictly(rising, edges)).tolist(), strict=True))


@lru_cache(1024)
def _quantile_name(level: float) -> str:
    """0.05 -> q05, 0.999 -> q99.9"""
    return f"q{100 * level:02g}"


def _strictly(levels: FloatArray, edges: FloatArray) -> tuple[FloatArray, FloatArray]:
    kept = np.concatenate([[True], np.diff(levels) > 0])
    return levels[kept], edges[kept]


def _add_top_values(own: dict[str, float], shares: dict[tuple[str, str], Shares], column: str, values: Sequence[TopValue],
                    present: float) -> None:
    """The shares of the frequent values by their hashes, and that of the commonest."""
    known = {_hash(v.value): share for v in values if (share := _share(v, present)) is not None}
    if known:
        own.setdefault("top_freq", max(known.values()))
        shares[column, "value"] = _with_rest(known)


def _add_patterns(own: dict[str, float], shares: dict[tuple[str, str], Shares], column: str,
                  patterns: Mapping[str, float]) -> None:
    """The number of patterns, and their shares by their hashes."""
    own["pattern_count"] = len(patterns)
    if (total := sum(patterns.values())) > 0:
        # Numbers that add up to about 1 are shares, anything else is a count.
        scale = 1.0 if total <= 1.001 else total
        shares[column, "pattern"] = _with_rest({_hash(pattern): count / scale for pattern, count in patterns.items()})


def _with_rest(shares: dict[int, float]) -> dict[int, float]:
    """The most frequent labels; REST has what is missing to 1."""
    frequent = shares
    if len(shares) > MOST_LABELS:
        frequent = dict(sorted(shares.items(), key=lambda item: (-item[1], item[0]))[:MOST_LABELS])
    total = sum(frequent.values())
    if total > 1:
        return {label: share / total for label, share in frequent.items()}
    return frequent | {REST: 1.0 - total}


def _share(entry: TopValue, present: float) -> float | None:
    if entry.count is not None:
        return min(entry.count / present, 1.0)
    return entry.share if entry.share is not None or entry.percentage is None else entry.percentage / 100


def _hash(value: object) -> int:
    return int.from_bytes(blake2b(repr(value).encode(errors="backslashreplace"), digest_size=7).digest()) + 1


@lru_cache(4096)
def _declared(data_type: str) -> Family | None:
    name = data_type.strip().lower()
    return next((family for family, names in _FAMILIES if names.match(name)), None)


def _family(column: ColumnProfile) -> Family:
    if column.data_type and (declared := _declared(column.data_type)):
        return declared
    for value in (column.min_value, column.max_value):
        if isinstance(value, bool):
            return "boolean"
        if isinstance(value, float):
            return "numeric"
    if column.mean is not None or column.stddev is not None or column.quantiles or column.histogram:
        return "numeric"
    if column.lengths is not None or column.patterns or isinstance(column.min_value, str):
        return "string"
    return "other"


def _number(value: bool | float | str | None) -> float | None:
    """Decimals often travel as text."""
    if value is None or type(value) is float:
        return value
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _age(value: bool | float | str | None, moment: datetime | None) -> float | None:
    """Days from a date to the batch; without the batch's time an age cannot be told."""
    if moment is None or not isinstance(value, str):
        return None
    try:
        date = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment - (date if date.tzinfo else date.replace(tzinfo=UTC))).total_seconds() / 86_400


