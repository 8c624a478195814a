"""A filter over explicit hypotheses: is a series itself, or frozen, flattened, mirrored, played backwards, moved or a copy?

    known = Filter.begin(values[:rhythm.setup], bucket, rhythm)     # (n, m) one row a bucket, one column a metric
    for row in values: step = known.step(row)                       # log odds that some fault is on, and which

A normal bucket is y = profile[hour of the week] + r, where y is the value or its square root and r an AR(1) process with
Student-t innovations whose scale depends on the hour. Each fault replaces the profile by what it would make of it, or the
dynamics. The states follow each other as in a hidden Markov model (Rabiner 1989, doi:10.1109/5.18626), evidence tempered:

    a_k <- a_k (1 - ENDS) L_k + a_0 BEGINS prior_k E_k        a_0 <- a_0 (1 - BEGINS) + sum(a_k) ENDS B        normalised

L_k is the likelihood in a state that goes on, E_k on entering it (nothing is known of its r), B on the way back to normal,
all relative to a normal bucket. The profile is learnt with exponential forgetting and with weight 1 - P(fault): faults leave
the history by themselves; what lasts is accepted as the new usual. Everything is causal, and metrics know nothing of
each other. A bucket without a value says nothing, and the filter goes on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from detectors.context import FloatArray

FREEDOM = 5.0  # of the Student-t innovations
EVIDENCE, MOST_EVIDENCE = 0.9, 8.0  # the log likelihood ratio of one bucket is clipped, and tempered: the model is not exact
WILD, DISPLACED = 3.0, 6.0  # times the usual scale: noise of a wild series, the jump into a displaced one
FLAT = 0.25  # what flattening leaves of the day's shape
COPIES_PRIOR = 0.2  # copies are rarer than the other hypotheses, because exact repeats are often natural
SHRINK = 5.0  # visits that an hour of the week has to outweigh, against the same hour of its kind of day
SURE_REPEAT, CHANCE_REPEAT = 0.98, 0.01  # P(value repeats) in a repeating state, and of a change in it
REPEAT_FLOOR, COPY_FLOOR = 0.002, 0.02  # smallest P(value repeats) of a normal bucket: of the last value, of a copy
STABLE = 0.98  # largest autoregression
FLOOR = 1e-3  # smallest scale, as a share of the level: a constant may still move
OUTLIER = 4.0  # learnt values are drawn to the profile from so many scales on
CERTAIN = 1e-12
# A value that repeats exactly is a fact, a shape only a likeness: so many rare repeats in a row name the fault.
TELLING, RARE = 3, 0.2

REPEATS = ("frozen", "copy_of_last_day", "copy_of_last_week")
SHAPES = ("flattened", "mirrored", "reversed", "later", "earlier", "other_day_type")
DYNAMICS = ("wild", "displaced")


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How a granularity repeats: `phases` make a day (or week), `days` of them the whole cycle; times are in buckets."""

    phases: int
    days: int
    groups: tuple[slice, ...]  # kinds of day: a day of one looks like the others of its kind
    repeats: tuple[int, ...]  # lags after which a repeating feed shows the same values
    hypotheses: tuple[str, ...]
    shift: int
    setup: int  # buckets that the scale, the transform and the first profile are learnt from
    half_life: float
    begins: float  # P(a fault begins in a normal bucket)
    ends: float
    accepted: int  # buckets after which a fault is the new usual

    @property
    def cycle(self) -> int:
        return self.phases * self.days

    def slot(self, bucket: int) -> int:
        """The place of a bucket in the cycle, which begins on Monday."""
        return (bucket + 3 * self.cycle // 7) % self.cycle  # bucket 0 was a Thursday


RHYTHMS = {
    "hourly": Rhythm(24, 7, (slice(0, 5), slice(5, 7)), (1, 24, 168), (*REPEATS, *SHAPES, *DYNAMICS), shift=6, setup=336,
                     half_life=21 * 24.0, begins=1 / 480, ends=1 / 14, accepted=120),
    "daily": Rhythm(7, 1, (slice(0, 1),), (1, 7), (REPEATS[0], REPEATS[2], *SHAPES[:-1], *DYNAMICS), shift=1, setup=28,
                    half_life=56.0, begins=1 / 60, ends=1 / 5, accepted=14),
}


class Step(NamedTuple):
    """One bucket as it was judged, each (m,), and what was learnt of the metric until then.

    `log_odds` of some fault against none; `hypothesis` the likeliest fault's place in the rhythm's list; `expected` value
    and `scale` of a normal bucket, in the unit that the filter works in. NaN log odds where there was no value.
    """

    log_odds: FloatArray
    hypothesis: NDArray[np.intp]
    expected: FloatArray
    scale: FloatArray


class _Plan(NamedTuple):
    """What is expected of a day, by its phases: `shape` (m, 1 + hypotheses, phases), the normal profile first."""

    shape: FloatArray
    scale: FloatArray  # (m, phases) of an innovation
    entry: FloatArray  # (m, phases) of a residual
    repeat: FloatArray  # (m, lags, phases) P(value repeats)
    autoregression: FloatArray  # (m, 1)


class Filter:
    """What is known of m metrics after some buckets. `step` changes it; `copy` first, to look ahead."""

    _CHANGED = ("odds", "normal", "residuals", "profile_weight", "profile_sum", "spread_weight", "spread_sum",
                "repeat_weight", "repeat_sum", "moment", "stuck", "run", "recent")

    @classmethod
    def begin(cls, first: FloatArray, bucket: int, rhythm: Rhythm) -> Self:
        """(n, m) first values, NaN where unknown, which say how each metric is measured; `bucket` of the first step."""
        self = cls()
        self.rhythm, self.bucket, self.age = rhythm, bucket, 0
        m, k, lags, phases = first.shape[1], len(rhythm.hypotheses), len(rhythm.repeats), rhythm.phases
        slots = np.array([rhythm.slot(bucket + i) for i in range(len(first))])
        self.root = np.array([uses_root(column, slots, rhythm.cycle) for column in first.T], bool)
        self.grain = np.array([_grain(column) for column in first.T])
        level = np.where(self.root, np.sqrt(np.maximum(first, 0.0)), first)
        known = np.isfinite(level)
        count = np.maximum(known.sum(axis=0), 1)
        self.mean = np.where(known, level, 0.0).sum(axis=0) / count
        deviation = np.sqrt(np.where(known, (level - self.mean) ** 2, 0.0).sum(axis=0) / count)
        self.floor = FLOOR * np.abs(self.mean) + 1e-9
        start = np.maximum(deviation, self.floor)[:, None, None]

        prior = np.array([COPIES_PRIOR if name in REPEATS[1:] else 1.0 for name in rhythm.hypotheses])
        self.prior = rhythm.begins * prior / prior.sum()
        self.odds, self.normal = np.zeros((m, k)), np.ones(m)
        self.residuals = np.zeros((m, 1 + k))
        self.profile_weight, self.profile_sum = np.zeros((m, rhythm.cycle)), np.zeros((m, rhythm.cycle))
        self.spread_weight = np.full((m, phases), 3.0)
        self.spread_sum = start * np.array([0.9, 1.5])[None, :, None] + np.zeros((m, 2, phases))
        self.repeat_weight, self.repeat_sum = np.full((m, lags, phases), 4.0), np.full((m, lags, phases), 0.4)
        self.moment = np.tile([1e-3, 0.8e-3], (m, 1))  # sums of r r and r r': the autoregression begins at 0.8
        self.stuck, self.run = np.zeros(m, np.int64), np.zeros((m, lags), np.int64)
        self.recent = np.full((m, rhythm.cycle), np.nan)
        self._plan = self._planned(rhythm.slot(bucket) // phases)
        return self

    def __init__(self) -> None:
        self.rhythm: Rhythm
        self.bucket: int
        self.age: int
        self.root: NDArray[np.bool_]
        self.stuck: NDArray[np.int64]
        self.run: NDArray[np.int64]
        self.grain: FloatArray
        self.mean: FloatArray
        self.floor: FloatArray
        self.prior: FloatArray
        self.odds: FloatArray
        self.normal: FloatArray
        self.residuals: FloatArray
        self.profile_weight: FloatArray
        self.profile_sum: FloatArray
        self.spread_weight: FloatArray
        self.spread_sum: FloatArray
        self.repeat_weight: FloatArray
        self.repeat_sum: FloatArray
        self.moment: FloatArray
        self.recent: FloatArray
        self._plan: _Plan

    def copy(self) -> Self:
        """A filter that goes its own way from here."""
        other = type(self)()
        other.__dict__.update(self.__dict__)
        for name in self._CHANGED:
            setattr(other, name, getattr(self, name).copy())
        return other

    def repeated(self, times: int) -> Self:
        """The same metrics several times over, to try several continuations at once."""
        other = self.copy()
        for name in (*self._CHANGED, "root", "grain", "mean", "floor"):
            array = getattr(self, name)
            setattr(other, name, np.tile(array, (times,) + (1,) * (array.ndim - 1)))
        other._plan = _Plan(*(np.tile(part, (times,) + (1,) * (part.ndim - 1)) for part in self._plan))
        return other

    def level_of(self, values: FloatArray) -> FloatArray:
        """(m,) values in the unit that the filter works in."""
        level: FloatArray = np.where(self.root, np.sqrt(np.maximum(values, 0.0)), values)
        return level

    def in_own_unit(self, level: FloatArray) -> FloatArray:
        """(m,) on the filter's scale -> values."""
        return np.where(self.root, np.maximum(level, 0.0) ** 2, level)

    def step(self, values: FloatArray) -> Step:
        """(m,) values of the next bucket, NaN where unknown -> how it was judged. Then it is learnt."""
        rhythm = self.rhythm
        slot = rhythm.slot(self.bucket)
        phase = slot % rhythm.phases
        if phase == 0 or self.age == 0:
            self._plan = self._planned(slot // rhythm.phases)
        plan, known = self._plan, np.isfinite(values)
        shape, scale, entry = plan.shape[:, :, phase], plan.scale[:, phase], plan.entry[:, phase]
        carried = plan.autoregression * self.residuals
        level = self.level_of(values)
        residuals = np.where(known[:, None], level[:, None] - shape, carried)

        lagged = self.recent[:, [(slot - lag) % rhythm.cycle for lag in rhythm.repeats]]
        same = values[:, None] == lagged
        goes_on, enters, back = self._evidence(residuals, residuals - carried, scale, entry, values, same,
                                               plan.repeat[:, :, phase])
        goes_on, enters, back = (_tempered(part, known) for part in (goes_on, enters, back[:, None]))
        fault = self.odds.sum(axis=1)
        normal = self.normal * (1 - rhythm.begins) + fault * rhythm.ends * back[:, 0]
        odds = goes_on * self.odds * (1 - rhythm.ends) + enters * self.normal[:, None] * self.prior
        total = normal + odds.sum(axis=1)
        self.normal, self.odds = normal / total, odds / total[:, None]
        fault = self.odds.sum(axis=1)
        log_odds = np.log(np.maximum(fault, CERTAIN) / np.maximum(self.normal, CERTAIN))
        self.run = np.where(same, self.run + 1, 0)
        repeats = (self.run >= TELLING) & (plan.repeat[:, :, phase] < RARE)
        likeliest = np.where(repeats.any(axis=1), repeats.argmax(axis=1), self.odds.argmax(axis=1))
        judged = Step(np.where(known, log_odds, np.nan), likeliest, shape[:, 0] + carried[:, 0], scale)

        self._learn(slot, phase, known, level, residuals[:, 0], carried[:, 0], fault, same, np.isfinite(lagged))
        self.residuals = residuals
        self.recent[:, slot] = values
        self.bucket, self.age = self.bucket + 1, self.age + 1
        return judged

    def _evidence(
        self, residuals: FloatArray, innovations: FloatArray, scale: FloatArray, entry: FloatArray, values: FloatArray,
        same: NDArray[np.bool_], repeat: FloatArray,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Log likelihood ratios to a normal bucket: (m, k) of a state that goes on and on entering it, (m,) on leaving."""
        lags, k = len(self.rhythm.repeats), len(self.rhythm.hypotheses)
        shapes = slice(1 + lags, 1 + k - len(DYNAMICS))
        usual, wide = scale[:, None], entry[:, None]
        innovation = innovations[:, :1]
        z = np.concatenate([innovation / usual, innovation / (WILD * usual), innovation / (DISPLACED * usual),
                            residuals[:, :1] / wide, innovations[:, shapes] / usual, residuals[:, shapes] / wide], axis=1)
        density = _student(z)
        lost = np.log(wide / usual)  # a wider scale thins the density
        normal, back = density[:, :1], density[:, 3:4] - lost
        wild, displaced = density[:, 1:2] - math.log(WILD), density[:, 2:3] - math.log(DISPLACED)
        inside, entering = density[:, 4 : 4 + k - lags - 2], density[:, 4 + k - lags - 2 :] - lost

        # A value on a grid has a probability: its density times the grain, in the values' own unit.
        stretch = np.where(self.root, 0.5 / np.sqrt(np.maximum(values, self.grain)), 1.0) * self.grain / scale
        chance = np.minimum(np.exp(normal) * stretch[:, None], 1.0)
        usually = repeat * same + (1 - repeat) * chance
        repeating = np.where(same, SURE_REPEAT, CHANCE_REPEAT * chance)
        again = np.log(np.maximum(repeating, 1e-300) / np.maximum(usually, 1e-300))
        goes_on = np.concatenate([again, inside - normal, wild - normal, np.full_like(normal, -0.02)], axis=1)
        enters = np.concatenate([again, entering - normal, wild - normal, displaced - normal], axis=1)
        return goes_on, enters, (back - normal)[:, 0]

    def _learn(self, slot: int, phase: int, known: NDArray[np.bool_], level: FloatArray, residual: FloatArray,
               carried: FloatArray, fault: FloatArray, same: NDArray[np.bool_], comparable: NDArray[np.bool_]) -> None:
        rhythm, plan = self.rhythm, self._plan
        warm = self.age < rhythm.setup
        # A lasting fault looks normal now and then, where its shape crosses the usual one: that alone does not begin anew.
        waning = np.where(self.stuck > rhythm.accepted, 0, np.maximum(self.stuck - 2, 0))
        before, self.stuck = self.stuck, np.where(known, np.where(fault > 0.5, self.stuck + 1, waning), self.stuck)
        if (accepted := (before < rhythm.accepted) & (self.stuck >= rhythm.accepted)).any():
            for name in ("profile_weight", "profile_sum", "spread_weight", "spread_sum", "moment"):
                getattr(self, name)[accepted] *= 0.1
        trusted = warm | (self.stuck > rhythm.accepted)
        weight = np.where(known, np.where(trusted, 1.0, 1.0 - fault), 0.0)

        scale, entry, usual = plan.scale[:, phase], plan.entry[:, phase], plan.shape[:, 0, phase]
        drawn = usual + np.minimum(np.maximum(residual, -OUTLIER * entry), OUTLIER * entry)
        fade = np.where(known, _fading(rhythm.cycle, rhythm.half_life), 1.0)
        self.profile_weight[:, slot] = self.profile_weight[:, slot] * fade + weight
        learnt = np.where(known, np.where(trusted, level, drawn), 0.0)
        self.profile_sum[:, slot] = self.profile_sum[:, slot] * fade + weight * learnt
        if self.age < rhythm.cycle:
            return
        fade = np.where(known, _fading(rhythm.phases, rhythm.half_life), 1.0)
        self.spread_weight[:, phase] = self.spread_weight[:, phase] * fade + weight
        innovation = np.minimum(np.abs(residual - carried), 5 * scale)
        sizes = np.stack([innovation, np.minimum(np.abs(residual), 5 * entry)], axis=1)
        self.spread_sum[:, :, phase] = self.spread_sum[:, :, phase] * fade[:, None] + weight[:, None] * sizes
        fade, counts = np.where(comparable, fade[:, None], 1.0), weight[:, None] * comparable
        self.repeat_weight[:, :, phase] = self.repeat_weight[:, :, phase] * fade + counts
        self.repeat_sum[:, :, phase] = self.repeat_sum[:, :, phase] * fade + counts * same
        last = self.residuals[:, 0]
        products = np.stack([last * last, last * residual], axis=1) * (weight / entry**2)[:, None]
        self.moment = self.moment * np.where(known, _fading(1, rhythm.half_life), 1.0)[:, None] + products

    def _planned(self, day: int) -> _Plan:
        """What is expected of a day of the cycle: once a day, from all that was learnt."""
        rhythm = self.rhythm
        m, phases = len(self.mean), rhythm.phases
        weight = self.profile_weight.reshape(m, rhythm.days, phases)
        total = self.profile_sum.reshape(m, rhythm.days, phases)
        # Hour -> the same hour of this kind of day -> hour of the week, each shrunk to the one before.
        top = (total.sum(axis=1) + 1e-6 * self.mean[:, None]) / (weight.sum(axis=1) + 1e-6)
        profile = np.empty((m, rhythm.days, phases))
        for group in rhythm.groups:
            middle = (total[:, group].sum(axis=1) + top) / (weight[:, group].sum(axis=1) + 1)
            profile[:, group] = (total[:, group] + SHRINK * middle[:, None]) / (weight[:, group] + SHRINK)
        today = profile[:, day]
        mean, ends = today.mean(axis=1, keepdims=True), today.max(axis=1, keepdims=True) + today.min(axis=1, keepdims=True)
        shapes = [mean + FLAT * (today - mean), ends - today, today[:, ::-1],
                  np.roll(today, rhythm.shift, axis=1), np.roll(today, -rhythm.shift, axis=1)]
        if SHAPES[-1] in rhythm.hypotheses:
            # The weekend's mean for a weekday; for a weekend's day that of Tuesday to Thursday, the most alike.
            shapes.append((profile[:, 5:] if day < 5 else profile[:, 1:4]).mean(axis=1))
        same, end = [today] * (1 + len(rhythm.repeats)), [today] * len(DYNAMICS)
        shape = np.stack([*same, *shapes, *end], axis=1)

        scale, entry = (self.spread_sum / self.spread_weight[:, None]).transpose(1, 0, 2)
        around = [np.maximum(np.maximum(part, 0.15 * part.mean(axis=1, keepdims=True)), self.floor[:, None])
                  for part in (scale, entry)]
        scale = 1.1 * (0.25 * np.roll(around[0], 1, axis=1) + 0.5 * around[0] + 0.25 * np.roll(around[0], -1, axis=1))
        entry = np.maximum(1.1 * around[1], scale)
        least = np.full(len(rhythm.repeats), COPY_FLOOR)
        least[0] = REPEAT_FLOOR
        repeat = np.minimum(np.maximum(self.repeat_sum / self.repeat_weight, least[:, None]), SURE_REPEAT)
        autoregression = self.moment[:, 1] / (1.001 * self.moment[:, 0])
        autoregression = np.minimum(np.maximum(autoregression, -STABLE), STABLE)
        return _Plan(shape, scale, entry, repeat, autoregression[:, None])


def _student(z: FloatArray) -> FloatArray:
    """Log density of a standard Student-t variable."""
    density: FloatArray = _STUDENT - 0.5 * (FREEDOM + 1) * np.log1p(z * z / FREEDOM)
    return density


_STUDENT = math.lgamma((FREEDOM + 1) / 2) - math.lgamma(FREEDOM / 2) - 0.5 * math.log(FREEDOM * math.pi)


def _tempered(log_ratio: FloatArray, known: NDArray[np.bool_]) -> FloatArray:
    ratio = np.exp(EVIDENCE * np.minimum(np.maximum(log_ratio, -MOST_EVIDENCE), MOST_EVIDENCE))
    return np.where(known[:, None], ratio, 1.0)


def _fading(buckets: int, half_life: float) -> float:
    return float(0.5 ** (buckets / half_life))


def _grain(column: FloatArray) -> float:
    """The smallest step between two values: what they are counted in. That of a constant is unknown: a tenth of it."""
    values = np.unique(column[np.isfinite(column)])
    return float(np.diff(values).min()) if len(values) > 1 else max(1.0, 0.1 * float(np.abs(values).max(initial=0.0)))


def uses_root(column: FloatArray, slots: NDArray[np.int64], cycle: int) -> bool:
    """Is the square root, which evens out the noise of counts, likelier than the value itself? Jacobian included."""
    known = np.isfinite(column)
    if known.sum() < cycle or column[known].min() < 0 or np.ptp(column[known]) == 0:
        return False
    smallest = column[known & (column > 0)].min()
    likelihoods = []
    for root in (False, True):
        level = np.sqrt(column) if root else column
        profile = np.full(cycle, np.median(level[known]))
        for slot in np.unique(slots[known]):
            profile[slot] = np.median(level[known & (slots == slot)])
        residual = level - profile[slots]
        pairs = known[1:] & known[:-1]
        before, after = residual[:-1][pairs], residual[1:][pairs]
        if len(after) < 2:
            return False
        innovation = after - (before @ after) / max(float(before @ before), 1e-300) * before
        scale = 1.4826 * float(np.median(np.abs(innovation))) + 0.05 * float(residual[known].std()) + 1e-12
        jacobian = np.log(0.5 / np.sqrt(np.maximum(column[1:][pairs], 0.25 * smallest))).sum() if root else 0.0
        likelihoods.append(_student(innovation / scale).sum() - len(after) * math.log(scale) + jacobian)
    return bool(likelihoods[1] > likelihoods[0])
