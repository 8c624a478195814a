"""Held-out days as they were and with faults put into them: what each family says of both.

The last part of the series is held out and gone through several times. Each time every tenth day has a fault in one metric,
begun at its first bucket, and the days after it are as they were: a family is judged by what it says of a fault, and by what
it says once the fault is over. The filter goes through it as it does in service; an LSTM is fitted on what came before.
Calibrations are made of every other day and used on the others: no day helps to judge itself. What a person spoke of is
judged as it was seen, stretch by stretch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from detectors.artefact import Artefact
from detectors.sequence import forecast_evidence
from detectors.sequence_filter import RHYTHMS, Filter
from detectors.sequence_history import Judged, Known
from detectors.sequence_verdict import LOG_ODDS, TAILS, combined, scales_off, score_of, with_range
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
    """Buckets without gaps from `start` on: `values` (n, m), NaN where unknown or not to be learnt from.

    `said` (n,) is a person's word as `evaluation.Scores` has it, `seen` (n, m) the values with those that were confirmed to
    be an anomaly; nothing and `values` where left out.
    """

    start: int
    values: FloatArray
    granularity: str
    metrics: tuple[str, ...]
    said: NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    seen: FloatArray = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        if not len(self.said):
            object.__setattr__(self, "said", np.zeros(len(self.values), np.int8))
        if not len(self.seen):
            object.__setattr__(self, "seen", self.values)

    @property
    def end(self) -> int:
        return self.start + len(self.values) - 1

    def to_json(self) -> str:
        return json.dumps({"start": self.start, "values": _listed(self.values), "granularity": self.granularity,
                           "metrics": self.metrics, "said": self.said.tolist(), "seen": _listed(self.seen)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        own = json.loads(text)
        values, seen = (np.array(own[name], np.float64).reshape(-1, len(own["metrics"])) for name in ("values", "seen"))
        return cls(own["start"], values, own["granularity"], tuple(own["metrics"]), np.array(own["said"], np.int8), seen)


@dataclass(frozen=True, slots=True)
class Trials:
    """The held-out part, which begins at place `first`: `runs` (k, n, m) of it. The first is as it is learnt from, the last
    as it was seen, with what was confirmed; those between are passes with faults.

    `kind` (k - 2, d) is each day's fault in a pass, -1 without one; `days` (d,) are the places of their first buckets.
    `told` (s, 3) are the stretches that a person spoke of: where in the part each begins and ends, and what was said.
    """

    first: int
    runs: FloatArray
    kind: IntArray
    days: IntArray
    told: IntArray

    @property
    def passes(self) -> FloatArray:
        return self.runs[1:-1]


class Evidence(NamedTuple):
    """What a family has against every bucket of `Trials.runs`, (k, n, m) each: its raw score, NaN where it was not asked or
    cannot say, and by how many scales the value is off.
    """

    raw: FloatArray
    off: FloatArray


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
    runs = np.concatenate([series.values[None, first:], passes, series.seen[None, first:]])
    return Trials(first, runs, kind, days, _stretches(series.said[first:]))


def filter_evidence(series: MetricSeries, trials: Trials) -> Evidence:
    """The hypothesis filter's log odds."""
    state = Filter.begin(series.values[: RHYTHMS[series.granularity].setup], series.start, RHYTHMS[series.granularity])
    for row in series.values[: trials.first]:
        state.step(row)
    shape = trials.runs.shape
    ahead, raw, off = state.repeated(len(trials.runs)), np.empty(shape), np.empty(shape)
    for i, rows in enumerate(trials.runs.swapaxes(0, 1)):
        step = ahead.step(rows.ravel())
        raw[:, i] = step.log_odds.reshape(rows.shape)
        off[:, i] = (np.abs(ahead.level_of(rows.ravel()) - step.expected) / step.scale).reshape(rows.shape)
    return Evidence(raw, off)


def lstm_evidence(series: MetricSeries, trials: Trials, effort: Effort) -> tuple[Evidence, FloatArray]:
    """The same of an LSTM fitted on what came before, of all but the first run when they are read alone; and its errors
    (n, lead, m)."""
    first = trials.first
    model = sequence_lstm.fit(series.values[:first], series.start, series.granularity, effort)
    hidden = sequence_lstm.hidden_by_jax(model)
    ends = np.arange(first, len(series.values))
    errors = sequence_lstm.errors_of(model, series.values, series.start, ends)
    model = sequence_lstm.with_errors(model, errors)
    shape, asked = trials.runs.shape, places_of(series, trials)
    found = Evidence(np.full(shape, np.nan), np.full(shape, np.nan))
    for k, run in enumerate(trials.runs):
        at = np.arange(len(run)) if k == 0 else asked
        values = np.concatenate([series.values[:first], run])
        time, windows = sequence_lstm.windows_of(values, series.start, first + at, model.window)
        judged = model.judge(np, time, windows, hidden)
        found.raw[k, at] = np.where(np.isfinite(run[at]), judged["raw"], np.nan)
        found.off[k, at] = scales_off(run[at], judged["expected"], judged["upper"])
    return found, errors


def judged[S: Surprising](series: MetricSeries, trials: Trials, evidence: Evidence,
                          fit: Callable[[FloatArray], S]) -> tuple[Scores, S]:
    """Calibrated scores, and the calibration made of all held-out buckets. Raises NotEnoughHistory."""
    usual = evidence.raw[0]
    day = np.searchsorted(trials.days, trials.first + np.arange(len(usual)), side="right") - 1
    odd = day % 2 == 1
    scores = np.full(evidence.raw.shape[:2], np.nan)
    for own in (odd, ~odd):
        surprise = fit(usual[~own].ravel()).surprise(np, evidence.raw[:, own])
        scores[:, own] = _together(with_range(surprise, evidence.off[:, own])[0])
    return _read(series, trials, scores)[0], fit(usual.ravel())


def judged_by(series: MetricSeries, timezone: str, champion: Artefact) -> Scores:
    """The same days with the same faults by a file: NaN where it has learnt from a bucket, all where it was trained on other
    metrics, or on buckets of another size or time zone. Raises NotEnoughHistory.
    """
    trials, card = trials_of(series), champion.card
    scores = np.full(trials.runs.shape[:2], np.nan)
    alike = card["granularity"] == series.granularity and card["timezone"] == timezone
    if alike and set(card["metrics"]) == set(series.metrics):
        scores = (_by_forecast if card["algorithm"] == "lstm" else _by_filter)(series, trials, champion)
    read, begins = _read(series, trials, scores)
    new = series.start + trials.first + begins > card["trained_until"]
    return Scores(np.where(new, read.normal, np.nan), np.where(new[:, None], read.faulty, np.nan), read.said)


def _by_filter(series: MetricSeries, trials: Trials, champion: Artefact) -> FloatArray:
    raw, off = filter_evidence(series, trials)
    surprise = champion.run({"log_odds": raw.reshape(-1, raw.shape[2])})["surprise"].reshape(raw.shape)
    return _together(with_range(surprise, off)[0])


def _by_forecast(series: MetricSeries, trials: Trials, champion: Artefact) -> FloatArray:
    known, first = Known(series.start, series.values[: trials.first]), series.start + trials.first
    asked, scores = places_of(series, trials), np.full(trials.runs.shape[:2], np.nan)
    for found, run in zip(scores, trials.runs, strict=True):
        found[asked] = _together(forecast_evidence(champion, series.metrics, Judged(first, run, asked, ()), known).surprise)
    return scores


def _together(surprise: FloatArray) -> FloatArray:
    """(..., m) surprise of metrics -> (...) score of a bucket."""
    return score_of(combined(surprise.reshape(-1, surprise.shape[-1]))[0]).reshape(surprise.shape[:-1])


def _read(series: MetricSeries, trials: Trials, scores: FloatArray) -> tuple[Scores, IntArray]:
    """(k, n) scores of the runs -> a row for each day and time that is read, and for each stretch that a person spoke of, in
    the order of time; and (d,) the place in the held-out part where each begins.

    Of a normal day one pass counts, drawn among those in which it has no fault; of a fault every pass that has it, at the
    times when it has changed anything. A stretch is found where any of its buckets is.
    """
    passes, seen = scores[1:-1], scores[-1]
    rng = np.random.default_rng(0)
    normal, faulty, begins, said = [], [], [], []
    for i, places in enumerate(_read_at(series, trials)):
        clean = rng.choice(np.flatnonzero(trials.kind[:, i] < 0))
        row = np.full((len(places), len(FAULTS)), np.nan)
        for p in np.flatnonzero(trials.kind[:, i] >= 0).tolist():
            row[:, trials.kind[p, i]] = np.where(_changed(series, trials, p, i, places), passes[p, places], np.nan)
        normal += passes[clean, places].tolist()
        faulty += list(row)
        begins += places.tolist()
        said += [0] * len(places)
    for begin, end, word in trials.told.tolist():
        normal.append(np.max(seen[begin:end], initial=-np.inf, where=np.isfinite(seen[begin:end])))
        faulty.append(np.full(len(FAULTS), np.nan))
        begins.append(begin)
        said.append(word)
    order = np.argsort(begins, kind="stable")
    highest = np.array(normal)[order]
    found = Scores(np.where(np.isfinite(highest), highest, np.nan), np.array(faulty)[order], np.array(said, np.int8)[order])
    return found, np.array(begins)[order]


def places_of(series: MetricSeries, trials: Trials) -> IntArray:
    """(q,) places in the held-out part that are read, in whichever run."""
    told = [np.arange(begin, end) for begin, end, _ in trials.told.tolist()]
    places: IntArray = np.unique(np.concatenate([_read_at(series, trials).ravel(), *told]))
    return places


def _stretches(said: NDArray[np.int8]) -> IntArray:
    """(n,) words -> (s, 3) where each run of one word begins and ends, and the word."""
    edges = np.concatenate([[0], np.flatnonzero(np.diff(said)) + 1, [len(said)]])
    runs: IntArray = np.stack([edges[:-1], edges[1:], said[edges[:-1]]], axis=1).astype(np.int64)
    told: IntArray = runs[runs[:, 2] != 0]
    return told


def _listed(values: FloatArray) -> list[Any]:
    """For JSON: NaN as None."""
    cells = values.astype(object)
    cells[np.isnan(values)] = None
    listed: list[Any] = cells.tolist()
    return listed


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
