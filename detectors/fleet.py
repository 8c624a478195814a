"""The structural baseline of many tables in one pass: the filters' first axis is the table.

It answers what `structural.replay` and `structural.judge_next` answer one by one, a hundred times as fast: numpy's cost of a
call is then shared by all tables, and the mathematics of one bucket of one table takes a few microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

import numpy as np
from numpy.typing import NDArray

from detectors import filter_bank, structural, structural_verdict
from detectors.filter_bank import State
from detectors.season import SEASONS
from detectors.structural import FloatArray, IntArray, Verdict

# So many tables at once: their filters stay in the processor's cache.
TABLES = 512


@dataclass(frozen=True, slots=True)
class Past:
    """What one table is replayed over: (m,) rows with NaN where unknown and (m,) holiday classes, from bucket `start` on.

    `known` is the row of numbers that `replay` gave for what came before, None at the beginning.
    """

    start: int
    values: FloatArray
    holiday: IntArray
    known: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One count to be judged: what `replay` gave for its table, its bucket with the holiday class, rows and threshold."""

    known: FloatArray
    time: int
    holiday: int
    value: float
    threshold: float


def replay(pasts: Sequence[Past], granularity: str) -> list[FloatArray]:
    """What is known of each table after its past, a state as one row of numbers. Pasts may differ in length and in start."""
    begin = rows_of(SEASONS[granularity].begin)[0]
    known = [begin if past.known is None else past.known for past in pasts]
    for some in _alike(known, [len(past.values) for past in pasts]):
        state = state_of(np.stack([known[i] for i in some]), granularity)
        for tables, after in _replayed([pasts[i] for i in some], state, granularity):
            for i, row in zip(tables.tolist(), rows_of(after), strict=True):
                known[some[i]] = row
    return known


def judge(asked: Sequence[Asked], granularity: str) -> list[Verdict]:
    """The verdict on each count, of the bucket after the last that is known."""
    season, verdicts = SEASONS[granularity], dict[int, Verdict]()
    for some in _alike([ask.known for ask in asked], [1] * len(asked)):
        asks = [asked[i] for i in some]
        state = state_of(np.stack([ask.known for ask in asks]), granularity)
        day = season.days(np, np.array([ask.time for ask in asks]), np.array([ask.holiday for ask in asks]))
        counts, thresholds = (np.array(numbers)[:, None, None, None]
                              for numbers in zip(*((ask.value, ask.threshold) for ask in asks), strict=True))
        with np.errstate(over="ignore"):  # an upper bound may be infinite
            answer = structural_verdict.judge(np, state, season, day, counts, thresholds)
        numbers = [part.ravel().tolist() for part in (answer.score, answer.expected, answer.lower, answer.upper)]
        ready = (state.learnt.ravel() >= season.design.needed).tolist()
        effects = [dict(zip(season.factors, row, strict=True)) for row in answer.effects.tolist()]
        verdicts |= zip(some, map(Verdict, *numbers, effects, ready), strict=True)
    return [verdicts[i] for i in range(len(asked))]


def rows_of(state: State) -> FloatArray:
    """(n, k): each table's state in one row."""
    return np.concatenate([part.reshape(len(part), prod(part.shape[1:])) for part in state], axis=1)


def state_of(rows: FloatArray, granularity: str) -> State:
    """The inverse of `rows_of`. Raises KeyError for rows that are of no state of this granularity."""
    parts, at = [], 0
    for shape in _shapes(granularity)[rows.shape[1]]:
        parts.append(rows[:, at:at + prod(shape)].reshape(-1, *shape))
        at += prod(shape)
    return State(*parts)


@cache
def _shapes(granularity: str) -> dict[int, list[tuple[int, ...]]]:
    """The shapes of a state's parts by its length as a row: with several filters, and with one."""
    begin = SEASONS[granularity].begin
    return {rows_of(state).shape[1]: [part.shape[1:] for part in state] for state in (begin, filter_bank.settle(begin))}


def _alike(known: Sequence[FloatArray], work: Sequence[int]) -> Iterator[list[int]]:
    """The indices of states with equally many filters and something to do, TABLES at a time, the longest work first."""
    order = sorted((i for i in range(len(known)) if work[i]), key=lambda i: -work[i])
    for length in sorted({len(known[i]) for i in order}):
        alike = [i for i in order if len(known[i]) == length]
        for first in range(0, len(alike), TABLES):
            yield alike[first:first + TABLES]


def _replayed(pasts: Sequence[Past], state: State, granularity: str) -> Iterator[tuple[IntArray, State]]:
    """Tables by their places in `pasts`, with their last states."""
    lengths = np.array([len(past.values) for past in pasts])
    starts = np.array([past.start for past in pasts])
    values, holiday = np.full((len(pasts), lengths.max()), np.nan), np.zeros((len(pasts), lengths.max()), np.int64)
    for i, past in enumerate(pasts):
        values[i, :lengths[i]], holiday[i, :lengths[i]] = past.values, past.holiday
    # Empty buckets before the first rows belong to no table yet.
    begun = (np.cumsum(np.nan_to_num(values) > 0, axis=1) > 0) | (state.learnt.ravel() > 0)[:, None]
    values = np.where(begun, values, np.nan)

    season = SEASONS[granularity]
    going = [(np.arange(len(pasts)), np.zeros(len(pasts), np.int64), state)]
    while going:  # at most twice: tables that settle go on among their like
        tables, at = (np.concatenate([part[i] for part in going]) for i in (0, 1))
        state, going = State(*(np.concatenate(parts) for parts in zip(*(part[2] for part in going), strict=True))), []
        while len(tables):
            day = season.days(np, starts[tables] + at, holiday[tables, at])
            seen = filter_bank.count(np, values[tables, at][:, None, None, None])
            state, _, _ = structural.advance(np, state, season.design, day, seen)
            at = at + 1
            ends = at == lengths[tables]
            settles = (state.learnt.ravel() >= season.design.settled) & (state.vote.shape[1] > 1)
            if not (ends | settles).any():
                continue
            settled = filter_bank.settle(_only(state, settles))
            yield tables[ends & ~settles], _only(state, ends & ~settles)
            yield tables[ends & settles], _only(settled, ends[settles])
            going.append((tables[settles & ~ends], at[settles & ~ends], _only(settled, ~ends[settles])))
            stays = ~(ends | settles)
            tables, at, state = tables[stays], at[stays], _only(state, stays)


def _only(state: State, tables: NDArray[np.bool_]) -> State:
    """The tables of a state at which the mask (n,) is true."""
    return State(*(part[tables] for part in state))
