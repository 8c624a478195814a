"""What faults make of a batch's metrics: the same batches judged as they were and with something wrong in one column."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from detectors.metrics import TABLE
from training.series import FloatArray

type Metrics = dict[str, float]
type Features = tuple[tuple[str, str], ...]  # column and metric

_VALUES = ("min", "max", "mean", "q05", "q25", "q50", "q75", "q95")


def _nulls(m: Metrics) -> Metrics:
    """Every sixth value is missing."""
    return {"null_rate": m["null_rate"] + (1 - m["null_rate"]) / 6} | _scaled(m, ("distinct_count", "distinct_ratio"), 5 / 6)


def _unit(m: Metrics) -> Metrics:
    """Ten times as large: cents for tens of cents."""
    return _scaled(m, (*_VALUES, "std"), 10.0)


def _shift(m: Metrics) -> Metrics:
    """All values larger by half a standard deviation."""
    return {name: m[name] + 0.5 * m["std"] for name in _VALUES if name in m}


def _constant(m: Metrics) -> Metrics:
    """One value in every row."""
    middle = m.get("q50", m.get("mean", np.nan))
    fixed = {name: middle for name in _VALUES if name in m} | {"std": 0.0, "top_freq": 1.0, "distinct_count": 1.0}
    ratio = m.get("distinct_ratio", np.nan) / max(m.get("distinct_count", np.nan), 1.0)
    return {name: value for name, value in (fixed | {"distinct_ratio": ratio}).items() if name in m}


def _mix(m: Metrics) -> Metrics:
    """A fifth of the values have gone to others."""
    return {"value_shift": min(m["value_shift"] + 0.2, 1.0)} | _scaled(m, ("top_freq",), 0.8)


def _cut(m: Metrics) -> Metrics:
    """Texts end at their usual length."""
    return {"len_max": m["len_mean"]} | _scaled(m, ("len_mean",), 0.85) | _scaled(m, ("len_std",), 0.6)


def _false(m: Metrics) -> Metrics:
    """A third of what was true is not."""
    return _scaled(m, ("true_rate",), 2 / 3)


# By name: what it takes for a column to have it, and what it makes of the column's metrics.
FAULTS: dict[str, tuple[str, Callable[[Metrics], Metrics]]] = {
    "nulls": ("null_rate", _nulls), "unit": ("mean", _unit), "shift": ("std", _shift),
    "constant": ("distinct_count", _constant), "mix": ("value_shift", _mix),
    "cut": ("len_mean", _cut), "false": ("true_rate", _false),
}
TABLE_FAULTS = ("missing_rows", "duplicates")
KINDS = (*FAULTS, *TABLE_FAULTS)


def able_columns(features: Features, kind: str) -> list[str]:
    """The columns that can have a fault of this kind, sorted; none for one of the whole table."""
    return sorted({column for column, metric in features if metric == FAULTS[kind][0] and column != TABLE}
                  ) if kind in FAULTS else []


def faulty(raw: FloatArray, features: Features, kind: str, able: Sequence[str] | None = None) -> FloatArray:
    """(n, p) metrics -> the same with a fault of one column, the next one in each batch; NaN rows where none can have it.

    `able` are the columns that have it in turns: those of `features` where it is None.
    """
    if kind in TABLE_FAULTS:
        return _table_fault(raw, features, kind)
    needed, change = FAULTS[kind]
    able = able_columns(features, kind) if able is None else able
    changed = np.full_like(raw, np.nan)
    for i, row in enumerate(raw):
        if not able:
            break
        column = able[i % len(able)]
        places = {metric: j for j, (name, metric) in enumerate(features) if name == column and np.isfinite(row[j])}
        if needed in places:
            new = change({metric: float(row[j]) for metric, j in places.items()})
            damaged = row.copy()
            damaged[[places[m] for m in new]] = list(new.values())
            if not np.array_equal(damaged, row, equal_nan=True):
                changed[i] = damaged
    return changed


def _table_fault(raw: FloatArray, features: Features, kind: str) -> FloatArray:
    """Two of five rows are missing, or one in four comes twice."""
    factors = ({"row_count": 0.6, "distinct_count": 0.75} if kind == "missing_rows" else
               {"row_count": 1.25, "distinct_ratio": 0.8})
    changed: FloatArray = raw * np.array([factors.get(metric, 1.0) for _, metric in features])
    if kind == "duplicates" and (TABLE, "dup_row_rate") in features:
        place = features.index((TABLE, "dup_row_rate"))
        changed[:, place] = np.minimum(raw[:, place] + 0.2, 1.0)
    return changed


def _scaled(m: Metrics, names: tuple[str, ...], factor: float) -> Metrics:
    return {name: factor * m[name] for name in names if name in m}
