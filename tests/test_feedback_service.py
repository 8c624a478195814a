"""A false alarm at a month's end, spoken of over HTTP: the next one is quiet at every door, and an outage is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from shared.queues import Queues
from shared.settings import Settings
from tests.conftest import ACCOUNTS, ROOT, client_of
from tests.speaking import counts
from tests.test_service import eventually
from tools.azurite import Azurite
from tools.local_host import LocalHost

LOW, NEXT = datetime(2026, 9, 30, 2, tzinfo=UTC), datetime(2026, 10, 31, 2, tzinfo=UTC)
FIRST = datetime(2026, 6, 23, 2, tzinfo=UTC)
SAME, OUTAGE = 2_500, 0  # a Saturday has half the rows
# What every door must agree on.
VERDICT = ("is_anomaly", "severity", "confidence", "expected_range", "message", "status", "rule", "direction")


@pytest.fixture(scope="module")
def settings(azurite: Azurite) -> Settings:
    return Settings(connection_string=azurite.connection_string(ACCOUNTS[-11]))


@pytest.fixture(scope="module")
def service(settings: Settings) -> Iterator[httpx.Client]:
    account = settings.connection_string or ""
    with (LocalHost(ROOT, {"AzureWebJobsStorage": account, "DATA_STORAGE": account, "RECHECK_SECONDS": "0"}) as host,
          client_of(host) as client):
        yield client


def post(service: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    answer = service.post(f"/v1/{path}", json=body)
    assert answer.is_success, answer.text
    return dict(answer.json())


def load(service: httpx.Client, first: datetime, last: datetime) -> None:
    rows = [{"table_id": "orders", "timestamp": point.timestamp.isoformat(), "row_count": point.value}
            for point in counts(first, last)]
    assert service.post("/v1/observations", json=rows).json()["accepted"] == len(rows)


def asked(rows: float, day: datetime = NEXT, **more: Any) -> dict[str, Any]:
    return {"table_id": "orders", "timestamp": day.isoformat(), "current_row_count": rows, "record": False, **more}


def by_batch(service: httpx.Client, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    url = post(service, "batch/score", detector="volume", items=items)["status_url"].removeprefix("/api")
    eventually(lambda: service.get(url).json()["state"] == "succeeded", 60)
    return [json.loads(line)["answer"] for line in service.get(f"{url}/parts/1").text.splitlines()]


def by_queue(settings: Settings, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    queues = Queues(settings)
    for item in items:
        queues.put(settings.requests_queue, json.dumps({"detector": "volume", **item}))
    names = {item["request_id"] for item in items}
    def answers() -> list[dict[str, Any]]:
        found = [json.loads(text) for text in queues.peek(settings.answers_queue).values()]
        return [one for one in found if one["request_id"] in names]
    eventually(lambda: len(answers()) == len(items), 30)
    return sorted(answers(), key=lambda one: str(one["request_id"]))


def test_a_month_end_said_to_be_expected_is_quiet_at_every_door_and_an_outage_is_told(service: httpx.Client,
                                                                                     settings: Settings) -> None:
    load(service, FIRST, LOW - timedelta(1))
    assert post(service, "detect/volume", **asked(5_000, LOW, record=True))["is_anomaly"]
    word = {"table_id": "orders", "detector": "volume", "timestamp": "2026-09-30", "label": "expected", "scope": "always"}
    refused = eventually(lambda: (a := service.post("/v1/feedback", json=word)).status_code == 200 and a.json(), 30)
    chosen = post(service, "feedback", **word, note="closing", when={"day": -1})
    load(service, LOW + timedelta(1), NEXT - timedelta(1))
    items = [asked(rows, request_id=f"{n}") for n, rows in enumerate((SAME, OUTAGE))]

    single = [post(service, "detect/volume", **item) for item in items]
    others = by_batch(service, items), by_queue(settings, items)
    replayed = service.post("/v1/backtest", json={"detector": "volume", "table_id": "orders", "points": 60}).json()

    assert "Give `when`" in refused["kept_once"] and chosen["rule"]["words"] == "every last day of the month"
    assert [one["is_anomaly"] for one in single] == [False, True]
    assert single[0]["message"].endswith("said to be expected every last day of the month.")
    for answers in others:
        assert [[one[name] for name in VERDICT] for one in answers] == [[one[name] for name in VERDICT] for one in single]
    assert LOW.isoformat()[:10] not in {point["timestamp"][:10] for point in replayed["flagged"]}


def test_what_was_said_is_shown_and_a_rule_is_removed(service: httpx.Client) -> None:
    load(service, FIRST, LOW)
    word = {"table_id": "orders", "detector": "volume", "timestamp": LOW.isoformat(), "label": "ignore", "scope": "always",
            "when": {"weekday": "wednesday"}}

    told = post(service, "feedback", **word)
    shown = service.get("/v1/feedback", params={"table_id": "orders"}).json()
    rules = service.get("/v1/tables/orders").json()["settings"]["rules"]
    removed = post(service, "tables/orders", settings={"rules": {told["rule"]["id"]: None}})

    assert (told["status"], told["points"]) == ("excluded", 1)
    assert [(one["label"], one["rule_id"]) for one in shown["feedback"]] == [("ignore", told["rule"]["id"])]
    assert rules[told["rule"]["id"]]["when"] == {"weekday": "wednesday"}
    assert removed["settings"]["rules"] == {}


@pytest.mark.parametrize(("body", "status", "target"), [
    ({"label": "wrong"}, 422, "label"), ({"timestamp": "2030-01-01"}, 404, "timestamp"), ({"colum": "id"}, 422, "colum")])
def test_what_is_wrong_is_told_by_its_field(service: httpx.Client, body: dict[str, Any], status: int, target: str) -> None:
    load(service, LOW, LOW)

    answer = service.post("/v1/feedback", json={"table_id": "orders", "detector": "volume", "timestamp": LOW.isoformat(),
                                                "label": "expected", **body})

    assert answer.status_code == status and answer.json()["error"]["target"] == target
