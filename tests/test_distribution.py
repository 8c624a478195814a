"""What a batch is told: of its columns, of its schema, and where there is not enough to say anything."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime

import pytest

from detectors import distribution
from shared.contract import parse
from shared.contract_distribution import DistributionRequest
from shared.errors import InvalidRequest
from tests.profiles import ask, batch, column, day, history, offline, request

N = 30
PAST = history(N)


def verdict_of(answer, name):
    return next(c for c in answer.columns if c.column == name)


def test_a_usual_batch_is_no_anomaly_and_every_column_has_a_verdict():
    answer = ask(batch(N), PAST)

    assert (answer.is_anomaly, answer.severity, answer.status) == (False, "none", "evaluated")
    assert answer.confidence > 0.9
    assert answer.message == "1,021 rows in 8 columns. As expected."
    assert {c.column for c in answer.columns} == {None, *(c["columnName"] for c in batch(N)["columnProfiles"])}
    assert sum(c.contribution for c in answer.columns) == pytest.approx(1, abs=1e-3)


def test_usual_batches_of_a_new_table_are_rarely_flagged():
    flagged = [ask(batch(i), PAST[:i]).is_anomaly for i in range(8, N)]

    assert sum(flagged) == 0


FAULTS = {
    "nulls": ("amounts000", "null_rate", lambda c: c.update(nullPercentage=20.0)),
    "other unit": ("amounts000", None, lambda c: c.update(
        {k: 100 * c[k] for k in ("minValue", "maxValue", "mean", "stddev")},
        quantiles={k: 100 * v for k, v in c["quantiles"].items()})),
    "longer texts": ("cities001", "len_mean", lambda c: c["lengths"].update(mean=5.4)),
    "another mix": ("cities001", None, lambda c: c["topValues"].reverse() or c.update(
        topValues=[t | {"value": v["value"]} for t, v in zip(c["topValues"], reversed(c["topValues"]), strict=True)])),
    "old dates": ("dates002", "last_age", lambda c: c.update(maxValue=day(N - 3))),
    "always true": ("flags003", "true_rate", lambda c: c.update(mean=1.0)),
}


@pytest.mark.parametrize(("name", "metric", "change"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_found_and_its_column_named(name, metric, change):
    current = batch(N)
    change(column(current, name))

    answer = ask(current, PAST)

    assert answer.is_anomaly
    assert answer.column == name
    assert metric in (None, answer.metric)
    told = verdict_of(answer, name)
    assert told.is_anomaly
    assert told.contribution == max(c.contribution for c in answer.columns)
    low, high = told.expected_range
    assert not low <= told.value <= high


def test_half_of_the_rows_missing_is_told_of_the_table():
    answer = ask(batch(N, rows=500), PAST)

    assert (answer.is_anomaly, answer.column, answer.metric) == (True, None, "row_count")
    assert answer.message.startswith("Number of rows ")


def test_an_empty_batch_is_an_anomaly_and_its_columns_are_not_evaluated():
    answer = ask({"profiledAt": day(N), "rowCount": 0, "columns": [{"name": c["columnName"], "distinctCount": 0}
                                                                  for c in PAST[0]["columnProfiles"]]}, PAST)

    assert (answer.is_anomaly, answer.metric, answer.value) == (True, "row_count", 0)
    assert {c.status for c in answer.columns if c.column} == {"not_evaluated"}


def test_a_column_with_too_few_values_is_not_evaluated_and_says_why():
    current = batch(N, rows=5)

    answer = ask(current, PAST)

    told = verdict_of(answer, "amounts000")
    assert (told.status, told.is_anomaly) == ("not_evaluated", False)
    assert told.reason.endswith("values; at least 10 are needed.")


def test_psi_and_jensen_shannon_distance_grow_with_the_change():
    current = batch(N)
    few = ask(current, PAST).distance["cities001"]
    for value, share in zip(column(current, "cities001")["topValues"], (0.1, 0.1, 0.4, 0.4), strict=True):
        value["count"] = share * current["rowCount"]
    much = ask(current, PAST).distance["cities001"]

    assert few.psi < 0.05 and few.js < 0.1
    assert much.psi > 0.25 and much.js > 0.3
    assert much.n == current["rowCount"]


# The schema


def test_a_column_that_is_gone_is_told_once():
    current = batch(N)
    current["columnProfiles"].pop(0)
    later = batch(N + 1)
    later["columnProfiles"].pop(0)

    told, again = ask(current, PAST), ask(later, [*PAST, current])

    assert (told.is_anomaly, told.column, told.metric) == (True, "amounts000", "vanished_column")
    assert told.message == "Column amounts000 is gone."
    assert not again.is_anomaly


def test_a_new_column_is_told_and_then_learnt():
    current, later = batch(N, 9), batch(N + 1, 9)
    past = [p | {"columnProfiles": p["columnProfiles"][:8]} for p in history(N, 9)]

    told, again = ask(current, past), ask(later, [*past, current])

    assert (told.is_anomaly, told.column, told.metric) == (True, "amounts008", "new_column")
    learning = verdict_of(again, "amounts008")
    assert (again.is_anomaly, learning.status) == (False, "learning")


def test_a_column_of_another_type_is_told():
    current = batch(N)
    column(current, "amounts000")["dataType"] = "varchar"

    answer = ask(current, PAST)

    assert (answer.is_anomaly, answer.metric) == (True, "type_changed")
    assert answer.message.startswith("Column amounts000 changed its type from numeric to string.")


def test_a_table_whose_columns_all_changed_names_has_a_clear_verdict():
    current = batch(N)
    for c in current["columnProfiles"]:
        c["columnName"] = f"new_{c['columnName']}"

    answer = ask(current, PAST)

    assert answer.is_anomaly
    assert answer.message == ("8 columns are gone (amounts000, amounts004, cities001, ...). "
                              "8 columns are new (new_amounts000, new_amounts004, new_cities001, ...).")
    assert {c.metric for c in answer.columns if c.column} == {"vanished_column", "new_column"}


def test_a_column_that_comes_and_goes_is_expected_to():
    past = copy.deepcopy(PAST)
    for profile in past[::2]:
        profile["columnProfiles"].pop()

    answer = ask(batch(N), past)

    assert not answer.is_anomaly


# Too little, too much, and odd values


@pytest.mark.parametrize("known", [0, 1, 3, 7])
def test_with_few_profiles_the_detector_learns_and_never_alarms(known):
    answer = ask(batch(N, rows=3), PAST[:known])

    assert (answer.status, answer.is_anomaly, answer.severity, answer.confidence) == ("learning", False, "none", 0)
    assert answer.reason.startswith(f"{known} of 8 profiles known")
    assert answer.history.points == known


def test_a_table_of_a_thousand_columns_has_a_verdict_and_its_one_bad_column_is_named():
    past, current = history(9, 1000), batch(9, 1000)
    column(current, "amounts500")["nullPercentage"] = 40.0

    answer = ask(current, past)

    assert (answer.is_anomaly, answer.column, answer.metric) == (True, "amounts500", "null_rate")
    assert len(answer.columns) == 1001
    assert sum(c.is_anomaly for c in answer.columns) == 1


def test_a_metric_that_never_varied_may_wobble_and_may_not_jump():
    def constant(i, low):
        return {"profiledAt": day(i), "rowCount": 1000, "columns": [{"name": "a", "type": "int", "min": low, "max": 9,
                                                                     "mean": 4.5, "std": 2.0, "nullPercentage": 0}]}

    past = [constant(i, 0) for i in range(40)]

    assert not ask(constant(40, 0), past).is_anomaly
    assert not ask(constant(40, 0.001), past).is_anomaly
    assert ask(constant(40, -500), past).is_anomaly


def test_nulls_count_as_not_measured():
    current = batch(N)
    for key in ("minValue", "maxValue", "mean", "stddev", "quantiles"):
        column(current, "amounts000")[key] = None
    past = copy.deepcopy(PAST)
    for profile in past[::3]:
        column(profile, "amounts004").update(mean=None, stddev=None)

    answer = ask(current, past)

    assert not answer.is_anomaly
    assert all(c.value is None or c.value == c.value for c in answer.columns)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e400", '"12"', "true"])
def test_what_is_no_number_is_refused_with_its_path(text):
    body = json.dumps({"current_profile": batch(N)}).replace('"stddev": ', '"stddev": ' + text + ', "was": ', 1)

    with pytest.raises(InvalidRequest) as refusal:
        parse(DistributionRequest, body.encode())

    assert refusal.value.target.startswith("current_profile.columnProfiles[0].stddev")


def test_unicode_names_and_enormous_values_survive():
    past, current = copy.deepcopy(PAST), batch(N)
    for profile in (*past, current):
        column(profile, "cities001")["columnName"] = "città 🏙️"
        column(profile, "amounts000").update(maxValue=1e300)
    column(current, "città 🏙️")["nullPercentage"] = 50.0

    answer = ask(current, past)

    assert (answer.is_anomaly, answer.column) == (True, "città 🏙️")


# What changes nothing, and what does


def test_the_order_of_columns_changes_nothing():
    current, past = copy.deepcopy(batch(N)), copy.deepcopy(PAST)
    column(current, "amounts004")["nullPercentage"] = 9.0
    straight = ask(current, past)
    for k, profile in enumerate((current, *past)):
        profile["columnProfiles"] = profile["columnProfiles"][k % 8:] + profile["columnProfiles"][: k % 8][::-1]
    turned = ask(current, past)

    assert turned.model_dump(exclude={"latency_ms"}) == straight.model_dump(exclude={"latency_ms"})


def test_the_order_of_the_history_changes_nothing():
    straight, turned = ask(batch(N), PAST), ask(batch(N), PAST[::-1])

    assert turned.model_dump(exclude={"latency_ms"}) == straight.model_dump(exclude={"latency_ms"})


def test_later_profiles_change_nothing():
    assert ask(batch(N), [*PAST, *map(batch, range(N, N + 5))]).table_score == ask(batch(N), PAST).table_score


def test_the_score_grows_with_the_change():
    scores = []
    for nulls in (2.0, 4.0, 6.0, 10.0, 20.0, 60.0, 100.0):
        current = batch(N)
        column(current, "amounts000")["nullPercentage"] = nulls
        scores.append(verdict_of(ask(current, PAST), "amounts000").score)

    assert scores == sorted(scores)
    assert scores[0] < 0.9 < 0.99 < scores[-2]


def test_a_higher_sensitivity_never_hides_an_alarm():
    current = batch(N)
    column(current, "amounts000")["nullPercentage"] = 6.0

    flags = [ask(current, PAST, sensitivity=s).is_anomaly for s in (0, 20, 45, 70, 90, 99)]

    assert flags == sorted(flags)
    assert flags[-1] and not flags[0]


def test_direction_and_smallest_change_silence_an_alarm():
    current = batch(N)
    column(current, "amounts000")["nullPercentage"] = 12.0

    assert ask(current, PAST).is_anomaly
    assert not ask(current, PAST, direction="drop").is_anomaly
    assert not ask(current, PAST, min_change={"percent": 0, "absolute": 0.2}).is_anomaly


def test_names_of_fields_may_be_written_in_any_case():
    def snake(profile):
        text = json.dumps(profile)
        for camel in ("profiledAt", "rowCount", "columnProfiles", "columnName", "dataType", "nullPercentage",
                      "distinctCount", "minValue", "maxValue", "topValues"):
            text = text.replace(f'"{camel}"', '"' + "".join(f"_{c.lower()}" if c.isupper() else c for c in camel) + '"')
        return json.loads(text)

    def pascal(profile):
        if isinstance(profile, list):
            return [pascal(entry) for entry in profile]
        if not isinstance(profile, dict):
            return profile
        return {key[:1].upper() + key[1:]: value if key in ("quantiles", "patterns") else pascal(value)
                for key, value in profile.items()}

    plain = ask(batch(N), PAST).model_dump(exclude={"latency_ms"})

    assert ask(snake(batch(N)), map(snake, PAST)).model_dump(exclude={"latency_ms"}) == plain
    assert ask(pascal(batch(N)), map(pascal, PAST)).model_dump(exclude={"latency_ms"}) == plain


def test_a_profile_needs_no_more_than_a_row_count_and_names():
    past = [{"profiledAt": day(i), "rowCount": 1000 + i, "columnProfiles": [{"columnName": "a"}]} for i in range(N)]

    answer = ask({"rowCount": 10, "columnProfiles": [{"columnName": "a"}]}, past)

    assert (answer.is_anomaly, answer.metric) == (True, "row_count")


def test_a_steady_rise_is_no_anomaly_and_a_standstill_is_one():
    def ids(i, newest):
        low, high = 1000.0 * newest, 1000.0 * newest + 999
        return {"profiledAt": day(i), "rowCount": 1000, "columnProfiles": [
            {"columnName": "id", "dataType": "bigint", "nullPercentage": 0, "distinctCount": 1000, "minValue": low,
             "maxValue": high, "mean": (low + high) / 2, "stddev": 288.7}]}

    past = [ids(i, i) for i in range(N)]

    assert not ask(ids(N, N), past).is_anomaly
    assert ask(ids(N, N - 1), past).is_anomaly


def test_two_hundred_metrics_share_one_alarm_rate():
    wide = history(40, 40)

    flagged = sum(ask(wide[i], wide[:i]).is_anomaly for i in range(20, 40))

    assert flagged <= 1


def test_the_column_of_a_profile_is_named_once():
    body = {"rowCount": 1, "columnProfiles": [{"columnName": "a"}, {"column_name": "a"}]}

    with pytest.raises(InvalidRequest, match="describes the column a twice"):
        request(body)


def test_asking_twice_gives_the_same_answer():
    once, asked = request(batch(N), PAST), offline()

    first, second = (distribution.detect(once, asked, datetime.now(UTC)) for _ in range(2))

    assert first.model_dump(exclude={"latency_ms"}) == second.model_dump(exclude={"latency_ms"})


