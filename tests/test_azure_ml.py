"""The models in an Azure ML workspace: the real SDK against a loopback server, with what can go wrong on the way."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from detectors import pattern
from shared.blobs import Blobs
from shared.registry import Manifest, Registry
from shared.settings import InvalidSetting, Settings
from shared.workspace import Workspace
from tests.azure_ml_server import WORKSPACE, AzureMl, Fault, Token, ToLoopback, azure_ml
from tests.conftest import ROOT
from training import azure_ml as registration

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:azure.ai.ml")
NAME, ASSET = "volume-anomaly.orders_eu.v2", "volume-anomaly_-orders__eu_-v2"
CARD = {"algorithm": "structural", "trained_at": "2026-09-21T02:00:00Z", "training": {"points": 365},
        "quality": {"f1": 0.72, "precision": 0.7, "recall": 0.75, "fpr": 0.02, "recall_by_fault": {"zero": 1.0}}}
ENVIRONMENT = {"AZURE_SUBSCRIPTION_ID": "sub", "AZURE_RESOURCE_GROUP": "rg", "AZUREML_WORKSPACE_NAME": "ws"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[AzureMl]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(registration, "_quiet_until", {})
    with azure_ml() as server:
        yield server


@pytest.fixture
def client(server: AzureMl) -> MLClient:
    return client_of(server)


def client_of(server: AzureMl, url: str | None = None, **options: Any) -> MLClient:
    transport = ToLoopback(url or server.url, connection_timeout=1, read_timeout=0.3, **options)
    return registration.connect(Workspace("sub", "rg", "ws"), Token(), transport)


@pytest.fixture
def registry(storage: str) -> Registry:
    settings = Settings(connection_string=storage)
    return Registry(Blobs(settings), settings)


def manifest(version: str = "1", sha256: str = "a" * 64, **card: Any) -> Manifest:
    return Manifest(NAME, version, sha256, 1234, "2026-09-21T02:00:01Z", CARD | card)


def stages(server: AzureMl, asset: str = ASSET) -> dict[str, str]:
    return {path.rpartition("/")[2]: resource["properties"]["tags"]["stage"]
            for path, resource in server.resources.items() if path.startswith(f"models/{asset}/")}


def test_a_version_is_registered_where_its_blob_lies_with_what_people_look_for(server: AzureMl, client: MLClient) -> None:
    done = registration.register(manifest(), client=client)

    assert done == {"status": "registered", "id": f"{WORKSPACE}/models/{ASSET}/versions/1",
                    "reason": f"Version 1 of {ASSET}, challenger, in the workspace ws."}
    [body] = server.bodies(f"models/{ASSET}/versions/1")
    sent = body["properties"]
    assert sent["modelType"] == "custom_model"
    assert sent["modelUri"].endswith("/workspaces/ws/datastores/claritydq_models/paths/" + NAME + "/1/model.onnx")
    assert sent["tags"] == {"model": NAME, "detector": "volume", "table": "orders_eu.v2", "family": "structural",
                            "stage": "challenger", "f1": "0.72", "precision": "0.7", "recall": "0.75", "fpr": "0.02"}
    assert sent["properties"] == {
        "sha256": "a" * 64, "bytes": "1234", "opset": "21", "created_at": "2026-09-21T02:00:01Z",
        "trained_at": "2026-09-21T02:00:00Z", "training": '{"points": 365}',
        "metrics": '{"f1": 0.72, "precision": 0.7, "recall": 0.75, "fpr": 0.02, "recall_by_fault": {"zero": 1.0}}'}
    assert {sent.authorization for sent in server.sent} == {"Bearer loopback-token"}


@pytest.mark.parametrize("column", ["email", "Größe in cm"])
def test_a_model_of_a_column_has_table_and_column_apart(server: AzureMl, client: MLClient, column: str) -> None:
    own = replace(manifest(column_name=column), name=pattern.model_name("customers", column))

    registration.register(own, client=client)

    [body] = server.bodies("models/pattern.*")
    assert {k: body["properties"]["tags"][k] for k in ("table", "column", "detector")} == {
        "table": "customers", "column": column, "detector": "pattern"}


def test_registering_again_changes_nothing(server: AzureMl, client: MLClient) -> None:
    registration.register(manifest(), "champion", client)

    again = registration.register(manifest(), client=client)

    assert again["status"] == "registered" and stages(server) == {"1": "champion"}
    assert len(server.bodies("models/.*")) == 1


def test_a_version_that_is_there_with_another_file_is_a_failure(server: AzureMl, client: MLClient) -> None:
    registration.register(manifest(), client=client)

    done = registration.register(manifest(sha256="b" * 64), client=client)

    assert done["status"] == "failed" and "another file" in done["reason"]


@pytest.mark.parametrize(("sha256", "status"), [("a" * 64, "registered"), ("b" * 64, "failed")], ids=["same", "other"])
def test_of_two_that_register_at_once_the_later_finds_what_the_first_wrote(server: AzureMl, client: MLClient, sha256: str,
                                                                           status: str) -> None:
    registration.register(manifest(sha256=sha256), client=client)
    server.faults = [Fault("GET models/.*/versions/1", 404, times=1), Fault("PUT models", 409, times=1)]

    assert registration.register(manifest(), client=client)["status"] == status


def test_the_champion_stage_moves_and_one_version_alone_has_it(server: AzureMl, client: MLClient) -> None:
    for version in "123":
        registration.register(manifest(version), "champion", client)

    done = registration.tag_stage(NAME, "3", client=client)

    assert done["status"] == "registered"
    assert stages(server) == {"1": "previous", "2": "previous", "3": "champion"}


def test_a_promotion_and_a_rollback_are_followed(server: AzureMl, client: MLClient, registry: Registry) -> None:
    seen = []
    for _ in range(2):
        published = registry.publish(NAME, b"model", CARD)
        seen.append(registration.mirror(NAME, registry, published.version, client)["reason"])
        registry.promote(NAME, published.version, reason="better")
        registration.mirror(NAME, registry, published.version, client)
    promoted = stages(server)
    registry.rollback(NAME)

    registration.mirror(NAME, registry, client=client)

    assert seen == [f"Version 1 of {ASSET} is tagged challenger.", f"Version 2 of {ASSET} is tagged challenger."]
    assert promoted == {"1": "previous", "2": "champion"}
    assert stages(server) == {"1": "champion", "2": "previous"}


def test_a_stage_of_a_version_that_is_not_there_is_a_failure(client: MLClient) -> None:
    assert "register it first" in registration.tag_stage(NAME, "9", client=client)["reason"]


def test_every_setting_of_the_workspace_is_in_the_readme_and_in_its_page() -> None:
    read = set(re.findall(r'"(AZURE[A-Z_]+)"', (ROOT / "shared" / "workspace.py").read_text()))
    pages = [(ROOT / page).read_text() for page in ("README.md", "docs/azure-ml.md")]

    assert len(read) == 8 and all(f"`{name}`" in page for name in read for page in pages)


@pytest.mark.parametrize("name", ["volume-anomaly.orders", "pattern-anomaly.a_.b", "pattern-anomaly.a._b", "x-_-.y"])
def test_names_are_written_as_azure_allows_and_read_back(name: str) -> None:
    asset = registration.asset_name(name)

    assert "." not in asset and registration.model_name(asset) == name


def test_without_a_workspace_it_is_skipped_and_says_how_to_switch_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)

    done = registration.register(manifest())

    assert done["status"] == "skipped" and done["id"] is None
    assert all(name in done["reason"] for name in ENVIRONMENT)


def test_half_a_workspace_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZUREML_WORKSPACE_NAME", "ws")
    monkeypatch.delenv("AZURE_SUBSCRIPTION_ID", raising=False)
    monkeypatch.setenv("AZURE_RESOURCE_GROUP", "rg")

    done = registration.register(manifest())

    assert (done["status"], done["reason"]) == ("failed", "AZUREML_WORKSPACE_NAME is set and AZURE_SUBSCRIPTION_ID is not.")


def test_a_datastore_with_a_name_that_azure_refuses_is_told_before_anything_is_sent() -> None:
    with pytest.raises(InvalidSetting, match="AZUREML_DATASTORE"):
        Workspace.from_environment({**ENVIRONMENT, "AZUREML_DATASTORE": "my-store"})


@pytest.mark.parametrize(("status", "words"), [
    (401, "does not accept this app's identity"), (403, "role AzureML Data Scientist"), (404, "no workspace ws"),
    (500, "answers with an error (500)"), (429, "asks to wait"),
])
def test_what_azure_refuses_is_told_in_words_and_raises_nothing(server: AzureMl, client: MLClient, status: int,
                                                                words: str) -> None:
    server.faults = [Fault("models/", status, headers={"Retry-After": "0.01"} if status == 429 else {})]

    done = registration.register(manifest(), client=client)

    assert done["status"] == "failed" and words in done["reason"] and "Injected" not in done["reason"][:20]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_waited_for(server: AzureMl, client: MLClient, status: int) -> None:
    server.faults = [Fault("PUT models", status, times=2, headers={"Retry-After": "0.01"})]

    assert registration.register(manifest(), client=client)["status"] == "registered"
    assert len(server.bodies("models/.*")) == 3


def test_a_wait_of_an_hour_is_cut_short(server: AzureMl) -> None:
    client = client_of(server, seconds=0.02)
    server.faults = [Fault("models/", 429, headers={"Retry-After": "3600"})]

    done = registration.register(manifest(), client=client)

    assert done["status"] == "failed" and "Try again later" in done["reason"]
    assert len(server.sent) == 1 + registration.RETRIES["retry_total"]


def test_a_service_that_is_silent_is_given_up_on(server: AzureMl, client: MLClient) -> None:
    server.faults = [Fault("models/", seconds=1.0)]

    done = registration.register(manifest(), client=client)

    assert done["status"] == "failed" and "does not answer" in done["reason"]
    assert len(server.sent) == 1 + registration.RETRIES["retry_read"]


def test_a_service_that_was_silent_is_left_alone_for_a_while(server: AzureMl, client: MLClient) -> None:
    server.faults = [Fault("models/", seconds=1.0)]
    registration.register(manifest(), client=client)
    asked = len(server.sent)

    done = registration.register(manifest("2"), client=client)

    assert done["status"] == "failed" and "minutes ago" in done["reason"] and len(server.sent) == asked


def test_a_service_that_is_not_there_is_given_up_on(server: AzureMl) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = client_of(server, f"http://127.0.0.1:{unused.getsockname()[1]}")

        done = registration.register(manifest(), client=nobody)

    assert done["status"] == "failed" and "does not answer" in done["reason"]
