"""Training over HTTP: a durable job from history to a champion that answers, and what happens when things break."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT, client_of
from tests.test_service import counts, eventually, volume
from tools.azurite import Azurite, free_ports
from tools.local_host import LocalHost

FINAL = ("succeeded", "failed", "interrupted")


def load(service: httpx.Client, table: str, days: int) -> None:
    lines = "\n".join(json.dumps({"table_id": table, **point}) for point in counts(days))
    assert service.post("/v1/observations", content=lines).json()["accepted"] == days


def train(service: httpx.Client, table: str, **options: Any) -> dict[str, Any]:
    accepted = service.post("/v1/train/volume-anomaly", json={"table_id": table, "training_days": 120, **options})
    assert accepted.status_code == 202, accepted.text
    return finished(service, accepted.json()["status_url"])


def finished(service: httpx.Client, url: str) -> dict[str, Any]:
    path = url.removeprefix("/api")
    return eventually(lambda: (job := service.get(path).json())["state"] in FINAL and job, seconds=120)


def test_a_trained_model_answers_and_says_which_it_is(service: httpx.Client) -> None:
    load(service, "trained", 91)

    job = train(service, "trained", algorithm="seasonal_decomposition")

    assert job["state"] == "succeeded" and job["result"]["decision"] == "promoted"
    figures = {c["algorithm"]: c for c in job["result"]["candidates"]}
    assert set(figures) == {"structural", "seasonal_decomposition"}
    assert all(0 < c["quality"]["f1"] <= 1 for c in figures.values())
    model = service.get("/v1/models/volume-anomaly.trained").json()
    assert model["champion"]["sha256"] == job["result"]["artifact"]["sha256"]
    assert "volume-anomaly.trained" in [m["name"] for m in service.get("/v1/models?prefix=volume").json()["models"]]
    verdict = volume(service, table_id="trained", current_row_count=300, timestamp="2026-08-31T02:00:00Z", record=False)
    assert verdict["is_anomaly"] and verdict["model"]["algorithm"] == "seasonal_decomposition"
    assert verdict["model"]["version"] == model["champion"]["version"]


def test_training_again_keeps_the_versions_before(service: httpx.Client) -> None:
    load(service, "twice", 91)

    results = [train(service, "twice", algorithm="structural", promote=promote)["result"]
               for promote in ("if_better", "if_better", "always")]

    model = service.get("/v1/models/volume-anomaly.twice").json()
    assert [result["challenger"]["version"] for result in results] == ["1", "2", "3"]
    assert [result["champion"] for result in results] == ["1", "1", model["champion"]["version"]]
    assert [result["outcome"] for result in results] == ["first", "equal", "forced"]
    assert results[1]["decision"] == "kept" and results[1]["compared_with"]["quality"] == results[1]["challenger"]["quality"]
    assert [p["version"] for p in model["previous"]] == ["1"]
    back = service.post("/v1/models/volume-anomaly.twice/rollback", json={"reason": "worse on Mondays"}).json()
    assert (back["champion"]["version"], back["rolled_back"], back["champion"]["reason"]) == ("1", "3", "worse on Mondays")
    verdict = volume(service, table_id="twice", timestamp="2026-08-31T02:00:00Z", record=False)
    assert verdict["model"]["version"] == "1"
    again = service.post("/v1/models/volume-anomaly.twice/rollback")
    assert again.status_code == 409 and "first champion" in again.json()["error"]["message"]
    assert service.post("/v1/models/volume-anomaly.none/rollback").status_code == 404


def test_a_model_can_be_published_without_being_promoted(service: httpx.Client) -> None:
    load(service, "careful", 91)

    result = train(service, "careful", algorithm="structural", promote="never")["result"]

    assert (result["decision"], result["champion"]) == ("kept", None)
    assert result["registration"]["status"] == "skipped" and "AZUREML_WORKSPACE_NAME" in result["registration"]["reason"]
    assert volume(service, table_id="careful", timestamp="2026-08-31T02:00:00Z", record=False)["model"]["name"] is None


def test_a_table_without_history_fails_with_the_reason(service: httpx.Client) -> None:
    job = train(service, "nothing")

    assert job["state"] == "failed" and "no history" in job["reason"]


@pytest.fixture
def lonely(tmp_path: Path) -> Iterator[tuple[Azurite, LocalHost, httpx.Client]]:
    """A service with storage of its own, which a test may stop."""
    blob, queue, table = free_ports(3)
    with Azurite(tmp_path, (blob, queue, table)) as azurite:
        account = azurite.connection_string()
        settings = {"AzureWebJobsStorage": account, "DATA_STORAGE": account, "RECHECK_SECONDS": "0"}
        with LocalHost(app=ROOT, settings=settings) as host, client_of(host) as client:
            yield azurite, host, client


def test_a_job_that_the_host_did_not_survive_is_interrupted_and_goes_on(
        lonely: tuple[Azurite, LocalHost, httpx.Client]) -> None:
    _, host, client = lonely
    load(client, "orders", 91)
    accepted = client.post("/v1/train/volume-anomaly", json={"table_id": "orders"}).json()
    url = accepted["status_url"].removeprefix("/api")
    eventually(lambda: client.get(url).json().get("progress", {}).get("done", 0) >= 1, seconds=60)

    host.kill()
    with client_of(host.start()) as again:
        job = again.get(url).json()
        assert job["state"] == "interrupted" and "restart" in job["reason"]
        kept = [c["algorithm"] for c in job["candidates"]]
        assert kept
        assert again.post(f"{url}/restart").status_code == 202
        done = finished(again, url)

    assert done["state"] == "succeeded", done.get("reason")
    assert len(kept) < len(done["result"]["candidates"]) == 7


def test_storage_that_stops_while_serving_is_said_and_survived(lonely: tuple[Azurite, LocalHost, httpx.Client]) -> None:
    azurite, _, client = lonely
    load(client, "orders", 91)
    train(client, "orders", algorithm="structural")
    monday = {"current_row_count": 300, "timestamp": "2026-08-31T02:00:00Z", "record": False}
    assert volume(client, table_id="orders", **monday)["is_anomaly"]

    azurite.stop()

    warm = volume(client, table_id="orders", **monday)
    assert warm["is_anomaly"] and warm["model"]["algorithm"] == "structural" and warm["warnings"]
    cold = client.post("/v1/detect/volume", json={"table_id": "cold", **monday})
    assert (cold.status_code, cold.json()["error"]["code"]) == (503, "StorageUnavailable")
    from_body = volume(client, table_id="cold", **monday, historical_data=counts(91))
    assert from_body["is_anomaly"] and any("Storage" in w for w in from_body["warnings"])
    strict = client.post("/v1/detect/volume", json={"table_id": "cold", "fallback": False, **monday})
    assert (strict.status_code, strict.json()["error"]["code"]) == (503, "ModelUnavailable")
    assert client.get("/health").json()["status"] == "degraded"
    azurite.start()
    eventually(lambda: volume(client, table_id="orders", **monday)["warnings"] == [], seconds=30)
    assert client.get("/health").json()["status"] == "healthy"
