"""`python -m training.azure_ml`: what is created in a workspace, by the real SDK on a loopback server and real storage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, generate_container_sas

from detectors.artefact import UnusableArtefact
from shared import worker
from shared.registry import Registry
from shared.settings import Settings
from tests.azure_ml_server import AzureMl, Fault, Token, ToLoopback, azure_ml
from tests.conftest import ROOT
from training import azure_ml as registration
from training import azure_ml_entities as entities
from training import azure_ml_scoring as scoring
from training import azure_ml_window as window
from training.azure_ml_commands import main
from training.volume_anomaly import VolumeAnomalyTrainer

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:azure.ai.ml")
NAME, ASSET = "volume-anomaly.orders", "volume-anomaly_-orders"
ENDPOINT = entities.endpoint_name(NAME)
ENVIRONMENT = {"AZURE_SUBSCRIPTION_ID": "sub", "AZURE_RESOURCE_GROUP": "rg", "AZUREML_WORKSPACE_NAME": "ws"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, storage: str) -> Iterator[AzureMl]:
    """A workspace whose code is uploaded to a container of a real storage account, which holds the registry too."""
    for name, value in {**ENVIRONMENT, "STORAGE_CONNECTION_STRING": storage}.items():
        monkeypatch.setenv(name, value)
    for name in ("DATA_STORAGE", "AzureWebJobsStorage"):
        monkeypatch.delenv(name, raising=False)
    worker.catalogue.cache_clear()
    monkeypatch.setattr(registration, "_quiet_until", {})
    account = BlobServiceClient.from_connection_string(storage)
    account.create_container("code")
    signature = generate_container_sas(
        str(account.account_name), "code", account_key=account.credential.account_key,
        permission=ContainerSasPermissions(read=True, write=True, list=True), expiry=datetime.now(UTC) + timedelta(hours=1))
    with azure_ml(f"{account.url.rstrip('/')}/code?{signature}") as server:
        yield server
    worker.catalogue.cache_clear()


@pytest.fixture
def client(server: AzureMl) -> MLClient:
    workspace = registration.Workspace("sub", "rg", "ws")
    return registration.connect(workspace, Token(), ToLoopback(server.url, connection_timeout=1, read_timeout=5))


def uploaded(storage: str) -> set[str]:
    names = BlobServiceClient.from_connection_string(storage).get_container_client("code").list_blob_names()
    return {name.partition("/")[2] for name in names}


@pytest.fixture(scope="module")
def payload() -> bytes:
    return VolumeAnomalyTrainer().train(table_id="orders", historical_data=days(), algorithm="structural").payload


def days() -> list[dict[str, Any]]:
    start = datetime(2026, 1, 1, 2, tzinfo=UTC)
    return [{"timestamp": (start + timedelta(days=i)).isoformat(), "row_count": 1000 + 37 * i % 50 - 400 * (i % 7 > 4)}
            for i in range(90)]


@pytest.fixture
def registry(server: AzureMl) -> Registry:
    registry = worker.registry()
    for f1 in (0.7, 0.8):
        registry.publish(NAME, b"model", {"algorithm": "structural", "quality": {"f1": f1}})
    registry.promote(NAME, "1", reason="first")
    registry.promote(NAME, "2", reason="better")
    return registry


def test_setup_creates_datastores_environments_and_components(server: AzureMl, client: MLClient, storage: str) -> None:
    assert main(["setup"], client) == 0

    [models] = server.bodies("datastores/claritydq_models")
    assert models["properties"]["containerName"] == "models"
    assert models["properties"]["credentials"] == {"credentialsType": "None"}
    [logs] = server.bodies("datastores/claritydq_logs")
    assert logs["properties"]["containerName"] == "inference-logs"
    files = {purpose: server.bodies(f"environments/claritydq-{purpose}/versions/.*")[0]["properties"]["condaFile"]
             for purpose in entities.PURPOSES}
    assert "jax[cuda12]==" in files["gpu"] and "jax==" in files["cpu"]
    assert "azureml-inference-server-http" in files["serving"] and "azure-ai-ml" not in files["serving"]
    [component] = server.bodies("components/claritydq_log_outputs/versions/1")
    assert "--columns score,is_anomaly,severity" in component["properties"]["componentSpec"]["args"]
    assert uploaded(storage) == {"azure_ml_window.py"}


def test_training_is_a_command_job_that_runs_the_same_code(server: AzureMl, client: MLClient, storage: str) -> None:
    assert main(["train", "volume", "--table-id", "orders", "--option=--training-days=365"], client) == 0

    [job] = [body["properties"] for body in server.bodies("jobs/.*")]
    assert job["jobType"] == "Command"
    assert job["command"] == (
        "DATA_STORAGE__clientId=$DEFAULT_IDENTITY_CLIENT_ID python -m training.train_volume_anomaly --table-id orders "
        "--algorithm auto --register --json --training-days=365 --from-history")
    assert job["resources"]["instanceType"] == "Standard_DS3_v2" and "/environments/claritydq-cpu/" in job["environmentId"]
    assert job["environmentVariables"]["AZUREML_WORKSPACE_NAME"] == "ws"
    assert "AccountKey" not in json.dumps(job)
    assert {"training/train_volume_anomaly.py", "detectors/artefact.py", "shared/registry.py"} <= uploaded(storage)
    assert not any(name.startswith(("tests/", ".", "local.settings")) or "__pycache__" in name for name in uploaded(storage))


@pytest.mark.parametrize(("arguments", "compute"), [
    (["--algorithm", "lstm"], "gpus"), (["--algorithm", "hypothesis_filter"], "cpus"),
    (["--algorithm", "lstm", "--no-gpu"], "cpus"),
], ids=["lstm", "filter", "lstm-no-gpu"])
def test_a_network_trains_on_the_gpu_compute(monkeypatch: pytest.MonkeyPatch, server: AzureMl, client: MLClient,
                                             arguments: list[str], compute: str) -> None:
    monkeypatch.setenv("AZUREML_COMPUTE", "cpus")
    monkeypatch.setenv("AZUREML_GPU_COMPUTE", "gpus")
    data = ["--data", "azureml://datastores/uploads/paths/orders.csv"]

    assert main(["train", "sequence", "--table-id", "orders", *data, *arguments], client) == 0

    [job] = [body["properties"] for body in server.bodies("jobs/.*")]
    assert job["computeId"].endswith(f"/computes/{compute}")
    assert f"/environments/claritydq-{compute[:3]}/" in job["environmentId"]
    assert job["command"].endswith("--data ${{inputs.data}}")
    assert job["inputs"]["data"] == {"jobInputType": "uri_file", "uri": data[1]}


def test_a_schedule_wraps_a_step_for_each_table_into_a_pipeline(server: AzureMl, client: MLClient) -> None:
    assert main(["schedule", "volume", "--table-id", "orders", "--table-id", "Sales.eu", "--timezone", "Europe/Berlin"],
                client) == 0

    [sent] = [body["properties"] for body in server.bodies("schedules/claritydq-volume")]
    job = sent["action"]["jobDefinition"]
    assert sent["trigger"] == {"triggerType": "Cron", "expression": "0 3 * * 0", "timeZone": "Europe/Berlin"}
    assert job["jobType"] == "Pipeline" and set(job["jobs"]) == {"orders", "sales_eu"}
    assert job["settings"]["continue_on_step_failure"] is True
    commands = [body["properties"]["componentSpec"]["command"] for body in server.bodies("components/.*")]
    assert [command.split()[5] for command in commands] == ["orders", "Sales.eu"]
    assert any(sent.path.startswith("operations/") for sent in server.sent)


def test_a_monitor_compares_two_windows_of_the_inference_logs(server: AzureMl, client: MLClient) -> None:
    assert main(["monitor", "volume", "--email", "owner@example.com", "--days", "14"], client) == 0

    [sent] = [body["properties"] for body in server.bodies("schedules/claritydq-volume-monitor")]
    definition = sent["action"]["monitorDefinition"]
    signals = definition["signals"]
    assert {name: signal["signalType"] for name, signal in signals.items()} == {
        "data_drift": "DataDrift", "prediction_drift": "PredictionDrift", "data_quality": "DataQuality"}
    now, before = (signals["prediction_drift"][part] for part in ("productionData", "referenceData"))
    assert now["uri"].endswith("/datastores/claritydq_logs/paths/volume/") and now["uri"] == before["uri"]
    assert (now["windowOffset"], before["windowOffset"], now["windowSize"]) == ("P0D", "P14D", "P14D")
    assert now["preprocessingComponentId"].endswith("/components/claritydq_log_outputs/versions/1")
    assert "owner@example.com" in json.dumps(definition["alertNotificationSetting"])


def test_a_model_is_served_by_an_endpoint_that_gets_its_requests_when_it_is_there(server: AzureMl, client: MLClient,
                                                                                 registry: Registry, storage: str) -> None:
    assert main(["deploy", NAME], client) == 0

    first, last = [body["properties"] for body in server.bodies(f"onlineEndpoints/{ENDPOINT}")]
    [sent] = server.bodies(f"onlineEndpoints/{ENDPOINT}/deployments/version-2")
    deployed = sent["properties"]
    assert first["authMode"] == "AADToken" and (first["traffic"], last["traffic"]) == ({}, {"version-2": 100})
    assert deployed["model"].endswith(f"/models/{ASSET}/versions/2")
    assert deployed["codeConfiguration"]["scoringScript"] == "score.py"
    assert deployed["environmentVariables"] == {"MODEL_VERSION": "2", "MODEL_SHA256": registry.manifest(NAME, "2").sha256}
    assert "score.py" in uploaded(storage) and not any(name.startswith("training/") for name in uploaded(storage))


def test_what_was_published_before_there_was_a_workspace_can_be_registered(server: AzureMl, client: MLClient,
                                                                           registry: Registry) -> None:
    assert main(["register", "--all"], client) == 0

    stages = {path[-1]: found["properties"]["tags"]["stage"] for path, found in server.resources.items()}
    assert stages == {"1": "previous", "2": "champion"}


@pytest.mark.parametrize(("arguments", "shown"), [
    (["setup"], "# SparkComponent"), (["register"], "# Model"),
    (["train", "sequence", "--table-id", "orders", "--algorithm", "lstm"], "Standard_NC4as_T4_v3"),
    (["schedule", "volume", "--table-id", "orders"], "# JobSchedule"), (["monitor", "pattern"], "# MonitorSchedule"),
    (["deploy", NAME], '"auth_mode": "aad_token"'),
], ids=["setup", "register", "train", "schedule", "monitor", "deploy"])
def test_a_dry_run_shows_what_would_be_sent_and_needs_no_workspace(
        monkeypatch: pytest.MonkeyPatch, server: AzureMl, registry: Registry, capsys: pytest.CaptureFixture[str],
        arguments: list[str], shown: str) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name)

    assert main([*arguments, "--dry-run"]) == 0

    assert shown in capsys.readouterr().out and not server.sent


def test_a_table_that_is_none_is_not_trained_there(server: AzureMl, client: MLClient,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "volume", "--table-id", "../up"], client)

    assert "An id begins" in capsys.readouterr().err and not server.sent


def test_without_a_workspace_a_command_says_what_to_set(monkeypatch: pytest.MonkeyPatch, server: AzureMl,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("AZUREML_WORKSPACE_NAME")

    assert main(["setup"]) == 1

    assert "AZUREML_WORKSPACE_NAME" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "words"), [(401, "does not accept"), (403, "AzureML Data Scientist"), (500, "(500)")])
def test_what_azure_refuses_ends_a_command_with_the_reason(server: AzureMl, client: MLClient, status: int, words: str,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    server.faults = [Fault("PUT schedules", status)]

    assert main(["monitor", "volume"], client) == 1

    assert words in capsys.readouterr().err


def test_the_commands_explain_themselves() -> None:
    told = subprocess.run([sys.executable, "-m", "training.azure_ml", "--help"], cwd=ROOT, capture_output=True, text=True,
                          check=True).stdout

    assert all(name in told for name in ("setup", "register", "train", "schedule", "monitor", "deploy"))


def test_the_scoring_script_answers_as_the_service_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                        payload: bytes) -> None:
    folder = tmp_path / ASSET / "2"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(payload)
    for name in [name for name in os.environ if name.startswith(("DATA_STORAGE", "STORAGE_CONN", "AzureWebJobs"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("MODEL_VERSION", "2")
    scoring.init()
    asked = {"current_row_count": 300, "timestamp": "2026-04-01T02:00:00Z", "historical_data": days()}

    answer = scoring.run(json.dumps(asked))

    assert answer["is_anomaly"] and answer["table_id"] == "orders"
    assert (answer["model"]["name"], answer["model"]["version"]) == (NAME, "2")
    assert not scoring.run(json.dumps({**asked, "current_row_count": 620}))["is_anomaly"]
    assert scoring.run('{"current_row_count": true}')["error"]["target"] == "current_row_count"
    assert scoring.run("[]")["error"]["code"] == "InvalidJson"


def test_the_scoring_script_refuses_another_file_than_was_published(tmp_path: Path, payload: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(payload)

    with pytest.raises(UnusableArtefact, match="SHA-256"):
        scoring.load(path, Settings(), "1", "0" * 64)


def test_the_scoring_code_runs_alone(tmp_path: Path, payload: bytes) -> None:
    entities.scoring_code(tmp_path)
    (tmp_path / "model.onnx").write_bytes(payload)
    script = "import json, sys, score; score.init(); print(score.run('{}')['error']['code'], 'training' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env={"AZUREML_MODEL_DIR": str(tmp_path)},
                          capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["InvalidRequest", "False"]


def test_a_window_names_its_days_first_and_then_its_times() -> None:
    assert window.within("2026-09-14T06:00:00.000Z", "2026-09-21T08:00:00+02:00") == (
        "`date` >= '2026-09-14' AND `date` <= '2026-09-21' AND `timestamp` >= TIMESTAMP '2026-09-14 06:00:00+00:00' AND "
        "`timestamp` < TIMESTAMP '2026-09-21 06:00:00+00:00'")


@pytest.mark.parametrize("model", [NAME, "pattern-anomaly." + "a" * 63 + "." + "b" * 40, "volume-anomaly.9__x"],
                         ids=["short", "long", "odd"])
def test_an_endpoints_name_is_one_that_azure_allows(model: str) -> None:
    name = entities.endpoint_name(model)

    assert 3 <= len(name) <= 32 and name[0].isalpha() and name[-1] != "-" and "_" not in name and name == name.lower()
