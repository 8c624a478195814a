"""Trains the timeliness model of one feed: its schedule, and the family that tells its lags best, exported to ONNX."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, get_args

import numpy as np

from detectors import clock, schedule
from detectors.artefact import SCHEMA, Artefact
from detectors.baselines import rebased_lags, stamp
from detectors.due_times import due_times
from detectors.lags import WINDOW, accepted_from
from detectors.schedule import DAY, Schedule
from detectors.schedule_learning import learn
from detectors.timeliness import DETECTOR, model_name
from detectors.timeliness_case import days_away
from detectors.timeliness_history import NONE, Arrivals, gather
from shared.contract import Holidays
from shared.contract_timeliness import TimelinessAlgorithm, TimelinessTrainRequest
from shared.errors import InvalidRequest
from shared.history import EXCLUDED, History
from shared.registry import Registry
from training import candidates, lag_backtest, lag_graph
from training.candidates import Candidate
from training.evaluation import Scores
from training.lag_families import LagSeries, fit
from training.series import NotEnoughHistory
from training.trainer import TrainedModel, Trainer

BASELINE = "lag_filter"
# The baseline first: the others have to beat it.
FAMILIES = tuple(name for name in get_args(TimelinessAlgorithm.__value__) if name != "auto")
EVERYTHING = 2**40  # seconds: later than any arrival
NOTHING = gather((), None, None, None, "UTC", 0)
SERIES = {"lags": np.float64, "hours": np.int64, "status": np.uint8, "came": np.int64}
ARRIVALS = {"at": np.int64, "status": np.uint8, "due": np.int64}


@dataclass(frozen=True, slots=True)
class Prepared:
    """The training data of one feed: what its loads keep to, None where every due time was told, and how late each was.

    `given` says that the schedule was not learnt; `arrivals` are all that are known, whatever they came for. Those that were
    confirmed to be an anomaly are in the series, to be judged, and are not learnt from.
    """

    table_id: str
    timezone: str
    holidays: dict[str, Any]
    schedule: dict[str, Any] | None
    series: LagSeries
    points: int
    missing: int
    given: bool = False
    arrivals: Arrivals = NOTHING
    baseline: str | None = None  # since when the feed is at another normal, which earlier lags were moved to

    def facts(self) -> dict[str, Any]:
        """What the job tells about its data."""
        hours = self.series.learnable().hours
        first, last = (np.datetime64(int(hour), "h").item().isoformat() for hour in hours[[0, -1]])
        return {"from": first, "to": last, "points": self.points, "used": len(hours),
                "excluded": self.points - len(hours), "missing": self.missing}

    def fingerprint(self) -> str:
        """SHA-256 of what is learnt and judged, in hexadecimal: another where one lag, one status or the schedule is."""
        own = json.loads(self.to_json())
        learnt = {name: value for name, value in own.items() if name not in ("table_id", "points")}
        if self.schedule is not None:
            del learnt["arrivals"]["due"]  # what was told is not asked then
        return hashlib.sha256(json.dumps(learnt, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> bytes:
        plain = ("table_id", "timezone", "holidays", "schedule", "points", "missing", "given", "baseline")
        own = {name: getattr(self, name) for name in plain}
        own["series"] = {name: getattr(self.series, name).tolist() for name in SERIES}
        own["arrivals"] = {name: getattr(self.arrivals, name).tolist() for name in ARRIVALS}
        return json.dumps(own).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Prepared:
        own = json.loads(text)
        parts = (own.pop("series"), SERIES), (own.pop("arrivals"), ARRIVALS)
        series, known = ([np.array(part[name], kind) for name, kind in kinds.items()] for part, kinds in parts)
        at, status, due = known
        return cls(series=LagSeries(*series), arrivals=replace(NOTHING, at=at, status=status, due=due), **own)

    def served_by(self, card: Mapping[str, Any]) -> LagSeries | None:
        """The lags as the model of a card gets them: by its own schedule, unless one is given or due times are told.

        None where it has no schedule, or counts its hours in another time zone.
        """
        if card["timezone"] != self.timezone:
            return None
        if self.schedule is None:
            return _rebased(_told(self.arrivals, self.timezone), self.baseline)[0]
        keeps = self.schedule if self.given else card["schedule"]
        if keeps is None:
            return None
        away = days_away(Holidays.model_validate(self.holidays), self.arrivals.at, int(self.arrivals.at[-1]), self.timezone)
        return _rebased(_scheduled(schedule.from_json(keeps), self.arrivals, self.timezone, away)[0], self.baseline)[0]


def prepare(request: TimelinessTrainRequest, history: History | None, until: datetime | None = None) -> Prepared:
    """The arrivals of the last `training_days` before `until`, stored ones with the request's merged in, against their due
    times. A load that was due before `until` and came later is not known of.

    Lags before the last accepted change of the usual are left out. Raises InvalidRequest where nothing arrived, or where no
    schedule is given, can be learnt, or was told with the arrivals.
    """
    zone = request.timezone
    stored = history.read(DETECTOR, request.table_id, end=until) if history else None
    last = math.floor(until.timestamp()) - 1 if until else EVERYTHING  # arrivals are known to the second
    known = gather(request.historical_data, None, stored, None, zone, last)
    if known.excluded.all():
        raise InvalidRequest(f"There is no history of {request.table_id}: POST /api/v1/observations loads it.", "table_id")
    recent = known.at >= known.at[-1] - request.training_days * DAY
    known = replace(known, at=known.at[recent], status=known.status[recent], due=known.due[recent])
    keeps, series, missing = _against_dues(request, known)
    learnt = np.flatnonzero(series.learnt)
    if not len(learnt):
        raise InvalidRequest(f"None of {len(known.at)} arrivals came for a due time of the schedule.", "schedule")
    series, baseline = _rebased(series, stamp(request.baseline))
    series = series[learnt[accepted_from(series.lags[learnt])]:]
    return Prepared(request.table_id, zone, request.holidays.model_dump(mode="json"), keeps, series, len(known.at), missing,
                    request.schedule is not None, known, baseline)


def _rebased(series: LagSeries, baseline: str | None) -> tuple[LagSeries, str | None]:
    """With the lags of arrivals before the baseline moved to what is usual since; the baseline, where any came since."""
    if baseline is None:
        return series, None
    since = int(np.searchsorted(series.came, datetime.fromisoformat(baseline).timestamp()))
    return (replace(series, lags=rebased_lags(series.lags, since)), baseline) if since < len(series) else (series, None)


def _against_dues(request: TimelinessTrainRequest, known: Arrivals) -> tuple[dict[str, Any] | None, LagSeries, int]:
    """-> what the loads keep to, how late each was, and how many never came."""
    zone = request.timezone
    away = days_away(request.holidays, known.at, int(known.at[-1]), zone)
    keeps = schedule.parse(request.schedule.cron) if request.schedule else learn(known.at, zone, away)
    if keeps is not None:
        return schedule.to_json(keeps), *_scheduled(keeps, known, zone, away)
    if not ((known.due != NONE) & ~known.excluded).any():
        raise InvalidRequest(f"{len(known.at)} arrivals show no schedule: give schedule.cron, or load more.", "schedule")
    return None, _told(known, zone), len(known.missed)


def _scheduled(keeps: Schedule, known: Arrivals, zone: str, away: frozenset[int]) -> tuple[LagSeries, int]:
    """Every arrival that was due, against the due time that it came for; and how many loads never came."""
    due = due_times(keeps, known.at, zone, away, int(known.at[0]), int(known.at[-1]) + 2 * DAY)
    met = due.met[known.status[due.arrival[due.met]] != EXCLUDED]
    due_so_far = due.required[np.isin(due.required, np.arange(*due.met[[0, -1]]))] if len(due.met) else due.met
    came = due.arrival[met]
    series = LagSeries(due.lag[met], due.hours[met], known.status[came], known.at[came])
    return series, int((due.arrival[due_so_far] < 0).sum())


def _told(known: Arrivals, zone: str) -> LagSeries:
    """Every arrival whose due time was told."""
    told = (known.due != NONE) & (known.status != EXCLUDED)
    at, due = known.at[told], known.due[told]
    return LagSeries((at - due) / 60.0, clock.local(due, zone) // clock.HOUR, known.status[told], at)


def families(request: TimelinessTrainRequest, registry: Registry) -> list[str]:
    """Which families a job tries: all, or the one asked for with those it is compared with."""
    return candidates.rivals(request.algorithm, FAMILIES, model_name(request.table_id), registry)


def fit_candidate(prepared: Prepared, algorithm: str) -> Candidate:
    """Back-tests one family on held-out arrivals, then fits it on all and exports it. Never raises for want of data."""
    began = time.perf_counter()
    figures: dict[str, Any] = {"algorithm": algorithm}
    try:
        scores, calibration = lag_backtest.held_out(algorithm, prepared.series)
        learnt = prepared.series.learnable()
        fitted = lag_backtest.calibrated(fit(algorithm, learnt), calibration)
    except NotEnoughHistory as error:
        return Candidate(algorithm, figures | {"error": str(error), "seconds": round(time.perf_counter() - began, 2)})
    figures["quality"] = quality(scores)
    card = _card(prepared, algorithm) | {"quality": figures["quality"]}
    payload = lag_graph.export(fitted, learnt, card)
    parity = lag_graph.parity(payload, fitted, learnt)
    figures |= {"parity": asdict(parity), "artefact_bytes": len(payload), "seconds": round(time.perf_counter() - began, 2)}
    if not parity.holds:
        return Candidate(algorithm, figures | {"error": "the ONNX graph differs from numpy"})
    return Candidate(algorithm, figures, payload, card, scores)


def judged_by(prepared: Prepared, champion: Artefact) -> Scores:
    """What a model's own file says of the held-out arrivals of `fit_candidate`, with the same faults, in the same order.

    NaN for arrivals that it has learnt from, and where it gives no verdict. Raises NotEnoughHistory where none is held out.
    """
    return lag_backtest.judged_by(prepared.series, prepared.served_by(champion.card), champion)


def quality(scores: Scores) -> dict[str, Any]:
    """Precision, recall, F1 and false positive rate at the usual threshold, by injected fault."""
    return candidates.quality(scores, tuple(lag_backtest.FAULTS))


def compare(rivals: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with their figures on the same arrivals."""
    return candidates.compare(rivals, quality)


def choose(rivals: Sequence[Candidate], algorithm: str = "auto") -> Candidate:
    """The one asked for, else the best: the lag filter unless it is beaten beyond noise. Raises InvalidRequest."""
    return candidates.choose(rivals, BASELINE, algorithm)


class TimelinessAnomalyTrainer(Trainer):
    """Training from Python, without the service: when loads came in, a registered model out.

        trainer = TimelinessAnomalyTrainer()
        model = trainer.train(table_id="orders", arrivals=frame["loaded_at"])
        trainer.register_model(model, "timeliness-anomaly.orders")
    """

    def train(self, table_id: str, arrivals: Iterable[Any], algorithm: str = "auto", **options: Any) -> TrainedModel:
        """`arrivals`: moments, or `historical_data` as the training request takes it.

        `options` are its other fields. Raises InvalidRequest naming the field, or telling why no family could be trained.
        """
        told = [one.isoformat() if isinstance(one, datetime) else one for one in arrivals]
        return self._best(TimelinessTrainRequest, {"table_id": table_id, "algorithm": algorithm, "historical_data": told,
                                                   **options})


def _card(prepared: Prepared, algorithm: str) -> dict[str, Any]:
    return {"schema": SCHEMA, "detector": "timeliness", "algorithm": algorithm, "name": model_name(prepared.table_id),
            "window": WINDOW, "trained_until": int(prepared.series.learnable().hours[-1]),
            "valid_until": None, "factors": [], "timezone": prepared.timezone, "holidays": prepared.holidays,
            "schedule": prepared.schedule, "baseline": prepared.baseline,
            "trained_at": _stamp(datetime.now(UTC)), "training": prepared.facts(),
            "libraries": {name: version(name) for name in ("numpy", "onnx", "ndonnx")}}


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
