"""The whole service over HTTP: what a client sees, on good input and on bad."""

import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from shared.contract import VolumeAnswer

START = datetime.fromisoformat("2026-06-01T02:00:00+00:00")
WEEK = (1000, 1040, 1020, 1010, 990, 400, 380)


def counts(days: int) -> list[dict[str, Any]]:
    """A table with a week and a little noise, from Monday 1 June 2026 on."""
    return [{"timestamp": (START + timedelta(days=d)).isoformat(), "row_count": WEEK[d % 7] + (d * 37) % 23}
            for d in range(days)]


def volume(service: httpx.Client, **body: Any) -> dict[str, Any]:
    response = service.post("/v1/detect/volume", json={"current_row_count": 1000, **body})
    assert response.status_code == 200, response.text
    VolumeAnswer.model_validate_json(response.content)
    return dict(response.json())


def eventually[T](look: Callable[[], T], seconds: float = 10.0) -> T:
    """What `look` returns once it is truthy."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return seen


def test_a_collapse_is_found_and_told_in_words(service: httpx.Client) -> None:
    verdict = volume(service, current_row_count=310, timestamp="2026-07-06T02:00:00Z", historical_data=counts(35))

    assert verdict["is_anomaly"] and verdict["severity"] == "critical" and verdict["direction"] == "drop"
    assert verdict["expected_range"][0] > 310
    assert "310 rows" in verdict["message"] and "for a Monday" in verdict["message"] and "Down 6" in verdict["message"]
    assert verdict["model"]["algorithm"] == "structural"


def test_the_same_count_on_its_own_weekday_is_normal(service: httpx.Client) -> None:
    sunday = volume(service, current_row_count=385, timestamp="2026-07-05T02:00:00Z", historical_data=counts(34))

    assert not sunday["is_anomaly"] and sunday["severity"] == "none"


@pytest.mark.parametrize("history", [[], counts(1), [5]])
def test_too_little_history_is_learning_and_never_an_error(service: httpx.Client, history: list[Any]) -> None:
    verdict = volume(service, timestamp="2026-06-02T02:00:00Z", historical_data=history)

    assert verdict["status"] == "learning" and verdict["reason"]
    assert (verdict["is_anomaly"], verdict["severity"], verdict["confidence"]) == (False, "none", 0)


def test_a_total_outage_on_day_five_is_an_anomaly(service: httpx.Client) -> None:
    verdict = volume(service, current_row_count=0, timestamp="2026-06-05T02:00:00Z", historical_data=counts(4))

    assert verdict["is_anomaly"] and "Nothing arrived" in verdict["message"]


def test_a_verdict_is_the_same_whatever_the_order_of_the_history(service: httpx.Client) -> None:
    body = {"current_row_count": 700, "timestamp": "2026-07-06T02:00:00Z"}
    ordered, reverse = (volume(service, **body, historical_data=h) for h in (counts(35), counts(35)[::-1]))

    assert ordered["deviation"] == reverse["deviation"]


def test_duplicates_and_naive_times_are_read_with_a_warning(service: httpx.Client) -> None:
    twice = [*counts(35), {"timestamp": "2026-07-05T02:00:00Z", "row_count": 385}]
    naive = [{**point, "timestamp": point["timestamp"][:19]} for point in counts(10)] + counts(35)[10:]

    assert any("repeats" in w for w in volume(service, timestamp="2026-07-06T02:00:00Z", historical_data=twice)["warnings"])
    assert any("UTC" in w for w in volume(service, timestamp="2026-07-06T02:00:00Z", historical_data=naive)["warnings"])


def test_what_was_judged_becomes_history(service: httpx.Client) -> None:
    for point in counts(5):
        volume(service, table_id="remembered", current_row_count=point["row_count"], timestamp=point["timestamp"])

    later = eventually(lambda: (v := volume(service, table_id="remembered", timestamp="2026-06-07T02:00:00Z", record=False))
                       and v["history"]["points"] == 5 and v)
    assert later["status"] == "evaluated"


def test_a_call_that_asks_to_leave_no_trace_leaves_none(service: httpx.Client) -> None:
    for point in counts(5):
        volume(service, table_id="untraced", record=False, timestamp=point["timestamp"])

    assert volume(service, table_id="untraced", timestamp="2026-06-07T02:00:00Z", record=False)["history"]["points"] == 0


def test_a_load_that_runs_again_replaces_its_failed_point(service: httpx.Client) -> None:
    lines = "\n".join(json.dumps({"table_id": "rerun", **point}) for point in counts(35))
    assert service.post("/v1/observations", content=lines).json()["accepted"] == 35
    monday = "2026-07-06T02:00:00Z"
    assert volume(service, table_id="rerun", current_row_count=3, timestamp=monday)["is_anomaly"]
    assert not volume(service, table_id="rerun", current_row_count=1005, timestamp=monday)["is_anomaly"]

    def points() -> bool:
        verdict = volume(service, table_id="rerun", current_row_count=1040, timestamp="2026-07-07T02:00:00Z", record=False)
        return bool(verdict["history"] == {"points": 36, "used": 36, "excluded": 0, "missing": 0})

    assert eventually(points)


def test_good_rows_are_kept_and_bad_ones_reported_by_line(service: httpx.Client) -> None:
    good = [json.dumps({"table_id": "bulk", **point}) for point in counts(3)]
    lines = [good[0], '{"table_id": "bulk", "timestamp": "2026-01-01T00:00:00Z", "value": "7"}', "", good[1], "{broken",
             '{"table_id": "../x", "timestamp": "2026-01-01T00:00:00Z", "value": 7}', good[2]]

    report = service.post("/v1/observations", content="\n".join(lines)).json()

    assert (report["accepted"], report["rejected"]) == (3, 3)
    assert [(e["line"], e["target"]) for e in report["errors"]] == [(2, "value"), (5, None), (6, "table_id")]
    assert volume(service, table_id="bulk", timestamp="2026-06-05T02:00:00Z", record=False)["history"]["points"] == 3


def test_an_array_is_loaded_like_lines(service: httpx.Client) -> None:
    response = service.post("/v1/observations", json=[{"table_id": "array", **point} for point in counts(3)] + [7])

    assert (response.json()["accepted"], response.json()["errors"][0]["line"]) == (3, 4)


def test_bulk_without_a_good_row_is_refused(service: httpx.Client) -> None:
    assert service.post("/v1/observations", content=b"{broken\n{again").status_code == 422
    assert service.post("/v1/observations", content=b"[1, 2").json()["error"]["code"] == "InvalidJson"
    assert service.post("/v1/observations", content=b"").status_code == 422


@pytest.mark.parametrize(("body", "status", "code", "target"), [
    (b'{"current_row_count": 4', 400, "InvalidJson", None),
    (b"", 400, "InvalidJson", None),
    (b'{"current_row_count": "1.5"}', 422, "InvalidRequest", "current_row_count"),
    (b'{"current_row_count": true}', 422, "InvalidRequest", "current_row_count"),
    (b'{"current_row_count": null}', 422, "InvalidRequest", "current_row_count"),
    (b'{"current_row_count": NaN}', 422, "InvalidRequest", "current_row_count"),
    (b'{"current_row_count": 1e400}', 422, "InvalidRequest", "current_row_count"),
    (b'{"current_row_count": 4, "historical_data": [1, "2"]}', 422, "InvalidRequest", "historical_data[1]"),
    (b'{"current_row_count": 4, "table_id": "../models"}', 422, "InvalidRequest", "table_id"),
    (b'{"current_row_count": 4, "table_id": "a/b"}', 422, "InvalidRequest", "table_id"),
    (b'{"current_row_count": 4, "table_id": "%2e%2e"}', 422, "InvalidRequest", "table_id"),
    (b'{"current_row_count": 4, "holidays": {"country": "ZZ"}}', 422, "InvalidRequest", "holidays.country"),
    (b'{"current_row_count": 4, "holidays": {"dates": ["2026-13-45"]}}', 422, "InvalidRequest", "holidays.dates[0]"),
    (b'{"current_row_count": 4, "pad": "' + b"x" * 8 * 2**20 + b'"}', 413, "PayloadTooLarge", None),
])
def test_bad_input_is_refused_by_name(service: httpx.Client, body: bytes, status: int, code: str,
                                      target: str | None) -> None:
    response = service.post("/v1/detect/volume", content=body)

    assert response.status_code == status
    error = response.json()["error"]
    assert (error["code"], error["target"]) == (code, target) and error["message"]


def test_a_model_that_is_required_and_not_there_is_404(service: httpx.Client) -> None:
    body = {"current_row_count": 4, "table_id": "unknown", "require_model": True}

    assert service.post("/v1/detect/volume", json=body).json()["error"]["code"] == "ModelNotFound"


@pytest.mark.parametrize("path", ["/v1/models/none", "/v1/models/volume-anomaly.none", "/v1/train/jobs/" + "0" * 32,
                                  "/v1/train/jobs/nonsense"])
def test_what_is_not_there_is_404(service: httpx.Client, path: str) -> None:
    response = service.get(path)

    assert response.status_code == 404 and response.json()["error"]["message"]


@pytest.mark.parametrize("name", ["..%2Fjobs", "%2e%2e", "a%2F..%2Fb", "a%5Cb"])
def test_a_name_that_leaves_its_folder_never_reaches_storage(service: httpx.Client, name: str) -> None:
    assert service.get(f"/v1/models/{name}").status_code in (404, 422)


def test_training_refuses_what_it_cannot_do_before_it_starts(service: httpx.Client) -> None:
    response = service.post("/v1/train/volume-anomaly", json={"table_id": "orders", "algorithm": "magic"})

    assert (response.status_code, response.json()["error"]["target"]) == (422, "algorithm")


def test_every_route_but_health_asks_for_a_key(service: httpx.Client) -> None:
    keyless = httpx.Client(base_url=service.base_url)

    assert keyless.get("/health").status_code == 200
    for method, path in [("POST", "/v1/detect/volume"), ("POST", "/v1/observations"), ("POST", "/v1/train/volume-anomaly"),
                         ("GET", "/v1/train/jobs/x"), ("POST", "/v1/train/jobs/x/restart"), ("GET", "/v1/models"),
                         ("GET", "/v1/models/x")]:
        assert keyless.request(method, path).status_code == 401, path


def test_a_bucket_that_is_still_filling_is_not_judged(service: httpx.Client) -> None:
    verdict = volume(service, timestamp="2199-01-01T10:00:00Z", delay_minutes=60, historical_data=[9] * 9)

    assert verdict["status"] == "not_evaluated" and "filling" in verdict["reason"]
