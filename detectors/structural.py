"""The structural baseline for row counts: robust structural filters, judged by a Bayes factor.

    state = replay(values, time, holiday)                            # (m,) what is known of the table, oldest first
    verdict = judge_next(state, time, holiday, value, threshold)     # one count more

It answers from the first days and needs no configuration. Every bucket it (1) forecasts log(1 + rows) from a level, a damped
slope and the week, by a small bank of Kalman filters that differ only in what they believe of the week; (2) turns the error
into z with the table's own robust scale; (3) weighs "too low, too high or stuck" against "normal": the score is that Bayes
factor, calibrated; (4) learns, unless the bucket is flagged. A deviation that lasts a week is a new level.

The numerical code is written once against the array API: numpy runs it here over n independent tables (leading axis), training
traces the same functions into ONNX. `replay`, `judge_next` and `days_needed` are the public face and stay as they are.

Sources: Harvey (1989) Forecasting, Structural Time Series Models and the Kalman Filter; Kass and Raftery (1995) Bayes Factors,
doi:10.1080/01621459.1995.10476572; Huber (1964) Robust Estimation of a Location Parameter, doi:10.1214/aoms/1177703732.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

type Array = Any  # an array of whichever namespace runs the code
type FloatArray = NDArray[np.float64]
type IntArray = NDArray[np.int64]

days_needed = 4
"""Known buckets before the first verdict."""

# Random walks, variances a bucket in units of the noise variance; the slope is damped.
LEVEL_WALK, SLOPE_WALK, SEASON_WALK, DAMPING = 0.03, 1e-5, 0.01, 0.98
# Prior variances in the same units: level, slope, and (weekend, single weekday) of each filter: no week, working days and weekend, seven days.
LEVEL_PRIOR, SLOPE_PRIOR, WEEK_PRIORS = 200.0, 0.01, ((0.1, 0.1), (200.0, 0.3), (200.0, 50.0))
UNSEEN = 0.5  # log-sd of a weekday that was never seen
FORGETTING = 0.97  # of the filters' votes, a bucket
NOISE_SD, NOISE_FLOOR, NOISE_MEMORY, HUBER = 0.05, 0.02, 84.0, 2.5
ERRORS, PSEUDO_ERRORS, ERROR_QUANTILE = 112, 20.0, 0.9  # self-calibration of z: past errors, weight of the prior, upper quantile
DF_MAX = 12.0  # Student t of a well-known table
FAULT, FAULT_FLOOR, STUCK = 0.5, float(np.exp(-4.0)), 0.2  # typical size of a fault in log units; least density; prior of a repeat
EVIDENCE = 25.0  # the Bayes factor that is the default threshold: "strong" begins at 20 on the Kass-Raftery scale
ACCEPT_AFTER, REMEMBER = 7, 28  # flagged in a row before the level is in doubt; how long the level before is kept in mind
ZERO_EXPECTED, ZERO_EVIDENCE = 7.0, 12.0  # a Poisson count of 7 is zero in less than 0.1 % of days
HOLIDAY_SCALES, HOLIDAY_WEIGHT = (2.0, 3.0), 6.0  # how much wider the neighbour and the holiday are until the table has shown how it takes them
DEFAULT_THRESHOLD = 0.99


@dataclass(frozen=True, slots=True)
class Season:
    """How a granularity sees the calendar: which slot of its season a bucket lies in."""

    slots: int
    shift: int  # (bucket + shift) % slots is the slot; Monday is 0

    def one_hot(self, xp: Any, time: Array) -> Array:
        """(...,) buckets -> (..., slots) 1.0 at the bucket's slot."""
        return xp.astype((time[..., None] + self.shift) % self.slots == xp.asarray(np.arange(self.slots)), xp.float64)


SEASONS = {"daily": Season(7, 3), "weekly": Season(1, 0), "monthly": Season(1, 0)}


class State(NamedTuple):
    """What is known of n tables after a bucket; b filters, s = 2 + slots unknowns (level, slope, season)."""

    moments: Array  # (n, b, s, s + 1) covariance in units of the noise variance, and in the last column the mean
    noise: Array  # (n, b) variance of the noise
    information: Array  # (n, b) how many errors the noise was learnt from
    support: Array  # (n, b) log-likelihood of each filter, forgetting
    former: Array  # (n, b) the level before the last accepted change
    errors: Array  # (n, ERRORS) |error| / sd of the last buckets, oldest first; inf where there is none
    season: Array  # (n, 3, slots) times learnt, last flagged deviation (log), times it returned
    holidays: Array  # (n, 2, 2) sum and number of squared errors, for neighbours and for holidays
    count: Array  # (n, 7) known buckets, flagged in a row, last rows, repeats, pairs, log evidence for stuck, buckets the former level is kept


class Forecast(NamedTuple):
    """What is expected of the next bucket, before its value is known."""

    moments: Array  # (n, b, s, s + 1) as in State, one bucket on
    means: Array  # (n, b) of each filter, log units
    cross: Array  # (n, b, s) covariance of the unknowns with the bucket's value
    own: Array  # (n, b) variance of the value around the unknowns: noise and Poisson
    total: Array  # (n, b) variance of the value, both in units of the noise variance
    vote: Array  # (n, b) weight of each filter
    mean: Array  # (n,)
    sd: Array  # (n,)
    low: Array  # (n,) a holiday may look like any day of the week: between low and high
    high: Array  # (n,)
    scale: Array  # (n,) sd corrected by the table's own errors
    widening: Array  # (n,) how much a holiday widens it
    df: Array  # (n,) degrees of freedom of the t distribution
    doubt: Array  # (n,) bool: the level was put in doubt after a week of flags


class Evidence(NamedTuple):
    """What a value says."""

    deviation: Array  # (n,) log units, outside low and high
    z: Array  # (n,) the same in units of scale, not widened
    stuck: Array  # (n,) log evidence for stuck
    log_factor: Array  # (n,) log Bayes factor, some fault against normal
    repeat: Array  # (n,) bool: the rows of yesterday again


class Verdict(NamedTuple):
    """A table's answer for one bucket: rows, rows, rows; score in [0, 1)."""

    score: float
    expected: float
    lower: float
    upper: float
    effects: dict[str, float]
    ready: bool


def initial(tables: int, granularity: str = "daily") -> State:
    """Nothing is known yet."""
    slots = SEASONS[granularity].slots
    size, filters = 2 + slots, len(WEEK_PRIORS)
    moments = np.zeros((tables, filters, size, size + 1))
    weekend = np.arange(slots) >= 5
    for i, (shared, single) in enumerate(WEEK_PRIORS):
        moments[:, i, 0, 0], moments[:, i, 1, 1] = LEVEL_PRIOR, SLOPE_PRIOR
        moments[:, i, 2:, 2:-1] = shared * np.outer(weekend, weekend) + single * np.eye(slots) * (slots > 1)
    count = np.zeros((tables, 7))
    count[:, 2] = -1.0
    bank = np.zeros((tables, filters))
    errors = np.full((tables, ERRORS), np.inf)
    return State(moments, bank + NOISE_SD**2, bank, bank, bank, errors, np.zeros((tables, 3, slots)), np.zeros((tables, 2, 2)), count)


def forecast(xp: Any, state: State, slot: Array, classes: Array) -> Forecast:
    """slot (n, slots) and classes (n, 2) one-hot of the bucket's season and holiday class -> what is expected of it."""
    filters, slots = state.noise.shape[-1], slot.shape[-1]
    size = slots + 2
    learnt, before, returned = (xp.sum(state.season[:, i, :] * slot, axis=1) for i in range(3))
    flagged_run = state.count[:, 1]
    doubt = flagged_run >= ACCEPT_AFTER

    # One bucket on. Variances open where the level is in doubt, and where the same deviation came back on the same weekday.
    carry, walk = _transition(size)
    again = slot * (before**2 * xp.astype(returned >= 1, xp.float64))[:, None]
    opening = xp.concat([xp.astype(doubt, xp.float64)[:, None], xp.zeros_like(slot[:, :1]), again], axis=1)
    opening = opening[:, None, :] / state.noise[:, :, None]
    moments = xp.matmul(xp.matmul(xp.asarray(carry[:-1, :-1]), state.moments), xp.asarray(carry.T))
    moments = moments + (xp.asarray(walk) + opening[:, :, :, None] * xp.asarray(np.eye(size, size + 1)))

    row = xp.concat([xp.ones_like(slot[:, :1]), xp.zeros_like(slot[:, :1]), slot], axis=1)[:, None, :]
    seen = xp.sum(row[:, :, :, None] * moments, axis=2)
    cross, means = seen[:, :, :size], seen[:, :, size]
    own = 1.0 + xp.exp(-xp.clip(means, 0.0, 25.0)) / state.noise
    total = xp.sum(cross * row, axis=2) + own
    vote = xp.exp(state.support - xp.max(state.support, axis=1, keepdims=True))
    vote = vote / xp.sum(vote, axis=1, keepdims=True)
    mean = xp.sum(vote * means, axis=1)
    spread = xp.sum(vote * (state.noise * total + (means - mean[:, None]) ** 2), axis=1)
    sd = xp.sqrt(spread + xp.astype(learnt == 0, xp.float64) * (UNSEEN**2 + before**2))

    week = xp.sum(vote[:, :, None] * (moments[:, :, :1, size] + moments[:, :, 2:, size]), axis=1)
    any_holiday = xp.sum(classes, axis=1)
    low = mean + any_holiday * (xp.min(week, axis=1) - mean)
    high = mean + any_holiday * (xp.max(week, axis=1) - mean)
    hoped = HOLIDAY_WEIGHT * np.square(HOLIDAY_SCALES)
    squares = (xp.asarray(hoped) + state.holidays[:, 0, :]) / (HOLIDAY_WEIGHT + state.holidays[:, 1, :])
    widening = xp.sqrt(xp.maximum(xp.sum(classes * squares, axis=1), xp.ones_like(mean)))
    scale = xp.maximum(sd * xp.maximum(_calibration(xp, state.errors), xp.asarray(0.3)), xp.asarray(NOISE_FLOOR))
    df = xp.minimum(3.0 + xp.sum(vote * state.information, axis=1), xp.asarray(DF_MAX))
    return Forecast(moments, means, cross, own, total, vote, mean, sd, low, high, scale, widening, df, doubt)


def _transition(size: int) -> tuple[FloatArray, FloatArray]:
    """(s + 1, s + 1) transition of unknowns and mean, (s, s + 1) what the random walks add."""
    carry = np.eye(size + 1)
    carry[0, 1], carry[1, 1] = 1.0, DAMPING
    walk = np.zeros((size, size + 1))
    np.fill_diagonal(walk, [LEVEL_WALK, SLOPE_WALK, *[SEASON_WALK * (size > 3)] * (size - 2)])
    return carry, walk


def _calibration(xp: Any, errors: Array) -> Array:
    """(n, ERRORS) past |error| / sd -> (n,) factor on sd: the larger of what the median and the upper quantile of a normal ask for."""
    known = xp.isfinite(errors)
    number = xp.sum(xp.astype(known, xp.float64), axis=1, keepdims=True)
    ordered = xp.sort(errors, axis=1)
    at = xp.maximum(xp.asarray([0.5, ERROR_QUANTILE]) * (number - 1.0), xp.asarray(0.0))
    floor = xp.floor(at)
    index = xp.astype(floor, xp.int64)
    below = xp.take_along_axis(ordered, index, axis=1)
    above = xp.take_along_axis(ordered, xp.minimum(index + 1, xp.asarray(ERRORS - 1)), axis=1)
    step = xp.where(xp.isfinite(above), (at - floor) * (above - below), xp.zeros_like(at))
    factor = xp.max((below + step) / xp.asarray([0.6745, 1.645]), axis=1)
    factor = xp.where(number[:, 0] > 0, factor, xp.ones_like(factor))
    return (factor * number[:, 0] + PSEUDO_ERRORS) / (number[:, 0] + PSEUDO_ERRORS)


def weigh(xp: Any, state: State, ahead: Forecast, value: Array) -> Evidence:
    """value (n,) rows -> what it says. All densities are per count, so the log of rows + 1 cancels except against a repeat."""
    last, repeats, pairs, stuck = state.count[:, 2], state.count[:, 3], state.count[:, 4], state.count[:, 5]
    y = xp.log(1.0 + value)
    deviation = y - xp.minimum(xp.maximum(y, ahead.low), ahead.high)
    z = deviation / ahead.scale
    tail, normal, fault = _densities(xp, xp.abs(deviation), ahead)
    repeat = (value == last) & (value > 0)
    natural = xp.log((repeats + 0.5) / (pairs + 5.0)) + tail
    normal = xp.where(repeat, xp.maximum(normal - y, natural), normal - y)
    stuck = xp.where(repeat, np.log(STUCK) + xp.maximum(stuck, xp.zeros_like(y)), xp.full_like(y, -50.0))
    factor = xp.maximum(fault - y, stuck) + xp.log(1.0 + xp.exp(-xp.abs(fault - y - stuck))) - normal
    expected = xp.exp(xp.clip(ahead.mean, 0.0, 25.0)) - 1.0
    none = (value == 0) & (expected >= ZERO_EXPECTED) & (z < -2.5)
    return Evidence(deviation, z, stuck - normal, xp.where(none, xp.maximum(factor, xp.full_like(y, ZERO_EVIDENCE)), factor), repeat)


def _densities(xp: Any, size: Array, ahead: Forecast) -> tuple[Array, Array, Array]:
    """|deviation| (n, ...) in log units -> log of the t distribution's tail, of its density, and of the density of a fault.

    The t constant is the first terms of its series in 1/df (error below 3e-4 from df = 3 on).
    """
    scale, df = ahead.scale * ahead.widening, ahead.df
    tail = -0.5 * (df + 1.0) * xp.log(1.0 + (size / scale) ** 2 / df)
    normal = tail - xp.log(scale) - 0.5 * np.log(2 * np.pi) - 0.25 / df + 1.0 / (24.0 * df**3)
    fault = xp.log((size + 1e-3) / FAULT * xp.exp(-size / FAULT) + FAULT_FLOOR) - np.log(FAULT)
    return tail, normal, fault


def advance(xp: Any, state: State, slot: Array, classes: Array, value: Array) -> tuple[State, Array, Array]:
    """One bucket for n tables: value (n,) rows, NaN where nothing is known -> the state after it, log factor, flag."""
    ahead = forecast(xp, state, slot, classes)
    known = xp.isfinite(value)
    rows = xp.where(known, value, xp.zeros_like(value))
    evidence = weigh(xp, state, ahead, rows)
    number, run, last, repeats, pairs, stuck, left = (state.count[:, i] for i in range(7))
    begun = number > 0
    flagged = known & (number >= days_needed) & (evidence.log_factor > np.log(EVIDENCE))

    # A flagged value near the level before the last accepted change goes back to it; the very first value sets the level.
    y = xp.log(1.0 + rows)
    error = y - ahead.mean
    levels = ahead.moments[:, :, 0, -1]
    gap = error + xp.sum(ahead.vote * (levels - state.former), axis=1)
    back = flagged & (left > 0) & (xp.abs(gap) < 0.25 * xp.abs(error))
    first = known & ~begun & (rows > 0)
    jump = xp.where(back[:, None], state.former - levels, xp.where(first, y, xp.zeros_like(y))[:, None])

    # Kalman update with the noise inflated for outliers, nothing learnt from flagged buckets and odd holidays.
    odd = begun & (classes[:, 1] > 0) & (xp.abs(evidence.z) > HUBER)
    learn = known & (begun | first) & (~flagged | back) & ~odd
    error_b, trust = y[:, None] - ahead.means - jump, ahead.own / ahead.total
    square = error_b**2 / (state.noise * ahead.total)
    clipped = (trust > 0.3) & (ahead.moments[:, :, 0, 0] * state.noise < 0.5)
    inflation = xp.where(clipped, xp.maximum(xp.sqrt(square) / HUBER, xp.ones_like(square)), xp.ones_like(square))
    gain = ahead.cross * (xp.astype(learn, xp.float64)[:, None] / (ahead.total + ahead.own * (inflation - 1.0)))[:, :, None]
    seen = xp.concat([ahead.cross, -error_b[:, :, None]], axis=2)
    corner = np.zeros(ahead.moments.shape[2:])
    corner[0, -1] = 1.0
    moments = ahead.moments + jump[:, :, None, None] * xp.asarray(corner) - gain[:, :, :, None] * seen[:, :, None, :]

    taught = (learn & begun)[:, None]
    information = xp.minimum(state.information + trust, xp.asarray(NOISE_MEMORY))
    rate = trust / (1.0 + information)
    noise = state.noise * (1.0 + rate * (1.05 * xp.minimum(square, xp.asarray(HUBER**2)) - 1.0))
    noise = xp.maximum(noise, xp.asarray(NOISE_FLOOR**2 / 4))
    support = FORGETTING * state.support - 0.5 * xp.log(state.noise * ahead.total) - 2.5 * xp.log(1.0 + square / 4)

    # Memories: errors, flagged deviations by weekday, holidays, repeats, level.
    learnt, before, returned = (xp.sum(state.season[:, i, :] * slot, axis=1) for i in range(3))
    usual = learn & begun & (learnt > 0) & (xp.sum(classes, axis=1) == 0) & (xp.sum(ahead.vote * trust, axis=1) > 0.4)
    newest = xp.where(usual, xp.abs(evidence.deviation) / ahead.sd, xp.full_like(y, np.inf))
    errors = xp.where(begun[:, None], xp.concat([state.errors[:, 1:], newest[:, None]], axis=1), state.errors)
    kept_out, one = flagged & ~back, xp.ones_like(y)
    near = xp.maximum(2 * ahead.scale * ahead.widening, 0.25 * xp.abs(before))
    same = (before != 0) & (xp.abs(error - before) < near)
    deviation = xp.where(kept_out, error, xp.zeros_like(y))
    returns = xp.where(kept_out & same, returned + 1, xp.zeros_like(y))
    today = (slot > 0) & (known & begun)[:, None]
    season = xp.stack([
        state.season[:, 0, :] + slot * xp.astype(learn, xp.float64)[:, None],
        xp.where(today, deviation[:, None], state.season[:, 1, :]),
        xp.where(today, returns[:, None], state.season[:, 2, :]),
    ], axis=1)
    surprise = xp.minimum((evidence.z**2)[:, None], xp.asarray(6 * np.square(HOLIDAY_SCALES)))
    taken = classes * xp.astype(known & begun & (rows > 0), xp.float64)[:, None]
    holidays = state.holidays + xp.stack([taken * surprise, taken], axis=1)

    pair = xp.astype(known & begun & (last > 0), xp.float64)
    longest = xp.where(rows == 0, ACCEPT_AFTER - 1.0, np.inf)  # a table that stopped stays an anomaly until rows arrive again
    run = xp.where(known, xp.where(kept_out, xp.minimum(run + 1, longest), xp.zeros_like(y)), run)
    changed = (ahead.doubt & learn) | back
    count = xp.stack([
        number + xp.astype(learn, xp.float64), run, xp.where(known & (begun | first), rows, -one),
        repeats + pair * xp.astype(evidence.repeat, xp.float64), pairs + pair,
        xp.where(known & begun, evidence.stuck, stuck),
        xp.where(changed, REMEMBER * one, xp.maximum(left - 1, xp.zeros_like(y))),
    ], axis=1)
    return State(
        moments, xp.where(taught, noise, state.noise), xp.where(taught, information, state.information),
        xp.where(taught, support, state.support), xp.where(changed[:, None], levels, state.former), errors, season, holidays, count,
    ), evidence.log_factor, flagged


def replay(values: FloatArray, time: IntArray, holiday: IntArray, granularity: str = "daily") -> State:
    """(m,) rows (NaN where nothing is known), buckets without gaps and holiday classes, oldest first -> the state after the last."""
    season, state = SEASONS[granularity], initial(1, granularity)
    slots, classes = season.one_hot(np, time), _classes(np, holiday)
    for i in range(len(values)):
        state, _, _ = advance(np, state, slots[i : i + 1], classes[i : i + 1], values[i : i + 1])
    return state


def _classes(xp: Any, holiday: Array) -> Array:
    """(...,) holiday classes 0, 1, 2 -> (..., 2) 1.0 at the class."""
    return xp.astype(holiday[..., None] == xp.asarray([1, 2]), xp.float64)


def calibrated(xp: Any, log_factor: Array) -> Array:
    """Log Bayes factor -> score in (0, 1): 0.99 at the default evidence."""
    return 1.0 - 1.0 / (1.0 + (99.0 / EVIDENCE) * xp.exp(log_factor))


def judge_next(
    state: State, time: int, holiday: int, value: float, threshold: float = DEFAULT_THRESHOLD, granularity: str = "daily"
) -> Verdict:
    """The verdict on the bucket after the state's last: `ready` is false before `days_needed` buckets were learnt."""
    slot = SEASONS[granularity].one_hot(np, np.array([time], np.int64))
    ahead = forecast(np, state, slot, _classes(np, np.array([holiday])))
    evidence = weigh(np, state, ahead, np.array([value]))
    lower, upper = bounds(np, ahead, threshold)
    return Verdict(
        float(calibrated(np, evidence.log_factor)[0]), float(np.expm1(ahead.mean)[0]), float(lower[0]), float(upper[0]), {},
        bool(state.count[0, 0] >= days_needed),
    )


def bounds(xp: Any, ahead: Forecast, threshold: Array) -> tuple[Array, Array]:
    """The rows at which the score reaches the threshold on each side."""
    wanted = np.log(threshold / (1 - threshold)) - np.log(99.0 / EVIDENCE)
    low, high = xp.zeros_like(ahead.mean), xp.full_like(ahead.mean, 30.0)
    for _ in range(60):
        middle = 0.5 * (low + high)
        _, normal, fault = _densities(xp, middle, ahead)
        over = fault - normal > wanted
        low, high = xp.where(over, low, middle), xp.where(over, middle, high)
    return xp.exp(ahead.low - high) - 1.0, xp.exp(ahead.high + high) - 1.0
