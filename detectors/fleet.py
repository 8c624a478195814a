"""The structural baseline of many tables in one pass: the filters' first axis is the table.

It answers what `structural.replay` and `structural.judge_next` answer one by one, a hundred times as fast: numpy's cost of a
call is then shared by all tables, and the mathematics of one bucket of one table takes a few microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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

    `state` is what was known before, None at the beginning.
    """

    start: int
    values: FloatArray
    holiday: IntArray
    state: State | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One count to be judged: the state of its table, its bucket with the holiday class, the rows, the threshold."""

    state: State
    time: int
    holiday: int
    value: float
    threshold: float


def replay(pasts: Sequence[Past], granularity: str) -> list[State]:
    """What is known of each table after its past. Pasts may differ in length and in where they begin."""
    season = SEASONS[granularity]
    states = [past.state or season.begin for past in pasts]
    for some in _alike(states, [len(past.values) for past in pasts]):
        for at, state in _replayed([pasts[i] for i in some], stacked([states[i] for i in some]), granularity):
            states[some[at]] = state
    return states


def judge(asked: Sequence[Asked], granularity: str) -> list[Verdict]:
    """The verdict on each count, of a bucket after its state's last."""
    season, verdicts = SEASONS[granularity], dict[int, Verdict]()
    for some in _alike([ask.state for ask in asked], [1] * len(asked)):
        asks = [asked[i] for i in some]
        state = stacked([ask.state for ask in asks])
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


def stacked(states: Sequence[State]) -> State:
    """States with equally many filters as one."""
    return State(*(np.concatenate(parts) for parts in zip(*states, strict=True)))


def split(state: State) -> Iterator[State]:
    """The tables of a state, each a view of it."""
    for i in range(len(state.learnt)):
        yield State(*(part[i:i + 1] for part in state))


def _alike(states: Sequence[State], work: Sequence[int]) -> Iterator[list[int]]:
    """The indices of states with equally many filters and something to do, TABLES at a time, the longest work first."""
    order = sorted((i for i in range(len(states)) if work[i]), key=lambda i: -work[i])
    for filters in {states[i].vote.shape[1] for i in order}:
        alike = [i for i in order if states[i].vote.shape[1] == filters]
        for first in range(0, len(alike), TABLES):
            yield alike[first:first + TABLES]


def _replayed(pasts: Sequence[Past], state: State, granularity: str) -> Iterator[tuple[int, State]]:
    """Each table by its place in `pasts` with its last state."""
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
        state, going = stacked([part[2] for part in going]), []
        while len(tables):
            day = season.days(np, starts[tables] + at, holiday[tables, at])
            seen = filter_bank.count(np, values[tables, at][:, None, None, None])
            state, _, _ = structural.advance(np, state, season.design, day, seen)
            at = at + 1
            ends = at == lengths[tables]
            settles = (state.learnt.ravel() >= season.design.settled) & (state.vote.shape[1] > 1)
            if not (ends | settles).any():
                continue
            settled = filter_bank.settle(only(state, settles))
            yield from zip(tables[ends & ~settles].tolist(), split(only(state, ends & ~settles)), strict=True)
            yield from zip(tables[ends & settles].tolist(), split(only(settled, ends[settles])), strict=True)
            going.append((tables[settles & ~ends], at[settles & ~ends], only(settled, ~ends[settles])))
            stays = ~(ends | settles)
            tables, at, state = tables[stays], at[stays], only(state, stays)


def only(state: State, tables: NDArray[np.bool_]) -> State:
    """The tables of a state at which the mask (n,) is true."""
    return State(*(part[tables] for part in state))
