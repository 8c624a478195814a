"""What the metrics of a column profile are: the scale on which their noise is even, how much noise sampling alone explains.

A metric belongs to a column or, with the column "", to the table. Shares are 0 to 1. The metrics are

    share of rows         null_rate zero_rate neg_rate empty_rate true_rate top_freq distinct_ratio dup_row_rate
    share of characters   digit_frac upper_frac space_frac nonascii_frac
    count                 row_count distinct_count pattern_count
    length, characters    len_min len_max len_mean len_std
    value                 min max mean q05 q25 ..., std; first_age last_age of dates, in days before the batch
    distance, 0 to 1      value_shift pattern_shift: Jensen-Shannon, to the usual shares of frequent values and patterns
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

type FloatArray = NDArray[np.float64]
type IntArray = NDArray[np.int64]
type BoolArray = NDArray[np.bool_]

TABLE = ""
ROW_SHARES = frozenset({"null_rate", "zero_rate", "neg_rate", "empty_rate", "true_rate", "top_freq", "distinct_ratio",
                        "dup_row_rate"})
CHARACTER_SHARES = frozenset({"digit_frac", "upper_frac", "space_frac", "nonascii_frac"})
COUNTS = frozenset({"row_count", "distinct_count", "pattern_count"})
LENGTHS = frozenset({"len_min", "len_max", "len_mean", "len_std"})
DISTANCES = frozenset({"value_shift", "pattern_shift"})
AGES = frozenset({"first_age", "last_age"})
# The standard error of a statistic of n values in standard deviations of a value, times sqrt(n): for a normal distribution,
# times 1.5, because batches differ by more than the luck of the draw.
_STANDARD_ERRORS = {"mean": 1.5, "std": 1.5, "q50": 1.9, "q25": 2.0, "q75": 2.0}
_OUTER_QUANTILE = 3.0
# Extremes and short lists are not averages: their noise does not shrink with the rows.
_EXTREME_VALUE, _EXTREME_LENGTH, _ROW_COUNT = 0.3, 0.2, 0.05
_CHARACTER_SHARE, _LENGTH = 0.3, 0.3
# However certain, a smaller wobble is nobody's concern: 0.2 % of a count, 0.002 of a standard deviation, 0.1 percentage
# points of a share of one half. An alarm takes several of these.
SMALLEST_EFFECT = 0.002


@dataclass(frozen=True, slots=True)
class Scale:
    """How p metrics are stabilised: as 2 asin sqrt(x), as ln(x + offset), or as asinh((x - centre) / unit).

    Sampling noise of a share is then 1 / sqrt(n) whatever the share (Anscombe 1948, https://doi.org/10.1093/biomet/35.3-4.246);
    values are linear near the usual and logarithmic far away, so that kilometres taken for metres are far off and finite.
    """

    share: BoolArray
    logarithm: BoolArray
    offset: FloatArray
    centre: FloatArray
    unit: FloatArray

    def stabilise(self, xp: Any, raw: Any) -> Any:
        """(..., p) metrics in their own units -> (..., p) on the even scale. NaN stays NaN."""
        share = _angle(xp, xp.clip(raw, 0.0, 1.0))
        logarithm = xp.log(xp.maximum(raw, 0.0) + xp.asarray(self.offset))
        value = _asinh(xp, (raw - xp.asarray(self.centre)) / xp.asarray(self.unit))
        return xp.where(xp.asarray(self.share), share, xp.where(xp.asarray(self.logarithm), logarithm, value))

    def restore(self, xp: Any, even: Any) -> Any:
        """(..., p) on the even scale -> (..., p) in own units; shares end at 0 and 1, counts and lengths at 0."""
        half = xp.sin(xp.clip(even, 0.0, math.pi) / 2.0)
        bounded = xp.clip(even, -300.0, 300.0)
        logarithm = xp.maximum(xp.exp(bounded) - xp.asarray(self.offset), 0.0)
        value = xp.asarray(self.centre) + xp.asarray(self.unit) * (xp.expm1(bounded) - xp.expm1(-bounded)) / 2.0
        return xp.where(xp.asarray(self.share), half * half, xp.where(xp.asarray(self.logarithm), logarithm, value))


def scale_of(metrics: Sequence[str], columns: Sequence[str], raw: FloatArray) -> tuple[Scale, FloatArray]:
    """The scale of p metrics from their (h, p) history: the centre and the unit of values are those of their column.

    Beside it (p,) the standard deviation of a column's values in that unit, which is 1 for other metrics.
    """
    kinds = np.array(metrics, dtype=object)
    share = np.isin(kinds, [*ROW_SHARES, *CHARACTER_SHARES, *DISTANCES])
    deviation = kinds == "std"
    logarithm = np.isin(kinds, [*COUNTS, *LENGTHS]) | deviation
    offset = np.where(np.isin(kinds, [*COUNTS]), 0.5, 1.0)
    centre, unit, spread = np.zeros(len(kinds)), np.ones(len(kinds)), np.ones(len(kinds))
    at: dict[str, list[int]] = {}
    for j, column in enumerate(columns):
        if not share[j] and (deviation[j] or not logarithm[j]):
            at.setdefault(column, []).append(j)
    for own in at.values():
        centre[own], spread[own], unit[own] = _location([metrics[j] for j in own], raw[:, own])
    scale = Scale(share, logarithm, np.where(deviation, 1e-3 * spread, offset), centre, unit)
    return scale, np.where(deviation, 1.0, spread / unit)


def sampling_noise(metrics: Sequence[str], rows: float, usual: FloatArray, spread: FloatArray) -> FloatArray:
    """(p,) standard deviation on the even scale that the luck of the draw gives a metric of a batch of so many rows.

    `usual` (p,) is what the metrics usually are, `spread` (p,) from `scale_of`. Never less than SMALLEST_EFFECT of a spread.
    """
    root = 1.0 / math.sqrt(max(rows, 1.0))
    noise = [max(_noise(metric, root, float(value)), SMALLEST_EFFECT) for metric, value in zip(metrics, usual, strict=True)]
    return np.array(noise) * spread


def _noise(metric: str, root: float, usual: float) -> float:
    if metric in ROW_SHARES or metric in DISTANCES:
        return root
    if metric in CHARACTER_SHARES:
        return _CHARACTER_SHARE * root
    if metric in ("len_mean", "len_std"):
        return _LENGTH * root
    if metric in LENGTHS:
        return _EXTREME_LENGTH
    if metric in ("distinct_count", "pattern_count"):
        return 0.5 / math.sqrt(max(usual, 0.0) + 0.5) if math.isfinite(usual) else 0.5
    if metric == "row_count":
        return _ROW_COUNT
    if metric in ("min", "max", "first_age", "last_age"):
        return _EXTREME_VALUE
    return _STANDARD_ERRORS.get(metric, _OUTER_QUANTILE) * root


def _location(metrics: Sequence[str], raw: FloatArray) -> tuple[float, float, float]:
    """Centre, spread and unit of one column's values from their (h, m) history: the median and the standard deviation.

    The unit is the deviation too, or the distance of the batches where that is larger, as it is of an id.
    """
    usual = {metric: value for metric, value in zip(metrics, medians(raw).tolist(), strict=True) if math.isfinite(value)}
    middle = next((m for m in ("q50", "mean", "last_age", "first_age", "min", "max") if m in usual), None)
    if middle is None:
        spread = usual.get("std") or 1.0
        return 0.0, spread, spread
    centre = usual[middle]
    wander = 3.0 * float(np.nanmedian(np.abs(raw[:, list(metrics).index(middle)] - centre)))
    if middle in AGES:
        return centre, max(wander, 1.0), max(wander, 1.0)
    spread = usual.get("std") or (usual.get("q95", 0.0) - usual.get("q05", 0.0)) / 3.3
    spread = spread or (usual.get("max", 0.0) - usual.get("min", 0.0)) / 4.0
    spread = spread if spread > 0 else max(abs(centre), 1.0)
    return centre, spread, max(spread, wander)


def _angle(xp: Any, share: Any) -> Any:
    """2 asin sqrt(share), in double precision: ONNX Runtime's own arc sine has single, and a Newton step makes it double."""
    sine = xp.sqrt(xp.minimum(share, 1.0 - share))
    angle = xp.asin(sine)
    angle = 2.0 * (angle + (sine - xp.sin(angle)) / xp.sqrt(1.0 - sine * sine))
    return xp.where(share > 0.5, math.pi - angle, angle)


def _asinh(xp: Any, x: Any) -> Any:
    """Of its definition, for the same reason; beyond 1e150 it stands still."""
    size = xp.minimum(xp.abs(x), 1e150)
    result = xp.log1p(size + size * size / (1.0 + xp.sqrt(size * size + 1.0)))
    return xp.where(x < 0.0, -result, result)


def medians(raw: FloatArray) -> FloatArray:
    """(h, p) -> (p,), NaN where nothing is known."""
    known = np.isfinite(raw).any(axis=0)
    middle = np.full(raw.shape[1], np.nan)
    middle[known] = np.nanmedian(raw[:, known], axis=0)
    return middle
