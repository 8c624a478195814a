"""What people said to hold always, applied to a verdict: after a detector gave it, and before anybody hears of it.

Of several rules one that ignores a day goes first, and one that calls something an anomaly has the last word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from detectors import occasions
from detectors.decision import SEVERITY_SCORES, confidence_of, severity_of
from detectors.reasons import covered, limit, limit_of_count, name_of, reasons, reasons_of_step, usual_of
from shared.contract import Answer, DetectOptions, Deviation, RuleUse, VolumeAnswer
from shared.contract_distribution import DistributionAnswer
from shared.contract_feedback import Rule
from shared.contract_pattern import PatternAnswer
from shared.contract_sequence import SequenceAnswer, StepVerdict
from shared.contract_timeliness import TimelinessAnswer

type Range = tuple[float | None, float | None]

_ORDER = {"ignore": 0, "expected": 1, "anomaly": 2}
# What a person calls an anomaly is one in a thousand normal verdicts at most.
SAID_SCORE = SEVERITY_SCORES[2]


def applied[A: Answer](request: DetectOptions, answer: A, now: datetime) -> A:
    """The verdict as the rules of its table want it; `answer` itself is changed. Without rules nothing is done.

    Raises InvalidRequest for a holiday calendar that does not exist.
    """
    if not request._rules:
        return answer
    for rule_id, rule in sorted(request._rules.items(), key=lambda item: _ORDER[item[1].label]):
        if isinstance(answer, SequenceAnswer):
            _apply_to_steps(request, answer, rule_id, rule, now)
        elif _holds(rule, request, _moment(answer, now)):
            _APPLIED[rule.label](answer, rule_id, rule)
        if answer.rule is not None and answer.rule.label == "ignore":
            break
    return answer


def ruled[R: DetectOptions, C](detect: Callable[[R, C, datetime], Answer]) -> Callable[[R, C, datetime], Answer]:
    """A detector that follows the rules of its table."""
    return lambda request, catalogue, now: applied(request, detect(request, catalogue, now), now)


def ruled_replay[R: DetectOptions, C](
    replay: Callable[[R, C, int], Iterator[Answer]]
) -> Callable[[R, C, int], Iterator[Answer]]:
    """The same for a detector asked about the past: every one of its answers has a time."""
    def replayed(request: R, catalogue: C, points: int) -> Iterator[Answer]:
        for answer in replay(request, catalogue, points):
            yield applied(request, answer, datetime.fromisoformat(answer.timestamp)) if answer.timestamp else answer

    return replayed


def days(rule: Rule) -> str:
    """On which days a rule holds, in words."""
    return occasions.words(rule.when) if rule.when is not None else "always"


def _holds(rule: Rule, request: DetectOptions, moment: datetime) -> bool:
    zone = request.timezone or rule.timezone or "UTC"
    return rule.when is None or occasions.matches(rule.when, moment, zone, request.holidays)


def _moment(answer: Answer, now: datetime) -> datetime:
    """What a verdict is about: of a feed the load that was due."""
    about = getattr(answer, "due_at", None) or answer.timestamp
    return datetime.fromisoformat(about) if about else now


def _ignore(answer: Answer, rule_id: str, rule: Rule) -> None:
    answer.rule = RuleUse(id=rule_id, label="ignore", when=days(rule))
    answer.status, answer.is_anomaly, answer.severity, answer.confidence = "not_evaluated", False, "none", 0.0
    answer.reason = answer.message = f"Not judged: {days(rule)} was said to be ignored."
    answer.expected_range = {"volume": (0.0, None), "pattern": (0.0, 1.0)}.get(answer.detector, (None, None))
    for name in {"state", "direction", "deviation", "finding", "event_check"} & type(answer).model_fields.keys():
        setattr(answer, name, None)
    if isinstance(answer, SequenceAnswer):
        answer.steps = []
    if isinstance(answer, DistributionAnswer):
        _calm_columns(answer)


def _expect(answer: Answer, rule_id: str, rule: Rule) -> None:
    before = answer.expected_range
    if isinstance(answer, VolumeAnswer):
        answer.expected_range = _count_range(answer, rule)
        is_quiet = answer.is_anomaly and _inside(answer.value, answer.expected_range)
    elif isinstance(answer, TimelinessAnswer):
        answer.expected_range = _lag_range(answer, rule)
        _move_deadline(answer, before[1])
        is_quiet = answer.is_anomaly and answer.unit == rule.bounds[0].name and _inside(answer.value, answer.expected_range)
    else:
        # Only where everything that is wrong was so before, and no worse: what else is wrong would be hidden.
        is_quiet = answer.is_anomaly and covered(reasons(answer), rule.bounds)
        if is_quiet:
            answer.expected_range = _with(getattr(answer, "value", None), before)
    if is_quiet:
        _calm(answer)
        answer.message += f" That was said to be expected {days(rule)}."
    if is_quiet or answer.expected_range != before:
        answer.rule = RuleUse(id=rule_id, label="expected", when=days(rule))


def _count_range(answer: VolumeAnswer, rule: Rule) -> Range:
    lower, upper = answer.expected_range
    bound = rule.bounds[0]
    # A count that repeats lies where counts are expected: no range would let it through and keep its meaning.
    if answer.status != "evaluated" or answer.expected_value is None or answer.direction == "stuck":
        return lower, upper
    most = limit_of_count(bound, usual_of(answer, bound.name))
    if bound.name == "drop":
        # A table that stays empty is worse than one that is small.
        return min(lower or 0.0, float(max(math.ceil(most - 1e-9), 1 if bound.value else 0))), upper
    if bound.name == "spike" and upper is not None:
        return lower, max(upper, float(math.floor(most + 1e-9)))
    return lower, upper


def _lag_range(answer: TimelinessAnswer, rule: Rule) -> Range:
    lower, upper = answer.expected_range
    bound = rule.bounds[0]
    if answer.state in (None, "stopped") or answer.unit != bound.name or bound.value is None:
        return lower, upper
    usual = bound.expected if bound.expected is not None else 0.0
    expected = answer.expected_value if answer.expected_value is not None else usual
    # From what was usual then, too: what a model has learnt of these days must not be allowed a second time.
    if bound.value >= usual:
        most = min(limit(bound.value, usual, usual), limit(bound.value, usual, expected))
        return lower, upper if upper is None else max(upper, math.ceil(most * 100) / 100)
    most = max(limit(bound.value, usual, usual), limit(bound.value, usual, expected))
    return lower if lower is None else min(lower, math.floor(most * 100) / 100), upper


def _move_deadline(answer: TimelinessAnswer, before: float | None) -> None:
    """A load that is still out is called late from the new end of the range on."""
    upper = answer.expected_range[1]
    if answer.late_after is not None and upper is not None and before is not None:
        moved = datetime.fromisoformat(answer.late_after) + timedelta(seconds=round(60 * (upper - before)))
        answer.late_after = moved.isoformat().replace("+00:00", "Z")


def _calm(answer: Answer) -> None:
    """No anomaly any more."""
    answer.is_anomaly, answer.severity = False, "none"
    deviation: Deviation | None = getattr(answer, "deviation", None)
    threshold = deviation.threshold if deviation else getattr(answer, "threshold", None) or 0.99
    score = math.nextafter(threshold, 0)
    answer.confidence = confidence_of(score, False)
    if deviation is not None:
        told = deviation.model_copy(update={"score": math.floor(score * 1e6) / 1e6})
        answer.deviation = told  # type: ignore[attr-defined]  # it has one
    if isinstance(answer, VolumeAnswer):
        answer.direction = None
    elif isinstance(answer, TimelinessAnswer):
        answer.state = "pending" if answer.missing_loads else "on_time"
        if answer.missing_loads:  # not late yet
            answer.missing_loads, answer.value, answer.deviation = 0, None, None
            answer.status, answer.reason, answer.confidence = "not_evaluated", answer.message, 0.0
        if answer.event_check is not None and answer.unit == "event_lag_minutes":
            answer.event_check.is_anomaly, answer.event_check.severity = False, "none"
    elif isinstance(answer, DistributionAnswer):
        answer.table_score = score
        _calm_columns(answer)


def _calm_columns(answer: DistributionAnswer) -> None:
    for column in answer.columns:
        if column.is_anomaly:
            column.is_anomaly, column.severity = False, "none"
            column.expected_range = _with(column.value, column.expected_range)


def _flag(answer: Answer, rule_id: str, rule: Rule) -> None:
    if answer.status == "not_evaluated" and getattr(answer, "state", None) != "pending":
        return
    if isinstance(answer, PatternAnswer):
        is_wrong = _flag_format(answer, rule)
    elif isinstance(answer, VolumeAnswer):
        is_wrong = _flag_count(answer, rule)
    else:
        is_wrong = isinstance(answer, TimelinessAnswer) and _flag_lag(answer, rule)
    if not is_wrong:
        return
    answer.rule = RuleUse(id=rule_id, label="anomaly", when=days(rule))
    if answer.is_anomaly:
        return
    answer.is_anomaly, answer.status, answer.reason = True, "evaluated", None
    answer.severity = severity_of(SAID_SCORE, True)  # type: ignore[assignment]
    answer.confidence = confidence_of(SAID_SCORE, True)
    deviation: Deviation | None = getattr(answer, "deviation", None)
    if deviation is not None:
        told = deviation.model_copy(update={"score": max(deviation.score, SAID_SCORE, deviation.threshold)})
        answer.deviation = told  # type: ignore[attr-defined]  # it has one
    answer.message += " A value like this was said to be an anomaly."


def _flag_count(answer: VolumeAnswer, rule: Rule) -> bool:
    bound = rule.bounds[0]
    lower, upper = answer.expected_range
    if bound.value is None:
        return False
    if bound.name == "drop":
        answer.expected_range = max(lower or 0.0, float(math.floor(bound.value) + 1)), upper
        wrong = answer.value <= bound.value
    else:
        most = float(math.ceil(bound.value) - 1)
        answer.expected_range = lower, most if upper is None else min(upper, most)
        wrong = answer.value >= bound.value
    answer.direction = ("drop" if bound.name == "drop" else "spike") if wrong else answer.direction
    return wrong


def _flag_lag(answer: TimelinessAnswer, rule: Rule) -> bool:
    bound = rule.bounds[0]
    lower, upper = answer.expected_range
    if bound.value is None or bound.name != answer.unit or bound.value <= (bound.expected or 0.0):
        return False  # too early is told where it happens; later loads have another day
    answer.expected_range = lower, bound.value - 0.01 if upper is None else min(upper, bound.value - 0.01)
    _move_deadline(answer, upper)
    if answer.state == "pending" and answer.due_at is not None and answer.timestamp is not None:
        so_far = (datetime.fromisoformat(answer.timestamp) - datetime.fromisoformat(answer.due_at)) / timedelta(minutes=1)
        if so_far >= bound.value:
            answer.value, answer.missing_loads = round(so_far, 2), 1
    if answer.value is None or answer.value < bound.value:
        return False
    answer.state = "stopped" if answer.state == "stopped" else "late"
    return True


def _flag_format(answer: PatternAnswer, rule: Rule) -> bool:
    """Whether a format came that is always wrong, also where it has become usual."""
    wrong = {bound.name for bound in rule.bounds}
    came = {name_of(one): one.share for one in answer.new_patterns} | {
        one.pattern: one.share for one in answer.known_patterns if one.count}
    name = max(came.keys() & wrong, key=came.__getitem__, default=None)
    if name is None:
        return False
    if not answer.is_anomaly:
        answer.finding, answer.value, answer.expected_value, answer.expected_range = name, came[name], 0.0, (0.0, 0.0)
        answer.message = f"{100 * came[name]:.3g}% of {answer.rows:,} values have the format {name}."
    return True


def _apply_to_steps(request: DetectOptions, answer: SequenceAnswer, rule_id: str, rule: Rule, now: datetime) -> None:
    """Takes out of a sequence's verdict the buckets that a rule is about."""
    if rule.label == "ignore":
        points = getattr(request, "points", ())
        moments = [datetime.fromisoformat(answer.timestamp)] if answer.timestamp else [now]
        moments = [_local(point.timestamp, request, rule) for point in points] if len(points) > 1 else moments
        if all(_holds(rule, request, moment) for moment in moments):
            _ignore(answer, rule_id, rule)
            return
    left = [step for step in answer.steps if not (
        _holds(rule, request, datetime.fromisoformat(step.timestamp))
        and (rule.label == "ignore" or (rule.label == "expected" and covered(reasons_of_step(step), rule.bounds))))]
    if len(left) == len(answer.steps):
        return
    if not any(_is_of(answer, step) for step in left):
        _tell_of(answer, max(left, key=lambda step: step.score, default=None))
    answer.steps = left
    if rule.label == "expected":
        answer.rule = RuleUse(id=rule_id, label="expected", when=days(rule))
    answer.message += f" What was said to be {'ignored' if rule.label == 'ignore' else 'expected'} {days(rule)} is left out."


def _is_of(answer: SequenceAnswer, step: StepVerdict) -> bool:
    return step.timestamp == answer.timestamp


def _tell_of(answer: SequenceAnswer, step: StepVerdict | None) -> None:
    """The answer's own fields, which are those of the worst bucket, once another one is that, or none is."""
    for metric in answer.metrics:
        metric.is_anomaly, metric.hypothesis = False, None
    if step is None:
        answer.state = "normal"
        _calm(answer)
        return
    answer.timestamp, answer.state, answer.severity = step.timestamp, step.hypothesis, step.severity
    answer.metric, answer.value, answer.expected_value = step.metrics[0], step.values[0], None
    answer.expected_range, answer.metrics, answer.message = (None, None), [], step.description
    answer.confidence = confidence_of(step.score, True)
    if answer.deviation is not None:
        answer.deviation = answer.deviation.model_copy(update={"score": step.score, "absolute": 0.0})


def _local(moment: datetime, request: DetectOptions, rule: Rule) -> datetime:
    zone = ZoneInfo(request.timezone or rule.timezone or "UTC")
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


def _with(value: float | None, known: Range) -> Range:
    """The range with a value in it."""
    lower, upper = known
    if value is None:
        return known
    return (None if lower is None else min(lower, value)), (None if upper is None else max(upper, value))


def _inside(value: float | None, known: Range) -> bool:
    lower, upper = known
    return value is None or ((lower is None or value >= lower) and (upper is None or value <= upper))


_APPLIED: dict[str, Callable[[Any, str, Rule], None]] = {"ignore": _ignore, "expected": _expect, "anomaly": _flag}
