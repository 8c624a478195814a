"""From the filters' evidence to an answer in rows: score, bounds, and what moved the expectation.

Array API throughout, as filter_bank.py: numpy runs it, training traces it. Arguments have the filters' four axes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors import filter_bank
from detectors.filter_bank import Array, Forecast, State

# The log Bayes factor that one normal bucket in 100 exceeds, and how fast such buckets become rarer with it.
LOG_EVIDENCE, RARITY = float(np.log(40.0)), 0.8
# Bounds are searched between these log deviations, in spreads: on a grid, on a grid between two of its points, by a chord.
SMALLEST, LARGEST, POINTS = -7.0, 9.2, 128
TREND_BUCKETS = 14.0  # half of the four weeks that the trend is told against


def score(xp: Any, log_factor: Array) -> Array:
    """Log Bayes factor -> score: one normal bucket in 1 / (1 - score) has a higher one. Strictly increasing, in (0, 1)."""
    return 1.0 - 1.0 / (1.0 + 99.0 * xp.exp(RARITY * (xp.minimum(log_factor, 400.0) - LOG_EVIDENCE)))


def required(xp: Any, threshold: Array) -> Array:
    """The inverse of `score`: the log Bayes factor that has this score."""
    return LOG_EVIDENCE + (xp.log(threshold / (1.0 - threshold)) - np.log(99.0)) / RARITY


def judge(
    xp: Any, state: State, ahead: Forecast, value: Array, threshold: Array
) -> tuple[Array, Array, Array, Array]:
    """value and threshold (n, 1, 1, 1) -> expected, lower, upper (rows) and score, each (n, 1, 1, 1); NaN value, NaN score."""
    known = ~xp.isnan(value)
    evidence = filter_bank.weigh(xp, state, ahead, xp.where(known, value, 0.0))
    limit = required(xp, threshold)
    lower, upper = bounds(xp, state, ahead, limit)
    scored = xp.where(known, score(xp, evidence.log_factor), np.nan)
    return xp.exp(xp.maximum(ahead.mean, 0.0)) - 1.0, lower, upper, scored


def bounds(xp: Any, state: State, ahead: Forecast, limit: Array) -> tuple[Array, Array]:
    """The rows at which the log Bayes factor reaches the limit on either side, to about 1e-9 of log(1 + rows).

    They count the size of a deviation alone: a repeat can be an anomaly between them. Where no rows at all would be one by
    rule, lower is at least half a row.
    """
    carried = filter_bank.memory(state, "carried")
    target = limit - xp.maximum(carried * xp.asarray(np.array([-1.0, 1.0])[None, None, :, None]), 0.0)
    start = 0.5 * xp.log(ahead.wide) + SMALLEST
    width = (LARGEST - SMALLEST) / POINTS
    grid = np.arange(POINTS + 1)[None, None, None, :]
    start, _, _ = _bracket(xp, ahead, start, width * grid, target)
    width /= POINTS
    start, below, above = _bracket(xp, ahead, start, width * grid, target)
    chord = width / (above - below)
    size = xp.exp(start + (target - below) * chord)
    size = size * (1.0 + (target - filter_bank.densities(xp, ahead, size)[1]) * chord)
    lower = xp.exp(ahead.low - size[:, :, :1, :]) - 1.0
    upper = xp.exp(ahead.high + size[:, :, 1:, :]) - 1.0
    empty = filter_bank.none_is_a_fault(ahead) & (limit <= filter_bank.ZERO_EVIDENCE)
    return xp.where(empty, xp.maximum(lower, 0.5), lower), upper


def _bracket(xp: Any, ahead: Forecast, start: Array, grid: NDArray[np.float64], target: Array) -> tuple[Array, Array, Array]:
    """The last of the points start + grid whose factor is below the target, that factor and the next point's."""
    points = start + xp.asarray(grid)
    factor = filter_bank.densities(xp, ahead, xp.exp(points))[1]
    under = factor < target
    found = xp.max(xp.where(under, points, start), axis=3, keepdims=True)
    below = xp.max(xp.where(under, factor, -1e9), axis=3, keepdims=True)
    above = xp.min(xp.where(under, 1e9, factor), axis=3, keepdims=True)
    return found, below, above


def effects(xp: Any, state: State, ahead: Forecast, today: Array, table: NDArray[np.float64], month: int) -> Array:
    """(n, 3) rows by which trend, season and ends of the month moved the expectation.

    today (n, 1, 1, u + 1) is the bucket's row, `table` (c, u + 1) the rows of all buckets of the cycle, `month` how many
    of the last unknowns belong to ends of the month.
    """
    unknowns = filter_bank.mixed(xp, state, ahead.moments[:, :, :, -1:])
    size = table.shape[1]
    ordinary = (np.arange(size) < size - 1 - month).astype(np.float64)
    typical = xp.matmul(xp.asarray(table.mean(axis=0)[None, None, None]), unknowns)
    before = typical - TREND_BUCKETS * unknowns[:, :, 1:2, :]
    season = xp.matmul(today * xp.asarray(ordinary), unknowns)
    rows = xp.exp(xp.concat([before, typical, season, ahead.mean], axis=3))
    moved = rows[:, :, :, 1:] - rows[:, :, :, :-1]
    return xp.reshape(moved, (-1, 3))
