"""What an operator may set, read from the environment by whoever needs it and never at import."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

# The first of these that is set names the storage account that holds models, history and jobs.
CONNECTIONS = ("DATA_STORAGE", "STORAGE_CONNECTION_STRING", "AzureWebJobsStorage")
SERVICES = ("blob", "queue", "table")
# The account and key every storage emulator ships with; they protect nothing and are no secret.
EMULATOR = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
    "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
    "BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;"
    "QueueEndpoint=http://127.0.0.1:10001/devstoreaccount1;"
    "TableEndpoint=http://127.0.0.1:10002/devstoreaccount1"
)


class InvalidSetting(ValueError):
    """A setting is there and cannot be used; the message names it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The storage account is reached by `connection_string`, else as an identity at the `*_uri` endpoints."""

    connection_string: str | None = None
    blob_uri: str | None = None
    queue_uri: str | None = None
    table_uri: str | None = None
    client_id: str | None = None
    models_container: str = "models"
    jobs_container: str = "jobs"
    results_container: str = "results"
    profiles_container: str = "profiles"
    logs_container: str | None = None
    history_table: str = "history"
    tables_table: str = "tablesettings"
    alerts_table: str = "alerts"
    feedback_table: str = "feedback"
    monitoring_table: str = "monitoring"
    observations_queue: str = "observations"
    requests_queue: str = "detect-requests"
    answers_queue: str = "detect-results"
    anomalies_queue: str = "anomalies"
    webhook_url: str | None = None
    webhook_secret: str | None = None
    model_cache_bytes: int = 64 * 1024 * 1024
    recheck_seconds: float = 60.0
    history_days: int = 400

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Raises InvalidSetting for a number that is none. A missing connection is reported by its first use."""
        connection = next((c for c in CONNECTIONS if _is_set(environ, c)), CONNECTIONS[0])
        text = environ.get(connection) or None
        blob_uri, queue_uri, table_uri = (environ.get(f"{connection}__{s}ServiceUri") or None for s in SERVICES)
        return cls(
            connection_string=EMULATOR if text and text.strip(" ;").lower() == "usedevelopmentstorage=true" else text,
            blob_uri=blob_uri,
            queue_uri=queue_uri,
            table_uri=table_uri,
            client_id=environ.get(f"{connection}__clientId") or None,
            models_container=environ.get("MODELS_CONTAINER") or "models",
            jobs_container=environ.get("JOBS_CONTAINER") or "jobs",
            results_container=environ.get("RESULTS_CONTAINER") or "results",
            profiles_container=environ.get("PROFILES_CONTAINER") or "profiles",
            logs_container=environ.get("INFERENCE_LOGS_CONTAINER") or None,
            history_table=environ.get("HISTORY_TABLE") or "history",
            tables_table=environ.get("TABLES_TABLE") or "tablesettings",
            alerts_table=environ.get("ALERTS_TABLE") or "alerts",
            feedback_table=environ.get("FEEDBACK_TABLE") or "feedback",
            monitoring_table=environ.get("MONITORING_TABLE") or "monitoring",
            observations_queue=environ.get("OBSERVATIONS_QUEUE") or "observations",
            requests_queue=environ.get("DETECT_REQUESTS_QUEUE") or "detect-requests",
            answers_queue=environ.get("DETECT_RESULTS_QUEUE") or "detect-results",
            anomalies_queue=environ.get("ANOMALIES_QUEUE") or "anomalies",
            webhook_url=environ.get("WEBHOOK_URL") or None,
            webhook_secret=environ.get("WEBHOOK_SECRET") or None,
            model_cache_bytes=_whole(environ, "MODEL_CACHE_BYTES", 64 * 1024 * 1024, least=1),
            recheck_seconds=_whole(environ, "RECHECK_SECONDS", 60, least=0),
            history_days=_whole(environ, "HISTORY_DAYS", 400, least=1),
        )


def _is_set(environ: Mapping[str, str], connection: str) -> bool:
    return any(environ.get(name) for name in (connection, *(f"{connection}__{s}ServiceUri" for s in SERVICES)))


def _whole(environ: Mapping[str, str], name: str, default: int, least: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        raise InvalidSetting(f"{name} is {text!r}; it must be a whole number from {least} on.")
    return int(text)
