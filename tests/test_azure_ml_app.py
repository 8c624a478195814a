"""The app with a workspace that it cannot reach: everything works, and says what is missing."""

from __future__ import annotations

from typing import Any

from shared.blobs import Blobs
from shared.registry import Registry
from shared.settings import Settings
from tests.conftest import ROOT, client_of
from tests.test_service import eventually
from tests.test_training_jobs import load, train
from tools.local_host import LocalHost

# No identity is looked for but in variables that are not set, so nothing leaves the machine.
SETTINGS = {"AZURE_SUBSCRIPTION_ID": "sub", "AZURE_RESOURCE_GROUP": "rg", "AZUREML_WORKSPACE_NAME": "ws",
            "AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential"}


def registration(job: dict[str, Any]) -> dict[str, Any] | None:
    told: dict[str, Any] = job["result"]["registration"]
    return None if told["status"] == "pending" else told


def test_a_training_and_a_rollback_succeed_and_tell_what_became_of_the_registration(storage: str) -> None:
    settings = Settings(connection_string=storage)
    registry = Registry(Blobs(settings), settings)
    for content in (b"one", b"two"):
        version = registry.publish("volume-anomaly.sales", content, {"algorithm": "structural"}).version
        registry.promote("volume-anomaly.sales", version, reason="test")
    account = {"DATA_STORAGE": storage, "AzureWebJobsStorage": storage}
    with LocalHost(app=ROOT, settings=SETTINGS | account) as host, client_of(host) as service:
        back = service.post("/v1/models/volume-anomaly.sales/rollback").json()
        load(service, "orders", 61)
        job = train(service, "orders", algorithm="structural")
        told = eventually(lambda: registration(service.get(f"/v1/train/jobs/{job['job_id']}").json()), seconds=30)

    assert (back["champion"]["version"], back["rolled_back"], back["registration"]["status"]) == ("1", "2", "pending")
    assert (job["state"], told["status"]) == ("succeeded", "failed")
    assert "no identity" in told["reason"] or "minutes ago" in told["reason"]
