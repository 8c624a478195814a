"""The structural baseline for row counts: it answers from the first days and needs no configuration.

    state = replay(values, time, holiday)                            # (m,) what is known of the table, oldest first
    verdict = judge_next(state, time, holiday, value, threshold)     # one count more

Each bucket it forecasts log(1 + rows) from level, slope, week and ends of the month with a small bank of Kalman filters,
weighs "too low, too high or stuck" against "normal" as a Bayes factor, which calibrated is the score, and learns unless the
bucket is flagged. A deviation that lasts a week is a new level; one that comes back on the same weekday or end of the month
is a new habit; a table that stopped stays an anomaly until rows arrive. The mathematics is in filter_bank.py.

`replay`, `judge_next`, `walk` and `days_needed` are the public face and stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors import filter_bank, structural_verdict
from detectors.calendar import month_position
from detectors.filter_bank import Array, Design, Forecast, State

type FloatArray = NDArray[np.float64]
type IntArray = NDArray[np.int64]

days_needed = 4
"""Known buckets before the first verdict on a daily table."""

FACTORS = ("trend", "weekday", "month_end")
DEFAULT_THRESHOLD = 0.99

LEVEL, SLOPE = 0, 1  # columns of the unknowns; the season follows
LEVEL_PRIOR, SLOPE_PRIOR, DAMPING = 1e6, 0.01, 0.98
MONTH_PRIOR, MONTH_WALK, UNSEEN, HARDLY = 0.3, 0.003, 0.25, 1e-9
MAY_MOVE = filter_bank.FAULT  # how far, in log units, a level in doubt may have moved


@dataclass(frozen=True, slots=True)
class Season:
    """How a granularity sees the calendar.

    Row (bucket + shift) % len(table) of `table` (cycle, 1 + season) is how a bucket looks at its season. `priors` are the
    prior covariances (season, season) that the filters differ in, over the noise variance; the level walks by `level_walk`
    and each unknown of the season by `walk` a bucket.
    """

    table: FloatArray
    shift: int
    stride: int  # buckets to the same bucket of the next weekday; 0 where holidays are not told from other days
    priors: tuple[FloatArray, ...]
    level_walk: float
    walk: float
    needed: int
    patience: int
    month: bool = False

    @property
    def unknowns(self) -> int:
        return 2 + self.table.shape[1] + 4 * self.month

    @property
    def cycle(self) -> FloatArray:
        """(cycle, u + 1) the rows of all buckets of the cycle, ends of the month apart."""
        cycle = len(self.table)
        end = np.zeros((cycle, 4 * self.month + 1))
        return np.concatenate([np.ones((cycle, 1)), np.zeros((cycle, 1)), self.table, end], axis=1)

    @property
    def factors(self) -> tuple[str, ...]:
        return FACTORS[: 3 if self.month else 2]

    @property
    def design(self) -> Design:
        size, season = self.unknowns + 1, self.table.shape[1]
        carry = np.eye(size)
        carry[LEVEL, SLOPE], carry[SLOPE, SLOPE] = 1.0, DAMPING
        walk = np.zeros((1, size))
        walk[0, : 2 + season] = [self.level_walk, 1e-5, *[self.walk] * season]
        walk[0, 2 + season : -1] = MONTH_WALK
        return Design(carry, walk, self.needed, self.patience, structural_verdict.LOG_EVIDENCE)


def _daily() -> Season:
    weekend = np.outer(np.arange(7) >= 5, np.arange(7) >= 5)
    priors = 200.0 * weekend + 0.3 * np.eye(7), 200.0 * weekend + 50.0 * np.eye(7)
    return Season(np.eye(7), 3, 1, priors, 0.03, 0.01, days_needed, 7, month=True)


def _hourly() -> Season:
    """Hours of working days, hours of the weekend, and weekdays."""
    hour, weekday = np.tile(np.eye(24), (7, 1)), np.repeat(np.eye(7), 24, axis=0)
    weekend = weekday[:, 5:].sum(axis=1, keepdims=True)
    table = np.concatenate([hour, hour * weekend, weekday], axis=1)
    priors = tuple(np.diag([100.0] * 24 + [rest] * 24 + [day] * 7) for rest, day in ((0.3, 0.3), (50.0, 10.0)))
    return Season(table, 72, 24, priors, 0.01, 0.002, 48, 24)


def _plain(patience: int) -> Season:
    return Season(np.zeros((1, 1)), 0, 0, (np.zeros((1, 1)),), 0.03, 0.0, days_needed, patience)


SEASONS = {"hourly": _hourly(), "daily": _daily(), "weekly": _plain(4), "monthly": _plain(3)}


class Calendar(NamedTuple):
    """Buckets as the filters see them; a slice [i:i + 1] of each is one bucket of one table."""

    rows: Array  # (..., 1, 8, u + 1) the bucket, and the buckets that it may look like on a holiday
    classes: Array  # (..., 1, 1, 3) one-hot holiday class
    looked: Array  # (..., 1, 1, u + 1) bool, the unknowns of the season it looks at

    def at(self, i: int) -> Calendar:
        return Calendar(*(part[i : i + 1] for part in self))


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
    """One bucket of a replay, before it is learnt."""

    state: State
    ahead: Forecast
    ready: bool
    flagged: bool

    def scores(self, values: FloatArray) -> FloatArray:
        """(k,) counts that this bucket might have had -> (k,) scores, NaN where the count is or nothing is known yet."""
        rows = np.nan_to_num(values)[:, None, None, None]
        scores = structural_verdict.score(np, filter_bank.weigh(np, self.state, self.ahead, rows).log_factor)[:, 0, 0, 0]
        return np.where(np.isfinite(values) & self.ready, scores, np.nan)


def initial(granularity: str = "daily") -> State:
    """One table of which nothing is known."""
    season = SEASONS[granularity]
    size, filters, end = season.unknowns + 1, len(season.priors), 2 + season.table.shape[1]
    moments = np.zeros((1, filters, size, size))
    moments[:, :, LEVEL, LEVEL], moments[:, :, SLOPE, SLOPE] = LEVEL_PRIOR, SLOPE_PRIOR
    moments[:, :, range(end, size - 1), range(end, size - 1)] = MONTH_PRIOR
    moments[0, :, 2:end, 2:end] = season.priors
    each, unknown = np.zeros((1, filters, 1, 1)), np.zeros((1, 1, 1, size))
    deviation, unseen = unknown.copy(), unknown.copy()
    deviation[..., LEVEL] = MAY_MOVE
    unseen[..., 2:end] = UNSEEN * (season.stride > 0) / season.table.sum(axis=1).max()
    unseen[..., end:-1] = HARDLY
    holiday = np.square(filter_bank.HOLIDAY_SPREADS)[None, None, None]
    spread = np.array([1.0, filter_bank.PSEUDO_ERRORS])[None, None, None]
    table = np.array([0.0, 0.0, -1.0, 0.5, 5.0, 0.0, 0.0, 0.0, 0.0])[None, None, None]
    noise = each + filter_bank.NOISE**2
    return State(moments, noise, each, each + 1 / filters, spread, holiday, deviation, unknown, unseen, table)


def calendar_rows(xp: Any, time: Array, holiday: Array, granularity: str = "daily") -> Calendar:
    """(...,) buckets and their holiday classes 0, 1, 2 -> the buckets as the filters see them."""
    season = SEASONS[granularity]
    cycle, end = len(season.table), 2 + season.table.shape[1]
    position = (time + season.shift) % cycle
    today = xp.take(xp.asarray(season.cycle), position, axis=0)
    if season.month:
        today = xp.concat([today[..., :end], month_position(xp, time), today[..., -1:]], axis=-1)
    rows = today[..., None, :]
    if season.stride:
        other = (position[..., None] + xp.asarray(season.stride * np.arange(7))) % cycle
        rest = xp.where(holiday[..., None, None] > 0, xp.take(xp.asarray(season.cycle), other, axis=0), rows)
        rows = xp.concat([rows, rest], axis=-2)
    classes = xp.astype(holiday[..., None] == xp.asarray(np.arange(3)), xp.float64)
    looked = (today > 0.0) & xp.asarray(np.arange(season.unknowns + 1) > SLOPE)
    return Calendar(rows[..., None, :, :], classes[..., None, None, :], looked[..., None, None, :])


def advance(xp: Any, state: State, design: Design, day: Calendar, values: Array) -> tuple[State, Forecast, Array]:
    """One bucket: values (n, 1, 1, 1) rows, NaN where nothing is known -> the state after it, what was expected, flagged."""
    ahead = filter_bank.forecast(xp, state, design, day.rows, day.classes)
    known = ~xp.isnan(values)
    rows = xp.where(known, values, 0.0)
    evidence = filter_bank.weigh(xp, state, ahead, rows)
    after, flagged = filter_bank.learn(
        xp, state, design, ahead, evidence, rows, known, day.classes, day.looked & known
    )
    return after, ahead, flagged


def walk(values: FloatArray, time: IntArray, holiday: IntArray, granularity: str = "daily") -> Iterator[Step]:
    """(m,) rows (NaN where nothing is known), buckets without gaps, holiday classes, oldest first -> each as it was judged."""
    for state, ahead, flagged, _ in _advances(values, time, holiday, granularity):
        yield Step(state, ahead, bool(state.table[0, 0, 0, 0] >= SEASONS[granularity].needed), flagged)


def replay(values: FloatArray, time: IntArray, holiday: IntArray, granularity: str = "daily") -> State:
    """(m,) rows (NaN where nothing is known), buckets without gaps, holiday classes, oldest first -> the state after the last."""
    after = initial(granularity)
    for _, _, _, after in _advances(values, time, holiday, granularity):  # noqa: B007
        pass
    return after


def _advances(
    values: FloatArray, time: IntArray, holiday: IntArray, granularity: str
) -> Iterator[tuple[State, Forecast, bool, State]]:
    state, design = initial(granularity), SEASONS[granularity].design
    days = calendar_rows(np, np.asarray(time), np.asarray(holiday), granularity)
    # Empty buckets before the first rows belong to no table yet.
    begun = np.maximum.accumulate(np.nan_to_num(values) > 0) if len(values) else np.zeros(0, np.bool_)
    counts = np.where(begun, values, np.nan)[:, None, None, None]
    for i in range(len(counts)):
        after, ahead, flagged = advance(np, state, design, days.at(i), counts[i : i + 1])
        yield state, ahead, bool(flagged), after
        state = after


def judge_next(
    state: State, time: int, holiday: int, value: float, threshold: float = DEFAULT_THRESHOLD, granularity: str = "daily"
) -> Verdict:
    """The verdict on the bucket after the state's last, `time`."""
    season = SEASONS[granularity]
    day = calendar_rows(np, np.array([time]), np.array([holiday]), granularity)
    counts, thresholds = (np.full((1, 1, 1, 1), number) for number in (value, threshold))
    ahead, answers, effects = judge(np, state, season, day, counts, thresholds)
    expected, lower, upper, scored = (answer.item() for answer in answers)
    ready = bool(state.table[0, 0, 0, 0] >= season.needed)
    return Verdict(scored, expected, lower, upper, dict(zip(season.factors, effects[0].tolist(), strict=True)), ready)


def judge(
    xp: Any, state: State, season: Season, day: Calendar, values: Array, thresholds: Array
) -> tuple[Forecast, tuple[Array, Array, Array, Array], Array]:
    """values and thresholds (n, 1, 1, 1) -> what was expected; expected, lower, upper, score; effects (n, e)."""
    ahead = filter_bank.forecast(xp, state, season.design, day.rows, day.classes)
    answers = structural_verdict.judge(xp, state, ahead, values, thresholds)
    effects = structural_verdict.effects(xp, state, ahead, day.rows[:, :, :1, :], season.cycle, 4 * season.month)
    return ahead, answers, effects
