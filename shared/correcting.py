"""What a person says of a verdict, and what that changes: the history, the table's rules, and what is told of it.

Everything is written so that a word said again finishes what was begun: first what may be refused (the table's settings),
then the word with the verdict that it is about, last the status that takes that verdict's place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np

from detectors import occasions
from detectors.directory import DETECTORS
from detectors.rules import days
from shared import telling
from shared.alerts import Alerts
from shared.catalogue import Catalogue
from shared.contract import DetectOptions, parse, whole_number
from shared.contract_feedback import MAX_RULE_NOTE, MAX_RULES, Bound, FeedbackRequest, Rule, When
from shared.contract_tables import Table, with_defaults
from shared.errors import InvalidRequest, ModelNotFound, ModelUnavailable
from shared.events import Publisher
from shared.feedback import LABELS, Feedback, Said
from shared.history import CONFIRMED, EXCLUDED, REPAIRED, row_key
from shared.spoken_of import Spoken, SpokenOf
from shared.tables import Tables
from shared.verdicts import BASELINES

PAGE: Final = 100
SHOWN_ALTERNATIVES: Final = 5
# A value that more of the ordinary points are beyond is no bound: it would be told all the time.
MOST_BEYOND: Final = 0.02
_FOLLOWS: Final = {
    "expected": ["The next verdicts count the point as normal, and so does the next training.",
                 "A challenger that flags more of what was said to be expected is not promoted."],
    "anomaly": ["Nothing is learnt from the point: neither the next verdicts nor the next training take it for normal.",
                "A challenger that misses it where the champion finds it is not promoted."],
    "ignore": ["Nothing is learnt from the point, and it counts in no figure of quality."],
    "new_normal": ["From this point on the table is at another normal: the next verdicts start from its new level.",
                   "The next training learns what came since; what came before is history of an earlier normal."],
    "none": ["The point counts with its own verdict again, in the next verdicts and in the next training."],
}

_MEANS: Final = {
    "expected": "The rule holds {days}: what goes as far, or up to a quarter further, is no anomaly; what goes further is.",
    "ignore": "The rule holds {days}: nothing is judged then, and nothing learnt.",
    "anomaly": "The rule holds {days}: whatever goes as far is an anomaly.",
}


@dataclass(frozen=True, slots=True)
class Desk:
    """Everything that a word may change."""

    catalogue: Catalogue
    tables: Tables
    feedback: Feedback
    alerts: Alerts
    publisher: Publisher


@dataclass(frozen=True, slots=True)
class _Case:
    """One word about one stored point, and what is known of it."""

    asked: FeedbackRequest
    points: SpokenOf
    point: Spoken
    table: Table
    before: Said | None
    now: datetime

    @property
    def rule_id(self) -> str:
        """The same for every word about the point."""
        text = f"{self.asked.column or ''}|{row_key(self.point.timestamp)}"
        return f"{self.asked.detector}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def say(body: bytes, desk: Desk, now: datetime) -> dict[str, Any]:
    """POST /api/v1/feedback: keeps a word and does what follows from it; the answer tells what it changed.

    The same word again changes nothing. Raises InvalidJson, InvalidRequest naming the field, NotFound for a point that is
    not stored, StorageUnavailable: say it again then.
    """
    asked = parse(FeedbackRequest, body)
    table = desk.tables.current(asked.table_id) or Table()
    points = _points(asked, table, desk.catalogue)
    point = points.find(asked.timestamp)
    before = desk.feedback.get(asked.detector, asked.table_id, point.timestamp, asked.column)
    case = _Case(asked, points, point, table, before, now)
    if asked.label == "none":
        return _taken_back(case, desk)
    rule, why = _rule(case) if asked.scope == "always" and asked.label != "new_normal" else (None, {})
    is_described = _describe(case, rule, desk)
    if before is not None and before.label == "new_normal" and asked.label != "new_normal":
        _unmark(case, desk)
    said = _said(case, rule, desk)
    if said != before:
        desk.feedback.put(said)
    status = LABELS[asked.label]
    marked = [point.timestamp] if point.status != status else []
    if asked.label == "new_normal":
        later = points.between(point.timestamp + timedelta(microseconds=1), None)
        marked += [one.timestamp for one in later if one.status == "anomaly"]
    points.mark(marked, status)
    closed = asked.label != "anomaly" and _close_alert(case, desk)
    told = _told(case, status, len(marked), bool(marked) or said != before or is_described, closed) | why
    return told if rule is None else told | {
        "rule": _shown_rule(case, rule), "follows": [*told["follows"], _MEANS[rule.label].format(days=days(rule))]}


def listing(params: Mapping[str, str], feedback: Feedback) -> dict[str, Any]:
    """GET /api/v1/feedback: what was said, by detector, table and time; `table_id` and `detector` choose.

    `limit` up to 1,000; `next` is what to give as `after` for more, null at the end. Raises InvalidRequest, NotFound.
    """
    limit = whole_number(params, "limit", PAGE, 1, 1000)
    detector = params.get("detector")
    if detector is not None and detector not in DETECTORS:
        raise InvalidRequest(f"detector is one of {', '.join(DETECTORS)}.", "detector")
    page, following = feedback.page(detector, params.get("table_id"), params.get("after", ""), limit)
    return {"feedback": [_shown(said) for said in page], "next": following}


def _points(asked: FeedbackRequest, table: Table, catalogue: Catalogue) -> SpokenOf:
    kind = DETECTORS[asked.detector]
    blank = kind.blank | {"table_id": asked.table_id} | ({"column": asked.column} if asked.column is not None else {})
    request: DetectOptions = with_defaults(parse(kind.request, json.dumps(blank).encode()), table, asked.detector)
    request._rules = {}
    return SpokenOf(asked.detector, asked.table_id, asked.column, request, catalogue)


def _said(case: _Case, rule: Rule | None, desk: Desk) -> Said:
    """The word with the verdict that it is about: the point's own, else the one that was kept with the first word."""
    asked, point, before = case.asked, case.point, case.before
    said = Said(asked.detector, asked.table_id, point.timestamp, asked.label, asked.scope, asked.note, case.now,
                asked.column, point.value, rule_id=case.rule_id if rule is not None else None)
    if point.status in ("ok", "anomaly") or before is None:
        flagged = point.status == "anomaly" if point.judged and point.status in ("ok", "anomaly") else None
        said = replace(said, flagged=flagged, score=point.score, model=point.model, observed_at=point.observed_at,
                       algorithm=_algorithm(case, desk) if point.judged else None)
    else:
        said = replace(said, flagged=before.flagged, score=before.score, model=before.model, algorithm=before.algorithm,
                       observed_at=before.observed_at)
    return replace(said, said_at=before.said_at) if before and replace(said, said_at=before.said_at) == before else said


def _algorithm(case: _Case, desk: Desk) -> str | None:
    if case.point.model is None:
        return BASELINES[case.asked.detector]
    try:
        name = DETECTORS[case.asked.detector].model_name(case.points.request)
        return str(desk.catalogue.registry.manifest(name, case.point.model).card["algorithm"])
    except (ModelNotFound, ModelUnavailable, KeyError):
        return None


def _rule(case: _Case) -> tuple[Rule | None, dict[str, Any]]:
    """The rule that a word said always becomes, and how it was found; None where nothing in the calendar explains the point.

    Raises InvalidRequest where `when` leaves the point out, or the table has too many rules.
    """
    asked, points, point = case.asked, case.points, case.point
    known = case.table.settings.rules.get(case.rule_id)
    if _is_same_word(case) and known is not None and asked.when in (None, known.when):
        return known, {}
    holidays, zone = points.request.holidays, points.zone
    if asked.when is not None and not occasions.matches(asked.when, point.about, zone, holidays):
        raise InvalidRequest(f"when: {occasions.words(asked.when)} leaves the point itself out.", "when")
    bounds, reason = ([], None) if asked.label == "ignore" else _bounds(case)
    why: dict[str, Any] = {}
    when = asked.when
    if when is None and asked.label != "anomaly" and reason is None:
        offered = occasions.explain(point.about, points.others(point), points.granularity, zone, holidays)
        best = next((one for one in offered if one.holds), None)
        why = {"explanation": best.told() if best else None,
               "alternatives": [_alternative(one) for one in offered if one is not best][:SHOWN_ALTERNATIVES]}
        when = best.when if best else None
        if best is None:
            reason = ("No day of the calendar explains it: no kind of day that it is one of was like it before. Give `when` "
                      "to choose the days yourself.")
    if reason is not None:
        return None, {**why, "kept_once": reason}
    rules = case.table.settings.rules
    if case.rule_id not in rules and len(rules) >= MAX_RULES:
        raise InvalidRequest(f"A table has at most {MAX_RULES} rules: remove one first.", "scope")
    rule = Rule.model_validate({
        "detector": asked.detector, "label": asked.label, "column": asked.column, "when": when, "bounds": bounds,
        "timezone": zone if zone != "UTC" else None, "created_at": case.now.isoformat(), "note": asked.note[:MAX_RULE_NOTE]})
    return rule, why


def _bounds(case: _Case) -> tuple[list[Bound], str | None]:
    """How far the point was out, or why no rule can be made of that."""
    asked, bounds = case.asked, case.points.reasons(case.point, case.now)
    if asked.label == "anomaly" and asked.detector in ("distribution", "sequence"):
        return [], "What is always wrong can be told of one number or of a format, and this detector judges many at once."
    if asked.label == "anomaly" and asked.detector == "pattern":
        bounds = [bound for bound in bounds if not bound.name.startswith("lost ")]
    if not bounds:
        return [], "No number tells how far the point was from what was expected of it."
    first = bounds[0]
    if asked.detector == "volume" and first.name == "stuck":
        return [], "The count repeats an earlier one: no range of counts can tell that it may."
    if asked.label == "anomaly" and asked.detector in ("volume", "timeliness") and first.value is not None:
        is_high = first.value > (first.expected or 0.0)
        if asked.detector == "timeliness" and not is_high:
            return [], "Only what is late can be told by a bound."
        share = _beyond(case, first.value, is_high)
        if share > MOST_BEYOND and asked.when is None:
            return [], f"{100 * share:.0f}% of the table's points are as far: most of what would be told is normal."
    return bounds, None


def _beyond(case: _Case, value: float, is_high: bool) -> float:
    """The share of the points that nobody called an anomaly, and that are at least as far."""
    known = case.points.around(case.point)
    is_itself = known.seconds == int(case.point.timestamp.timestamp())
    other = known.values[~is_itself & ~np.isin(known.status, (CONFIRMED, EXCLUDED, REPAIRED))]
    beyond = (other >= value) if is_high else (other <= value)
    return float(beyond.mean()) if len(other) else 0.0


def _is_same_word(case: _Case) -> bool:
    before, asked = case.before, case.asked
    return before is not None and (before.label, before.scope, before.note) == (asked.label, asked.scope, asked.note)


def _describe(case: _Case, rule: Rule | None, desk: Desk) -> bool:
    """Puts into the table's settings what the word says of all times, and takes out what an earlier word said."""
    asked, known, before = case.asked, case.table.settings, case.before
    patch: dict[str, Any] = {}
    if rule is not None and known.rules.get(case.rule_id) != rule:
        # With nulls: a merge would keep days of an earlier rule.
        document = rule.model_dump(mode="json")
        document["when"] = rule.when.model_dump() if rule.when else None
        document["bounds"] = [bound.model_dump(exclude_none=True) for bound in rule.bounds]
        patch["rules"] = {case.rule_id: document}
    elif rule is None and case.rule_id in known.rules:
        patch["rules"] = {case.rule_id: None}
    began = known.baselines.get(asked.detector)
    if asked.label == "new_normal" and began != case.point.timestamp:
        patch["baselines"] = {asked.detector: row_key(case.point.timestamp)}
    elif asked.label != "new_normal" and before and before.label == "new_normal" and began == case.point.timestamp:
        patch["baselines"] = {asked.detector: None}
    if patch:
        desk.tables.put(asked.table_id, {"settings": patch})
    return bool(patch)


def _taken_back(case: _Case, desk: Desk) -> dict[str, Any]:
    """Nothing was said of the point any more; its status is what was found when it was judged."""
    before, point = case.before, case.point
    is_described = _describe(case, None, desk)
    status, restored = point.status, 0
    if before is not None:
        if before.label == "new_normal":
            restored = _unmark(case, desk)
        if point.status == LABELS[before.label]:  # else it was observed anew since
            status = "anomaly" if before.flagged else "ok"
    elif point.status in LABELS.values():
        status = "ok"
    case.points.mark([point.timestamp] if status != point.status else [], status)
    if before is not None:
        desk.feedback.remove(before)
    changed = restored + (status != point.status)
    return _told(case, status, changed, before is not None or changed > 0 or is_described, False) | {
        "rule": None, "removed_rule": before.rule_id if before else None}


def _unmark(case: _Case, desk: Desk) -> int:
    """Gives the points their verdict back that a new normal made expected, but for those with a word of their own."""
    own = {said.timestamp for said in desk.feedback.of(case.asked.detector, case.asked.table_id)
           if said.column == case.asked.column}
    later = case.points.between(case.point.timestamp + timedelta(microseconds=1), None)
    moments = [one.timestamp for one in later if one.status == "expected" and one.judged and one.timestamp not in own]
    case.points.mark(moments, "anomaly")
    return len(moments)


def _close_alert(case: _Case, desk: Desk) -> bool:
    last = case.point.about if case.asked.label != "new_normal" else case.now + timedelta(days=2)
    words = f"Said to be {case.asked.label.replace('_', ' ')}" + (f": {case.asked.note}" if case.asked.note else ".")
    return telling.withdraw(case.asked.detector, case.asked.table_id, case.asked.column, (case.point.about, last), words,
                            case.now, desk.alerts, desk.tables, desk.publisher)


def _told(case: _Case, status: str, points: int, changed: bool, closed: bool) -> dict[str, Any]:
    asked, point = case.asked, case.point
    at = point.timestamp.isoformat().replace("+00:00", "Z")
    what = f"The point of {at} {'is' if changed else 'was already'} {status}; it was {point.status} before."
    if not changed:
        what = f"Nothing changed: the point of {at} is {status} already."
    return {"table_id": asked.table_id, "detector": asked.detector, "column": asked.column, "timestamp": at,
            "label": asked.label, "scope": asked.scope, "changed": changed, "status_before": point.status, "status": status,
            "points": points, "alert_closed": closed, "message": what, "follows": list(_FOLLOWS[asked.label]), "rule": None}


def _shown_rule(case: _Case, rule: Rule) -> dict[str, Any]:
    holidays, zone = case.points.request.holidays, case.points.zone
    day = occasions.following(rule.when, case.now, zone, holidays) if rule.when is not None else None
    return {"id": case.rule_id, "words": days(rule), "next": day and day.isoformat(),
            **rule.model_dump(mode="json", exclude_none=True)}


def _alternative(one: occasions.Explanation) -> dict[str, Any]:
    return {"when": _shown_when(one.when), "words": occasions.words(one.when), "alike": one.alike,
            "others": one.alike + one.unlike}


def _shown_when(when: When) -> dict[str, Any]:
    return when.model_dump(exclude_none=True)


def _shown(said: Said) -> dict[str, Any]:
    return {name: value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
            for name, value in asdict(said).items()}
