"""Why a verdict is what it is, as numbers that another verdict can be held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectors.slips import UNIVERSAL
from shared.contract import Answer, VolumeAnswer
from shared.contract_distribution import DistributionAnswer
from shared.contract_feedback import Bound
from shared.contract_pattern import NewPattern, PatternAnswer
from shared.contract_sequence import StepVerdict
from shared.contract_timeliness import TimelinessAnswer

MOST = 50
# What was said to be expected may be exceeded by a quarter of itself: two loads of one kind are never quite the same.
MARGIN = 1.25
SPECIAL = ("month_end", "holiday")
# Of these the value itself tells how bad it is; of a wrong order or shape it tells nothing.
OF_LEVEL = ("displaced", "out_of_range", "wild")


def reasons(answer: Answer) -> list[Bound]:
    """What a verdict rests on, for an anomaly as for what is none; nothing where it has no number, or too many of them."""
    if isinstance(answer, VolumeAnswer):
        if answer.expected_value is None:
            return []
        direction = answer.direction or ("drop" if answer.value <= _of_any_day(answer, answer.expected_value) else "spike")
        return [_bound(direction, answer.value, usual_of(answer, direction))]
    if isinstance(answer, TimelinessAnswer):
        return [] if answer.value is None else [_bound(answer.unit, answer.value, answer.expected_value)]
    if isinstance(answer, PatternAnswer):
        found = [_bound(answer.finding, answer.value, answer.expected_value)] if answer.finding else []
        found += [_bound(name_of(one), one.share, 0.0) for one in answer.new_patterns]
        found += [_bound(f"lost {one.pattern}", one.share, one.expected_share) for one in answer.lost_patterns]
        by_name = {one.name: one for one in reversed(found)}
        return _few([*reversed(by_name.values())])
    if isinstance(answer, DistributionAnswer):
        return _few([_bound(f"{one.column or ''}.{one.metric}", one.value, one.expected_value)
                     for one in answer.columns if one.is_anomaly])
    return []


def usual_of(answer: VolumeAnswer, direction: str) -> float:
    """The count expected of a day that is nothing special: once a model has learnt what a month's end is like, what was said
    to be expected of it must not be allowed a second time.
    """
    expected = answer.expected_value or 0.0
    plain = _of_any_day(answer, expected)
    return max(plain, expected) if direction == "drop" else min(plain, expected) if plain > 0 else expected


def _of_any_day(answer: VolumeAnswer, expected: float) -> float:
    return expected - sum(one.effect for one in answer.explanation if one.factor in SPECIAL)


def reasons_of_step(step: StepVerdict) -> list[Bound]:
    """The metrics that are wrong in one bucket of a sequence, and how."""
    of_level = step.hypothesis in OF_LEVEL
    return _few([_bound(f"{step.hypothesis}: {name}", value if of_level else None, None)
                 for name, value in zip(step.metrics, step.values, strict=True)])


def name_of(found: NewPattern) -> str:
    """What an unusual format goes by: the damage where any value can have it, else the format."""
    return found.kind if found.kind in UNIVERSAL else found.pattern


def covered(found: Sequence[Bound], bounds: Sequence[Bound]) -> bool:
    """Whether each of `found` is among the bounds, in the same direction, and no further out, but for the MARGIN."""
    known = {bound.name: bound for bound in bounds}
    return bool(found) and all(one.name in known and _within(one, known[one.name]) for one in found)


def limit(value: float, usual: float, expected: float) -> float:
    """How far a value may be from what is expected now, where `value` was so far from what was `usual` then."""
    return expected + MARGIN * (value - usual)


def limit_of_count(bound: Bound, expected: float) -> float:
    """The same for a count, whose changes are shares of it: a drop to nothing is allowed only where it was the one seen."""
    if not bound.value or not bound.expected or bound.expected < 0 or expected <= 0:
        return MARGIN * (bound.value or 0.0)
    return float(expected * (bound.value / bound.expected) ** MARGIN)


def stored(found: Sequence[Bound]) -> list[dict[str, Any]]:
    """As part of a document."""
    return [bound.model_dump(exclude_none=True) for bound in found]


def _within(found: Bound, bound: Bound) -> bool:
    if bound.value is None or found.value is None:
        return bound.value is None and found.value is None
    if bound.expected is None or found.expected is None:
        return abs(found.value - bound.value) <= (MARGIN - 1) * abs(bound.value)
    was, is_now = bound.value - bound.expected, found.value - found.expected
    return was * is_now >= 0 and abs(is_now) <= MARGIN * abs(was)


def _bound(name: str, value: float | None, expected: float | None) -> Bound:
    return Bound(name=name[:600], value=value, expected=expected)


def _few(found: list[Bound]) -> list[Bound]:
    return found if len(found) <= MOST else []
