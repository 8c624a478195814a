"""Trains the timeliness model of one feed: its schedule, and the family that tells its lags best, exported to ONNX."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, get_args

import numpy as np

from detectors import clock, schedule
from detectors.artefact import SCHEMA
from detectors.due_times import due_times
from detectors.lags import WINDOW, accepted_from
from detectors.schedule import DAY
from detectors.schedule_learning import learn
from detectors.timeliness import DETECTOR, model_name
from detectors.timeliness_case import days_away
from detectors.timeliness_history import NONE, Arrivals, gather
from shared.contract_timeliness import TimelinessAlgorithm, TimelinessTrainRequest
from shared.errors import InvalidRequest
from shared.history import History
from shared.registry import Registry
from training import candidates, lag_backtest, lag_graph
from training.candidates import Candidate
from training.evaluation import Scores
from training.lag_families import LagSeries, fit
from training.series import FloatArray, IntArray, NotEnoughHistory

BASELINE = "lag_filter"
# The baseline first: the others have to beat it.
FAMILIES = tuple(name for name in get_args(TimelinessAlgorithm.__value__) if name != "auto")
EVERYTHING = 2**40  # seconds: later than any arrival


@dataclass(frozen=True, slots=True)
class Prepared:
    """The training data of one feed: what its loads keep to, None where every due time was told, and how late each was."""

    table_id: str
    timezone: str
    holidays: dict[str, Any]
    schedule: dict[str, Any] | None
    series: LagSeries
    points: int
    missing: int

    def facts(self) -> dict[str, Any]:
        """What the job tells about its data."""
        first, last = (np.datetime64(int(hour), "h").item().isoformat() for hour in self.series.hours[[0, -1]])
        return {"from": first, "to": last, "points": self.points, "used": len(self.series),
                "excluded": self.points - len(self.series), "missing": self.missing}

    def to_json(self) -> bytes:
        own = {name: getattr(self, name) for name in ("table_id", "timezone", "holidays", "schedule", "points", "missing")}
        return json.dumps(own | {"lags": self.series.lags.tolist(), "hours": self.series.hours.tolist()}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Prepared:
        own = json.loads(text)
        series = LagSeries(np.array(own.pop("lags"), np.float64), np.array(own.pop("hours"), np.int64))
        return cls(series=series, **own)


def prepare(request: TimelinessTrainRequest, history: History | None) -> Prepared:
    """The arrivals of the last `training_days`, stored ones with the request's merged in, against their due times.

    Lags before the last accepted change of the usual are left out. Raises InvalidRequest where nothing arrived, or where no
    schedule is given, can be learnt, or was told with the arrivals.
    """
    zone = request.timezone
    stored = history.read(DETECTOR, request.table_id) if history else None
    known = gather(request.historical_data, None, stored, None, zone, EVERYTHING)
    if not len(known.at):
        raise InvalidRequest(f"There is no history of {request.table_id}: POST /api/v1/observations loads it.", "table_id")
    recent = known.at >= known.at[-1] - request.training_days * DAY
    known = replace(known, at=known.at[recent], excluded=known.excluded[recent], due=known.due[recent])
    keeps, due, lag, missing = _against_dues(request, known)
    start = accepted_from(lag)
    series = LagSeries(lag[start:], clock.local(due[start:], zone) // clock.HOUR)
    return Prepared(request.table_id, zone, request.holidays.model_dump(mode="json"), keeps, series, len(known.at), missing)


def _against_dues(
    request: TimelinessTrainRequest, known: Arrivals
) -> tuple[dict[str, Any] | None, IntArray, FloatArray, int]:
    """-> what the loads keep to, (m,) due times in UTC seconds, (m,) minutes after them, and how many loads never came."""
    zone, last = request.timezone, int(known.at[-1])
    away = days_away(request.holidays, known.at, last, zone)
    keeps = schedule.parse(request.schedule.cron) if request.schedule else learn(known.at, zone, away)
    if keeps is not None:
        due = due_times(keeps, known.at, zone, away, int(known.at[0]), last + 2 * DAY)
        learnt = due.met[~known.excluded[due.arrival[due.met]]]
        due_so_far = due.required[np.isin(due.required, np.arange(*due.met[[0, -1]]))] if len(due.met) else due.met
        missing = int((due.arrival[due_so_far] < 0).sum())
        return schedule.to_json(keeps), due.at[learnt], due.lag[learnt], missing
    told = (known.due != NONE) & ~known.excluded
    if not told.any():
        raise InvalidRequest(f"{len(known.at)} arrivals show no schedule: give schedule.cron, or load more.", "schedule")
    return None, known.due[told], (known.at[told] - known.due[told]) / 60.0, len(known.missed)


def families(request: TimelinessTrainRequest, registry: Registry) -> list[str]:
    """Which families a job tries: all, or the one asked for with those it is compared with."""
    return candidates.rivals(request.algorithm, FAMILIES, model_name(request.table_id), registry)


def fit_candidate(prepared: Prepared, algorithm: str) -> Candidate:
    """Back-tests one family on held-out arrivals, then fits it on all and exports it. Never raises for want of data."""
    began = time.perf_counter()
    figures: dict[str, Any] = {"algorithm": algorithm}
    try:
        scores, calibration = lag_backtest.held_out(algorithm, prepared.series)
        fitted = lag_backtest.calibrated(fit(algorithm, prepared.series), calibration)
    except NotEnoughHistory as error:
        return Candidate(algorithm, figures | {"error": str(error), "seconds": round(time.perf_counter() - began, 2)})
    figures["quality"] = quality(scores)
    card = _card(prepared, algorithm) | {"quality": figures["quality"]}
    payload = lag_graph.export(fitted, prepared.series, card)
    parity = lag_graph.parity(payload, fitted, prepared.series)
    figures |= {"parity": asdict(parity), "artefact_bytes": len(payload), "seconds": round(time.perf_counter() - began, 2)}
    if not parity.holds:
        return Candidate(algorithm, figures | {"error": "the ONNX graph differs from numpy"})
    return Candidate(algorithm, figures, payload, card, scores)


def quality(scores: Scores) -> dict[str, Any]:
    """Precision, recall, F1 and false positive rate at the usual threshold, by injected fault."""
    return candidates.quality(scores, tuple(lag_backtest.FAULTS))


def compare(rivals: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with their figures on the same arrivals."""
    return candidates.compare(rivals, quality)


def choose(rivals: Sequence[Candidate], algorithm: str = "auto") -> Candidate:
    """The one asked for, else the best: the lag filter unless it is beaten beyond noise. Raises InvalidRequest."""
    return candidates.choose(rivals, BASELINE, algorithm)


def publish_best(rivals: Sequence[Candidate], request: TimelinessTrainRequest, registry: Registry) -> dict[str, Any]:
    """Publishes the chosen candidate as a new version and promotes it where that is asked for and earned."""
    compared = compare(rivals)
    best = choose(compared, request.algorithm)
    return candidates.publish(best, compared, model_name(request.table_id), request.promote, registry)


def _card(prepared: Prepared, algorithm: str) -> dict[str, Any]:
    return {"schema": SCHEMA, "detector": "timeliness", "algorithm": algorithm, "name": model_name(prepared.table_id),
            "window": WINDOW, "trained_until": int(prepared.series.hours[-1]), "valid_until": None, "factors": [],
            "timezone": prepared.timezone, "holidays": prepared.holidays, "schedule": prepared.schedule,
            "trained_at": _stamp(datetime.now(UTC)), "training": prepared.facts(),
            "libraries": {name: version(name) for name in ("numpy", "onnx", "ndonnx")}}


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
