"""The mathematics of the structural baseline: forecast, weigh, learn, one bucket at a time for n tables at once.

Written against the array API, so that numpy runs it and training traces it into ONNX; without branches and in few
operations, because a graph pays for each. Every array has four axes, (table, filter, row, column), of length 1 where
it has nothing to say. Everything is in y = log(1 + rows); u is the number of unknowns (level, slope, season).

Sources: Harvey (1989), Forecasting, Structural Time Series Models and the Kalman Filter, ch. 3; Kass and Raftery (1995),
Bayes Factors, doi:10.1080/01621459.1995.10476572; Robbins and Monro (1951), doi:10.1214/aoms/1177729586.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

type Array = Any  # an array of the namespace that runs the code

# The noise: standard deviation to begin with, least standard deviation, and how many buckets are remembered.
NOISE, NOISE_FLOOR, MEMORY = 0.05, 0.01, 84.0
FORGETTING = 0.97  # what is left of a filter's merits after a bucket
# The scale is corrected until a tenth of the errors exceeds the normal's 90 % quantile. One exceedance moves the log of
# the scale by STEP / number of errors: the inverse of the normal's density there, times the quantile.
QUANTILE, TENTH, STEP, PSEUDO_ERRORS = 1.6448536269514722, 0.1, 2.947, 20.0
DF_LEAST, DF_MOST = 3.0, 10.0  # of the t distribution, from nothing known to well known
FAULT, FAULT_FLOOR, STUCK = 0.5, 0.0183, 0.2  # typical size of a fault (log units), least density, share of stuck feeds
ODDS = 1 / 9  # of a fault, before the value is seen
ZERO_EXPECTED, ZERO_EVIDENCE, ZERO_SPREADS = 7.0, 12.0, 2.5  # a Poisson count of 7 is zero in less than one of 1,000 buckets
HOLIDAY_SPREADS, HOLIDAY_RATE, HOLIDAY_MOST = (1.0, 2.0, 3.0), 1 / 12, 36.0  # none, neighbour, holiday; learnt so fast
AWAY_RATE = 1 / 3  # of what a holiday tells about the next
MONTH = 28.0  # buckets over which the usual level is averaged
EVIDENCE_MOST = 50.0  # log units, for repeats: a feed may be stuck for months
BACK, REMEMBER = 0.25, 28.0  # how near to the former level counts as back, and for how many buckets it is remembered


class State(NamedTuple):
    """What is known of n tables after a bucket, with b filters and u unknowns. Without a shape: (n, 1, 1, 1)."""

    moments: Array  # (n, b, u + 1, u + 1) covariance of the unknowns over the noise variance; last row and column: mean
    noise: Array  # (n, b, 1, 1) variance of the noise
    information: Array  # (n, b, 1, 1) how many errors it was learnt from
    vote: Array  # (n, b, 1, 1) weight of each filter
    spread: Array  # factor on the standard deviation
    errors: Array  # how many errors it was learnt from
    holiday: Array  # (n, 1, 1, 3) variance on a bucket of each holiday class over that of an ordinary one
    deviation: Array  # (n, 1, 1, u + 1) when last looked at, 0 unless flagged; of the level, how far it may move
    returned: Array  # (n, 1, 1, u + 1) how often that deviation came back: from 1 on the unknown is opened
    unseen: Array  # (n, 1, 1, u + 1) variance to add because an unknown was never looked at
    away: Array  # how far a holiday lies from its weekday towards the quietest, 0 to 1
    usual: Array  # mean level of about the last MONTH buckets
    learnt: Array  # buckets
    run: Array  # known buckets flagged in a row
    last: Array  # rows of the last known bucket
    repeats: Array  # how often they were those of the one before
    pairs: Array  # out of how many
    stuck: Array  # log evidence of the last bucket for a stuck feed
    carried: Array  # log evidence of the last bucket for a fault, at most 1, negative for too few rows
    change: Array  # log units, the last accepted change of level
    remembered: Array  # for how many buckets it will be


@dataclass(frozen=True, slots=True)
class Design:
    """What does not depend on the data: how the unknowns move, and when a table is judged."""

    carry: NDArray[np.float64]  # (1, 1, u + 1, u + 1) transition of the unknowns
    walk: NDArray[np.float64]  # (1, 1, 1, u + 1) variance they gain in a bucket, over the noise variance
    needed: float  # buckets learnt before the first verdict; 0 once they are behind
    settled: float  # buckets learnt before the filters become one
    patience: float  # buckets flagged in a row before the level is in doubt
    limit: float  # log Bayes factor that flags
    # Constants of that size: the transition turned, the diagonal, and what picks the mean out of `Forecast.seen`, the level
    # out of the unknowns, and the level's mean out of the moments.
    turned: NDArray[np.float64] = field(init=False)
    diagonal: NDArray[np.float64] = field(init=False)
    mean: NDArray[np.float64] = field(init=False)
    level: NDArray[np.bool_] = field(init=False)
    level_mean: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        diagonal = np.eye(self.carry.shape[2])[None, None]
        corner = np.zeros_like(diagonal)
        corner[..., 0, -1] = corner[..., -1, 0] = 1.0
        for name, value in {
            "turned": np.ascontiguousarray(self.carry.swapaxes(2, 3)), "diagonal": diagonal, "mean": diagonal[..., -1:],
            "level": diagonal[..., :1, :] > 0, "level_mean": corner,
        }.items():
            object.__setattr__(self, name, value)


class Day(NamedTuple):
    """A bucket as the filters see it, of n tables."""

    rows: Array  # (n, 1, c, u + 1) how it sees the unknowns; after that, buckets that it may look like on a holiday
    looked: Array  # (n, 1, 1, u + 1) bool, the unknowns of the season that it looks at
    classes: Array  # (n, 1, 1, 3) 1.0 at its holiday class: none, neighbour, holiday
    ordinary: Array  # (n, 1, 1, 1) 1.0 where that is none
    teaches: Array  # (n, 1, 1, 1) bool, false on a holiday


class Count(NamedTuple):
    """Rows of a bucket; each (n, 1, 1, 1)."""

    rows: Array  # 0 where unknown
    level: Array  # log(1 + rows)
    some: Array  # bool, more than none
    known: Array  # bool


def count(xp: Any, values: Array) -> Count:
    """(...) rows, NaN where unknown."""
    known = ~xp.isnan(values)
    rows = xp.where(known, values, 0.0)
    return Count(rows, xp.log(1.0 + rows), rows > 0.0, known)


class Forecast(NamedTuple):
    """What is expected of a bucket before its value is known."""

    moments: Array  # (n, b, u + 1, u + 1) as in State, one bucket on
    seen: Array  # (n, b, u + 1, 1) covariance of the unknowns with the value, and last the expected value
    means: Array  # (n, b, 1, 1) expected value of each filter
    own: Array  # (n, b, 1, 1) variance of noise and counting, over the noise variance
    total: Array  # (n, b, 1, 1) own plus that of the unknowns
    mean: Array  # (n, 1, 1, 1) expected value
    low: Array  # (n, 1, 1, 1) a holiday may look like any day of the week: usual values reach from low to high
    high: Array  # (n, 1, 1, 1)
    variance: Array  # (n, 1, 1, 1) of the value, spread included
    wide: Array  # (n, 1, 1, 1) the same, holidays included
    df: Array  # (n, 1, 1, 1) degrees of freedom


class Evidence(NamedTuple):
    """What a value says; each (n, 1, 1, 1)."""

    log_factor: Array  # log Bayes factor, some fault against normal
    fault: Array  # its part that comes from the size of the deviation
    deviation: Array  # from the nearest usual value, log units
    stuck: Array  # log evidence for a stuck feed, 0 where the rows did not repeat
    repeat: Array  # bool, the rows of the last known bucket again


def begin(moments: NDArray[np.float64], deviation: NDArray[np.float64], unseen: NDArray[np.float64]) -> State:
    """The state of a table of which nothing is known but these priors."""
    filters, zero = moments.shape[1], np.zeros((1, 1, 1, 1))
    each = np.zeros((1, filters, 1, 1))
    holiday = np.square(HOLIDAY_SPREADS)[None, None, None]
    return State(
        moments, each + NOISE**2, each, each + 1 / filters, zero + 1, zero + PSEUDO_ERRORS, holiday,
        deviation, np.zeros_like(unseen), unseen,
        away=zero, usual=zero, learnt=zero, run=zero, last=zero - 1, repeats=zero + 0.5, pairs=zero + 5,
        stuck=zero, carried=zero, change=zero, remembered=zero,
    )


def forecast(xp: Any, state: State, design: Design, day: Day) -> Forecast:
    """What is expected of the bucket after the state's last."""
    today = day.rows[:, :, :1, :]
    # An unknown opens where the same deviation came back: what was an anomaly may be a new habit, or a new level.
    opened = today * xp.where(state.returned >= 1.0, state.deviation * state.deviation, 0.0)
    gain = xp.asarray(design.walk) + opened / state.noise
    moments = xp.matmul(xp.matmul(xp.asarray(design.carry), state.moments), xp.asarray(design.turned))
    moments = moments + gain * xp.asarray(design.diagonal)

    across = xp.permute_dims(today, (0, 1, 3, 2))
    seen = xp.matmul(moments, across)
    means = seen[:, :, -1:, :]
    own = 1.0 + xp.exp(-xp.maximum(means, 0.0)) / state.noise
    total = xp.matmul(today, seen) + own
    usual = xp.maximum(mixed(xp, state, xp.matmul(day.rows, moments[:, :, :, -1:])), 0.0)
    low, high = xp.min(usual, axis=2, keepdims=True), xp.max(usual, axis=2, keepdims=True)
    mean, variance = mixed(xp, state, means), state.noise * total
    if state.vote.shape[1] != 1:
        variance = mixed(xp, state, variance + (means - mean) * (means - mean))
    variance = variance + xp.matmul(state.unseen, across)
    variance = xp.maximum(variance * state.spread * state.spread, NOISE_FLOOR**2)
    holiday = xp.maximum(xp.sum(state.holiday * day.classes, axis=3, keepdims=True), 1.0)
    df = xp.minimum(DF_LEAST + mixed(xp, state, state.information), DF_MOST)
    return Forecast(moments, seen, means, own, total, mean, low, high, variance, variance * holiday, df)


def mixed(xp: Any, state: State, values: Array) -> Array:
    """(n, b, r, c) of each filter -> (n, 1, r, c) of all by their votes."""
    return values if state.vote.shape[1] == 1 else xp.sum(state.vote * values, axis=1, keepdims=True)


def weigh(xp: Any, state: State, ahead: Forecast, seen: Count) -> Evidence:
    """What a count says. All densities are per count, which cancels except for a repeat."""
    deviation = seen.level - xp.minimum(xp.maximum(seen.level, ahead.low), ahead.high)
    tail, normal, fault = densities(xp, ahead, xp.abs(deviation))
    # The last bucket's evidence counts again where this one points the same way: faults last.
    fault = fault + xp.maximum(state.carried * xp.sign(deviation), 0.0)
    repeat = (seen.rows == state.last) & seen.some
    # Some tables repeat by nature: then a repeat is as usual as its share, unless it is far off as well.
    natural = xp.maximum(normal - seen.level, tail + xp.log(state.repeats / state.pairs))
    same = xp.minimum(state.stuck + np.log(STUCK) - natural, EVIDENCE_MOST)
    empty = xp.where(none_is_a_fault(ahead), ZERO_EVIDENCE, xp.asarray(-50.0))
    other = xp.where(seen.some, xp.where(repeat, same, -50.0), empty)
    stuck = xp.where(repeat, xp.maximum(same, 0.0), 0.0)
    return Evidence(xp.maximum(fault, other), fault, deviation, stuck, repeat)


def none_is_a_fault(ahead: Forecast) -> Array:
    """Bool: where rows are expected beyond doubt, none at all is a fault whatever the Bayes factor says."""
    return (ahead.low > np.log(1 + ZERO_EXPECTED)) & (ahead.low * ahead.low > ZERO_SPREADS**2 * ahead.variance)


def densities(xp: Any, ahead: Forecast, size: Array) -> tuple[Array, Array, Array]:
    """|deviation| (n, 1, r, c) -> the t distribution's log density over that at its centre, its log density, and the log
    Bayes factor of a fault of that size.

    A fault multiplies the rows by exp(size), size from a gamma distribution of shape 2: one that changes nothing is none.
    The density at the centre is the first terms of its series in 1 / df, right to 0.002.
    """
    tail = xp.log(1.0 + size * size / (ahead.wide * ahead.df)) * (-0.5 * ahead.df - 0.5)
    normal = tail - 0.5 * xp.log(ahead.wide) - 0.25 / ahead.df - 0.5 * np.log(2 * np.pi)
    fault = xp.log(size * xp.exp(size * (-1 / FAULT)) + FAULT_FLOOR * FAULT) - 2 * np.log(FAULT)
    return tail, normal, fault - normal


def learn(
    xp: Any, state: State, design: Design, day: Day, ahead: Forecast, seen: Count, evidence: Evidence
) -> tuple[State, Array]:
    """The state after a bucket, and whether it is flagged (n, 1, 1, 1).

    Where the count is not known only time has passed. A flagged bucket teaches nothing, one that may be a fault little, a
    holiday nothing about ordinary days.
    """
    known = seen.known
    factor = evidence.log_factor
    if design.needed:
        factor = xp.where(state.learnt >= design.needed, factor, -50.0)
    flagged = known & (factor > design.limit)
    error = seen.level - ahead.mean
    far = BACK * xp.abs(error)
    back = flagged & (xp.abs(error + state.change) < far) & (state.remembered > 0.0)
    out = flagged & ~back
    usable = known & ~flagged
    learns = usable & day.teaches
    taught = xp.astype(learns, xp.float64)
    odds = ODDS * xp.exp(factor)

    # Kalman update; a doubtful value counts as a noisier one.
    moved = xp.asarray(design.mean) * seen.level - ahead.seen
    step = moved * (taught / (ahead.total + ahead.own * odds))
    moments = ahead.moments - step * xp.permute_dims(moved, (0, 1, 3, 2))
    moments = moments - xp.where(back, state.change, 0.0) * xp.asarray(design.level_mean)

    trust = taught / (1.0 + odds)
    share = trust * ahead.own / ahead.total
    information = xp.minimum(state.information + share, MEMORY)
    expected, error_b = state.noise * ahead.total, seen.level - ahead.means
    square = error_b * error_b / expected
    noise = state.noise * (1.0 + (square - 1.0) * share / (1.0 + information))
    vote = state.vote
    if vote.shape[1] != 1:
        merit = xp.maximum(vote**FORGETTING / xp.sqrt(expected) * (1.0 + 0.25 * square) ** -2.5, 1e-99)
        vote = xp.where(learns, merit / xp.sum(merit, axis=1, keepdims=True), vote)

    trust = trust * day.ordinary
    errors = xp.minimum(state.errors + trust, MEMORY + PSEUDO_ERRORS)
    squared = evidence.deviation * evidence.deviation
    exceeds = xp.where(squared > QUANTILE**2 * ahead.variance, xp.asarray(STEP * (1 - TENTH)), -STEP * TENTH)
    spread = state.spread * (1.0 + exceeds * trust / errors)
    surprise = xp.minimum(squared / ahead.variance, HOLIDAY_MOST) - state.holiday
    rate = xp.asarray(HOLIDAY_RATE * np.array([0.0, 1.0, 1.0])[None, None, None])
    holiday = state.holiday + xp.where(known & seen.some, rate * day.classes, 0.0) * surprise

    towards = xp.clip((ahead.mean - seen.level) / (ahead.mean - ahead.low + 1e-9), 0.0, 1.0) - state.away

    # What was flagged is kept in mind: a habit if it comes back on the same weekday, a level if it lasts.
    run = xp.where(out, state.run + 1.0, 0.0)
    lasting = run >= design.patience
    apart = error - state.deviation
    near = apart * apart < xp.maximum(4.0 * ahead.wide, far * far)
    again = xp.where(near, state.returned + xp.where(seen.some, 1.0, xp.asarray(0.5)), 0.0)
    again = xp.where(out & ~lasting, xp.where(state.unseen > 0.0, 1.0, again), 0.0)
    looked = day.looked & known
    deviation = xp.where(looked, xp.where(out, error, 0.0), state.deviation)
    doubt = xp.astype(lasting & seen.some, xp.float64)
    returned = xp.where(known & xp.asarray(design.level), doubt, xp.where(looked, again, state.returned))
    unseen = xp.where(looked & learns, 0.0, state.unseen)
    settled = back | (learns & (state.returned[:, :, :, :1] >= 1.0))

    learnt = state.learnt + taught
    level = mixed(xp, state, moments[:, :, :1, -1:])

    def kept(new: Array, old: Array) -> Array:
        return xp.where(known, new, old)

    return State(
        moments, xp.maximum(noise, NOISE_FLOOR**2 / 4), information, vote, spread, errors, holiday,
        deviation, returned, unseen,
        away=state.away + xp.where(usable & ~day.teaches, AWAY_RATE, xp.asarray(0.0)) * towards,
        usual=state.usual + taught * (level - state.usual) / xp.clip(learnt, 1.0, MONTH),
        learnt=learnt,
        run=kept(run, state.run),
        last=kept(seen.rows, state.last),
        repeats=state.repeats + xp.astype(evidence.repeat & known, xp.float64),
        pairs=state.pairs + xp.astype(known, xp.float64),
        stuck=kept(evidence.stuck, state.stuck),
        carried=kept(xp.clip(evidence.fault, 0.0, 1.0) * xp.sign(evidence.deviation), state.carried),
        change=xp.where(settled, error, state.change),
        remembered=xp.where(settled, REMEMBER, state.remembered - 1.0),
    ), flagged


def settle(state: State) -> State:
    """The same with one filter that has the mean and the variance of all: once the week is known it is as good."""
    vote = state.vote
    mean = np.sum(vote * state.moments[:, :, :, -1:], axis=1, keepdims=True)
    noise = np.sum(vote * state.noise, axis=1, keepdims=True)
    apart = state.moments[:, :, :, -1:] - mean
    spread = state.noise * state.moments + apart * apart.swapaxes(2, 3)
    moments = np.sum(vote * spread, axis=1, keepdims=True) / noise
    moments[:, :, :, -1:] = mean
    moments[:, :, -1:, :] = mean.swapaxes(2, 3)
    information = np.sum(vote * state.information, axis=1, keepdims=True)
    return state._replace(moments=moments, noise=noise, information=information, vote=np.ones_like(noise))
