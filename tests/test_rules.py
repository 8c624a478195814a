"""What people said to hold always: what it does to a verdict, and what it must never hide."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.directory import DETECTORS
from detectors.reasons import reasons, reasons_of_step
from detectors.rules import applied
from shared.catalogue import Catalogue
from shared.contract import Effect, VolumeAnswer, parse
from shared.contract_distribution import DistributionAnswer
from shared.contract_feedback import Bound
from shared.contract_pattern import PatternAnswer
from shared.contract_sequence import SequenceAnswer
from shared.contract_tables import Table, with_defaults
from shared.contract_timeliness import TimelinessAnswer
from shared.settings import Settings
from tests import columns, feeds, profiles, sequences
from tests.columns import orders

NOW = datetime(2026, 9, 30, 12, tzinfo=UTC)
OFFLINE = Catalogue(Settings())
MONTH_END = {"day": -1}
WEEKS = [round(10_000 * (0.5 if n % 7 > 4 else 1) * (1 + 0.01 * (-1) ** n)) for n in range(42)]


def ruled(detector: str, body: dict[str, Any], *rules: dict[str, Any], timezone: str | None = None) -> Any:
    """The verdict on a request that brings its own history, with these rules among its table's settings."""
    kept = {f"rule{n}": {"detector": detector, "created_at": "2026-01-01T00:00:00Z", **rule} for n, rule in enumerate(rules)}
    table = Table.model_validate_json(json.dumps({"settings": {"rules": kept, "timezone": timezone}}))
    request = parse(DETECTORS[detector].request, json.dumps(body).encode(), 2**26)
    return DETECTORS[detector].detect(with_defaults(request, table, detector), OFFLINE, NOW)


def count(rows: float, *rules: dict[str, Any], at: str = "2026-09-30T02:00:00Z", **body: Any) -> VolumeAnswer:
    """One count after six weeks; 30 September 2026 is a Wednesday, of which 10,000 are expected."""
    day = datetime.fromisoformat(at)
    past = [{"timestamp": (day - timedelta(42 - n)).isoformat(), "row_count": WEEKS[(n + day.weekday()) % 7]}
            for n in range(42)]
    asked = {"timestamp": at, "current_row_count": rows, "historical_data": past, **body}
    answer: VolumeAnswer = ruled("volume", asked, *rules)
    return answer


def expected(name: str, value: float | None, usual: float | None = None, **when: Any) -> dict[str, Any]:
    bound = {"name": name, "value": value, "expected": usual}
    return {"label": "expected", "when": when or MONTH_END, "bounds": [bound]}


def anomaly(name: str, value: float, usual: float | None = None) -> dict[str, Any]:
    return {"label": "anomaly", "bounds": [{"name": name, "value": value, "expected": usual}]}


def ignored(**when: Any) -> dict[str, Any]:
    return {"label": "ignore", "when": when or MONTH_END}


def is_outside(answer: Any) -> bool:
    lower, upper = answer.expected_range
    return (lower is not None and answer.value < lower) or (upper is not None and answer.value > upper)


HALF = expected("drop", 5_000, 10_000)
DOUBLE = expected("spike", 20_000, 10_000)


def test_a_verdict_without_rules_is_left_as_it_is():
    request = parse(DETECTORS["volume"].request, b'{"current_row_count": 1}')
    answer = count(9_900)
    before = answer.model_dump()

    assert applied(request, answer, NOW) is answer
    assert answer.model_dump() == before and answer.rule is None


def test_a_caller_cannot_bring_rules_of_its_own():
    assert count(5_000, _rules={"rule0": HALF}, rules={"rule0": HALF}).is_anomaly


# Expected


def test_what_was_said_to_be_expected_is_quiet_on_its_days_and_an_outage_is_not():
    quiet, outage, other_day = count(5_000, HALF), count(0, HALF), count(5_000, HALF, at="2026-09-29T02:00:00Z")

    assert (quiet.is_anomaly, quiet.severity, quiet.direction, quiet.kept_as) == (False, "none", None, "ok")
    assert quiet.rule is not None and quiet.rule.when == "every last day of the month"
    assert quiet.message.endswith("said to be expected every last day of the month.")
    assert (outage.is_anomaly, outage.severity) == (True, "critical")
    assert other_day.is_anomaly and other_day.rule is None


def test_a_quarter_further_is_allowed_and_no_more():
    assert not count(4_300, HALF).is_anomaly
    assert count(4_100, HALF).is_anomaly
    assert not count(23_000, DOUBLE).is_anomaly
    assert count(24_500, DOUBLE).is_anomaly


def test_the_other_direction_is_told_as_ever():
    assert count(20_000, HALF).is_anomaly
    assert count(5_000, DOUBLE).is_anomaly
    assert not count(5_000, HALF, DOUBLE).is_anomaly and not count(20_000, HALF, DOUBLE).is_anomaly


def test_nothing_at_all_is_expected_only_where_nothing_came_then_too():
    assert count(0, expected("drop", 1, 10_000)).is_anomaly
    assert not count(0, expected("drop", 0, 10_000)).is_anomaly


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(0, 60_000), value=st.integers(0, 60_000), label=st.sampled_from(["expected", "anomaly"]),
       direction=st.sampled_from(["both", "drop", "spike"]))
def test_a_count_is_outside_its_range_exactly_when_it_is_an_anomaly(rows: int, value: int, label: str,
                                                                    direction: str) -> None:
    name = "drop" if value <= 10_000 else "spike"
    rule = expected(name, value, 10_000) if label == "expected" else anomaly(name, value)

    plain, answer = count(rows, direction=direction), count(rows, rule, direction=direction)

    assert answer.is_anomaly == is_outside(answer)
    assert (answer.severity == "none") == (not answer.is_anomaly)
    assert plain.is_anomaly <= answer.is_anomaly if label == "anomaly" else answer.is_anomaly <= plain.is_anomaly


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(0, 9_000), said=st.integers(1, 9_000))
def test_nothing_worse_than_what_was_said_is_hidden(rows: int, said: int) -> None:
    answer = count(rows, expected("drop", said, 10_000))

    assert answer.is_anomaly or rows >= 10_000 * (said / 10_000) ** 1.25 * 0.98 or not count(rows).is_anomaly


def test_days_are_those_of_the_tables_own_zone():
    rules = {"rule0": {"detector": "volume", "created_at": "2026-01-01T00:00:00Z", **HALF}}
    table = Table.model_validate_json(json.dumps({"settings": {"rules": rules, "timezone": "Asia/Tokyo"}}))
    # 30 September in Tokyo, the 29th in London
    body = {"timestamp": "2026-09-29T20:00:00Z", "current_row_count": 5_000,
            "historical_data": [WEEKS[(n + 2) % 7] for n in range(42)]}
    request = with_defaults(parse(DETECTORS["volume"].request, json.dumps(body).encode()), table, "volume")

    assert not DETECTORS["volume"].detect(request, OFFLINE, NOW).is_anomaly


# Ignored, and always wrong


def test_ignored_days_are_not_judged_and_teach_nobody():
    answer = count(0, ignored())

    assert (answer.status, answer.is_anomaly, answer.kept_as) == ("not_evaluated", False, "excluded")
    assert answer.reason == "Not judged: every last day of the month was said to be ignored."
    assert count(0, ignored(day=1)).is_anomaly
    assert count(0, HALF, ignored()).status == "not_evaluated"


def test_what_was_called_an_anomaly_is_one_whenever_it_comes():
    plain, told = count(9_800), count(9_800, anomaly("drop", 9_850))

    assert not plain.is_anomaly
    assert (told.is_anomaly, told.severity, told.direction, told.expected_range[0]) == (True, "high", "drop", 9_851)
    assert not count(9_870, anomaly("drop", 9_850)).is_anomaly
    assert count(10_200, anomaly("spike", 10_150)).is_anomaly
    assert count(9_800, expected("drop", 5_000, 10_000), anomaly("drop", 9_850)).is_anomaly


# Detectors of more than one number


def month_end_profile() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A batch of 31 March whose amounts are twice as high, and the batches before."""
    odd = profiles.batch(29)
    amount = profiles.column(odd, "amounts000")
    for name in ("minValue", "maxValue", "mean"):
        amount[name] *= 2
    amount["quantiles"] = {level: 2 * value for level, value in amount["quantiles"].items()}
    return odd, profiles.history(29)


def judge_profile(current: dict[str, Any], past: list[dict[str, Any]], *rules: dict[str, Any]) -> DistributionAnswer:
    answer: DistributionAnswer = ruled("distribution", {"current_profile": current, "historical_profiles": past}, *rules)
    return answer


def test_a_profile_is_quiet_only_where_the_very_same_columns_are_odd():
    odd, past = month_end_profile()
    plain = judge_profile(odd, past)
    why = reasons(plain)
    rule = {"label": "expected", "when": MONTH_END, "bounds": [one.model_dump(exclude_none=True) for one in why]}
    worse = json.loads(json.dumps(odd))
    profiles.column(worse, "flags003")["mean"] = 0.95

    quiet, told = judge_profile(odd, past, rule), judge_profile(worse, past, rule)

    assert plain.is_anomaly and "amounts000" in {one.name.partition(".")[0] for one in why}
    assert (quiet.is_anomaly, quiet.severity, quiet.kept_as) == (False, "none", "ok")
    assert not any(column.is_anomaly for column in quiet.columns) and not is_outside(quiet)
    assert told.is_anomaly and told.rule is None


def test_new_formats_are_quiet_as_long_as_no_more_of_them_come():
    past = [orders(1000)]
    bad = [*orders(960), *("ORD_4711",) * 40]
    def judge(values: list[str], *rules: dict[str, Any]) -> PatternAnswer:
        answer: PatternAnswer = ruled("pattern", {"values": values, "historical_data": past, "column": "id",
                                                  "timestamp": "2026-09-30T02:00:00Z"}, *rules)
        return answer
    bounds = [one.model_dump(exclude_none=True) for one in reasons(judge(bad))]
    allowed = {"label": "expected", "when": MONTH_END, "column": "id", "bounds": bounds}
    wrong = {"label": "anomaly", "column": "id", "bounds": bounds}

    quiet, more, other = (judge(values, allowed) for values in (
        bad, [*orders(800), *("ORD_4711",) * 200], [*bad, *("n/a",) * 40]))
    learnt = ruled("pattern", {"values": bad, "historical_data": [bad] * 20, "column": "id"}, wrong)

    assert judge(bad).is_anomaly
    assert not quiet.is_anomaly and not is_outside(quiet)
    assert more.is_anomaly and other.is_anomaly
    assert learnt.is_anomaly and is_outside(learnt) and learnt.message.endswith("said to be an anomaly.")


def test_a_late_feed_is_waited_for_as_long_as_was_said_and_no_longer():
    came = feeds.feed(feeds.DAILY, "2026-07-01", "2026-09-30")
    def judge(at: str, *rules: dict[str, Any]) -> TimelinessAnswer:
        body = {"as_of": feeds.iso(feeds.at(at)), "timezone": feeds.BERLIN,
                "historical_data": [feeds.iso(one) for one in came]}
        answer: TimelinessAnswer = ruled("timeliness", body, *rules)
        return answer
    rule = expected("minutes_after_due", 120, 0)

    plain, waiting, late = judge("2026-09-30T04:00"), judge("2026-09-30T04:00", rule), judge("2026-09-30T05:30", rule)

    assert (plain.state, plain.is_anomaly) == ("late", True)
    assert (waiting.state, waiting.is_anomaly, waiting.status) == ("pending", False, "not_evaluated")
    assert waiting.late_after is not None and "2026-09-30T02:55" < waiting.late_after < "2026-09-30T03:05"
    assert (late.state, late.is_anomaly) == ("late", True)
    assert judge("2026-09-30T03:30", anomaly("minutes_after_due", 5, 0)).is_anomaly
    assert judge("2026-09-30T04:00", ignored()).status == "not_evaluated"


def test_a_bucket_of_a_sequence_is_quiet_where_the_same_metrics_are_wrong_in_the_same_way():
    values = sequences.with_fault("frozen")
    asked = json.loads(sequences.request(values, sequences.DAY).model_dump_json(exclude_unset=True))
    plain: SequenceAnswer = ruled("sequence", asked)
    names = {bound.name for step in plain.steps for bound in reasons_of_step(step)}
    day = plain.steps[0].timestamp[:10]
    when = {"day": int(day[-2:])}
    same = {"label": "expected", "when": when, "bounds": [{"name": name} for name in sorted(names)]}
    other = {"label": "expected", "when": when, "bounds": [{"name": "reversed: metric0"}]}

    quiet, told, left_out = ruled("sequence", asked, same), ruled("sequence", asked, other), ruled("sequence", asked, {
        "label": "ignore", "when": when})

    assert plain.is_anomaly
    assert (quiet.is_anomaly, quiet.steps, quiet.state, quiet.severity) == (False, [], "normal", "none")
    assert told.steps == plain.steps and told.is_anomaly
    assert (left_out.status, left_out.kept_as) == ("not_evaluated", "excluded")


def test_a_bucket_that_is_not_covered_stays_the_worst_that_is_told():
    values = sequences.with_fault("frozen")
    asked = json.loads(sequences.request(values, sequences.DAY).model_dump_json(exclude_unset=True))
    plain: SequenceAnswer = ruled("sequence", asked)
    worst = plain.timestamp or ""
    rule = {"label": "ignore", "when": {"hour": datetime.fromisoformat(worst).hour}}

    rest: SequenceAnswer = ruled("sequence", asked, rule)

    assert rest.is_anomaly and len(rest.steps) == len(plain.steps) - 1
    assert rest.timestamp != worst and rest.timestamp in {step.timestamp for step in rest.steps}


@pytest.mark.parametrize(("rule", "message"), [
    ({"label": "expected", "bounds": [{"name": "drop", "value": 1, "expected": 2}]}, "without days"),
    ({"label": "expected", "when": MONTH_END}, "something worse"),
    ({"label": "ignore", "when": {}}, "needs a weekday"),
    ({"label": "ignore", "when": {"nth": 1}}, "needs a weekday beside it"),
    ({"label": "ignore", "when": {"day": 0}}, "from the end"),
], ids=["no days", "no bounds", "empty days", "no weekday", "day zero"])
def test_a_rule_that_would_hide_everything_is_none(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Table.model_validate_json(json.dumps({"settings": {"rules": {"a": {
            "detector": "volume", "created_at": "2026-01-01T00:00:00Z", **rule}}}}))


def test_bounds_are_names_with_numbers():
    assert reasons(count(5_000)) == [Bound(name="drop", value=5_000, expected=count(5_000).expected_value)]
    assert columns.ask(values=orders(1000)).is_anomaly is False


def test_an_expected_month_end_is_measured_from_any_other_day() -> None:
    learnt = count(21_500).model_copy(update={
        "direction": None, "expected_value": 23_600.0, "explanation": [Effect(factor="month_end", effect=13_000.0)]})

    assert reasons(learnt) == [Bound(name="spike", value=21_500, expected=10_600)]
