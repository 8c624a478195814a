"""How a timeliness verdict is told."""

from __future__ import annotations

import math

from detectors import timeliness_words as words
from detectors.decision import confidence_of, severity_of
from detectors.lags import FEWEST, accepted_from
from detectors.schedule_learning import FULL_DAYS
from detectors.timeliness_case import Case, Place
from detectors.timeliness_history import FloatArray
from detectors.timeliness_verdict import CERTAIN, Finding, judge_with_filter
from shared.contract import Deviation, HistoryUse, ModelUse
from shared.contract_timeliness import EventCheck, TimelinessAnswer, TimelinessRequest

BASELINE = ModelUse(name=None, version="1", algorithm="lag_filter")


def answered(request: TimelinessRequest, case: Case, place: Place, finding: Finding, threshold: float) -> TimelinessAnswer:
    limited = finding.upper is not None and (finding.judgement is not None or request.sla_minutes is not None)
    late_after = place.due + place.slack + round(60 * (finding.upper or 0.0)) if limited else None
    message = words.timeliness(finding, place, late_after, case.timezone, request.sla_minutes)
    evaluated = finding.state not in (None, "pending")
    expected, value = finding.judgement.expected if finding.judgement else None, finding.value
    used = len(place.before)
    return TimelinessAnswer(
        is_anomaly=finding.is_anomaly, severity=finding.severity,  # type: ignore[arg-type]
        confidence=finding.confidence,
        expected_range=(finding.lower, finding.upper), message=message,
        status="evaluated" if evaluated else "learning" if finding.state is None else "not_evaluated",
        reason=None if evaluated else message, table_id=request.table_id, request_id=request.request_id,
        timestamp=_stamp(case.as_of), state=finding.state, value=value,
        expected_value=None if expected is None else round(expected, 2),
        deviation=_deviation((value or 0.0) - (expected or 0.0), finding.score, threshold) if evaluated else None,
        due_at=_stamp(place.due), late_after=_stamp(late_after),
        last_arrival=_stamp(case.arrivals.latest), last_lag_minutes=place.last_lag,
        expected_next_arrival=_stamp(_next(place, finding)), missing_loads=finding.out,
        sla_minutes=request.sla_minutes, event_lag_minutes=case.arrivals.latest_event_lag,
        schedule=case.schedule, model=BASELINE,
        history=HistoryUse(points=len(case.arrivals.at) + len(case.arrivals.lags), used=used,
                           excluded=int(case.arrivals.excluded.sum()), missing=place.missing),
    )


def silent(request: TimelinessRequest, case: Case) -> TimelinessAnswer:
    """No due time, no verdict: the schedule is not known yet, or it has come to its end."""
    points = len(case.arrivals.at)
    if case.schedule is not None:
        reason = f"Nothing is due any more: {case.schedule.description}."
    elif points < FEWEST:
        reason = f"{points} of {FEWEST} arrivals known: the schedule is learnt from them, or give schedule.cron."
    else:
        reason = f"{points} arrivals known; a feed that comes several times a day needs {FULL_DAYS} full days."
    return TimelinessAnswer(
        is_anomaly=False, severity="none", confidence=0.0, expected_range=(None, None), message=reason, status="learning",
        reason=reason, table_id=request.table_id, request_id=request.request_id, timestamp=_stamp(case.as_of),
        last_arrival=_stamp(case.arrivals.latest), sla_minutes=request.sla_minutes,
        event_lag_minutes=case.arrivals.latest_event_lag,
        schedule=case.schedule, model=BASELINE,
        history=HistoryUse(points=points, used=0, excluded=int(case.arrivals.excluded.sum()), missing=0),
    )


def judge_events(answer: TimelinessAnswer, before: FloatArray, threshold: float) -> None:
    """Is the newest event as old as usual? Where only that is wrong, the answer's range, value and deviation are its own."""
    lag = answer.event_lag_minutes or 0.0
    judgement = judge_with_filter(before[accepted_from(before):], lag, threshold)
    if judgement is None:
        answer.event_check = EventCheck(status="learning", is_anomaly=False, severity="none", lag_minutes=lag,
                                        expected_range=(None, None))
        return
    lower, upper = math.floor(100 * judgement.lower) / 100, math.ceil(100 * judgement.upper) / 100
    anomaly = not lower <= lag <= upper
    score = min(max(judgement.score, threshold), CERTAIN) if anomaly else min(judgement.score, math.nextafter(threshold, 0))
    severity = severity_of(score, anomaly)
    answer.event_check = EventCheck(
        status="evaluated", is_anomaly=anomaly, severity=severity, lag_minutes=lag,  # type: ignore[arg-type]
        expected_minutes=round(judgement.expected, 2), expected_range=(lower, upper), score=_rounded(score))
    if anomaly and not answer.is_anomaly:
        answer.is_anomaly, answer.unit, answer.status, answer.reason = True, "event_lag_minutes", "evaluated", None
        answer.severity, answer.confidence = severity, confidence_of(score, True)  # type: ignore[assignment]
        answer.value, answer.expected_value = lag, answer.event_check.expected_minutes
        answer.expected_range = (lower, upper)
        answer.deviation = _deviation(lag - judgement.expected, score, threshold)
        answer.message += " " + words.stale(lag, judgement.expected, upper)


def _deviation(minutes: float, score: float, threshold: float) -> Deviation:
    return Deviation(absolute=round(minutes, 2), percent=None, score=_rounded(score), threshold=round(threshold, 6))


def _rounded(score: float) -> float:
    """Down, so that it never reaches a threshold or 1 by rounding."""
    return math.floor(score * 1e6) / 1e6


def _next(place: Place, finding: Finding) -> int | None:
    """When the next load should come: as long after its due time as usual."""
    usual = round(60 * finding.judgement.expected) if finding.judgement else 0
    due = place.due if finding.state == "pending" else place.coming
    return None if due is None else due + usual


def _stamp(second: int | None) -> str | None:
    return None if second is None else words.moment(second).isoformat().replace("+00:00", "Z")
