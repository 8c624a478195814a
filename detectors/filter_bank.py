"""The mathematics of the structural baseline: forecast, weigh, learn, one bucket at a time for n tables at once.

Written against the array API, so that numpy runs it and training traces it into ONNX; without branches and in few
operations, because a graph pays for each. Every array has four axes, (table, filter, row, column), of length 1 where
it has nothing to say. Everything is in y = log(1 + rows); u is the number of unknowns (level, slope, season).

Sources: Harvey (1989), Forecasting, Structural Time Series Models and the Kalman Filter, ch. 3; Kass and Raftery (1995),
Bayes Factors, doi:10.1080/01621459.1995.10476572; Robbins and Monro (1951), doi:10.1214/aoms/1177729586.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

type Array = Any  # an array of the namespace that runs the code

# The noise: standard deviation to begin with, least standard deviation, and how many buckets are remembered.
NOISE, NOISE_FLOOR, MEMORY = 0.05, 0.02, 84.0
FORGETTING = 0.97  # what is left of a filter's merits after a bucket
# The scale is corrected until a tenth of the errors exceeds the normal's 90 % quantile. One exceedance moves the log of
# the scale by STEP / number of errors: the inverse of the normal's density there, times the quantile.
QUANTILE, TENTH, STEP, PSEUDO_ERRORS = 1.6448536269514722, 0.1, 2.947, 20.0
DF_LEAST, DF_MOST = 3.0, 12.0  # of the t distribution, from nothing known to well known
FAULT, FAULT_FLOOR, STUCK = 0.5, 0.0183, 0.2  # typical size of a fault (log units), least density, share of stuck feeds
ODDS = 1 / 9  # of a fault, before the value is seen
ZERO_EXPECTED, ZERO_EVIDENCE, ZERO_SPREADS = 7.0, 12.0, 2.5  # a Poisson count of 7 is zero in less than one of 1,000 buckets
HOLIDAY_SPREADS, HOLIDAY_RATE, HOLIDAY_MOST = (1.0, 2.0, 3.0), 1 / 8, 36.0  # none, neighbour, holiday; learnt so fast
BACK, REMEMBER = 0.25, 28.0  # how near to the former level counts as back, and for how many buckets it is remembered


class State(NamedTuple):
    """What is known of n tables after a bucket, with b filters and u unknowns."""

    moments: Array  # (n, b, u + 1, u + 1) covariance of the unknowns over the noise variance; last row and column: their mean
    noise: Array  # (n, b, 1, 1) variance of the noise
    information: Array  # (n, b, 1, 1) how many errors it was learnt from
    vote: Array  # (n, b, 1, 1) weight of each filter
    spread: Array  # (n, 1, 1, 2) factor on the standard deviation, and how many errors it was learnt from
    holiday: Array  # (n, 1, 1, 3) variance of a bucket of each holiday class over that of an ordinary one
    deviation: Array  # (n, 1, 1, u + 1) of the last flagged bucket that looked at an unknown; for the level, how far it may move
    returned: Array  # (n, 1, 1, u + 1) how often that deviation came back: from 1 on the unknown is opened
    unseen: Array  # (n, 1, 1, u + 1) variance to add because an unknown was never looked at
    table: Array  # (n, 1, 1, 9) see MEMORIES


# The columns of State.table: buckets learnt, flagged in a row, rows of the last known bucket, how often rows repeated, out
# of how many, log evidence for a stuck feed, signed log evidence of the last bucket, the last accepted change of level, and
# for how many buckets it is remembered.
MEMORIES = ("learnt", "run", "last", "repeats", "pairs", "stuck", "carried", "change", "remembered")


class Design(NamedTuple):
    """What does not depend on the data: how the unknowns move and are looked at."""

    carry: NDArray[np.float64]  # (u + 1, u + 1) transition of the unknowns
    walk: NDArray[np.float64]  # (1, u + 1) variance they gain in a bucket, over the noise variance
    needed: float  # buckets learnt before the first verdict
    patience: float  # buckets flagged in a row before the level is in doubt
    limit: float  # log Bayes factor that flags


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


def forecast(xp: Any, state: State, design: Design, rows: Array, classes: Array) -> Forecast:
    """rows (n, 1, c, u + 1): how the bucket, and buckets that a holiday may look like, see the unknowns, the bucket first.

    classes (n, 1, 1, 3) is 1.0 at the bucket's holiday class.
    """
    today = rows[:, :, :1, :]
    # An unknown opens where the same deviation came back: what was an anomaly may be a new habit, or a new level.
    opened = today * xp.where(state.returned >= 1.0, state.deviation**2, 0.0)
    gain = xp.asarray(design.walk[None, None]) + opened / state.noise
    moments = xp.matmul(xp.matmul(xp.asarray(design.carry), state.moments), xp.asarray(design.carry.T.copy()))
    moments = moments + gain * xp.asarray(np.eye(design.carry.shape[0]))

    across = xp.permute_dims(today, (0, 1, 3, 2))
    seen = xp.matmul(moments, across)
    means = seen[:, :, -1:, :]
    own = 1.0 + xp.exp(-xp.maximum(means, 0.0)) / state.noise
    total = xp.matmul(today, seen) + own
    mean = mixed(xp, state, means)
    variance = mixed(xp, state, state.noise * total + (means - mean) ** 2) + xp.matmul(state.unseen, across)
    usual = mixed(xp, state, xp.matmul(rows, moments[:, :, :, -1:]))
    spread = state.spread[:, :, :, :1]
    variance = xp.maximum(variance * spread * spread, NOISE_FLOOR**2)
    holiday = xp.maximum(xp.sum(state.holiday * classes, axis=3, keepdims=True), 1.0)
    df = xp.minimum(DF_LEAST + mixed(xp, state, state.information), DF_MOST)
    low, high = xp.min(usual, axis=2, keepdims=True), xp.max(usual, axis=2, keepdims=True)
    return Forecast(moments, seen, means, own, total, mean, low, high, variance, variance * holiday, df)


def mixed(xp: Any, state: State, values: Array) -> Array:
    """(n, b, ...) of each filter -> (n, 1, ...) of all by their votes."""
    return xp.sum(state.vote * values, axis=1, keepdims=True) if values.shape[1] != 1 else values


def weigh(xp: Any, state: State, ahead: Forecast, rows: Array) -> Evidence:
    """rows (n, 1, 1, 1), never NaN -> what they say. All densities are per count, which cancels except for a repeat."""
    last, repeats, pairs, stuck, carried = (memory(state, name) for name in ("last", "repeats", "pairs", "stuck", "carried"))
    y = xp.log(1.0 + rows)
    deviation = y - xp.minimum(xp.maximum(y, ahead.low), ahead.high)
    tail, fault = densities(xp, ahead, xp.abs(deviation))
    # Yesterday's evidence counts again where today points the same way: faults last.
    fault = fault + xp.maximum(carried * xp.sign(deviation), 0.0)
    repeat = (rows == last) & (rows > 0.0)
    # Some tables repeat by nature: then a repeat is worth their own share of repeats, a large deviation still counts.
    normal = xp.maximum(tail + _scale(xp, ahead) - y, tail + xp.log(repeats / pairs))
    same = stuck + np.log(STUCK) - normal
    empty = (rows == 0.0) & none_is_a_fault(ahead)
    other = xp.where(repeat, same, xp.where(empty, ZERO_EVIDENCE, xp.asarray(-50.0)))
    return Evidence(xp.maximum(fault, other), fault, deviation, xp.where(repeat, xp.maximum(same, 0.0), 0.0), repeat)


def none_is_a_fault(ahead: Forecast) -> Array:
    """Bool: where rows are expected beyond doubt, none at all is a fault whatever the Bayes factor says."""
    low = ahead.low
    return (low > np.log(1 + ZERO_EXPECTED)) & (low * low > ZERO_SPREADS**2 * ahead.variance)


def memory(state: State, name: str) -> Array:
    at = MEMORIES.index(name)
    return state.table[:, :, :, at : at + 1]


def _scale(xp: Any, ahead: Forecast) -> Array:
    """Log density of the t distribution at its centre: the first terms of its series in 1 / df, right to 0.002."""
    return -0.5 * xp.log(ahead.wide) - (0.25 / ahead.df + 0.5 * np.log(2 * np.pi))


def densities(xp: Any, ahead: Forecast, size: Array) -> tuple[Array, Array]:
    """|deviation| (n, 1, r, c) -> log of the t distribution over its centre, and log Bayes factor of a fault of that size.

    A fault multiplies the rows by exp(size), size from a gamma distribution of shape 2: one that changes nothing is none.
    """
    tail = -(0.5 * ahead.df + 0.5) * xp.log(1.0 + size * size / (ahead.wide * ahead.df))
    fault = xp.log(size * xp.exp(-size / FAULT) + FAULT_FLOOR * FAULT) - 2 * np.log(FAULT)
    return tail, fault - tail - _scale(xp, ahead)


def learn(
    xp: Any, state: State, design: Design, ahead: Forecast, evidence: Evidence, rows: Array, known: Array, classes: Array,
    looked: Array,
) -> tuple[State, Array]:
    """The state after a bucket, and whether it is flagged (n, 1, 1, 1).

    known (n, 1, 1, 1) bool: where it is false only time has passed. looked (n, 1, 1, u + 1) bool: the unknowns of the
    season that the bucket looks at. A flagged bucket teaches nothing, one that may be a fault little, a holiday nothing
    about ordinary days.
    """
    learnt, run, last, repeats, pairs, stuck, carried, change, remembered = (memory(state, name) for name in MEMORIES)
    none, one = xp.zeros_like(run), xp.ones_like(run)
    y = xp.log(1.0 + rows)
    factor = xp.where(learnt >= design.needed, evidence.log_factor, -50.0)
    flagged = known & (factor > design.limit)
    error = y - ahead.mean
    far = BACK * xp.abs(error)
    back = flagged & (xp.abs(error + change) < far) & (remembered > 0.0)
    out = flagged & ~back
    learns = known & ~flagged & (classes[:, :, :, 2:] == 0.0)
    odds = ODDS * xp.exp(xp.minimum(factor, 50.0))
    taught = xp.where(learns, one, none)
    trust = taught / (1.0 + odds)

    # Kalman update; a doubtful value counts as a noisier one.
    moved = xp.asarray(_corner(design, level=False)) * y - ahead.seen
    step = moved * (taught / (ahead.total + ahead.own * odds))
    moments = ahead.moments - step * xp.permute_dims(moved, (0, 1, 3, 2))
    moments = moments - xp.where(back, change, none) * xp.asarray(_corner(design, level=True))

    share = trust * ahead.own / ahead.total
    information = xp.minimum(state.information + share, MEMORY)
    variance = state.noise * ahead.total
    square = (y - ahead.means) ** 2 / variance
    noise = xp.maximum(state.noise * (1.0 + share / (1.0 + information) * (square - 1.0)), NOISE_FLOOR**2 / 4)
    vote = state.vote
    if vote.shape[1] != 1:
        merit = xp.maximum(vote**FORGETTING / xp.sqrt(variance) * (1.0 + 0.25 * square) ** -2.5, 1e-99)
        vote = xp.where(learns, merit / xp.sum(merit, axis=1, keepdims=True), vote)

    ordinary = trust * classes[:, :, :, :1]
    spread, errors = state.spread[:, :, :, :1], xp.minimum(state.spread[:, :, :, 1:] + ordinary, MEMORY + PSEUDO_ERRORS)
    squared = evidence.deviation**2
    exceeds = xp.where(squared > QUANTILE**2 * ahead.variance, xp.asarray(STEP * (1 - TENTH)), -STEP * TENTH)
    spread = spread * (1.0 + exceeds * ordinary / errors)
    surprise = xp.minimum(squared / ahead.variance, HOLIDAY_MOST) - state.holiday
    celebrated = HOLIDAY_RATE * classes * xp.asarray(np.array([0.0, 1.0, 1.0]))
    holiday = state.holiday + xp.where(known & (rows > 0.0), celebrated, 0.0) * surprise

    # What was flagged is kept in mind: a habit if it comes back on the same weekday, a level if it lasts.
    longer = xp.where(out, run + 1.0, none)
    near = xp.abs(error - state.deviation) < xp.maximum(2.0 * xp.sqrt(ahead.wide), far)
    again = xp.where(near, state.returned + xp.where(rows > 0.0, one, 0.5 * one), none)
    again = xp.where(out & (longer < design.patience), xp.where(state.unseen > 0.0, 1.0, again), none)
    deviation = xp.where(looked, xp.where(out, error, none), state.deviation)
    doubt = known & (longer >= design.patience) & (rows > 0.0)
    at_level = xp.asarray(_level(design))
    returned = xp.where(known & at_level, xp.where(doubt, one, none), xp.where(looked, again, state.returned))
    unseen = xp.where(looked & learns, 0.0, state.unseen)
    settled = back | (learns & (state.returned[:, :, :, :1] >= 1.0))
    table = xp.concat(
        [
            learnt + taught,
            longer,
            rows,
            repeats + xp.where(evidence.repeat, one, none),
            pairs + 1.0,
            evidence.stuck,
            xp.minimum(xp.maximum(evidence.fault, 0.0), 1.0) * xp.sign(evidence.deviation),
            xp.where(settled, error, change),
            xp.where(settled, REMEMBER, remembered - 1.0),
        ],
        axis=3,
    )
    table = xp.where(known, table, state.table)
    spread = xp.concat([spread, errors], axis=3)
    return State(moments, noise, information, vote, spread, holiday, deviation, returned, unseen, table), flagged


def _corner(design: Design, *, level: bool) -> NDArray[np.float64]:
    """(1, 1, u + 1, 1) picks the mean out of `seen`; with `level` (1, 1, u + 1, u + 1), the level's mean out of the moments."""
    size = design.carry.shape[0]
    if not level:
        return np.eye(size)[None, None, :, -1:]
    picks = np.zeros((1, 1, size, size))
    picks[:, :, 0, -1] = picks[:, :, -1, 0] = 1.0
    return picks


def _level(design: Design) -> NDArray[np.bool_]:
    return (np.arange(design.carry.shape[0]) == 0)[None, None, None, :]
