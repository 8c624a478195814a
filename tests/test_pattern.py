"""Do a column's values look as they always do? What the verdict says of formats that are new, lost, damaged or free."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from shared.errors import InvalidRequest, ModelNotFound
from tests.columns import ask, day, orders, request
from tools import pattern_columns


def test_a_batch_like_its_history_is_normal_and_tells_its_formats() -> None:
    verdict = ask(values=orders(400, seed=1))

    assert (verdict.status, verdict.is_anomaly, verdict.severity) == ("evaluated", False, "none")
    assert verdict.new_patterns == [] and verdict.lost_patterns == [] and verdict.reconstruction_error is None
    assert [(p.pattern, p.example_masked, p.count, p.share) for p in verdict.known_patterns] == [
        ("AAA-99999", "AAA-99999", 320, 0.8), ("AA/AAA-99999", "AA/AAA-99999", 80, 0.2)]
    assert verdict.known_patterns[1].expected_share == pytest.approx(0.2, abs=0.01)
    assert (verdict.level, verdict.rows, verdict.missing, verdict.model.algorithm) == ("mask", 400, 0, "formats")
    assert 0 <= (verdict.value or 0) <= (verdict.expected_range[1] or 0)


def test_a_new_format_is_told_with_count_share_nearest_known_and_what_changed() -> None:
    verdict = ask(values=[*orders(388, seed=1), *["ord_48213"] * 12])

    assert verdict.is_anomaly and verdict.severity != "none" and verdict.confidence > 0.5
    [new] = verdict.new_patterns
    assert (new.pattern, new.kind, new.count, new.share) == ("aaa_99999", "new format", 12, 0.03)
    assert new.nearest_known == "AAA-99999" and new.change == "'aaa_' instead of 'AAA-'"
    assert new.examples_masked == ["aaa_99999"] and new.first_seen is None
    assert (verdict.finding, verdict.value, verdict.unusual_count) == ("new format", 0.03, 12)
    assert verdict.expected_range[1] is not None and verdict.value > verdict.expected_range[1]
    assert "12 of 400 values" in verdict.message and "aaa_99999" in verdict.message


NEW = "new format"


@pytest.mark.parametrize(("damage", "kind", "change"), [
    (lambda v: v + " ", "padding", "white space at an end"),
    (lambda v: v + v, "doubled", "the same text twice"),
    (lambda v: "N/A", "placeholder", "a placeholder and no value"),
    (lambda v: "  ", "empty", "nothing"),
    (lambda v: v[:3] + "\x00" + v[4:], "control character", "a control character or one that cannot be read"),
    (lambda v: v.lower(), NEW, "letters of another case"),
    (lambda v: v[:3] + "é" + v[4:], NEW, "a character of another alphabet or encoding"),
    (lambda v: v[:-1] + "O", NEW, "a letter where a digit belongs"),
    (lambda v: v[:-2], NEW, "the end is missing"),
    (lambda v: v.replace("-", "_"), NEW, "'_' instead of '-'"),
    (lambda v: v.replace("-", ""), NEW, "without '-'"),
    (lambda v: "#" + v, NEW, "'#' added"),
    (lambda v: v + ";", NEW, "';' added"),
])
def test_what_happened_to_a_value_is_said_when_it_is_one_in_a_hundred(damage: Any, kind: str, change: str) -> None:
    values = orders(300, seed=1)
    plain = [i for i, value in enumerate(values) if value.startswith("ORD")][:3]
    values = [damage(value) if i in plain else value for i, value in enumerate(values)]

    verdict = ask(values=values)

    assert verdict.is_anomaly, verdict.message
    assert [(p.kind, p.count, p.change) for p in verdict.new_patterns] == [(kind, 3, change)]


def test_damage_that_the_history_had_too_is_called_by_its_name() -> None:
    verdict = ask(values=[*orders(280, seed=1), *["ord-48213"] * 20], historical_data=[[*orders(1000), "ord-12345"]])

    assert verdict.is_anomaly and verdict.finding == "case"


def test_a_format_that_stays_away_is_lost_and_both_ends_of_the_range_are_told() -> None:
    verdict = ask(values=[value for value in orders(500, seed=1) if value.startswith("ORD")])

    [lost] = verdict.lost_patterns
    assert verdict.is_anomaly and (lost.pattern, lost.count, lost.share) == ("AA/AAA-99999", 0, 0.0)
    assert lost.expected_share == pytest.approx(0.2, abs=0.01) and lost.score > 0.99
    assert verdict.finding == "lost AA/AAA-99999" and verdict.value == 0.0
    assert verdict.expected_range[0] is not None and verdict.expected_range[0] > 0.0
    assert "AA/AAA-99999" in verdict.message


def test_a_small_batch_loses_nothing_that_chance_could_have_left_out() -> None:
    assert not ask(values=[value for value in orders(12, seed=1) if value.startswith("ORD")]).lost_patterns


def test_first_seen_is_the_time_of_the_batch_that_first_had_the_format() -> None:
    history = [{"timestamp": day(n).isoformat(), "values": [*orders(200, seed=n), *["ord 48213"] * (n == 7)]}
               for n in range(10)]

    known = ask(values=[*orders(190, seed=20), *["ord 48213"] * 10], timestamp=day(10).isoformat(), historical_data=history)
    unknown = ask(values=[*orders(190, seed=20), *["%48213"] * 10], timestamp=day(10).isoformat(), historical_data=history)

    assert [p.first_seen for p in known.new_patterns] == ["2026-05-08T02:00:00Z"]
    assert [p.first_seen for p in unknown.new_patterns] == [known.timestamp] == ["2026-05-11T02:00:00Z"]


# What the caller asks for


def test_the_policy_says_what_raises_an_alarm_and_what_is_only_told() -> None:
    new, padded = [*orders(390, seed=1), *["ord_48213"] * 10], [*orders(390, seed=1), *[" ORD-48213"] * 10]
    alarms = {(policy, name): ask(values=values, new_pattern_policy=policy).is_anomaly
              for policy in ("alert", "learn", "ignore") for name, values in (("new", new), ("padded", padded))}

    assert alarms == {("alert", "new"): True, ("alert", "padded"): True, ("learn", "new"): False, ("learn", "padded"): True,
                      ("ignore", "new"): False, ("ignore", "padded"): False}
    assert ask(values=new, new_pattern_policy="ignore").new_patterns[0].count == 10


def test_no_policy_silences_a_lost_format() -> None:
    gone = [value for value in orders(500, seed=1) if value.startswith("ORD")]

    assert ask(values=gone, new_pattern_policy="ignore").is_anomaly


@pytest.mark.parametrize(("min_share", "alarm"), [(0.0, True), (0.02, True), (0.05, False)])
def test_less_than_the_least_share_raises_no_alarm(min_share: float, alarm: bool) -> None:
    verdict = ask(values=[*orders(388, seed=1), *["ord_48213"] * 12], min_share=min_share)

    assert verdict.is_anomaly is alarm and verdict.new_patterns[0].share == 0.03
    assert (verdict.severity == "none") is not alarm


def test_direction_and_smallest_change_hold_alarms_back() -> None:
    values = [*orders(388, seed=1), *["ord_48213"] * 12]
    gone = [value for value in orders(500, seed=1) if value.startswith("ORD")]

    assert ask(values=values, direction="spike").is_anomaly and not ask(values=values, direction="drop").is_anomaly
    assert ask(values=gone, direction="drop").is_anomaly and not ask(values=gone, direction="spike").is_anomaly
    assert not ask(values=values, min_change={"percent": 5}).is_anomaly
    assert not ask(values=values, min_change={"absolute": 20}).is_anomaly


def test_more_sensitive_never_means_fewer_alarms() -> None:
    for bad in range(8):
        values = [*orders(300 - bad, seed=1), *["ord_48213"] * bad]
        alarms = [ask(values=values, sensitivity=s).is_anomaly for s in (0, 30, 60, 90, 99)]
        assert alarms == sorted(alarms)


# Columns without a format


def test_prose_is_free_form_and_abstains() -> None:
    verdict = ask(values=pattern_columns.column("text", 300, 1), historical_data=[pattern_columns.column("text", 1000, 0)])

    assert (verdict.status, verdict.is_anomaly, verdict.severity) == ("not_evaluated", False, "none")
    assert verdict.confidence == 0 and verdict.level is None
    assert verdict.reason is not None and "free-form" in verdict.reason


def test_what_is_wrong_in_any_column_is_found_in_a_free_form_one_too() -> None:
    values = pattern_columns.column("text", 280, 1)

    verdict = ask(values=[*values, *["null"] * 20], historical_data=[pattern_columns.column("text", 1000, 0)])

    assert verdict.is_anomaly and verdict.finding == "placeholder" and verdict.status == "evaluated"


def test_clean_batches_of_hard_columns_raise_about_one_alarm_in_a_hundred() -> None:
    alarms = judged = 0
    for name in pattern_columns.COLUMNS:
        history = [pattern_columns.column(name, 300, seed) for seed in range(6)]
        for seed in range(10, 14):
            alarms += ask(values=pattern_columns.column(name, 300, seed), historical_data=history).is_anomaly
            judged += 1

    assert judged == 128 and alarms <= 4  # one in a hundred is stated: five of 128 have a chance of 1 %


# Any input


@pytest.mark.parametrize("history", [[], [orders(29)], [[None] * 500], [[""] * 3]])
def test_too_little_history_is_learning_and_never_an_error(history: Any) -> None:
    verdict = ask(values=orders(10), historical_data=history)

    assert (verdict.status, verdict.is_anomaly, verdict.severity, verdict.confidence) == ("learning", False, "none", 0.0)
    assert verdict.reason is not None and "of 30 values known" in verdict.reason


@pytest.mark.parametrize(("values", "missing"), [([], 0), ([None, None], 2)])
def test_a_batch_without_values_is_not_evaluated(values: list[None], missing: int) -> None:
    verdict = ask(values=values)

    assert (verdict.status, verdict.is_anomaly, verdict.rows, verdict.missing) == ("not_evaluated", False, 0, missing)
    assert verdict.reason


STRANGE = {
    "emoji": ["👩‍👩‍👧‍👦 ok", "🙂", "🇩🇪"],
    "combining marks": ["e\u0301\u0302" * 40, "\u0301"],
    "right to left": ["שלום-12", "\u202eabc"],
    "control characters": ["\x00\x01\x1e\x1f", "a\nb\tc", "\x7f"],
    "marks of shapes": ["<empty>", "<doubled>ab", "<placeholder>"],
    "other digits": ["١٢٣", "Ⅻ", "²³"],
    "white space": [" ", "\u00a0", "\u3000x"],
    "numbers as text": ["1", "1.0", "1e400", "NaN", "-0"],
    "empty": [""],
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_values_get_a_verdict_among_others_and_as_a_whole_column(name: str) -> None:
    strange = STRANGE[name]

    among = ask(values=[*orders(380, seed=1), *strange * (21 // len(strange))])
    whole = ask(values=strange * 20, historical_data=[strange * 60])

    assert among.is_anomaly and among.unusual_count >= 15
    assert not whole.is_anomaly and whole.rows == 20 * len(strange)
    for verdict in (among, whole):
        json.loads(verdict.model_dump_json())


def test_a_value_of_two_megabytes_is_one_unusual_value_told_in_a_few_characters() -> None:
    verdict = ask(values=[*orders(200, seed=1), "ORD-" + "7" * 2_000_000, *["x y" * 700_000] * 4])

    assert verdict.is_anomaly and verdict.unusual_count == 5
    assert len(verdict.model_dump_json()) < 10_000


def test_a_hundred_thousand_distinct_values_are_a_few_formats() -> None:
    verdict = ask(values=[f"ORD-{n:06d}" for n in range(100_000)], historical_data=[[f"ORD-{n:06d}" for n in range(3000)]])

    assert not verdict.is_anomaly and [p.count for p in verdict.known_patterns] == [100_000]


def test_as_many_formats_as_values_are_bounded_work_and_a_short_answer() -> None:
    random = Random(0)
    strange = ["".join(random.choices("aA9 -_./:;,+*~∑→€¢", k=random.randint(6, 60))) for _ in range(20_000)]

    verdict = ask(values=strange[:10_000], historical_data=[strange[10_000:]])

    assert not verdict.is_anomaly and len(verdict.model_dump_json()) < 30_000


def test_the_order_of_values_changes_nothing() -> None:
    values = [*orders(380, seed=1), *["ord_48213", "N/A", "🙂"] * 7]
    history = pattern_columns.with_faults(orders(1000), 0.05, 1)[0]
    mixed, past = values.copy(), history.copy()
    Random(1).shuffle(mixed)
    Random(2).shuffle(past)

    first, second = ask(values=values, historical_data=[history]), ask(values=mixed, historical_data=[past])

    assert first.is_anomaly
    assert first.model_copy(update={"latency_ms": 0.0}) == second.model_copy(update={"latency_ms": 0.0})


def test_shapes_in_place_of_values_get_the_same_verdict() -> None:
    values = [*orders(380, seed=1), *[" ORD-48213"] * 20]
    counts = {"AAA-99999": sum(v.startswith("ORD") for v in values), "AA/AAA-99999": 76, " AAA-99999": 20}

    by_shape, by_value = ask(pattern_counts=counts), ask(values=values)

    assert by_shape.model_copy(update={"latency_ms": 0.0}) == by_value.model_copy(update={"latency_ms": 0.0})
    assert by_shape.warnings == []


def test_later_batches_of_the_request_never_change_an_earlier_verdict() -> None:
    past = [{"timestamp": day(n).isoformat(), "values": orders(100, seed=n)} for n in range(10)]
    later = [{"timestamp": day(n).isoformat(), "values": ["ord_48213"] * 100} for n in range(10, 14)]
    body: dict[str, Any] = {"values": [*orders(90, seed=50), *["ord_48213"] * 10], "timestamp": day(10).isoformat()}

    verdict, other = ask(historical_data=past, **body), ask(historical_data=past + later, **body)

    assert verdict.is_anomaly and other.deviation == verdict.deviation
    assert any("not before" in warning for warning in other.warnings)


# What is asked for wrongly, and what may never be told


@pytest.mark.parametrize(("body", "target"), [
    ({}, ""), ({"values": ["a"], "pattern_counts": {"A": 1}}, ""), ({"values": [1]}, "values[0]"),
    ({"pattern_counts": {"Anna Example": -1}}, "pattern_counts"), ({"values": ["a"], "column": "  "}, "column"),
    ({"values": ["a"], "min_share": 2}, "min_share"), ({"values": ["a"], "new_pattern_policy": "off"}, "new_pattern_policy"),
    ({"values": ["a"], "historical_data": [{"values": ["Anna Example", 5]}]}, "historical_data[0].values[1]"),
])
def test_a_wrong_field_is_named_and_no_value_is_told(body: dict[str, Any], target: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        request(**body)

    told = json.dumps(refused.value.render())
    assert target in told and "Anna" not in told and "Example" not in told


def test_without_a_table_a_required_model_is_not_found() -> None:
    with pytest.raises(ModelNotFound):
        ask(values=orders(10), require_model=True)


def test_values_are_in_no_part_of_the_answer() -> None:
    secret = ["Zaphod.Beeblebrox@galaxy.example", "4111 1111 1111 1111", "Trillian", "Ωmega-Fjord", "DE/ORD-40404"]
    history = [[*orders(500), *secret * 20]]

    for values in ([*orders(300, seed=1), *secret * 4], [f" {value}" for value in secret] * 40, secret * 2):
        told = ask(values=values, historical_data=history).model_dump_json()
        leaked = [part for value in secret for part in value.replace("@", " ").replace("/", " ").split() if part in told]
        assert leaked == []


def test_keys_of_counts_that_are_values_are_turned_into_shapes_and_that_is_said() -> None:
    verdict = ask(pattern_counts={"AAA-99999": 300, "AA/AAA-99999": 75, "Zaphod-42": 25})

    assert "Zaphod" not in verdict.model_dump_json() and verdict.new_patterns[0].examples_masked == ["Aaaaaa-99"]
    assert any("no shapes" in warning for warning in verdict.warnings)
