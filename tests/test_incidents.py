"""Anomalies that share time and an attribute: what is an incident, what is none, and how it is told."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.incidents import SHOWN_TABLES, Anomaly, group, log_tail

NIGHT = datetime(2026, 9, 21, 2, tzinfo=UTC)
SOURCES = [f"s{n}" for n in range(20)]


def fleet(tables: int = 10_000) -> dict[str, dict[str, str]]:
    """Tables of twenty sources, four owners and a schema each for a hundred."""
    return {f"t{n:06d}": {"source": SOURCES[n % 20], "owner": f"o{n // 7 % 4}", "schema": f"d{n // 100}", "kind": "table"}
            for n in range(tables)}


def of(known: dict[str, dict[str, str]], name: str, value: str) -> list[str]:
    return [table_id for table_id, labels in known.items() if labels.get(name) == value]


def down(ids: list[str], at: datetime = NIGHT, minutes: float = 50, detector: str = "timeliness") -> list[Anomaly]:
    """Each id wrong once, spread evenly over so many minutes."""
    return [Anomaly(detector, table_id, at + timedelta(minutes=minutes * n / max(len(ids), 1)), "high", "late")
            for n, table_id in enumerate(ids)]


def noise(known: dict[str, dict[str, str]], share: float, seed: int = 1, hours: int = 1) -> list[Anomaly]:
    chance = random.Random(seed)
    return [Anomaly("volume", table_id, NIGHT + timedelta(minutes=chance.uniform(0, 60 * hours)), "low", "")
            for table_id in known if chance.random() < share]


def test_two_hundred_tables_of_one_source_down_in_an_hour_are_one_incident():
    known = fleet()

    (incident,) = group(down(of(known, "source", "s3")[:200]), known)

    assert (incident.count, incident.tables, incident.severity) == (200, 200, "high")
    assert [(f.name, f.value, f.affected, f.tables, f.share) for f in incident.factors] == [("source", "s3", 200, 500, 0.4)]
    assert (incident.first, incident.last) == (NIGHT, NIGHT + timedelta(minutes=49.75))
    assert len(incident.table_ids) == SHOWN_TABLES and incident.detectors == {"timeliness": 200}
    assert incident.message == ("200 of 500 tables with source=s3, from 2026-09-21 02:00 UTC to 2026-09-21 02:49 UTC.")


def test_usual_false_alarms_of_a_large_fleet_are_no_incident():
    known = fleet()

    for seed in range(10):
        assert group(noise(known, 0.01, seed, hours=5), known) == []


def test_an_incident_is_found_among_false_alarms_and_takes_only_its_own():
    known = fleet()
    sick = down(of(known, "schema", "d7")[:60])

    (incident,) = group(noise(known, 0.01) + sick, known)

    assert incident.factors[0].value == "d7"
    assert set(sick) <= set(incident.members) and len(incident.members) <= 62


def test_what_every_table_shares_explains_nothing():
    known = {table_id: {"kind": "table"} for table_id in fleet(1000)}

    assert group(down(list(known)[:200]), known) == []


def test_most_of_all_tables_at_once_are_one_incident_without_an_attribute():
    known = fleet(1000)

    (incident,) = group(down(list(known)[:900]), known)

    assert incident.factors == () and incident.tables == 900
    assert incident.message.startswith("900 of 1,000 tables, from")


def test_attributes_that_the_same_tables_share_are_told_together():
    known = fleet()
    for table_id in of(known, "schema", "d7"):
        known[table_id] |= {"schedule": "02:00"}

    (incident,) = group(down(of(known, "schema", "d7")), known)

    assert {(f.name, f.value) for f in incident.factors} == {("schema", "d7"), ("schedule", "02:00")}


def test_a_second_cause_shows_once_the_first_is_taken_away():
    known = fleet()
    first, second = of(known, "owner", "o1"), of(known, "schema", "d50")

    found = group(down(first, minutes=0) + down([t for t in second if t not in first][:30], minutes=0), known)

    assert [(i.factors[0].value, i.tables) for i in found] == [("o1", len(first)), ("d50", 30)]


@pytest.mark.parametrize("count", [2, 5, 9])
def test_sources_that_are_down_at_once_do_not_hide_each_other(count):
    known = fleet(2000)

    found = group([a for source in SOURCES[:count] for a in down(of(known, "source", source))], known)

    assert sorted((i.factors[0].value, i.tables) for i in found) == sorted((source, 100) for source in SOURCES[:count])


def test_the_same_attribute_at_another_time_is_another_incident():
    known = fleet()
    sick = of(known, "source", "s3")

    found = group(down(sick[:100]) + down(sick[100:200], NIGHT + timedelta(hours=5)), known)

    assert [i.first for i in found] == [NIGHT, NIGHT + timedelta(hours=5)]
    assert len({i.incident_id for i in found}) == 2


def test_an_outage_of_many_hours_is_one_incident():
    known = fleet()

    (incident,) = group(down(of(known, "source", "s3"), minutes=400), known)

    assert incident.count == 500 and incident.last - incident.first > timedelta(hours=6)


def test_anomalies_spread_over_a_day_are_no_incident():
    known = fleet()

    assert group(down(of(known, "source", "s3")[:40], minutes=40 * 20), known) == []


def test_a_detector_that_finds_far_more_than_the_others_is_what_they_share():
    known = {f"t{n}": dict[str, str]() for n in range(1000)}

    (incident,) = group(down(list(known)[:300], detector="distribution") + down(["t500"], detector="volume"), known)

    assert [(f.name, f.value) for f in incident.factors] == [("detector", "distribution")]
    assert incident.message.startswith("300 of 1,000 tables, found by distribution, from")


def test_a_label_named_like_a_detector_is_a_label():
    known = {f"t{n}": {"detector": "volume"} if n < 50 else {} for n in range(1000)}

    (incident,) = group(down([f"t{n}" for n in range(50)]), known)

    assert [(f.name, f.tables) for f in incident.factors] == [("detector", 50)]


def test_two_tables_are_no_incident_and_a_table_that_nobody_described_is_no_error():
    assert group(down(["a", "b"]), {"a": {"source": "x"}, "b": {"source": "x"}, **fleet(100)}) == []
    assert group(down(["unknown"]), {}) == []
    assert group([], {}) == []


def test_the_worst_severity_is_that_of_the_incident():
    known = fleet()
    sick = down(of(known, "source", "s3")[:50])

    assert group([*sick, sick[0]._replace(severity="critical", detector="volume")], known)[0].severity == "critical"


labelled = st.dictionaries(st.sampled_from(["source", "owner"]), st.sampled_from(["a", "b", "c"]), max_size=2)
fleets = st.lists(labelled, min_size=1, max_size=40)


@given(fleets, st.data())
def test_incidents_are_disjoint_bounded_and_do_not_depend_on_the_order(labels, data):
    known = {f"t{n}": some for n, some in enumerate(labels)}
    found = [Anomaly(detector, f"t{n}", NIGHT + timedelta(minutes=minute), severity)
             for n, minute, detector, severity in data.draw(st.lists(st.tuples(
                 st.integers(0, len(labels) + 2), st.integers(0, 300), st.sampled_from(["volume", "pattern"]),
                 st.sampled_from(["low", "high"])), max_size=60))]

    incidents = group(found, known)

    members = [member for incident in incidents for member in incident.members]
    assert len(members) == len(set(members)) and set(members) <= set(found)
    assert group(data.draw(st.permutations(found)) + found, known) == incidents
    for incident in incidents:
        assert incident.tables >= 3 and incident.tables == len({m.table_id for m in incident.members})
        assert incident.first == incident.members[0].timestamp and incident.last == incident.members[-1].timestamp
        assert all(0 < factor.affected <= factor.tables for factor in incident.factors)


@pytest.mark.parametrize("seed", range(5))
def test_the_tail_is_that_of_the_hypergeometric_distribution(seed):
    chance = random.Random(seed)
    everything = chance.randint(5, 400)
    having, hit = chance.randint(1, everything), chance.randint(1, everything)

    for affected in range(min(having, hit) + 1):
        exact = sum(math.comb(having, k) * math.comb(everything - having, hit - k)
                    for k in range(affected, min(having, hit) + 1)) / math.comb(everything, hit)
        if affected * everything > having * hit:
            assert log_tail(affected, having, hit, everything) == pytest.approx(math.log(exact), abs=1e-6)
        else:
            assert log_tail(affected, having, hit, everything) == 0.0


def test_a_hundred_thousand_anomalies_are_grouped():
    known = fleet(100_000)
    found = down(list(known), minutes=60 * 24)

    incidents = group(found, known)

    assert sum(incident.count for incident in incidents) <= 100_000
