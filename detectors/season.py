"""How the structural baseline sees the calendar: which unknowns a bucket looks at, for each granularity.

Unknowns are columns: level, slope, the season, the ends of the month, and a last one that stands for the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors import filter_bank
from detectors.calendar import month_position
from detectors.filter_bank import Array, Day, Design, State

type FloatArray = NDArray[np.float64]

LEVEL, SLOPE, SEASON = 0, 1, 2
ENDS = 4  # unknowns for the ends of the month: first and last day, first and last working day
# Prior variances and random walks in units of the noise variance. Nothing is known of the level; slopes fade.
LEVEL_PRIOR, SLOPE_PRIOR, SLOPE_WALK, DAMPING = 1e6, 0.01, 1e-5, 0.98
END_PRIOR, END_WALK = 0.3, 0.003
# Log variances that a never seen part of the season adds; an end of the month is expected to be an ordinary day.
UNSEEN, HARDLY_SEEN = 0.25, 1e-9
LEVEL_MOVE = 0.3  # log units, how far a level in doubt may have moved
LOG_EVIDENCE = float(np.log(45.0))
"""The log Bayes factor that flags: what one normal bucket in 100 exceeds."""


@dataclass(frozen=True, slots=True)
class Season:
    """The calendar of one granularity. Row (bucket + shift) % c of `cycle` (c, u + 1) is how a bucket sees the unknowns."""

    cycle: FloatArray
    shift: int
    ends: int  # ENDS, or 0 where the ends of the month are not told from other buckets
    stride: int  # buckets to the same one of the next weekday; 0 where holidays are not told from other buckets
    habits: NDArray[np.bool_]  # (u + 1,) which unknowns a deviation that comes back may open
    factors: tuple[str, ...]  # what moves the expectation: trend, season, ends of the month, holiday
    design: Design
    begin: State  # of a table of which nothing is known

    def days(self, xp: Any, time: Array, holiday: Array) -> Day:
        """(...,) buckets and their holiday classes 0, 1, 2 -> the buckets with the filters' axes, (..., 1, r, c)."""
        position = (time + self.shift) % len(self.cycle)
        today = xp.take(xp.asarray(self.cycle), position, axis=0)
        if self.ends:
            season = today[..., : -ENDS - 1]
            today = xp.concat([season, month_position(xp, time), today[..., -1:]], axis=-1)
        rows = today[..., None, :]
        if self.stride:
            other = (position[..., None] + xp.asarray(self.stride * np.arange(7))) % len(self.cycle)
            alike = xp.take(xp.asarray(self.cycle), other, axis=0)
            rows = xp.concat([rows, xp.where(holiday[..., None, None] > 0, alike, rows)], axis=-2)
        looked = (today > 0.0) & xp.asarray(self.habits)
        holiday = holiday[..., None, None, None]
        classes = xp.astype(holiday == xp.asarray(np.arange(3)), xp.float64)
        ordinary = xp.astype(holiday == 0, xp.float64)
        return Day(rows[..., None, :, :], looked[..., None, None, :], classes, ordinary, holiday < 2)


def _season(
    table: FloatArray, priors: Sequence[FloatArray], *, factors: tuple[str, ...], needed: int, settled: int, patience: int,
    level_walk: float, walk: float, shift: int = 0, stride: int = 0, ends: int = 0, shared: int = 0,
) -> Season:
    """table (c, season) and, for each filter, the prior covariance (season, season).

    `shared` of its last unknowns belong to many buckets at once: no single one may open them.
    """
    cycle, season = table.shape
    end = SEASON + season
    size = end + ends + 1
    rows = np.zeros((cycle, size))
    rows[:, LEVEL], rows[:, SEASON:end] = 1.0, table
    habits = np.zeros(size, np.bool_)
    habits[SEASON : end - shared] = habits[end:-1] = True

    carry, walks = np.eye(size)[None, None], np.zeros((1, 1, 1, size))
    carry[..., LEVEL, SLOPE], carry[..., SLOPE, SLOPE] = 1.0, DAMPING
    walks[..., LEVEL], walks[..., SLOPE], walks[..., SEASON:end], walks[..., end:-1] = level_walk, SLOPE_WALK, walk, END_WALK
    design = Design(carry, walks, needed, settled, patience, LOG_EVIDENCE)

    moments = np.zeros((1, len(priors), size, size))
    moments[..., range(end, size - 1), range(end, size - 1)] = END_PRIOR
    moments[..., LEVEL, LEVEL], moments[..., SLOPE, SLOPE] = LEVEL_PRIOR, SLOPE_PRIOR
    moments[..., SEASON:end, SEASON:end] = priors
    deviation, unseen = np.zeros((2, 1, 1, 1, size))
    deviation[..., LEVEL] = LEVEL_MOVE
    unseen[..., SEASON:end] = UNSEEN / max(table.sum(axis=1).max(), 1.0)
    unseen[..., end:-1] = HARDLY_SEEN
    return Season(rows, shift, ends, stride, habits, factors, design, filter_bank.begin(moments, deviation, unseen))


def _daily() -> Season:
    weekend = np.outer(np.arange(7) >= 5, np.arange(7) >= 5)
    priors = [200.0 * weekend + single * np.eye(7) for single in (0.3, 50.0)]
    return _season(
        np.eye(7), priors, factors=("trend", "weekday", "month_end", "holiday"),
        needed=4, settled=28, patience=7, level_walk=0.03, walk=0.01, shift=3, stride=1, ends=ENDS,
    )


def _hourly() -> Season:
    """Hours of any day, hours of the weekend, and weekdays."""
    hour, weekday = np.tile(np.eye(24), (7, 1)), np.repeat(np.eye(7), 24, axis=0)
    table = np.concatenate([hour, hour * weekday[:, 5:].sum(axis=1, keepdims=True), weekday], axis=1)
    priors = [np.diag([100.0] * 24 + [rest] * 24 + [day] * 7) for rest, day in ((0.3, 0.3), (50.0, 10.0))]
    return _season(
        table, priors, factors=("trend", "hour", "holiday"), needed=48, settled=336, patience=24,
        level_walk=0.01, walk=0.002, shift=72, stride=24, shared=7,
    )


def _longer(patience: int) -> Season:
    """Weeks and months have a level and a slope."""
    return _season(
        np.zeros((1, 0)), [np.zeros((0, 0))], factors=("trend",), needed=4, settled=4, patience=patience,
        level_walk=0.03, walk=0.0,
    )


SEASONS = {"hourly": _hourly(), "daily": _daily(), "weekly": _longer(4), "monthly": _longer(3)}
