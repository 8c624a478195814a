"""From a feed that falls silent to a webhook that does not listen at first, through the local host."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.events import ANOMALY, INCIDENT, RECOVERED
from shared.history import History, Point
from shared.queues import Queues
from shared.settings import Settings
from tests.conftest import ACCOUNTS, client_of
from tests.webhook import SECRET, Receiver, receiving, verified
from tools.azurite import Azurite
from tools.local_host import LocalHost

APP = Path(__file__).parent / "alerts_app"
SICK = [f"sap{n}" for n in range(8)]
WELL = [f"feed{n:02d}" for n in range(24)]
NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@pytest.fixture(scope="module")
def settings(azurite: Azurite) -> Settings:
    return Settings(connection_string=azurite.connection_string(ACCOUNTS[-5]))


@pytest.fixture(scope="module")
def host(settings: Settings, receiver: Receiver) -> Iterator[LocalHost]:
    account = settings.connection_string or ""
    with LocalHost(APP, {"AzureWebJobsStorage": account, "DATA_STORAGE": account, "RECHECK_SECONDS": "0",
                         "WEBHOOK_URL": receiver.url, "WEBHOOK_SECRET": SECRET}) as running:
        yield running


@pytest.fixture(scope="module")
def service(host: LocalHost) -> Iterator[httpx.Client]:
    with client_of(host) as client:
        yield client


def eventually[T](look: Callable[[], T], seconds: float = 20) -> T:
    """What `look` finds, once it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def came(settings: Settings, ids: list[str], ago: timedelta, loads: int = 1) -> None:
    """Loads a day apart, the last so long ago."""
    history = History(settings)
    history.record_many("timeliness", {table_id: [Point(NOW - ago - timedelta(days=n, minutes=n % 5), 0.0)
                                                  for n in range(loads)] for table_id in ids})


def sweep(host: LocalHost) -> None:
    answer = httpx.post(f"{host.url}/admin/functions/sweep_freshness", json={}, headers={"x-functions-key": host.key})
    assert answer.status_code == 202


def of_kind(receiver: Receiver, kind: str) -> list[tuple[dict[str, str], dict[str, Any]]]:
    taken = [(headers, json.loads(body)) for headers, body in list(receiver.taken)]
    return [(headers, event) for headers, event in taken if event["type"] == kind]


def test_tables_are_described_shown_and_listed_over_http(service: httpx.Client) -> None:
    told = service.post("/v1/tables/orders", json={"labels": {"source": "erp"}, "settings": {"sensitivity": 80}})

    assert told.status_code == 200 and service.get("/v1/tables/orders").json() == told.json()
    assert [t["table_id"] for t in service.get("/v1/tables", params={"label": "source:erp"}).json()["tables"]] == ["orders"]
    assert service.get("/v1/tables/nobody").status_code == 404
    refused = service.post("/v1/tables/orders", json={"settings": {"sensitivty": 1}})
    assert refused.status_code == 422 and refused.json()["error"]["target"] == "settings.sensitivty"
    assert service.post("/v1/tables/a%2e%2e%2fb", json={}).status_code in (404, 422)


def test_silent_feeds_of_one_source_reach_the_webhook_as_one_signed_incident_at_its_third_try(
        service: httpx.Client, host: LocalHost, settings: Settings, receiver: Receiver) -> None:
    receiver.statuses[:] = [503, 500]
    for table_id in SICK:
        assert service.post(f"/v1/tables/{table_id}", json={"labels": {"source": "sap"}}).status_code == 200
    came(settings, WELL, timedelta(hours=6), 25)
    came(settings, SICK, timedelta(days=1, hours=6), 24)

    sweep(host)

    assert eventually(lambda: len(of_kind(receiver, INCIDENT)) >= 3)
    assert all(verified(SECRET, headers, body) for headers, body in receiver.taken)
    tries = of_kind(receiver, INCIDENT)
    assert len({headers["webhook-id"] for headers, _ in tries}) == 1 and len(tries) == 3
    incident = tries[0][1]
    assert incident["specversion"] == "1.0" and incident["id"] == tries[0][0]["webhook-id"]
    assert incident["data"]["table_ids"] == SICK and incident["data"]["factors"][0]["value"] == "sap"
    assert Queues(settings).length("anomalies") == 1

    sweep(host)
    came(settings, SICK, timedelta(0))
    for table_id in SICK:  # said anything about, a table is asked at the next sweep
        service.post(f"/v1/tables/{table_id}", json={})
    sweep(host)
    ends = eventually(lambda: of_kind(receiver, RECOVERED))
    assert [(event["subject"], event["data"]["tables"]) for _, event in ends] == [(incident["subject"], len(SICK))]
    assert len(of_kind(receiver, INCIDENT)) == 3
    assert Queues(settings).length("anomalies-webhook-poison") == 0


def test_a_verdict_on_the_observations_queue_becomes_one_event_however_often_it_comes(
        host: LocalHost, settings: Settings, receiver: Receiver) -> None:
    queues = Queues(settings)
    verdict = {"detector": "volume", "table_id": "counts", "about": NOW.isoformat(), "observed_at": NOW.isoformat(),
               "is_anomaly": True, "severity": "high", "confidence": 0.9, "message": "412 rows", "expected_range": [1, 2]}
    message = {"detector": "volume", "table_id": "counts", "timestamp": NOW.isoformat(), "observed_at": NOW.isoformat(),
               "value": 412, "status": "anomaly", "verdict": verdict}

    def told() -> list[str]:
        events = [json.loads(body) for _, body in list(receiver.taken)]
        return [event["type"] for event in events if event["subject"] == "counts"]

    for _ in range(3):
        queues.put("observations", json.dumps(message))
    assert set(eventually(told)) == {ANOMALY}
    queues.put("observations", json.dumps({"detector": "volume", "seen": False, "verdict": {
        **verdict, "about": (NOW + timedelta(days=1)).isoformat(), "is_anomaly": False, "severity": "none"}}))
    assert eventually(lambda: RECOVERED in told())
    assert len(History(settings).read("volume", "counts").values) == 1
    assert len({json.loads(body)["id"] for _, body in receiver.taken if json.loads(body)["subject"] == "counts"}) == 2
    assert queues.length("observations-poison") == 0
