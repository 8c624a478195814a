"""The structural baseline for row counts: it answers from the first days and needs no configuration.

    state = replay(values, time, holiday)                            # (m,) what is known of the table, oldest first
    verdict = judge_next(state, time, holiday, value, threshold)     # one count more

Each bucket it forecasts log(1 + rows) from level, slope, week and ends of the month with a small bank of Kalman filters,
weighs "too low, too high or stuck" against "normal" as a Bayes factor, which calibrated is the score, and learns unless the
bucket is flagged. A deviation that lasts a week is a new level; one that comes back on the same weekday or end of the month
is a new habit; a table that stopped stays an anomaly until rows arrive.

    season.py               which unknowns a bucket looks at
    filter_bank.py          forecast, weigh, learn
    structural_verdict.py   score, bounds, effects

`replay`, `judge_next`, `walk` and `days_needed` are the public face and stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors import filter_bank, structural_verdict
from detectors.filter_bank import Array, Count, Day, Design, Forecast, State
from detectors.season import SEASONS

type FloatArray = NDArray[np.float64]
type IntArray = NDArray[np.int64]

days_needed = 4
"""Known buckets before the first verdict on a daily table."""

DEFAULT_THRESHOLD = 0.99


class Verdict(NamedTuple):
    """A table's answer for one bucket: score in (0, 1), bounds and expectation in rows, effects in rows by factor.

    The score reaches the threshold outside lower and upper, and also inside them where the rows of the last bucket repeat
    against the table's nature. `ready` is false while too little is known.
    """

    score: float
    expected: float
    lower: float
    upper: float
    effects: dict[str, float]
    ready: bool


class Step(NamedTuple):
    """One bucket of a replay as it was judged, before it was learnt."""

    state: State
    ahead: Forecast
    ready: bool
    flagged: bool

    def scores(self, values: FloatArray) -> FloatArray:
        """(k,) counts that this bucket might have had -> (k,) scores; NaN for NaN, and while too little is known."""
        seen = filter_bank.count(np, np.asarray(values)[:, None, None, None])
        evidence = filter_bank.weigh(np, self.state, self.ahead, seen)
        scores = structural_verdict.score(np, evidence.log_factor)[:, 0, 0, 0]
        return np.where(np.isfinite(values) & self.ready, scores, np.nan)


def replay(
    values: FloatArray, time: IntArray, holiday: IntArray, granularity: str = "daily", state: State | None = None
) -> State:
    """(m,) rows (NaN where unknown), buckets without gaps and holiday classes, oldest first -> what is known after them.

    With a `state` it goes on from there: the first bucket is then the one after the state's last.
    """
    after = state or SEASONS[granularity].begin
    for _, after in _steps(values, time, holiday, granularity, after):  # noqa: B007, B020
        pass
    return after


def walk(values: FloatArray, time: IntArray, holiday: IntArray, granularity: str = "daily") -> Iterator[Step]:
    """The same, bucket by bucket: what was known before each, and whether it was flagged."""
    for step, _ in _steps(values, time, holiday, granularity, SEASONS[granularity].begin):
        yield step


def judge_next(
    state: State, time: int, holiday: int, value: float, threshold: float = DEFAULT_THRESHOLD, granularity: str = "daily"
) -> Verdict:
    """The verdict on `time`, the bucket after the state's last."""
    season = SEASONS[granularity]
    day = season.days(np, np.array([time]), np.array([holiday]))
    counts, thresholds = (np.full((1, 1, 1, 1), number) for number in (value, threshold))
    with np.errstate(over="ignore"):  # an upper bound may be infinite
        answer = structural_verdict.judge(np, state, season, day, counts, thresholds)
    expected, lower, upper, score = (float(part.item()) for part in answer[:4])
    effects = dict(zip(season.factors, answer.effects[0].tolist(), strict=True))
    return Verdict(score, expected, lower, upper, effects, _ready(state, season.design))


def advance(xp: Any, state: State, design: Design, day: Day, seen: Count) -> tuple[State, Forecast, Array]:
    """One bucket -> the state after it, what was expected, and whether it is flagged (n, 1, 1, 1)."""
    ahead = filter_bank.forecast(xp, state, design, day)
    evidence = filter_bank.weigh(xp, state, ahead, seen)
    after, flagged = filter_bank.learn(xp, state, design, day, ahead, seen, evidence)
    return after, ahead, flagged


def _steps(
    values: FloatArray, time: IntArray, holiday: IntArray, granularity: str, state: State
) -> Iterator[tuple[Step, State]]:
    season = SEASONS[granularity]
    days = season.days(np, np.asarray(time), np.asarray(holiday))
    # Empty buckets before the first rows belong to no table yet.
    begun = (np.cumsum(np.nan_to_num(values) > 0) > 0) | (state.learnt.item() > 0)
    counts = filter_bank.count(np, np.where(begun, values, np.nan)[:, None, None, None])
    for i in range(len(values)):
        day, seen = Day(*(part[i : i + 1] for part in days)), Count(*(part[i : i + 1] for part in counts))
        after, ahead, flagged = advance(np, state, season.design, day, seen)
        if after.vote.size > 1 and after.learnt.item() >= season.design.settled:
            after = filter_bank.settle(after)
        yield Step(state, ahead, _ready(state, season.design), bool(flagged.item())), after
        state = after


def _ready(state: State, design: Design) -> bool:
    return bool(state.learnt.item() >= design.needed)
