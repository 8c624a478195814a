"""Held-out days as they were and with faults put into them: what each family says of both.

The last part of the series is held out and gone through several times. Each time every tenth day has a fault in one metric,
begun at its first bucket, and the days after it are as they were: a family is judged by what it says of a fault, and by what
it says once the fault is over. The filter goes through it as it does in service; an LSTM is fitted on what came before.
Calibrations are made of every other day and used on the others: no day helps to judge itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np

from detectors.sequence_filter import RHYTHMS, Filter
from detectors.sequence_verdict import LOG_ODDS, TAILS, combined, score_of
from training import sequence_lstm
from training.calibration import Calibration
from training.evaluation import Scores
from training.sequence_faults import EXPECTED, OTHERS
from training.sequence_lstm import Effort
from training.series import FloatArray, IntArray, NotEnoughHistory

HELD_OUT, MOST_DAYS = 0.45, 40
FAULTS = EXPECTED | OTHERS
EVERY, ROUNDS = 10, 2  # in each pass one day in ten has a fault; each day has one in two passes of twenty
READ_AT = (0.25, 0.5, 0.75, 1.0)  # of a day


@dataclass(frozen=True, slots=True)
class MetricSeries:
    """Buckets without gaps from `start` on: `values` (n, m), NaN where unknown."""

    start: int
    values: FloatArray
    granularity: str
    metrics: tuple[str, ...]

    @property
    def end(self) -> int:
        return self.start + len(self.values) - 1

    def to_json(self) -> str:
        cells = self.values.astype(object)
        cells[np.isnan(self.values)] = None
        return json.dumps({"start": self.start, "values": cells.tolist(), "granularity": self.granularity,
                           "metrics": self.metrics})

    @classmethod
    def from_json(cls, text: str) -> Self:
        own = json.loads(text)
        values = np.array(own["values"], np.float64).reshape(-1, len(own["metrics"]))
        return cls(own["start"], values, own["granularity"], tuple(own["metrics"]))


@dataclass(frozen=True, slots=True)
class Trials:
    """The held-out part, `passes` (p, n, m) times with other faults; it begins at place `first`.

    `kind` (p, d) is each day's fault, -1 without one; `days` (d,) are the places of their first buckets.
    """

    first: int
    passes: FloatArray
    kind: IntArray
    days: IntArray


def held_out(series: MetricSeries) -> IntArray:
    """(d,) places where held-out days begin: whole, known for the most part. Raises NotEnoughHistory."""
    rhythm = RHYTHMS[series.granularity]
    n, phases = len(series.values), rhythm.phases
    needed = max(rhythm.setup, 2 * sum(sequence_lstm.WINDOWS[series.granularity]))
    first = max(round(n * (1 - HELD_OUT)), needed)
    starts = np.array([i for i in range(first, n - phases + 1) if rhythm.slot(series.start + i) % phases == 0], np.int64)
    whole = [i for i in starts.tolist() if np.isfinite(series.values[i : i + phases]).mean() > 0.9]
    if len(whole) < 8:
        raise NotEnoughHistory(needed + 10 * phases, n)
    return np.array(whole[-MOST_DAYS:], np.int64)


class Surprising(Protocol):
    """A calibration: raw evidence in, -ln of the probability of a false alarm out."""

    def surprise(self, xp: Any, raw: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Shared:
    """A table's own calibration and that of other series, half and half: a few weeks do not show all that is normal.

    Holidays, weather and strikes of the months to come are in the latter; the probability of a false alarm is the mean.
    """

    own: Calibration

    @classmethod
    def fit(cls, log_odds: FloatArray) -> Self:
        """(k,) log odds of held-out normal buckets. Raises NotEnoughHistory."""
        return cls(Calibration.fit(log_odds))

    def surprise(self, xp: Any, raw: Any) -> Any:
        return -xp.log(0.5 * xp.exp(-self.own.surprise(xp, raw)) + 0.5 * xp.exp(-_OTHERS.surprise(xp, raw)))


# The filter's own map from log odds to surprise, as a calibration: exponential beyond its last knot.
_OTHERS = Calibration(LOG_ODDS, -np.log(TAILS), float(np.diff(LOG_ODDS)[-1] / np.diff(-np.log(TAILS))[-1]), 1e-9)


def trials_of(series: MetricSeries) -> Trials:
    """Which day has which fault, and in which metric, follows from their numbers alone. Raises NotEnoughHistory."""
    days, faults = held_out(series), list(FAULTS.values())
    rhythm, first, m = RHYTHMS[series.granularity], int(days[0]), series.values.shape[1]
    passes = np.repeat(series.values[None, first:], EVERY * ROUNDS, axis=0)
    kind = np.full((len(passes), len(days)), -1)
    for p in range(len(passes)):
        for i in range(p % EVERY, len(days), EVERY):
            kind[p, i] = (i + (p // EVERY) * (len(faults) // ROUNDS)) % len(faults)
            place, metric = int(days[i]), (i + p) % m
            own, before, week = (_filled(series.values[place - lag : place - lag + rhythm.phases, metric])
                                 for lag in (0, rhythm.phases, rhythm.cycle))
            passes[p, place - first : place - first + rhythm.phases, metric] = faults[kind[p, i]](own, before, week)
    return Trials(first, passes, kind, days)


def filter_evidence(series: MetricSeries, trials: Trials) -> tuple[FloatArray, FloatArray]:
    """The hypothesis filter's log odds: (n, m) of the held-out part as it was, (p, n, m) of the passes."""
    state = Filter.begin(series.values[: RHYTHMS[series.granularity].setup], series.start, RHYTHMS[series.granularity])
    for row in series.values[: trials.first]:
        state.step(row)
    every = np.concatenate([series.values[None, trials.first :], trials.passes])
    ahead = state.repeated(len(every))
    odds = np.array([ahead.step(rows.ravel()).log_odds for rows in every.swapaxes(0, 1)])
    odds = odds.reshape(len(odds), len(every), -1).swapaxes(0, 1)
    return odds[0], odds[1:]


def lstm_evidence(series: MetricSeries, trials: Trials, effort: Effort) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The same of an LSTM fitted on what came before, of passes when they are read alone; and its errors (n, lead, m)."""
    first = trials.first
    model = sequence_lstm.fit(series.values[:first], series.start, series.granularity, effort)
    hidden = sequence_lstm.hidden_by_jax(model)
    ends = np.arange(first, len(series.values))
    errors = sequence_lstm.errors_of(model, series.values, series.start, ends)
    model = sequence_lstm.with_errors(model, errors)

    def raw(values: FloatArray, at: IntArray) -> FloatArray:
        time, windows = sequence_lstm.windows_of(values, series.start, at, model.window)
        judged: FloatArray = model.judge(np, time, windows, hidden)["raw"]
        return np.where(np.isfinite(values[at]), judged, np.nan)

    read = _read_at(series, trials).ravel()
    passes = np.full(trials.passes.shape, np.nan)
    for found, changed in zip(passes, trials.passes, strict=True):
        found[read] = raw(np.concatenate([series.values[:first], changed]), first + read)
    return raw(series.values, ends), passes, errors


def judged[S: Surprising](series: MetricSeries, trials: Trials, usual: FloatArray, passes: FloatArray,
                          fit: Callable[[FloatArray], S]) -> tuple[Scores, S]:
    """Calibrated scores, a row for each day and time that is read, and the calibration made of all held-out buckets.

    Of a normal day one pass counts, drawn among those in which it has no fault; of a fault every pass that has it, at the
    times when it has changed anything. Raises NotEnoughHistory.
    """
    read = _read_at(series, trials)
    day = np.searchsorted(trials.days, trials.first + np.arange(len(usual)), side="right") - 1
    odd = day % 2 == 1
    scores = np.full(passes.shape[:2], np.nan)
    for own in (odd, ~odd):
        surprise = fit(usual[~own].ravel()).surprise(np, passes[:, own])
        scores[:, own] = score_of(combined(surprise.reshape(-1, passes.shape[2]))[0]).reshape(len(passes), -1)

    rng = np.random.default_rng(0)
    normal, faulty = [], []
    for i, places in enumerate(read):
        clean = rng.choice(np.flatnonzero(trials.kind[:, i] < 0))
        normal.append(scores[clean, places])
        row = np.full((len(places), len(FAULTS)), np.nan)
        for p in np.flatnonzero(trials.kind[:, i] >= 0).tolist():
            row[:, trials.kind[p, i]] = np.where(_changed(series, trials, p, i, places), scores[p, places], np.nan)
        faulty.append(row)
    return Scores(np.concatenate(normal), np.concatenate(faulty)), fit(usual.ravel())


def _changed(series: MetricSeries, trials: Trials, p: int, day: int, places: IntArray) -> Any:
    """(r,) whether the fault of a pass has changed anything of its day by then."""
    begin = int(trials.days[day]) - trials.first
    own = series.values[trials.first :]
    return [not np.allclose(trials.passes[p, begin : place + 1], own[begin : place + 1], equal_nan=True) for place in places]


def _read_at(series: MetricSeries, trials: Trials) -> IntArray:
    """(d, r) places in the held-out part."""
    phases = RHYTHMS[series.granularity].phases
    times = np.unique([max(round(share * phases) - 1, 0) for share in READ_AT])
    places: IntArray = trials.days[:, None] - trials.first + times
    return places


def _filled(column: FloatArray) -> FloatArray:
    """(p,) without gaps: a fault is made of known values."""
    known = np.isfinite(column)
    return np.interp(np.arange(len(column)), np.flatnonzero(known), column[known]) if known.any() else np.zeros(len(column))
