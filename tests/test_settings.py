"""What an operator may set, and what is said when it is wrong."""

import pytest

from shared.blobs import Blobs
from shared.errors import StorageUnavailable
from shared.history import History
from shared.settings import InvalidSetting, Settings


def test_an_empty_environment_gives_the_defaults():
    assert Settings.from_environment({}) == Settings()


def test_the_data_connection_wins_over_its_fallbacks():
    environment = {"AzureWebJobsStorage": "host", "STORAGE_CONNECTION_STRING": "shared", "DATA_STORAGE": "data"}

    found = []
    for name in ("DATA_STORAGE", "STORAGE_CONNECTION_STRING", "AzureWebJobsStorage"):
        found.append(Settings.from_environment(environment).connection_string)
        del environment[name]

    assert found == ["data", "shared", "host"]


def test_endpoints_for_an_identity_count_as_a_connection():
    environment = {"DATA_STORAGE__blobServiceUri": "https://a.blob.core.windows.net", "DATA_STORAGE__clientId": "id",
                   "DATA_STORAGE__tableServiceUri": "https://a.table.core.windows.net", "AzureWebJobsStorage": "host"}

    settings = Settings.from_environment(environment)

    assert settings.connection_string is None
    assert (settings.blob_uri, settings.client_id) == ("https://a.blob.core.windows.net", "id")
    assert settings.table_uri == "https://a.table.core.windows.net"


@pytest.mark.parametrize("text", ["UseDevelopmentStorage=true", "usedevelopmentstorage=TRUE;"])
def test_development_storage_means_the_emulator_on_its_own_ports(text):
    connection = Settings.from_environment({"DATA_STORAGE": text}).connection_string

    assert all(f"127.0.0.1:{port}/devstoreaccount1" in connection for port in (10000, 10001, 10002))


@pytest.mark.parametrize("name", ["MODEL_CACHE_BYTES", "RECHECK_SECONDS", "HISTORY_DAYS"])
@pytest.mark.parametrize("text", ["many", "-1", "1.5", "1e3", "²"])
def test_a_number_that_is_none_is_reported_by_its_name(name, text):
    with pytest.raises(InvalidSetting, match=rf"{name} is '.*whole number"):
        Settings.from_environment({name: text})


def test_numbers_and_names_are_read():
    settings = Settings.from_environment({"RECHECK_SECONDS": " 0 ", "MODEL_CACHE_BYTES": "1000", "HISTORY_DAYS": "30",
                                          "MODELS_CONTAINER": "m", "JOBS_CONTAINER": "j", "HISTORY_TABLE": "h"})

    assert (settings.recheck_seconds, settings.model_cache_bytes, settings.history_days) == (0, 1000, 30)
    assert (settings.models_container, settings.jobs_container, settings.history_table) == ("m", "j", "h")


def test_zero_days_of_history_are_refused():
    with pytest.raises(InvalidSetting, match="from 1 on"):
        Settings.from_environment({"HISTORY_DAYS": "0"})


def test_a_missing_connection_is_reported_by_the_first_call_that_needs_it():
    blobs, history = Blobs(Settings()), History(Settings())

    with pytest.raises(StorageUnavailable, match=r"DATA_STORAGE is missing.*DATA_STORAGE__blobServiceUri"):
        blobs.get("models", "a")
    with pytest.raises(StorageUnavailable, match=r"DATA_STORAGE is missing.*DATA_STORAGE__tableServiceUri"):
        history.read("volume", "orders")


def test_a_connection_string_that_is_none_is_reported_by_its_name():
    with pytest.raises(InvalidSetting, match="DATA_STORAGE"):
        Blobs(Settings(connection_string="hello")).get("models", "a")
    with pytest.raises(InvalidSetting, match="DATA_STORAGE"):
        History(Settings(connection_string="hello")).read("volume", "orders")
