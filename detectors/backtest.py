"""What would have been flagged? A detector asked about every point of a table's own past, each with the points before it."""

from __future__ import annotations

import json
from datetime import datetime
from itertools import islice
from typing import Annotated, Any

from pydantic import Field

from detectors.decision import threshold_of
from detectors.directory import detector
from shared.catalogue import Catalogue
from shared.contract import Answer, Input, parse
from shared.errors import InvalidJson, InvalidRequest
from shared.tables import Tables, settled

DAYS_A_MONTH = 30.44
MOST_LISTED = 1_000
DEFAULT_SENSITIVITIES = [0.0, 45.0, 75.0, 90.0, 95.0]
MAX_BODY_BYTES = 16 * 2**20

type Sensitivity = Annotated[float, Field(ge=0, le=99)]


class BacktestRequest(Input):
    """POST /api/v1/backtest: these fields, and those of the detector's own request without the value to judge.

    The last `points` of the history are judged; `sensitivities` are compared.
    """

    detector: str
    points: Annotated[int, Field(ge=1, le=1000)] = 180
    sensitivities: Annotated[list[Sensitivity], Field(min_length=1, max_length=20)] = DEFAULT_SENSITIVITIES


def backtest(body: bytes, catalogue: Catalogue, tables: Tables | None = None) -> dict[str, Any]:
    """How many alerts a month each sensitivity would have meant, and every point that the highest of them flags.

    What `tables` know of the table counts where the request does not say otherwise, and so do the table's rules.
    `flagged_from` of a point is the lowest of the sensitivities that flags it. Nothing is kept. Raises NotFound for a
    detector that is none, PayloadTooLarge, InvalidJson, InvalidRequest, and what the detector raises.
    """
    plan = parse(BacktestRequest, body, MAX_BODY_BYTES)
    asked = detector(plan.detector)
    levels = sorted(set(plan.sensitivities))
    request = parse(asked.request, _with(body, asked.blank | {"record": False, "sensitivity": levels[-1]}), MAX_BODY_BYTES)
    request, unsettled = settled(request, plan.detector, tables) if tables is not None else (request, [])
    answers = list(islice(asked.replay(request, catalogue, plan.points), plan.points))
    judged = [a for a in answers if a.status == "evaluated"]
    if not answers:
        raise InvalidRequest("There is no history to judge: send it, or load it with POST /api/v1/observations.",
                             "table_id")
    thresholds = {level: threshold_of(request.model_copy(update={"sensitivity": level})) for level in levels}
    flagged = [(a, next(level for level in levels if score_of(a) >= thresholds[level] or level == levels[-1]))
               for a in judged if a.is_anomaly]
    months = months_of(judged)
    return {
        "detector": plan.detector, "table_id": request.table_id, "from": answers[0].timestamp, "to": answers[-1].timestamp,
        "points": len(answers), "judged": len(judged), "learning": len(answers) - len(judged),
        "sensitivities": [_level(level, thresholds[level], [f for _, f in flagged], months) for level in levels],
        "flagged": [_point(a, level) for a, level in flagged[-MOST_LISTED:]], "warnings": unsettled + warnings_of(judged),
    }


def score_of(answer: Answer) -> float:
    """The calibrated score of a verdict, whichever detector gave it; 0 for none."""
    deviation = getattr(answer, "deviation", None)
    score = deviation.score if deviation else getattr(answer, "table_score", None)
    return float(score or 0.0)


def _with(body: bytes, more: dict[str, Any]) -> bytes:
    fields = json.loads(body)
    if not isinstance(fields, dict):
        raise InvalidJson("The body is no JSON object.")
    return json.dumps(fields | more).encode()


def _level(level: float, threshold: float, flagged_from: list[float], months: float) -> dict[str, Any]:
    alerts = sum(lowest <= level for lowest in flagged_from)
    return {"sensitivity": level, "threshold": round(threshold, 6), "alerts": alerts,
            "alerts_per_month": round(alerts / months, 2) if months else None}


def _point(answer: Answer, level: float) -> dict[str, Any]:
    return {"timestamp": answer.timestamp, "severity": answer.severity, "score": score_of(answer), "flagged_from": level,
            "value": getattr(answer, "value", None), "expected_value": getattr(answer, "expected_value", None),
            "expected_range": answer.expected_range, "message": answer.message}


def months_of(judged: list[Answer]) -> float:
    """From the first point to the last and one more of the usual distance."""
    moments = sorted(datetime.fromisoformat(a.timestamp) for a in judged if a.timestamp)
    if len(moments) < 2:
        return 0.0
    days = (moments[-1] - moments[0]).total_seconds() / 86_400
    return days * len(moments) / (len(moments) - 1) / DAYS_A_MONTH


def warnings_of(judged: list[Answer]) -> list[str]:
    """Each thing that was said once, and that a model has seen the points that it judges."""
    seen = sum(bool(a.model.trained_at and a.timestamp and a.timestamp < a.model.trained_at) for a in judged)
    told = list(dict.fromkeys(w for a in judged for w in a.warnings))
    if seen:
        told.append(f"{seen} of {len(judged)} points lie before the model's training: it may have learnt from them.")
    return told[:50]
