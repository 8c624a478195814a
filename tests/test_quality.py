"""Quality: rates with intervals, and what is read from people's words, counts of verdicts and back-tests."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import quality, rates
from shared.blobs import Blobs
from shared.errors import InvalidRequest
from shared.feedback import Feedback, Said
from shared.history import History, Point
from shared.monitoring import Monitoring
from shared.quality import Sources
from shared.registry import Registry
from shared.settings import Settings
from shared.verdicts import Counts, Months, Seen, latency_class, latency_seconds, month_of
from tests.onnx_models import model

NOW = datetime(2026, 11, 20, tzinfo=UTC)
DAY = timedelta(days=1)
counted = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.fixture
def sources(storage: str) -> Sources:
    settings = Settings(connection_string=storage)
    history = History(settings)
    return Sources(Feedback(history, "feedback"), Monitoring(history, "monitoring"), history,
                   Registry(Blobs(settings), settings))


def said(label: str, flagged: bool | None, days_ago: float = 5.0, table_id: str = "orders", **more: Any) -> Said:
    """A word about a daily point that was judged two hours after its time."""
    at = NOW - days_ago * DAY
    return Said(**{"detector": "volume", "table_id": table_id, "timestamp": at, "label": label, "scope": "once", "note": "",
                   "said_at": NOW, "flagged": flagged, "score": 0.999 if flagged else 0.2, "algorithm": "structural",
                   "observed_at": at + timedelta(hours=2)} | more)


def counts(judged: int, flagged: int = 0, **more: Any) -> dict[str, Any]:
    """The figures of a model."""
    cell = Counts(judged, flagged, latency=Counter({latency_class(7200): judged}))
    told = Months({"2026-11": {"structural": cell}}).to_json()
    return {"detector": "volume", "name": "volume-anomaly.orders", "table_id": "orders", "algorithm": "structural",
            "spacing_seconds": 86_400, "verdict": "stable", "counts": told} | more


def report(sources: Sources, **params: str) -> dict[str, Any]:
    return quality.report(params, sources, NOW)


@given(counted)
def test_a_wilson_interval_holds_its_share_and_stays_between_0_and_1(pair: tuple[int, int]) -> None:
    hits, of = pair
    low, high = rates.wilson(hits, of)

    assert 0 <= low <= hits / of <= high <= 1
    assert low < high


@given(counted)
def test_a_wilson_interval_is_the_mirror_of_that_of_the_opposite(pair: tuple[int, int]) -> None:
    hits, of = pair
    low, high = rates.wilson(hits, of)

    assert rates.wilson(of - hits, of) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(counted)
def test_a_wilson_interval_narrows_with_more_of_the_same(pair: tuple[int, int]) -> None:
    hits, of = pair
    (low, high), (lower, higher) = rates.wilson(4 * hits, 4 * of), rates.wilson(hits, of)

    assert high - low < higher - lower


@pytest.mark.parametrize(("hits", "of", "low", "high"), [
    (0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)])
def test_wilson_is_that_of_the_books(hits: int, of: int, low: float, high: float) -> None:
    assert rates.wilson(hits, of) == pytest.approx((low, high), abs=5e-5)


def test_wilson_covers_the_truth_as_often_as_it_says() -> None:
    hits = np.random.default_rng(1).binomial(40, 0.1, 2000).tolist()

    covered = np.mean([low <= 0.1 <= high for low, high in (rates.wilson(h, 40) for h in hits)])

    assert 0.93 <= covered <= 0.975


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300))
def test_f1_is_that_of_its_definition_and_within_its_interval(hits: int, false_alarms: int, misses: int) -> None:
    found = rates.f1(hits, false_alarms, misses)

    if not hits + false_alarms + misses:
        assert found is None
    else:
        assert found is not None
        assert found["value"] == pytest.approx(2 * hits / (2 * hits + false_alarms + misses), abs=1e-4)
        assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1


def test_precision_of_injected_faults_is_stated_for_one_faulty_point_in_thirty() -> None:
    precision, f1 = rates.at_prevalence(80, 100, 1, 100)

    assert precision is not None and f1 is not None
    assert precision["value"] == pytest.approx(0.8 / (0.8 + 29 * 0.01), abs=1e-4)
    assert f1["value"] == pytest.approx(2 * 0.8 * precision["value"] / (0.8 + precision["value"]), abs=1e-4)
    assert precision["low"] < precision["value"] < precision["high"]
    assert rates.at_prevalence(0, 0, 0, 100) == (None, None)
    assert rates.at_prevalence(0, 10, 0, 100)[0] is None


def test_without_a_word_everything_is_unknown_and_says_why(sources: Sources) -> None:
    total = report(sources)["total"]

    assert [total["feedback"][name] for name in ("precision", "recall", "f1", "false_positive_rate")] == [None] * 4
    assert set(total["feedback"]["reasons"]) == {"precision", "recall", "f1", "false_positive_rate"}
    assert total["injected"]["recall"] is None and total["injected"]["reasons"]
    assert total["latency"]["median_seconds"] is None and total["latency"]["points_to_first_alarm"] is None


def test_words_make_precision_recall_f1_and_false_positive_rate(sources: Sources) -> None:
    for days, label, flagged in [
            (1, "anomaly", True), (3, "anomaly", True), (5, "anomaly", False), (7, "expected", True), (9, "expected", False),
            (11, "ignore", True), (13, "anomaly", None), (15, "new_normal", True)]:
        sources.feedback.put(said(label, flagged, days))
    sources.monitoring.put(counts(100, 10))

    told = report(sources)["groups"][0]["feedback"]

    assert (told["precision"]["hits"], told["precision"]["of"]) == (2, 4)
    assert (told["recall"]["hits"], told["recall"]["of"]) == (2, 3)
    assert told["f1"]["value"] == pytest.approx(4 / 7, abs=1e-4)
    # 90 that nobody spoke of were not flagged; one that is expected was not, and two were.
    assert (told["false_positive_rate"]["hits"], told["false_positive_rate"]["of"]) == (2, 93)
    assert told["said"]["not_judged"] == 1 and told["flagged_without_a_word"] == 10
    assert told["reasons"] == {}


def test_injected_faults_are_pooled_over_champions_and_stay_apart(sources: Sources) -> None:
    sources.monitoring.put_many([
        counts(50, injected={"recall": 0.8, "fpr": 0.02, "faults": 100, "points": 50}),
        counts(50, name="volume-anomaly.sales", table_id="sales",
               injected={"recall": 0.6, "fpr": 0.0, "faults": 300, "points": 50})])

    total = report(sources)["total"]

    assert (total["injected"]["recall"]["hits"], total["injected"]["recall"]["of"]) == (260, 400)
    assert (total["injected"]["false_positive_rate"]["hits"], total["injected"]["false_positive_rate"]["of"]) == (1, 100)
    assert total["injected"]["models"] == 2
    assert total["feedback"]["precision"] is None and total["feedback"]["said"]["anomaly_flagged"] == 0


def test_groups_are_by_detector_family_or_table(sources: Sources) -> None:
    sources.feedback.put(said("anomaly", True))
    sources.feedback.put(said("anomaly", True, table_id="sales", algorithm="prophet", model="3"))
    sources.feedback.put(said("anomaly", True, detector="timeliness", algorithm=None))

    def named(by: str) -> list[tuple[str, ...]]:
        return [tuple(v for v in group.values() if isinstance(v, str)) for group in report(sources, by=by)["groups"]]

    assert named("detector") == [("timeliness",), ("volume",)]
    assert named("family") == [("timeliness", "lag_filter"), ("volume", "prophet"), ("volume", "structural")]
    assert named("table") == [("timeliness", "orders"), ("volume", "orders"), ("volume", "sales")]


def test_a_detector_a_table_a_family_and_a_time_narrow_it(sources: Sources) -> None:
    for days, table, family in [(5, "orders", "structural"), (80, "orders", "structural"), (5, "sales", "prophet")]:
        sources.feedback.put(said("anomaly", True, days, table, algorithm=family))

    def hits(**params: str) -> int:
        return int(report(sources, **params)["total"]["feedback"]["said"]["anomaly_flagged"])

    assert hits() == 3
    assert hits(detector="pattern") == 0 and hits(detector="volume") == 3
    assert hits(table_id="orders") == 2 and hits(family="prophet") == 1
    assert hits(**{"from": "2026-11-01"}) == 2
    assert hits(table_id="orders", **{"to": "2026-11-10T00:00:00Z", "from": "2026-01-01"}) == 1


def test_a_fleet_is_told_by_whole_months_and_one_table_by_the_moment(sources: Sources) -> None:
    fleet = report(sources, **{"from": "2026-08-15", "to": "2026-09-15"})
    one = report(sources, table_id="orders", **{"from": "2026-08-15", "to": "2026-09-15"})
    now = report(sources)

    assert (fleet["from"], fleet["to"]) == ("2026-08-01T00:00:00Z", "2026-10-01T00:00:00Z")
    assert (one["from"], one["to"]) == ("2026-08-15T00:00:00Z", "2026-09-15T00:00:00Z")
    assert (now["from"], now["to"]) == ("2026-08-01T00:00:00Z", "2026-11-20T00:00:00Z")


def test_a_month_that_begins_where_the_time_ends_is_not_counted(sources: Sources) -> None:
    judged = {"2026-08": 1, "2026-09": 10, "2026-10": 100}
    cells = {month: {"structural": Counts(number)} for month, number in judged.items()}
    sources.monitoring.put(counts(0, counts=Months(cells).to_json()))

    total = report(sources, **{"from": "2026-09-01", "to": "2026-10-01"})["total"]

    assert total["feedback"]["judged"] == 10


def test_one_table_is_counted_from_its_history(sources: Sources) -> None:
    version = sources.registry.publish("volume-anomaly.orders", model(1.0), {"algorithm": "arima"}).version
    sources.history.record("volume", "orders", [
        Point(NOW - d * DAY, 10.0, "anomaly" if d == 3 else "ok", 0.5, version if d <= 10 else None) for d in range(1, 31)])
    sources.monitoring.put(counts(9_999))

    told = report(sources, table_id="orders", by="family", **{"from": "2026-11-01"})

    assert [(g["family"], g["feedback"]["judged"], g["feedback"]["flagged_without_a_word"]) for g in told["groups"]] == [
        ("arima", 10, 1), ("structural", 9, 0)]


def test_an_incident_is_a_run_of_anomalies_and_tells_how_many_points_it_took(sources: Sources) -> None:
    for days, flagged in [(20, False), (19, False), (18, True), (10, True), (9, False), (3, False)]:
        sources.feedback.put(said("anomaly", flagged, days))
    sources.monitoring.put(counts(100))

    latency = report(sources)["total"]["latency"]

    assert (latency["incidents"], latency["incidents_found"]) == (3, 2)
    assert latency["points_to_first_alarm"] == {"median": 1.0, "p95": 1.9}


def test_columns_of_one_table_have_incidents_of_their_own(sources: Sources) -> None:
    for days, column in [(5, "zip"), (4, "phone"), (3, "zip")]:
        sources.feedback.put(said("anomaly", True, days, detector="pattern", column=column, algorithm="formats"))

    assert report(sources)["total"]["latency"]["incidents"] == 3


def test_latency_is_the_time_from_the_point_to_its_verdict() -> None:
    seen = [Seen(NOW, "ok", True, 0.5, None, NOW + timedelta(seconds=s)) for s in [60] * 90 + [3600] * 10]
    classes = Months.of(seen, {None: "structural"}).months["2026-11"]["structural"].latency

    assert latency_seconds(classes, 0.5) == pytest.approx(60, rel=0.1)
    assert latency_seconds(classes, 0.95) == pytest.approx(3600, rel=0.1)
    assert latency_seconds(Counter(), 0.5) is None


@settings(max_examples=50)
@given(st.dictionaries(st.dates().map(month_of),
                       st.dictionaries(st.sampled_from(["structural", "prophet"]), st.tuples(*[st.integers(0, 999)] * 4),
                                       min_size=1), max_size=5))
def test_months_survive_being_stored(told: dict[str, dict[str, tuple[int, ...]]]) -> None:
    months = Months({month: {name: Counts(*numbers, Counter({4: 2, 9: 1})) for name, numbers in own.items()}
                     for month, own in told.items()})

    assert Months.from_json(months.to_json()) == months


def test_pages_hold_every_group_once(sources: Sources) -> None:
    for n in range(7):
        sources.feedback.put(said("anomaly", True, table_id=f"t{n}"))

    after, found = "", []
    while True:
        page = report(sources, by="table", limit="3", after=after)
        found += [group["table_id"] for group in page["groups"]]
        if page["next"] is None:
            break
        after = page["next"]

    assert found == [f"t{n}" for n in range(7)]
    assert page["total"]["feedback"]["said"]["anomaly_flagged"] == 7


@pytest.mark.parametrize(("name", "value"), [
    ("by", "colour"), ("detector", "weather"), ("table_id", "../x"), ("from", "soon"), ("to", "2026-13-01"), ("limit", "0"),
    ("from", "2027-01-01"), ("to", "0001-01-02"), ("to", "9999-12-31")])
def test_a_parameter_that_is_wrong_is_named(sources: Sources, name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        report(sources, **{name: value})

    assert refused.value.target == name


def test_a_later_word_replaces_the_earlier(sources: Sources) -> None:
    first = said("expected", True)
    sources.feedback.put(first)
    sources.feedback.put(replace(first, label="anomaly"))

    assert report(sources)["total"]["feedback"]["precision"]["value"] == 1.0
