"""How high must the threshold be for a table to alert no more than so often? Asked of the table's own past.

The past is replayed, every point judged with nothing but the points before it. Of n normal points, score exceedances of a
month are wanted to be `budget` or fewer. Above the r-th largest of n scores lies, on average over all continuous
distributions, r / (n + 1) of what is to come (order statistics as distribution-free tolerance limits: Wilks 1941,
doi:10.1214/aoms/1177731788; David and Nagaraja 2003, Order Statistics, ch. 2 and 7). So with m points a month

    r = floor(budget (n + 1) / m)        threshold = the r-th largest score and one step of what answers tell, 1e-6

No shape of the scores is assumed, where the nominal rate trusts their calibration. With r = 0 the past is too short for so
small a budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, pairwise
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from detectors import pattern_history
from detectors.backtest import MOST_LISTED, months_of, score_of, warnings_of
from detectors.decision import BUCKETS_A_MONTH, SEVERITY_SCORES, threshold_of
from detectors.directory import detector
from shared.catalogue import Catalogue
from shared.contract import AlertBudget, Answer, DetectOptions, Input, parse
from shared.contract_pattern import ColumnName
from shared.documents import Documents
from shared.errors import InvalidRequest
from shared.history import CONFIRMED, EXPECTED, SAID, STATUSES
from shared.ids import check_id
from shared.rates import wilson
from shared.tables import Tables, settled

POINTS = 1000  # that are replayed at most
FEWEST = 30  # normal points without which no threshold is calibrated
# What is critical by its score is told whatever the budget.
LOUDEST = SEVERITY_SCORES[-1]
STEP = 1e-6  # answers tell scores rounded down to a multiple of it
MAX_BODY_BYTES = 64 * 1024


class BudgetRequest(Input):
    """POST /api/v1/tables/{table_id}/alert-budget: `apply` keeps the answer among the table's settings."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    detector: str
    column: ColumnName | None = None
    max_alerts_per_month: Annotated[float, Field(gt=0, le=1000)]
    apply: bool = False


@dataclass(frozen=True, slots=True)
class _Judged:
    """A point of the past: its verdict, and what a person said of it ("" for nothing)."""

    answer: Answer
    said: str

    @property
    def score(self) -> float:
        return score_of(self.answer)

    @property
    def is_normal(self) -> bool:
        """Whether an alert about it is a false one, or may be: what nobody confirmed, repaired or ruled out."""
        return self.said in ("", STATUSES[EXPECTED])

    @property
    def rank(self) -> float:
        """The score that a threshold has to beat: an agreed latest time and a person's rule hold whatever the score."""
        answer = self.answer
        sla, value = getattr(answer, "sla_minutes", None), getattr(answer, "value", None)
        held = answer.rule is not None or (sla is not None and value is not None and value > sla)
        return 0.0 if not answer.is_anomaly else 1.0 if held else self.score

    def flagged_at(self, threshold: float) -> bool:
        return self.answer.is_anomaly and self.rank >= threshold


def propose(table_id: str, body: bytes, catalogue: Catalogue, tables: Tables, now: datetime) -> dict[str, Any]:
    """What a budget would have meant for the table's past, and where asked for, from now on.

    Raises NotFound for a detector that is none, InvalidJson, InvalidRequest (no history), StorageUnavailable.
    """
    asked = parse(BudgetRequest, body, MAX_BODY_BYTES)
    answer, found = _calibrated(asked, table_id, catalogue, tables, now)
    if asked.apply:
        # Without a calibrated threshold an earlier one goes.
        kept = {"max_alerts_per_month": asked.max_alerts_per_month, "alert_budgets": {asked.column or "": found}}
        _keep(asked.detector, table_id, kept, tables)
    return answer


def renewed(kind: str, table_id: str, column: str | None, catalogue: Catalogue, tables: Tables,
            now: datetime) -> list[dict[str, Any]]:
    """The budgets of a model calibrated again and kept: what a weekly retraining calls for each.

    One answer a budget that is in force; none where nobody set one. The threshold of the last time stays where the past has
    become too short, or where somebody set another budget meanwhile. Raises as `propose`.
    """
    answers = []
    for own, budget in _in_force(kind, table_id, column, tables).items():
        asked = BudgetRequest(detector=kind, column=own or None, max_alerts_per_month=budget.max_alerts_per_month)
        answer, found = _calibrated(asked, table_id, catalogue, tables, now)
        if found is None:
            answer["meaning"] = (f"{answer['normal']} normal points are too few to calibrate the budget again: the "
                                 "threshold of the last time stays.")
        elif _in_force(kind, table_id, column, tables).get(own) == budget:
            _keep(kind, table_id, {"alert_budgets": {own: found}}, tables)
            answer["applied"] = True
        answers.append(answer)
    return answers


def _in_force(kind: str, table_id: str, column: str | None, tables: Tables) -> dict[str, AlertBudget]:
    """The calibrated budgets of a model by column, but for those of a number of alerts that is not the table's any more."""
    table = tables.current(table_id)
    own = table.settings.detectors.get(kind) if table else None  # type: ignore[call-overload]
    if table is None or own is None:
        return {}
    most = own.max_alerts_per_month if own.max_alerts_per_month is not None else table.settings.max_alerts_per_month
    return {name: budget for name, budget in (own.alert_budgets or {}).items() if budget.max_alerts_per_month == most
            and (column is None or pattern_history.slug(name) == pattern_history.slug(column))}


def _calibrated(asked: BudgetRequest, table_id: str, catalogue: Catalogue, tables: Tables,
                now: datetime) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The answer, and the budget as settings have it; None where the past is too short."""
    kind, budget = asked.detector, asked.max_alerts_per_month
    request, warnings = _request(asked, table_id, tables)
    plain = request.model_copy(update={"max_alerts_per_month": None, "alert_budget": None})
    answers = list(islice(detector(kind).replay(plain, catalogue, POINTS), POINTS))
    if not answers:
        column = getattr(request, "column", None)
        of, field = (f" of column {column}", "column") if column else ("", "table_id")
        raise InvalidRequest(f"There is no history{of} to judge: load it with POST /api/v1/observations.", field)
    judged = [answer for answer in answers if answer.status == "evaluated"]
    past = _with_words(judged, _words(asked, table_id, catalogue))
    normal = [point for point in past if point.is_normal]
    months = months_of(judged)
    a_month = len(judged) / months if months else BUCKETS_A_MONTH[request.granularity]
    own = plain.model_copy(update={"max_alerts_per_month": budget})
    now_at, nominal = threshold_of(request, a_month), threshold_of(own, a_month)
    found = threshold_for(budget, [point.rank for point in normal], a_month, threshold_of(plain))
    chosen = nominal if found is None else found
    answer = {
        "table_id": table_id, "detector": kind, "column": asked.column, "max_alerts_per_month": budget,
        "from": answers[0].timestamp, "to": answers[-1].timestamp, "points": len(answers), "judged": len(judged),
        "normal": len(normal), "months": round(months, 2),
        "current": _meant(past, now_at, months, a_month), "nominal": _meant(past, nominal, months, a_month),
        "calibrated": None if found is None else _meant(past, found, months, a_month),
        **_compared(past, now_at, chosen), "applied": asked.apply,
        "warnings": warnings + warnings_of(judged),
    }
    answer["meaning"] = _meaning(answer, found, a_month)
    return answer, None if found is None else {"max_alerts_per_month": budget, "threshold": found, "points": len(normal),
                                               "calibrated_at": now.isoformat()}


def threshold_for(budget: float, scores: Sequence[float], a_month: float, least: float) -> float | None:
    """The threshold that keeps `a_month` points a month like those of `scores` (n,) to `budget` alerts, `least` or more.

    None where the past is too short: fewer than FEWEST points, or not one alert in all of it. Never above LOUDEST.
    """
    place = math.floor(budget * (len(scores) + 1) / a_month)
    if len(scores) < FEWEST or not place:
        return None
    if place > len(scores):
        return least
    beaten = sorted(scores, reverse=True)[place - 1]
    return min(max(beaten + STEP, least), max(LOUDEST, least))


def _request(asked: BudgetRequest, table_id: str, tables: Tables) -> tuple[DetectOptions, list[str]]:
    """The detector's request as the table's settings have it, and warnings."""
    known = detector(asked.detector)
    given: dict[str, Any] = known.blank | {"table_id": check_id(table_id, "table_id"), "record": False}
    if "column" in known.request.model_fields:
        given |= {"column": asked.column} if asked.column else {}
    elif asked.column is not None:
        raise InvalidRequest(f"Detector {asked.detector} has one verdict for all columns.", "column")
    return settled(known.request.model_validate(given), asked.detector, tables)


def _words(asked: BudgetRequest, table_id: str, catalogue: Catalogue) -> dict[float, str]:
    """What people said of the table's points, by UTC second. Raises StorageUnavailable."""
    kind = asked.detector
    if kind in ("volume", "timeliness"):
        series = catalogue.series(kind, table_id)
        return {second: STATUSES[code] for second, code in zip(series.seconds.tolist(), series.status.tolist(), strict=True)
                if STATUSES[code] in SAID}
    name = pattern_history.series_name(asked.column or "value") if kind == pattern_history.DETECTOR else kind
    said = Documents(catalogue.history).statuses(name, table_id)
    return {moment.timestamp(): status for moment, status in said if status in SAID}


def _with_words(judged: Sequence[Answer], words: dict[float, str]) -> list[_Judged]:
    """A point's word lies between its time and the next point's: a bucket's count may be of any moment in it."""
    moments = [datetime.fromisoformat(a.timestamp).timestamp() if a.timestamp else math.nan for a in judged]
    after = 1.0 if len(moments) < 2 else moments[-1] - moments[-2]
    ends = [b for _, b in pairwise(moments)] + [moment + after for moment in moments[-1:]]
    said, left = [""] * len(judged), sorted(words)
    place = 0
    for second in left:
        while place < len(judged) and not second < ends[place]:
            place += 1
        if place < len(judged) and moments[place] <= second:
            said[place] = words[second]
    return [_Judged(answer, word) for answer, word in zip(judged, said, strict=True)]


def _meant(past: Sequence[_Judged], threshold: float, months: float, a_month: float) -> dict[str, Any]:
    """The alerts at a threshold: those that count against a budget by the month with a Wilson interval, and the others."""
    normal = [point for point in past if point.is_normal]
    alerts = sum(point.flagged_at(threshold) for point in normal)
    low, high = wilson(alerts, len(normal))
    confirmed = sum(p.flagged_at(threshold) for p in past if p.said == STATUSES[CONFIRMED])
    return {"threshold": round(threshold, 6), "alerts": alerts,
            "alerts_per_month": round(alerts / months, 2) if months else None,
            "interval": [round(low * a_month, 2), round(high * a_month, 2)], "confirmed": confirmed}


def _compared(past: Sequence[_Judged], before: float, after: float) -> dict[str, Any]:
    """Which of the alerts at the present threshold a new one keeps, which it loses."""
    alerts = [point for point in past if point.flagged_at(before)]
    return {"kept": [_told(p) for p in alerts if p.flagged_at(after)][-MOST_LISTED:],
            "lost": [_told(p) for p in alerts if not p.flagged_at(after)][-MOST_LISTED:]}


def _told(point: _Judged) -> dict[str, Any]:
    answer = point.answer
    return {"timestamp": answer.timestamp, "score": point.score, "severity": answer.severity, "said": point.said or None,
            "message": answer.message}


def _meaning(answer: dict[str, Any], found: float | None, a_month: float) -> str:
    """The same in words."""
    budget, current = answer["max_alerts_per_month"], answer["current"]
    told = [f"At the present settings there were {_times(current['alerts_per_month'])} on points that nobody confirmed."]
    if found is None:
        least = math.ceil(10 * max(1 / budget, FEWEST / a_month)) / 10
        told.append(f"{answer['normal']} normal points in {answer['months']:g} months are too few to calibrate a budget of "
                    f"{budget:g} a month, which takes about {least:g} months: the nominal rate is used. It would have "
                    f"given {_times(answer['nominal']['alerts_per_month'])}.")
    else:
        own = answer["calibrated"]
        low, high = own["interval"]
        told.append(f"The calibrated threshold {own['threshold']:g} would have given {_times(own['alerts_per_month'])}; "
                    f"expect {low:g} to {high:g} a month. The nominal one would have given "
                    f"{_times(answer['nominal']['alerts_per_month'])}.")
        if found >= LOUDEST and (own["alerts_per_month"] or 0) > budget:
            told.append("No threshold keeps the budget without losing critical alerts, which are always told: say which of "
                        "them were expected, or have their cause removed.")
    missed = sum(point["said"] == STATUSES[CONFIRMED] for point in answer["lost"])
    told.append(f"{len(answer['kept'])} of the past alerts would be kept, {len(answer['lost'])} lost.")
    if missed:
        told.append(f"{missed} of those lost {'was a confirmed incident' if missed == 1 else 'were confirmed incidents'}.")
    return " ".join(told)


def _times(a_month: float | None) -> str:
    return "alerts of an unknown rate" if a_month is None else f"{a_month:g} alerts a month"


def _keep(kind: str, table_id: str, settings: dict[str, Any], tables: Tables) -> None:
    tables.put(table_id, {"settings": {"detectors": {kind: settings}}})
