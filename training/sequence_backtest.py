"""Held-out days as they were and with faults put into them: what each family says of both.

The last part of the series is held out. The filter goes through it as it does in service; an LSTM is fitted on what came
before. At four times of each held-out day the verdict on the day so far is read, without a fault and with each kind, begun
at the day's first bucket, in one metric. Calibrations are made of every other day and used on the others: no day helps to
judge itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from detectors.sequence_filter import RHYTHMS, Filter
from detectors.sequence_verdict import combined, score_of
from training import sequence_lstm
from training.calibration import Calibration
from training.evaluation import Scores
from training.sequence_faults import EXPECTED, OTHERS
from training.sequence_lstm import Effort
from training.series import FloatArray, IntArray, NotEnoughHistory

HELD_OUT, MOST_DAYS = 0.45, 40
FAULTS = EXPECTED | OTHERS
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
    """Raw evidence of held-out days: `normal` (d, r, m) at the times that are read, `faulty` (d, r, kinds, m) with a fault.

    `changed` (d, r, kinds) tells where the fault has changed anything by then; `days` (d,) are places of first buckets.
    """

    normal: FloatArray
    faulty: FloatArray
    changed: Any
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


def faulted(series: MetricSeries, day: int, number: int) -> FloatArray:
    """The day that begins at a place, with each kind of fault -> (kinds, phases, m); the metric is drawn by turns."""
    phases, cycle = RHYTHMS[series.granularity].phases, RHYTHMS[series.granularity].cycle
    metric = number % series.values.shape[1]
    own, before, week = (series.values[day - lag : day - lag + phases] for lag in (0, phases, cycle))
    own, before, week = (_filled(part[:, metric]) for part in (own, before, week))
    days = np.repeat(series.values[None, day : day + phases], len(FAULTS), axis=0)
    for k, fault in enumerate(FAULTS.values()):
        days[k, :, metric] = fault(own, before, week)
    return days


def filter_trials(series: MetricSeries) -> tuple[Trials, FloatArray]:
    """The hypothesis filter's log odds, and those of all held-out buckets (k, m)."""
    rhythm, days = RHYTHMS[series.granularity], held_out(series)
    state = Filter.begin(series.values[: rhythm.setup], series.start, rhythm)
    begins = {int(day): number for number, day in enumerate(days)}
    usual, found = [], []
    for i, row in enumerate(series.values):
        if i in begins:
            trial = faulted(series, i, begins[i])
            ahead = state.repeated(len(FAULTS))
            steps = [ahead.step(trial[:, phase].ravel()).log_odds for phase in range(rhythm.phases)]
            found.append(np.array(steps).reshape(rhythm.phases, len(FAULTS), -1))
        step = state.step(row)
        if i >= days[0]:
            usual.append(step.log_odds)
    return _trials(series, days, np.array(usual), np.stack(found)), np.array(usual)


def lstm_trials(series: MetricSeries, effort: Effort) -> tuple[Trials, FloatArray, FloatArray]:
    """The same of an LSTM fitted on what came before the first held-out day, and its errors (k, lead, m)."""
    days = held_out(series)
    model = sequence_lstm.fit(series.values[: days[0]], series.start, series.granularity, effort)
    hidden = sequence_lstm.hidden_by_jax(model)
    ends = np.arange(int(days[0]), len(series.values))
    errors = sequence_lstm.errors_of(model, series.values, series.start, ends)
    model = sequence_lstm.with_errors(model, errors)

    def raw(values: FloatArray, at: IntArray) -> FloatArray:
        time, windows = sequence_lstm.windows_of(values, series.start, at, model.window)
        judged: FloatArray = model.judge(np, time, windows, hidden)["raw"]
        return np.where(np.isfinite(values[at]), judged, np.nan)

    phases, places = RHYTHMS[series.granularity].phases, _read_at(series)
    found = []
    for number, day in enumerate(days.tolist()):
        values = series.values[: day + phases].copy()
        kinds = np.full((phases, len(FAULTS), values.shape[1]), np.nan)
        for k, trial in enumerate(faulted(series, day, number)):
            values[day:] = trial
            kinds[places, k] = raw(values, day + places)
        found.append(kinds)
    usual = raw(series.values, ends)
    return _trials(series, days, usual, np.stack(found)), usual, errors


def judged(trials: Trials, usual: FloatArray) -> tuple[Scores, Calibration]:
    """Calibrated scores of the trials, and the calibration made of all held-out buckets. Raises NotEnoughHistory."""
    odd = np.arange(len(trials.days)) % 2 == 1
    normal = np.full(trials.normal.shape[:2], np.nan)
    faulty = np.full(trials.faulty.shape[:3], np.nan)
    for own in (odd, ~odd):
        score = _scorer(Calibration.fit(_rows(trials, usual, ~own).ravel()))
        normal[own], faulty[own] = score(trials.normal[own]), score(trials.faulty[own])
    faulty = np.where(trials.changed, faulty, np.nan)
    rows = normal.size
    return Scores(normal.reshape(rows), faulty.reshape(rows, -1)), Calibration.fit(usual.ravel())


def _rows(trials: Trials, usual: FloatArray, days: Any) -> FloatArray:
    """The buckets of some of the held-out days."""
    first, ends = int(trials.days[0]), np.append(trials.days[1:], trials.days[0] + len(usual))
    chosen = [usual[begin - first : end - first] for begin, end, taken in zip(trials.days, ends, days, strict=True) if taken]
    return np.concatenate(chosen)


def _scorer(calibration: Calibration) -> Callable[[FloatArray], FloatArray]:
    def score(raw: FloatArray) -> FloatArray:
        surprise = calibration.surprise(np, raw).reshape(-1, raw.shape[-1])
        return score_of(combined(surprise)[0]).reshape(raw.shape[:-1])

    return score


def _trials(series: MetricSeries, days: IntArray, usual: FloatArray, found: FloatArray) -> Trials:
    """usual (k, m) from the first held-out day on; found (d, phases, kinds, m)."""
    places = _read_at(series)
    at = days[:, None] + places
    same = np.stack([[_unchanged(trial, series.values[day : day + place + 1]) for place in places.tolist()]
                     for day, trial in ((day, faulted(series, day, i)) for i, day in enumerate(days.tolist()))])
    return Trials(usual[at - days[0]], found[:, places], ~same, days)


def _unchanged(trial: FloatArray, day: FloatArray) -> Any:
    """(kinds, phases, m) against (p, m) the day so far -> (kinds,)."""
    return np.isclose(trial[:, : len(day)], day, equal_nan=True).all(axis=(1, 2))


def _read_at(series: MetricSeries) -> IntArray:
    phases = RHYTHMS[series.granularity].phases
    return np.unique([max(round(share * phases) - 1, 0) for share in READ_AT])


def _filled(column: FloatArray) -> FloatArray:
    """(p,) without gaps: a fault is made of known values."""
    known = np.isfinite(column)
    return np.interp(np.arange(len(column)), np.flatnonzero(known), column[known]) if known.any() else np.zeros(len(column))
