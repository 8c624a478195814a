"""POST /api/v1/backtest: what would have been flagged in a table's own past."""

from typing import Any

import httpx
import pytest

from tests.test_service import counts
from tests.test_service_detectors import arrivals, load


def backtest(service: httpx.Client, **body: Any) -> dict[str, Any]:
    response = service.post("/v1/backtest", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def with_a_hole(days: int, hole: int) -> list[dict[str, Any]]:
    return [point | ({"row_count": 40} if day == hole else {}) for day, point in enumerate(counts(days))]


def test_an_outage_of_the_past_is_flagged_on_its_day(service: httpx.Client) -> None:
    report = backtest(service, detector="volume", historical_data=with_a_hole(60, 45), points=60)

    assert (report["points"], report["judged"] + report["learning"]) == (60, 60)
    assert [point["timestamp"][:10] for point in report["flagged"] if point["severity"] == "critical"] == ["2026-07-16"]
    assert "40 rows" in report["flagged"][0]["message"]


def test_alerts_grow_with_sensitivity_and_are_told_by_month(service: httpx.Client) -> None:
    report = backtest(service, detector="volume", historical_data=with_a_hole(60, 45), points=60,
                      sensitivities=[99, 0, 45, 90])

    levels = report["sensitivities"]
    assert [level["sensitivity"] for level in levels] == [0, 45, 90, 99]
    assert [level["alerts"] for level in levels] == sorted(level["alerts"] for level in levels)
    assert levels[0]["alerts"] >= 1
    assert levels[0]["alerts_per_month"] == pytest.approx(levels[0]["alerts"] / 56 * 30.44, abs=0.01)


def test_a_point_of_the_past_is_judged_as_it_would_have_been_that_day(service: httpx.Client) -> None:
    then = service.post("/v1/detect/volume", json={"current_row_count": 40, "timestamp": "2026-07-16T02:00:00Z",
                                                   "historical_data": counts(45), "sensitivity": 95}).json()

    report = backtest(service, detector="volume", historical_data=with_a_hole(60, 45))

    assert {p["timestamp"][:10]: p["score"] for p in report["flagged"]}["2026-07-16"] == then["deviation"]["score"]


def test_stored_history_is_judged_and_nothing_is_kept(service: httpx.Client) -> None:
    load(service, [{"table_id": "past", **point} for point in with_a_hole(40, 30)])

    first, again = (backtest(service, detector="volume", table_id="past") for _ in range(2))

    assert first == again and first["points"] == 40 and first["flagged"]


def test_plain_counts_end_yesterday(service: httpx.Client) -> None:
    report = backtest(service, detector="volume", historical_data=[1000.0, 1010, 990, 1005, 1001, 998, 1003, 30])

    assert report["points"] == 8 and report["flagged"][-1]["timestamp"] == report["to"]


def test_a_feed_that_stopped_for_three_days_is_flagged(service: httpx.Client) -> None:
    came = [moment for day, moment in enumerate(arrivals(60)) if not 40 <= day < 43]
    load(service, [{"detector": "timeliness", "table_id": "halted", "timestamp": m.isoformat()} for m in came])

    report = backtest(service, detector="timeliness", table_id="halted")

    flagged = [point["timestamp"][:10] for point in report["flagged"]]
    assert flagged and set(flagged) <= {arrivals(60)[day].date().isoformat() for day in range(40, 45)}


@pytest.mark.parametrize(("body", "target"), [
    ({"detector": "weather"}, "detector"), ({}, "detector"), ({"detector": "volume"}, "table_id"),
    ({"detector": "volume", "sensitivities": [100]}, "sensitivities[0]"), ({"detector": "volume", "points": 0}, "points"),
    ({"detector": "volume", "historical_data": [{"timestamp": "x", "row_count": 1}]}, "historical_data[0].timestamp"),
])
def test_what_is_wrong_is_named(service: httpx.Client, body: dict[str, Any], target: str) -> None:
    refused = service.post("/v1/backtest", json=body)

    assert refused.status_code in (404, 422) and refused.json()["error"]["target"] == target


@pytest.mark.parametrize("body", ["[]", "{", "7"])
def test_a_body_that_is_no_object_is_refused(service: httpx.Client, body: str) -> None:
    assert service.post("/v1/backtest", content=body).status_code in (400, 422)
