"""From the filters' evidence to an answer in rows: score, bounds, and what moved the expectation.

Array API throughout, as filter_bank.py: numpy runs it, training traces it. Arguments have the filters' four axes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from detectors import filter_bank
from detectors.filter_bank import Array, Day, Forecast, State
from detectors.season import LEVEL, LOG_EVIDENCE, Season

RARITY = 0.75  # how fast normal buckets become rarer with the log Bayes factor
# Bounds are searched between these log deviations, in spreads: on a grid, on a grid between two of its points, by a chord.
SMALLEST, LARGEST, POINTS = -7.0, 9.2, 128


class Answer(NamedTuple):
    """Rows, rows, rows and score, each (n, 1, 1, 1); effects (n, e) in rows, of the season's factors."""

    expected: Array
    lower: Array
    upper: Array
    score: Array
    effects: Array


def score(xp: Any, log_factor: Array) -> Array:
    """Log Bayes factor -> score: one normal bucket in 1 / (1 - score) has a higher one. Strictly increasing, in (0, 1)."""
    return 1.0 - 1.0 / (1.0 + 99.0 * xp.exp(RARITY * (xp.minimum(log_factor, 400.0) - LOG_EVIDENCE)))


def required(xp: Any, threshold: Array) -> Array:
    """The inverse of `score`: the log Bayes factor that has this score."""
    return LOG_EVIDENCE + (xp.log(threshold / (1.0 - threshold)) - np.log(99.0)) / RARITY


def judge(xp: Any, state: State, season: Season, day: Day, value: Array, threshold: Array) -> Answer:
    """value and threshold (n, 1, 1, 1) -> the verdict on the bucket after the state's last; a NaN value has a NaN score."""
    ahead = filter_bank.forecast(xp, state, season.design, day)
    seen = filter_bank.count(xp, value)
    evidence = filter_bank.weigh(xp, state, ahead, seen)
    lower, upper = bounds(xp, state, ahead, required(xp, threshold))
    scored = xp.where(seen.known, score(xp, evidence.log_factor), float("nan"))
    away = state.away * day.classes[:, :, :, 2:]
    expected = xp.maximum(ahead.mean - away * (ahead.mean - ahead.low), 0.0)
    return Answer(xp.exp(expected) - 1.0, lower, upper, scored, effects(xp, state, season, day, ahead, expected))


def bounds(xp: Any, state: State, ahead: Forecast, limit: Array) -> tuple[Array, Array]:
    """The rows at which the log Bayes factor reaches the limit on either side, to about 1e-9 of log(1 + rows).

    They count the size of a deviation alone: a repeat can be an anomaly between them. Where no rows at all would be one by
    rule, lower is at least half a row.
    """
    target = limit - xp.maximum(state.carried * xp.asarray(np.array([-1.0, 1.0])[None, None, :, None]), 0.0)
    start = 0.5 * xp.log(ahead.wide) + SMALLEST
    wide = (LARGEST - SMALLEST) / POINTS
    fine = wide / POINTS
    start, _, _ = _bracket(xp, ahead, start, wide, target)
    start, below, above = _bracket(xp, ahead, start, fine, target)
    chord = fine / (above - below)
    size = xp.exp(start + (target - below) * chord)
    size = size * (1.0 + (target - filter_bank.densities(xp, ahead, size)[2]) * chord)
    lower = xp.exp(ahead.low - size[:, :, :1, :]) - 1.0
    upper = xp.exp(ahead.high + size[:, :, 1:, :]) - 1.0
    empty = filter_bank.none_is_a_fault(ahead) & (limit <= filter_bank.ZERO_EVIDENCE)
    return xp.where(empty, xp.maximum(lower, 0.5), lower), upper


def _bracket(xp: Any, ahead: Forecast, start: Array, step: float, target: Array) -> tuple[Array, Array, Array]:
    """Of POINTS steps from `start`, the last whose factor is below the target, that factor and the next one's."""
    points = start + xp.asarray(step * np.arange(POINTS + 1)[None, None, None])
    factor = filter_bank.densities(xp, ahead, xp.exp(points))[2]
    under = factor < target
    found = xp.max(xp.where(under, points, start), axis=3, keepdims=True)
    below = xp.max(xp.where(under, factor, -1e9), axis=3, keepdims=True)
    above = xp.min(xp.where(under, 1e9, factor), axis=3, keepdims=True)
    return found, below, above


def effects(xp: Any, state: State, season: Season, day: Day, ahead: Forecast, expected: Array) -> Array:
    """(n, e) rows by which each of the season's factors moved the expectation, one on top of the other.

    The trend is told against the mean level of the last four weeks, the season against the mean of its cycle.
    """
    unknowns = filter_bank.mixed(xp, state, ahead.moments[:, :, :, -1:])
    ordinary = np.ones(season.cycle.shape[1])
    ordinary[len(ordinary) - season.ends - 1 :] = 0.0
    typical = xp.matmul(xp.asarray(season.cycle.mean(axis=0)[None, None, None]), unknowns)
    before = typical - unknowns[:, :, LEVEL : LEVEL + 1, :] + state.usual
    usual = xp.matmul(day.rows[:, :, :1, :] * xp.asarray(ordinary), unknowns)
    ends = [ahead.mean] if season.ends else []
    stages = [before, typical, usual, *ends, expected][: len(season.factors) + 1]
    rows = xp.exp(xp.concat(stages, axis=3))
    return xp.reshape(rows[:, :, :, 1:] - rows[:, :, :, :-1], (-1, len(season.factors)))
