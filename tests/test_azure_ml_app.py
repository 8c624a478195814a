"""The app with a workspace that it cannot reach: all works and says what is missing, and verdicts are written down."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from shared import parquet
from shared.blobs import Blobs
from shared.registry import Registry
from shared.settings import Settings
from tests.conftest import ACCOUNTS, ROOT, _numbers, client_of
from tests.test_service import eventually
from tests.test_training_jobs import load, train
from tools.azurite import Azurite
from tools.local_host import LocalHost

# No identity is looked for but in variables that are not set, so nothing leaves the machine.
SETTINGS = {"AZURE_SUBSCRIPTION_ID": "sub", "AZURE_RESOURCE_GROUP": "rg", "AZUREML_WORKSPACE_NAME": "ws",
            "AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential", "INFERENCE_LOGS_CONTAINER": "logs"}
YESTERDAY = datetime.now(UTC).replace(hour=2, minute=0, second=0, microsecond=0) - timedelta(days=1)


@pytest.fixture(scope="module")
def host(azurite: Azurite) -> Iterator[tuple[LocalHost, Blobs]]:
    storage = azurite.connection_string(ACCOUNTS[next(_numbers)])
    account = {"DATA_STORAGE": storage, "AzureWebJobsStorage": storage}
    with LocalHost(app=ROOT, settings=SETTINGS | account) as host:
        yield host, Blobs(Settings(connection_string=storage))


def registration(job: dict[str, Any]) -> dict[str, Any] | None:
    told: dict[str, Any] = job["result"]["registration"]
    return None if told["status"] == "pending" else told


def test_a_training_and_a_rollback_succeed_and_tell_what_became_of_the_registration(host: tuple[LocalHost, Blobs]) -> None:
    running, blobs = host
    registry = Registry(blobs, Settings())
    for content in (b"one", b"two"):
        version = registry.publish("volume-anomaly.sales", content, {"algorithm": "structural"}).version
        registry.promote("volume-anomaly.sales", version, reason="test")
    with client_of(running) as service:
        back = service.post("/v1/models/volume-anomaly.sales/rollback").json()
        load(service, "orders", 61)
        job = train(service, "orders", algorithm="structural")
        told = eventually(lambda: registration(service.get(f"/v1/train/jobs/{job['job_id']}").json()), seconds=30)

    assert (back["champion"]["version"], back["rolled_back"], back["registration"]["status"]) == ("1", "2", "pending")
    assert (job["state"], told["status"]) == ("succeeded", "failed")
    assert "no identity" in told["reason"] or "minutes ago" in told["reason"]


def test_a_batch_and_the_day_before_are_written_down_as_parquet(host: tuple[LocalHost, Blobs]) -> None:
    running, blobs = host
    known = [{"timestamp": (YESTERDAY - timedelta(days=n)).isoformat(), "row_count": 1000 + n % 7} for n in range(1, 30)]
    items = [{"table_id": name, "current_row_count": count, "timestamp": YESTERDAY.isoformat(), "historical_data": known}
             for name, count in (("east", 1003), ("west", 12))]
    with client_of(running) as service:
        batch_id = service.post("/v1/batch/score", json={"detector": "volume", "items": items}).json()["batch_id"]
        day = f"volume/date={YESTERDAY.date().isoformat()}"
        eventually(lambda: list(blobs.names("logs", f"{day}/batch-")), seconds=30)
        httpx.post(f"{running.url}/admin/functions/watch_drift", json={}, headers={"x-functions-key": running.key})
        eventually(lambda: list(blobs.names("logs", f"{day}/history-")), seconds=30)
    found = {name.rpartition("/")[2]: list(parquet.read([blobs.get("logs", name).data]))  # type: ignore[union-attr]
             for name in blobs.names("logs", day)}

    told = {source: {row["table_id"]: row["is_anomaly"] for row in rows} for source, rows in found.items()}
    verdicts = {"east": False, "west": True}
    assert told == {f"batch-{batch_id}-00001.parquet": verdicts, "history-00001.parquet": verdicts}
