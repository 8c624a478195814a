"""Trains the volume model of one table: every family back-tested on held-out days, the best exported to ONNX."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from detectors import calendar
from detectors.artefact import Artefact
from detectors.baselines import bucket_of, rebased, stamp
from detectors.context import calendar_of, gather, utc
from detectors.volume import model_name
from shared.contract import TrainRequest
from shared.errors import InvalidRequest
from shared.history import CONFIRMED, EXPECTED, REPAIRED, History, Series
from shared.registry import Registry
from training import backtest, candidates
from training.candidates import Candidate
from training.evaluation import Scores
from training.series import FloatArray, NotEnoughHistory, TrainingSeries
from training.trainer import TrainedModel, Trainer

# The structural baseline first: the others have to beat it.
FAMILIES = ("structural", "prophet", "arima", "seasonal_decomposition", "isolation_forest", "one_class_svm", "lof")
LIBRARIES = {"structural": "numpy", "prophet": "prophet", "arima": "statsmodels", "seasonal_decomposition": "statsmodels",
             "isolation_forest": "scikit-learn", "one_class_svm": "scikit-learn", "lof": "scikit-learn"}
BUCKETS_A_DAY = {"hourly": 24.0, "daily": 1.0, "weekly": 1 / 7, "monthly": 1 / 30.4}
# How far past its training a model can be asked: holiday names are looked up for this long.
HORIZON_DAYS = 400
# A champion that expires sooner is replaced: the next run is a week ahead, and may fail.
DAYS_LEFT = 14.0
# A graph may differ from the code that it was traced from by rounding, no more.
GRAPH_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Prepared:
    """The training data of one table.

    `series` has NaN for what no family may learn from; `observed` (m,) has every count that a person did not rule out, for
    the structural filter, which decides itself. `judged` (m,) has also those that a person confirmed to be wrong, which
    nobody learns and everybody is asked about; `said` (m,) is the word of a person, as in `evaluation.Scores`.
    """

    table_id: str
    timezone: str
    holidays: dict[str, Any]
    series: TrainingSeries
    observed: FloatArray
    judged: FloatArray
    said: NDArray[np.int8]
    baseline: str | None = None  # since when the table is at another normal, which all of this was moved to

    def learnt_by(self, algorithm: str) -> TrainingSeries:
        """What a family is fitted on: the structural filter sees every count and leaves out what it flags itself."""
        return replace(self.series, values=self.observed) if algorithm == "structural" else self.series

    def facts(self) -> dict[str, Any]:
        """What the job tells about its data."""
        start, end = (self._date(b) for b in (self.series.start, self.series.end))
        known = int(np.isfinite(self.judged).sum())
        return {"from": start, "to": end, "points": known, "used": self.series.usable,
                "excluded": known - self.series.usable, "missing": len(self.judged) - known}

    def fingerprint(self) -> str:
        """SHA-256, hex, of all that is learnt from: the same data has the same, whatever was computed with it since."""
        own = json.loads(self.to_json())
        del own["table_id"]
        return hashlib.sha256(json.dumps(own).encode()).hexdigest()

    def held_out(self) -> backtest.HeldOut:
        """The days that models are judged on. Raises NotEnoughHistory."""
        return backtest.HeldOut.of(self.series, self.observed, self.judged, self.said)

    def _date(self, bucket: int) -> str:
        start = calendar.bucket_start(bucket, self.timezone, self.series.granularity)
        return datetime.fromtimestamp(start, UTC).isoformat().replace("+00:00", "Z")

    def to_json(self) -> bytes:
        s = self.series
        return json.dumps({
            "table_id": self.table_id, "timezone": self.timezone, "holidays": self.holidays, "start": s.start,
            "granularity": s.granularity, "values": _nulls(s.values), "observed": _nulls(self.observed),
            "judged": _nulls(self.judged), "said": self.said.tolist(), "baseline": self.baseline,
            "holiday": s.holiday.tolist(), "names": {str(b): name for b, name in s.names.items()},
        }).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Prepared:
        d = json.loads(text)
        series = TrainingSeries(d["start"], np.array(d["values"], np.float64), np.array(d["holiday"], np.int64),
                                {int(b): name for b, name in d["names"].items()}, d["granularity"])
        return cls(d["table_id"], d["timezone"], d["holidays"], series, np.array(d["observed"], np.float64),
                   np.array(d["judged"], np.float64), np.array(d["said"], np.int8), d["baseline"])


def prepare(request: TrainRequest, history: History | None, until: datetime | None = None) -> Prepared:
    """The training data of a request, with what is stored of its table; only what was before `until` (aware), if given.

    Raises InvalidRequest, StorageUnavailable.
    """
    stored = history.read("volume", request.table_id, end=until) if history else None
    if until is not None:
        zone = ZoneInfo(request.timezone)
        before = [point for point in request.historical_data if utc(point.timestamp, zone) < until]
        request = request.model_copy(update={"historical_data": before})
    return prepared(request, stored)


def prepared(request: TrainRequest, stored: Series | None) -> Prepared:
    """The last `training_days` of the stored history with the request's merged in.

    What the structural filter flags is left out of the series the other families learn from, unless the user said that it
    was expected: most bad loads were never labelled by anybody. What the serving model flagged is not: it would never learn
    a level that it does not know, and the structural filter has accepted that after a week. Raises InvalidRequest where
    there is no history.
    """
    zone, granularity = request.timezone, request.granularity
    longest = round(request.training_days * BUCKETS_A_DAY[granularity])
    known = gather(request.historical_data, stored, zone, granularity, longest=longest)
    if not known.points:
        raise InvalidRequest(f"There is no history of {request.table_id}: POST /api/v1/observations loads it.", "table_id")
    start, status = known.start, known.status
    horizon = start + len(status) + round(HORIZON_DAYS * BUCKETS_A_DAY[granularity])
    holiday, names = calendar_of(request.holidays, start, horizon, granularity)
    holiday = holiday[:len(status)]
    baseline = None
    if request.baseline is not None:
        known, since = rebased(known, bucket_of(request.baseline, zone, granularity), holiday, granularity)
        baseline = stamp(request.baseline) if since else None
    observed = np.where(status == REPAIRED, np.nan, known.learnable)  # what somebody put right says nothing of what arrives
    flagged = backtest.structural_flags(observed, start, holiday, granularity)
    series = TrainingSeries(start, np.where(flagged & (status != EXPECTED), np.nan, observed), holiday, names, granularity)
    confirmed = status == CONFIRMED
    said = confirmed.astype(np.int8) - (status == EXPECTED)
    judged = np.where(confirmed, known.values, observed)
    return Prepared(request.table_id, zone, request.holidays.model_dump(mode="json"), series, observed, judged, said,
                    baseline)


def families(request: TrainRequest, registry: Registry) -> list[str]:
    """Which families a job tries: all, or the one asked for with those it is compared with."""
    return candidates.rivals(request.algorithm, FAMILIES, model_name(request.table_id), registry)


def fit_candidate(prepared: Prepared, algorithm: str) -> Candidate:
    """Back-tests one family on held-out days, then fits it on everything and exports it. Never raises for want of data."""
    began = time.perf_counter()
    figures: dict[str, Any] = {"algorithm": algorithm}
    try:
        scores, calibration = backtest.held_out(algorithm, prepared.series, prepared.observed, prepared.held_out())
        figures["quality"] = quality(scores)
        card = _card(prepared, algorithm, figures["quality"])
        series = prepared.learnt_by(algorithm)
        fitted = backtest.fit(algorithm, series)
        payload = backtest.export(algorithm, fitted, calibration, series, card)
    except (NotEnoughHistory, ValueError) as error:
        return Candidate(algorithm, figures | {"error": str(error), "seconds": round(time.perf_counter() - began, 2)})
    parity = backtest.parity(algorithm, fitted, series)
    figures |= {"parity": asdict(parity), "artefact_bytes": len(payload),
                "seconds": round(time.perf_counter() - began, 2)}
    if not parity.holds:
        return Candidate(algorithm, figures | {"error": "the ONNX graph differs from its library"})
    return Candidate(algorithm, figures, payload, card, scores)


def judged_by(prepared: Prepared, champion: Artefact) -> Scores:
    """What the champion's own file says of the held-out days, and of the same with the faults of `fit_candidate`.

    NaN on days that it was trained on and where it gives no verdict. Raises NotEnoughHistory where nothing can be held out.
    """
    return backtest.judged_by(champion, prepared.series, prepared.observed, prepared.held_out())


def question(prepared: Prepared, artefact: Artefact) -> dict[str, Any]:
    """What a worker would ask the file about the bucket after the last: a row of inputs."""
    series = prepared.series
    more = replace(series, values=np.append(series.values, np.nan), holiday=np.append(series.holiday, 0))
    asked = backtest.asked(artefact, more, np.append(prepared.observed, np.nan), np.array([more.end]))
    return asked | {"value": np.array([np.nanmedian(prepared.observed)])}


def unfit(prepared: Prepared, artefact: Artefact) -> str | None:
    """Why the file cannot go on being asked about the table, None where it can."""
    if artefact.card["granularity"] != prepared.series.granularity:
        return f"counts {artefact.card['granularity']} buckets and is not asked any more"
    until = artefact.card["valid_until"]
    days = math.inf if until is None else (until - prepared.series.end) / BUCKETS_A_DAY[prepared.series.granularity]
    if days < DAYS_LEFT:
        return f"expires in {days:.0f} days" if days > 0 else "has expired"
    return None


def quality(scores: Scores) -> dict[str, Any]:
    """Precision, recall, F1 and false positive rate at the usual threshold, by injected fault; labels apart."""
    return candidates.quality(scores)


def compare(rivals: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with their figures on the same days."""
    return candidates.compare(rivals, quality)


def choose(rivals: Sequence[Candidate], algorithm: str = "auto") -> Candidate:
    """The one asked for, else the best: the structural baseline unless it is beaten beyond noise. Raises InvalidRequest."""
    return candidates.choose(rivals, FAMILIES[0], algorithm)


class VolumeAnomalyTrainer(Trainer):
    """Training from Python, without the service: a data frame in, a registered model out.

        trainer = VolumeAnomalyTrainer()
        model = trainer.train(table_id="orders", historical_data=frame, algorithm="auto")
        trainer.register_model(model, "volume-anomaly.orders")
    """

    def train(self, table_id: str, historical_data: Any, algorithm: str = "auto", **options: Any) -> TrainedModel:
        """`historical_data`: a pandas data frame (or an iterable of mappings) with `timestamp` and `row_count` or `value`.

        `options` are the other fields of the training request: training_days, timezone, granularity, holidays. Raises
        InvalidRequest naming the field, or telling why no family could be trained.
        """
        return self._best(TrainRequest, {"table_id": table_id, "algorithm": algorithm,
                                         "historical_data": _points(historical_data), **options})


def _points(data: Any) -> list[dict[str, Any]]:
    """Raises InvalidRequest naming the row and the column that it lacks."""
    points = []
    for number, row in enumerate(data.to_dict("records") if hasattr(data, "to_dict") else data):
        moment = row.get("timestamp", row.get("date"))
        count = row.get("row_count", row.get("value"))
        for found, columns in ((moment, "timestamp"), (count, "row_count or value")):
            if found is None or found != found:  # what is missing in a data frame is NaN or NaT, which equal nothing
                raise InvalidRequest(f"historical_data[{number}] has no {columns}.", f"historical_data[{number}]")
        text = moment if isinstance(moment, str) else moment.isoformat()
        points.append({"timestamp": text, "row_count": float(count)})
    return points


def _card(prepared: Prepared, algorithm: str, quality: dict[str, Any]) -> dict[str, Any]:
    package = LIBRARIES[algorithm]
    return {"name": model_name(prepared.table_id), "timezone": prepared.timezone, "holidays": prepared.holidays,
            "baseline": prepared.baseline,
            "trained_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "training": prepared.facts(), "quality": quality,
            "libraries": {name: version(name) for name in (package, "numpy", "onnx")}}


def _nulls(values: FloatArray) -> list[Any]:
    return [None if math.isnan(v) else v for v in values.ravel().tolist()]
