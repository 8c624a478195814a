"""How one model is doing: whether its recent data and scores are still like those it was trained on, and what was judged.

    volume         log counts without weekday (hour of the week) and growth
    timeliness     minutes after due, without the weekday
    distribution   the telling metrics of each column, batch by batch
    pattern        the share of each of the commonest shapes, batch by batch
    sequence       each metric, without hour of the week or weekday
    all            the calibrated scores that were stored with the points
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from detectors import calendar
from detectors.context import utc
from detectors.directory import detector
from detectors.metrics import TABLE
from detectors.profiles import table_of
from shared import telemetry
from shared.errors import ModelNotFound
from shared.history import History
from shared.registry import Registry
from shared.verdicts import BASELINES, Months, Seen, month_of, verdicts
from training import drift
from training.drift import FEWEST_RECENT, FEWEST_REFERENCE, FloatArray, IntArray

# What is looked at after the model's training: enough to see, not so much that the latest weeks are lost in it.
MOST_RECENT = {"hourly": 24 * 28, "daily": 90, "weekly": 52, "monthly": 24}
# Where no model says since when.
LATEST = {"hourly": 24 * 7, "daily": 28, "weekly": FEWEST_RECENT, "monthly": FEWEST_RECENT}
FEWEST = {"hourly": 72, "daily": FEWEST_RECENT, "weekly": FEWEST_RECENT, "monthly": FEWEST_RECENT}
PERIOD = {"hourly": 168, "daily": 7, "weekly": 1, "monthly": 1}
MOST_SHAPES = 8
# Of a column the first that are known: nulls, place, spread and variety tell most of what can happen to it.
METRICS = ("null_rate", "q50", "mean", "true_rate", "len_mean", "last_age", "std", "len_std", "top_freq", "distinct_count",
           "pattern_count")
MOST_OF_COLUMN, MOST_FEATURES = 4, 400
SHOWN = 5  # features, the worst
DAY = 86_400
COUNTED = timedelta(days=400)
RECOUNTED = timedelta(days=70)  # the months before stay as they were counted


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a model is fed with, oldest first: `time` (m,) in `unit`, `phase` (m,) of the season, `features` (m,) each.

    `unit` is a granularity, for buckets in the table's time zone, or "seconds" UTC.
    """

    time: IntArray
    phase: IntArray
    features: Mapping[str, FloatArray]
    granularity: str
    unit: str

    def place(self, moments: IntArray, zone: str) -> IntArray:
        """(k,) UTC seconds -> (k,) in `unit`."""
        return moments if self.unit == "seconds" else calendar.buckets(moments, zone, self.unit)


def monitor(kind: str, prepared: Any, history: History, registry: Registry, now: datetime,
            known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The figures of one model as shared.monitoring keeps them: put them there, and ask `drifted` of them.

    `kind` is the detector, `prepared` what its training's `prepare` gave (up to now), `known` the figures kept before, None
    where there are none. Raises StorageUnavailable.
    """
    name = detector(kind).model_name(prepared)
    champion = registry.champion(name)
    card = registry.manifest(name, champion.version).card if champion else {}
    column = getattr(prepared, "column", None)
    counts = Months.from_json(known["counts"]) if known else Months()
    start = now - (RECOUNTED if counts.months else COUNTED)
    until = _trained_until(card, prepared.timezone)
    seen = list(verdicts(history, kind, prepared.table_id, column, min(start, until - COUNTED) if until else start, now))
    algorithms = _algorithms(seen, name, registry, kind)
    new = Months.of(seen, algorithms)
    # The first month read may not be whole.
    whole = month_of(start + timedelta(days=31)) if counts.months else ""
    counts = (counts | new.between(whole, "9999")).between(month_of(now - COUNTED), month_of(now))
    found = _drift(kind, prepared, until, seen)
    telemetry.checked(kind, found["verdict"])
    return {"detector": kind, "name": name, "table_id": prepared.table_id, "column": column,
            "version": champion.version if champion else None, "algorithm": card.get("algorithm", BASELINES[kind]),
            "checked_at": now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "spacing_seconds": _spacing(seen), "injected": card.get("quality", {}),
            "counts": counts.to_json(), **found}


def inputs(kind: str, prepared: Any) -> Inputs:
    """What a model of this detector is fed with."""
    return {"volume": _counts, "timeliness": _lags, "distribution": _profiles, "pattern": _shapes,
            "sequence": _metrics}[kind](prepared)


def _drift(kind: str, prepared: Any, until: datetime | None, seen: list[Seen]) -> dict[str, Any]:
    own = inputs(kind, prepared)
    zone, fewest = prepared.timezone, FEWEST[own.granularity]
    known = np.any([np.isfinite(values) for values in own.features.values()] or [own.time < 0], axis=0)
    time = own.time[known]
    if until is None:
        trained = int(time[-LATEST[own.granularity] - 1]) if len(time) > LATEST[own.granularity] else None
    else:
        trained = int(own.place(np.array([int(until.timestamp())]), zone)[0])
    recent = own.time > trained if trained is not None else np.zeros(len(own.time), np.bool_)
    m, n = int((known & ~recent).sum()), int((known & recent).sum())
    facts: dict[str, Any] = {"recent": n, "reference": m, "since": _stamp(until), "features": []}
    if until is not None and n < fewest:
        return _not(facts, f"{n} points since the model was trained; {fewest} are needed.")
    if kind == "timeliness" and until is not None and m == 0 < prepared.points - n:
        return {"verdict": "drifted", "drift": facts,
                "reason": f"All {n} lags that say what is usual are newer than the model: the feed has changed."}
    if m < FEWEST_REFERENCE or n < fewest:
        return _not(facts, f"{m} points to compare {n} recent ones with; {FEWEST_REFERENCE} and {fewest} are needed.")
    newest = np.flatnonzero(known & recent)[-MOST_RECENT[own.granularity]:]
    kept = ~recent
    kept[newest] = True
    views = {name: drift.steadied(values[kept], own.time[kept], own.phase[kept], recent[kept])
             for name, values in own.features.items()}
    # Of a sequence only what was flagged keeps its score.
    judged = None if kind == "sequence" else _scores(seen, own, zone, trained)
    found = drift.compare_features(views, recent[kept], judged)
    if not found:
        return _not(facts, "The points hang together so much that they say too little.")
    facts |= {"recent": len(newest), "compared": len(found),
              "features": [{"feature": name} | one.to_json() for name, one in list(found.items())[:SHOWN]]}
    return {"verdict": (verdict := _verdict(found)), "drift": facts, "reason": _words(verdict, found, len(newest), until)}


def _scores(seen: list[Seen], own: Inputs, zone: str, trained: int | None) -> tuple[FloatArray, FloatArray] | None:
    """The scores of before the training and of after it, oldest first; None where none were kept."""
    judged = [one for one in seen if one.score is not None and one.status != "excluded"]
    if not judged or trained is None:
        return None
    scores = np.array([one.score for one in judged], np.float64)
    recent = own.place(np.array([int(one.timestamp.timestamp()) for one in judged], np.int64), zone) > trained
    return scores[~recent], scores[recent][-MOST_RECENT[own.granularity]:]


def _counts(prepared: Any) -> Inputs:
    series = prepared.series
    # What was flagged is no part of what was learnt; recently it may be the drift itself.
    values = np.log1p(np.maximum(prepared.observed, 0.0))
    return _regular(series.time, {"row_count": values}, series.granularity)


def _metrics(prepared: Any) -> Inputs:
    series = prepared.series
    features = {}
    for name, values in zip(series.metrics, series.values.T, strict=True):
        # Seasons of what cannot be negative are shares of it.
        features[name] = np.log1p(values) if np.nanmin(values, initial=0.0) >= 0 else values
    time = np.arange(series.start, series.end + 1, dtype=np.int64)
    return _regular(time, features, series.granularity)


def _regular(time: IntArray, features: Mapping[str, FloatArray], granularity: str) -> Inputs:
    return Inputs(time, time % PERIOD[granularity], features, granularity, granularity)


def _lags(prepared: Any) -> Inputs:
    series = prepared.series.learnable()
    return Inputs(series.hours, series.hours // 24 % 7, {"lag_minutes": series.lags}, "daily", "hourly")


def _profiles(prepared: Any) -> Inputs:
    batches = [batch for batch in prepared.batches if batch.moment is not None]
    if len(batches) < FEWEST_RECENT + FEWEST_REFERENCE:
        return _batches([batch.moment for batch in batches], {"rows": np.array([batch.rows for batch in batches])}, prepared)
    table = table_of(batches, FEWEST_RECENT + FEWEST_REFERENCE)
    own: dict[str, list[int]] = {}
    for place, (column, metric) in enumerate(table.features):
        if metric in METRICS or column == TABLE:
            own.setdefault(column, []).append(place)
    first = [place for places in own.values()
             for place in sorted(places, key=lambda at: _rank(table.features[at][1]))[:MOST_OF_COLUMN]]
    kept = {table.features[place]: table.raw[:, place] for place in first[:MOST_FEATURES]}
    features = {f"{column or 'table'}.{metric}": values for (column, metric), values in kept.items()}
    return _batches([batch.moment for batch in batches], features, prepared)


def _rank(metric: str) -> int:
    return METRICS.index(metric) if metric in METRICS else len(METRICS)


def _shapes(prepared: Any) -> Inputs:
    batches = [batch for batch in prepared.batches if batch.timestamp is not None and batch.tally.rows]
    total = Counter[str]()
    for batch in batches:
        total.update(batch.tally.counts)
    common = [shape for shape, _ in total.most_common(MOST_SHAPES)]
    shares = {f"shape {shape}": np.array([b.tally.counts.get(shape, 0) / b.tally.rows for b in batches]) for shape in common}
    if len(total) > len(common):
        shares["other shapes"] = 1.0 - np.sum(list(shares.values()), axis=0)
    shares["nulls"] = np.array([b.tally.missing / (b.tally.missing + b.tally.rows) for b in batches])
    return _batches([batch.timestamp for batch in batches], shares, prepared)


def _batches(moments: list[datetime], features: Mapping[str, FloatArray], prepared: Any) -> Inputs:
    time = np.array([int(moment.timestamp()) for moment in moments], np.int64)
    return Inputs(time, calendar.buckets(time, prepared.timezone, "daily") % 7, features, "daily", "seconds")


def _trained_until(card: Mapping[str, Any], zone: str) -> datetime | None:
    """The last point that the model has learnt from, None where there is no model or it does not say."""
    told = (card.get("training") or {}).get("to")
    return utc(datetime.fromisoformat(told), ZoneInfo(zone)) if told else None


def _algorithms(seen: list[Seen], name: str, registry: Registry, kind: str) -> dict[str | None, str]:
    """By version: which algorithm judged; None stands for no model."""
    found: dict[str | None, str] = {None: BASELINES[kind]}
    for version in {one.model for one in seen if one.judged and one.model is not None}:
        try:
            found[version] = registry.manifest(name, version).card.get("algorithm", "unknown")
        except ModelNotFound:
            found[version] = "unknown"
    return found


def _spacing(seen: list[Seen]) -> int | None:
    """The usual seconds from one point to the next."""
    at = np.array([one.timestamp.timestamp() for one in seen])
    return round(float(np.median(np.diff(at)))) if len(at) > 1 else None


def _verdict(found: Mapping[str, drift.Comparison]) -> str:
    worst = next(iter(found.values())).level
    return {"large": "drifted", "moderate": "moderate", "none": "stable"}[worst]


def _words(verdict: str, found: Mapping[str, drift.Comparison], n: int, until: datetime | None) -> str:
    name, worst = next(iter(found.items()))
    since = f"The {n} points since {until:%Y-%m-%d}" if until else f"The last {n} points"
    figures = {"PSI": worst.psi, "Jensen-Shannon distance": worst.js, "Kolmogorov-Smirnov distance": worst.ks}
    figure, told = max(figures.items(),
                       key=lambda pair: pair[1].value / pair[1].large)
    measured = f"{figure} {told.value:.2f}, {told.large:.2f} is drift"
    if verdict == "stable":
        compared = f"all {len(found)} features" if len(found) > 1 else "the one feature"
        return f"{since} are like those before in {compared} compared; {name} is farthest ({measured})."
    beyond = sum(one.level == worst.level for one in found.values())
    others = f" and {beyond - 1} more" if beyond > 1 else ""
    return f"{since} differ from those before in {name}{others} ({measured})" + (
        "." if verdict == "drifted" else ": worth watching, not worth a training before its week.")


def _not(facts: dict[str, Any], reason: str) -> dict[str, Any]:
    return {"verdict": "not_evaluated", "drift": facts, "reason": reason}


def _stamp(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
