"""Every detector through the whole service: history in bulk, a training job, a verdict by the model, a call remembered."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.test_service import eventually
from tests.test_training_jobs import finished

MONDAY = datetime(2026, 6, 1, 6, 30, tzinfo=UTC)


def ask(service: httpx.Client, detector: str, **body: Any) -> dict[str, Any]:
    response = service.post(f"/v1/detect/{detector}", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def load(service: httpx.Client, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return dict(service.post("/v1/observations", content="\n".join(map(json.dumps, rows))).json())


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
    assert "volume, timeliness" in report["errors"][0]["message"]
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


def test_an_arrival_told_in_a_call_is_known_to_the_next(service: httpx.Client) -> None:
    for moment in arrivals(20):
        ask(service, "timeliness", table_id="kept-feed", as_of=moment.isoformat(), last_arrival=moment.isoformat())

    def seen() -> bool:
        answer = ask(service, "timeliness", table_id="kept-feed", as_of="2026-06-21T05:00:00Z")
        return bool(answer["history"]["points"] == 20 and answer["last_arrival"] == "2026-06-20T06:33:00Z")

    assert eventually(seen)
