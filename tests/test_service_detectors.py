"""Every detector through the whole service: history in bulk, a training job, a verdict by the model, a call remembered."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.test_service import eventually
from tests.test_training_jobs import finished
from tools.made_up import batches, hours, profiles

MONDAY = datetime(2026, 6, 1, 6, 30, tzinfo=UTC)


def ask(service: httpx.Client, detector: str, **body: Any) -> dict[str, Any]:
    response = service.post(f"/v1/detect/{detector}", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def load(service: httpx.Client, rows: list[dict[str, Any]]) -> dict[str, Any]:
    response = service.post("/v1/observations", content="\n".join(map(json.dumps, rows)))
    assert response.status_code in (200, 422), response.text
    return dict(response.json())


def arrivals(days: int) -> list[datetime]:
    """A load every day at half past six, up to twenty minutes late."""
    return [MONDAY + timedelta(days=d, minutes=(d * 37) % 20) for d in range(days)]


@pytest.mark.parametrize("route", ["detect/weather", "train/weather-anomaly"])
def test_a_detector_that_is_none_is_named_with_those_there_are(service: httpx.Client, route: str) -> None:
    refused = service.post(f"/v1/{route}", json={"table_id": "orders"})

    assert refused.status_code == 404
    assert "weather" in refused.json()["error"]["message"] and "volume, " in refused.json()["error"]["message"]


def test_a_row_of_another_detector_is_refused_by_line(service: httpx.Client) -> None:
    report = load(service, [{"detector": "weather", "table_id": "a", "timestamp": "2026-06-01T00:00:00Z", "value": 1},
                            {"detector": "timeliness", "table_id": "a", "timestamp": "2026-06-01T00:00:00"},
                            {"detector": "timeliness", "table_id": "a", "timestamp": "2026-06-01T00:00:00Z"}])

    assert (report["accepted"], report["rejected"]) == (1, 2)
    assert "volume, distribution" in report["errors"][0]["message"]
    assert report["errors"][1]["line"] == 2 and "time zone" in report["errors"][1]["message"]


def test_a_feed_is_loaded_trained_and_judged(service: httpx.Client) -> None:
    rows = [{"detector": "timeliness", "table_id": "feed", "timestamp": moment.isoformat()} for moment in arrivals(90)]
    assert load(service, rows)["accepted"] == 90
    accepted = service.post("/v1/train/timeliness-anomaly", json={"table_id": "feed", "training_days": 120})
    assert accepted.status_code == 202 and accepted.json()["model_name"] == "timeliness-anomaly.feed"

    job = finished(service, accepted.json()["status_url"])

    assert job["state"] == "succeeded", job
    assert all(c["parity"]["label_differences"] == 0 for c in job["result"]["candidates"] if "parity" in c)
    late = ask(service, "timeliness", table_id="feed", as_of="2026-08-30T11:00:00Z", record=False)
    assert late["state"] == "late" and late["is_anomaly"] and late["model"]["name"] == "timeliness-anomaly.feed"
    early = ask(service, "timeliness", table_id="feed", as_of="2026-08-30T05:00:00Z", record=False)
    assert early["state"] == "pending" and not early["is_anomaly"]


@dataclass(frozen=True)
class Route:
    """How a detector is loaded, trained and asked: history of `n` points, its rows, and the body that judges a point."""

    n: int
    entries: Callable[[int, int], list[dict[str, Any]]]
    row: Callable[[dict[str, Any]], dict[str, Any]]
    body: Callable[[dict[str, Any]], dict[str, Any]]
    broken: Callable[[dict[str, Any]], dict[str, Any]]
    training: dict[str, Any]


ROUTES = {
    "distribution": Route(60, profiles, lambda e: {"profile": e}, lambda e: {"current_profile": e},
                          lambda e: e | {"columnProfiles": e["columnProfiles"][1:]}, {"algorithm": "knn"}),
    "pattern": Route(12, batches, lambda e: e | {"column": "order_id"}, lambda e: e | {"column": "order_id"},
                     lambda e: e | {"values": [v.lower() for v in e["values"]]}, {"column": "order_id"}),
    "sequence": Route(28 * 24, hours, lambda e: e | {"values": {"orders": e["values"][0]}},
                      lambda e: {"metrics": ["orders"], "points": [e]}, lambda e: e | {"values": [5_000.0]},
                      {"algorithm": "hypothesis_filter"}),
}


@pytest.mark.parametrize("detector", ROUTES)
def test_history_is_loaded_a_model_trained_and_a_fault_found(service: httpx.Client, detector: str) -> None:
    route, table = ROUTES[detector], {"table_id": f"orders-{detector}"}
    *history, point = route.entries(0, route.n + 1)
    report = load(service, [{"detector": detector, **table, **route.row(entry)} for entry in history])
    assert (report["accepted"], report["rejected"]) == (route.n, 0), report
    baseline = ask(service, detector, **table, **route.body(point), record=False)
    assert baseline["status"] == "evaluated" and not baseline["is_anomaly"] and baseline["model"]["name"] is None

    accepted = service.post(f"/v1/train/{detector}-anomaly", json={**table, "training_days": 400, **route.training})
    assert accepted.status_code == 202, accepted.text
    job = finished(service, accepted.json()["status_url"])

    assert job["state"] == "succeeded", job
    answer = ask(service, detector, **table, **route.body(point), record=False)
    assert answer["model"]["name"] == job["model_name"] and not answer["is_anomaly"]
    broken = ask(service, detector, **table, **route.body(route.broken(point)), record=False)
    assert broken["is_anomaly"] and broken["message"] and set(answer) == set(broken)


@pytest.mark.parametrize("detector", ROUTES)
def test_what_a_call_saw_is_known_to_the_next(service: httpx.Client, detector: str) -> None:
    route, table = ROUTES[detector], {"table_id": f"seen-{detector}"}
    *history, point = route.entries(0, 13)
    for entry in history:
        ask(service, detector, **table, **route.body(entry))

    def known() -> bool:
        answer = ask(service, detector, **table, **route.body(point), record=False)
        return bool(answer["history"]["points"] >= 12)

    assert eventually(known)


@pytest.mark.parametrize("detector", ROUTES)
def test_the_past_is_judged_again(service: httpx.Client, detector: str) -> None:
    route, table = ROUTES[detector], {"table_id": f"past-{detector}"}
    entries = route.entries(0, route.n)
    entries[-3] = route.broken(entries[-3])
    load(service, [{"detector": detector, **table, **route.row(entry)} for entry in entries])
    body = {"detector": detector, **table, **{k: v for k, v in route.body({}).items() if k in ("column", "metrics")}}

    report = service.post("/v1/backtest", json=body).json()

    moment = entries[-3].get("timestamp", entries[-3].get("profiledAt"))
    flagged = {point["timestamp"][:10] for point in report["flagged"]}
    assert datetime.fromisoformat(moment).date().isoformat() in flagged, report


def test_an_arrival_told_in_a_call_is_known_to_the_next(service: httpx.Client) -> None:
    for moment in arrivals(20):
        ask(service, "timeliness", table_id="kept-feed", as_of=moment.isoformat(), last_arrival=moment.isoformat())

    def seen() -> bool:
        answer = ask(service, "timeliness", table_id="kept-feed", as_of="2026-06-21T05:00:00Z")
        return bool(answer["history"]["points"] == 20 and answer["last_arrival"] == "2026-06-20T06:33:00Z")

    assert eventually(seen)


def test_a_profile_with_nulls_is_judged_and_one_sent_with_a_training_request_is_learnt_from(service: httpx.Client) -> None:
    *history, point = profiles(0, 51)
    nulls = dict.fromkeys(("topValues", "patterns", "quantiles", "lengths", "histogram", "stddev"))
    whole = [p | {"columnProfiles": [nulls | column for column in p["columnProfiles"]]} for p in history]

    accepted = service.post("/v1/train/distribution-anomaly", json={
        "table_id": "with-nulls", "algorithm": "knn", "historical_profiles": whole})

    assert accepted.status_code == 202, accepted.text
    job = finished(service, accepted.json()["status_url"])
    assert job["state"] == "succeeded", job
    assert job["result"]["artifact"]["uri"] == "models/distribution-anomaly.with-nulls/1/model.onnx"
    assert ask(service, "distribution", current_profile=point, historical_profiles=whole)["status"] == "evaluated"


def test_a_column_that_is_gone_has_its_part_of_the_blame(service: httpx.Client) -> None:
    *history, point = profiles(0, 41)

    answer = ask(service, "distribution", current_profile=point | {"columnProfiles": point["columnProfiles"][1:]},
                 historical_profiles=history)

    shares = {column["column"]: column["contribution"] for column in answer["columns"]}
    assert answer["is_anomaly"] and shares["amount"] > 0.5 and sum(shares.values()) == pytest.approx(1, abs=0.001)


def test_a_past_of_several_metrics_is_judged_without_naming_them(service: httpx.Client) -> None:
    rows = [{"detector": "sequence", "table_id": "two", "timestamp": hour["timestamp"],
             "values": {"orders": hour["values"][0], "returns": hour["values"][0] / 10}} for hour in hours(0, 28 * 24)]
    load(service, rows)

    report = service.post("/v1/backtest", json={"detector": "sequence", "table_id": "two", "points": 48}).json()

    assert (report["points"], report["judged"]) == (48, 48)


def test_a_time_in_the_future_is_told(service: httpx.Client) -> None:
    answer = ask(service, "volume", current_row_count=5, timestamp="2190-01-01T00:00:00Z", record=False)

    assert any("lies in the future" in warning for warning in answer["warnings"])


def test_a_table_that_was_always_empty_is_learning_from_its_first_rows_on(service: httpx.Client) -> None:
    answer = ask(service, "volume", current_row_count=100, timestamp="2026-11-20T02:00:00Z", historical_data=[0] * 39 + [5])

    assert answer["status"] == "learning" and "1 of 4 daily counts known since the first rows" in answer["message"]


@pytest.mark.parametrize(("settings", "target"), [
    ({"holidays": {"country": "XX"}}, "holidays.country"),
    ({"holidays": {"dates": ["2026-13-45"]}}, "settings.holidays.dates[0]"),
])
def test_settings_that_would_fail_every_call_are_refused(service: httpx.Client, settings: Any, target: str) -> None:
    refused = service.post("/v1/tables/strict", json={"settings": settings})

    assert (refused.status_code, refused.json()["error"]["target"]) == (422, target), refused.text


def test_points_of_one_metric_may_have_a_value_in_place_of_values(service: httpx.Client) -> None:
    *history, point = [{"timestamp": hour["timestamp"], "value": hour["values"][0]} for hour in hours(0, 15 * 24)]

    answer = ask(service, "sequence", points=[point], historical_data=history)

    assert answer["status"] == "evaluated" and not answer["is_anomaly"]
    wrong = service.post("/v1/detect/sequence", json={"points": [{"timestamp": point["timestamp"], "value": "many"}]})
    assert wrong.json()["error"]["target"] == "points[0].values[0]"
