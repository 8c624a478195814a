"""host.json, local.settings.json and app settings, read the way the Functions host reads them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEVELOPMENT_STORAGE = "UseDevelopmentStorage=true"


class SettingsError(ValueError):
    """A file of the app or one of its settings is missing or unusable; the message says which and why."""


@dataclass(frozen=True, slots=True)
class HostConfig:
    """What host.json says, with the host's own defaults where it is silent. Times are in seconds."""

    route_prefix: str
    queue_batch: int
    queue_new_batch_threshold: int
    queue_max_dequeue: int
    queue_visibility_seconds: float
    queue_poll_seconds: float
    queue_base64: bool
    blob_parallelism: int
    blob_max_tries: int
    task_hub: str
    activities: int
    orchestrators: int
    log_level: str

    @classmethod
    def read(cls, app: Path) -> HostConfig:
        """Raises SettingsError when this is no app's directory, or host.json no JSON object or names an unknown setting."""
        if not (app / "function_app.py").exists():
            raise SettingsError(f"There is no function_app.py in {app}.")
        document = _json_object(app / "host.json")
        extensions = document.get("extensions", {})
        queues, blobs, tasks = (extensions.get(name, {}) for name in ("queues", "blobs", "durableTask"))
        batch = int(queues.get("batchSize", 16))
        cores = os.cpu_count() or 1
        return cls(
            route_prefix=resolve(extensions.get("http", {}).get("routePrefix", "api")).strip("/"),
            queue_batch=batch,
            queue_new_batch_threshold=int(queues.get("newBatchThreshold", batch // 2)),
            queue_max_dequeue=int(queues.get("maxDequeueCount", 5)),
            queue_visibility_seconds=seconds(queues.get("visibilityTimeout", "00:00:00")),
            queue_poll_seconds=seconds(queues.get("maxPollingInterval", "00:01:00")),
            queue_base64=queues.get("messageEncoding", "base64") != "none",
            blob_parallelism=int(blobs.get("maxDegreeOfParallelism", 8 * cores)),
            blob_max_tries=int(blobs.get("poisonBlobThreshold", 5)),
            task_hub=resolve(tasks.get("hubName", "TestHubName")),
            activities=int(tasks.get("maxConcurrentActivityFunctions", 10 * cores)),
            orchestrators=int(tasks.get("maxConcurrentOrchestratorFunctions", 10 * cores)),
            log_level=document.get("logging", {}).get("logLevel", {}).get("default", "Information"),
        )


def seconds(time_span: str) -> float:
    """.NET TimeSpan text, `[d.]hh:mm:ss[.fff]`, in seconds. Raises SettingsError for anything else."""
    found = re.fullmatch(r"(?:(\d+)\.)?(\d+):(\d+):(\d+(?:\.\d+)?)", time_span)
    if found is None:
        raise SettingsError(f"'{time_span}' is not a time span: write hh:mm:ss.")
    days, hours, minutes, rest = found.groups(default="0")
    return ((int(days) * 24 + int(hours)) * 60 + int(minutes)) * 60 + float(rest)


def load_local_settings(app: Path, say: Callable[[str], None]) -> None:
    """Puts `Values` of local.settings.json into the environment; what is set there already wins, as with `func start`.

    Without that file its committed example is used, and `say` tells so. Raises SettingsError when the file is encrypted.
    """
    path = app / "local.settings.json"
    if not path.exists():
        path = app / "local.settings.json.example"
        if not path.exists():
            return
        say("There is no local.settings.json: using local.settings.json.example.")
    document = _json_object(path)
    if document.get("IsEncrypted"):
        raise SettingsError(f"{path.name} is encrypted: run `func settings decrypt`, or set \"IsEncrypted\" to false.")
    for name, value in document.get("Values", {}).items():
        os.environ.setdefault(name, str(value))


def resolve(text: str) -> str:
    """Every `%NAME%` in a binding becomes the setting of that name. Raises SettingsError for one that is not set."""

    def setting(found: re.Match[str]) -> str:
        value = os.environ.get(found[1])
        if value is None:
            raise SettingsError(f"'%{found[1]}%' does not resolve to a value: set {found[1]}.")
        return value

    return re.sub(r"%([^%\s]+)%", setting, text)


def resolve_binding(binding: Mapping[str, Any]) -> dict[str, Any]:
    """A binding with the settings in its text fields filled in; `connection` names a setting and stays as it is."""
    return {k: resolve(v) if isinstance(v, str) and k != "connection" else v for k, v in binding.items()}


def is_disabled(function: str) -> bool:
    """Whether the app setting `AzureWebJobs.<function>.Disabled` switches this function off."""
    return os.environ.get(f"AzureWebJobs.{function}.Disabled", "").lower() in ("true", "1")


def connection_string(connection: str) -> str:
    """The value of the setting that a binding's `connection` names. Raises SettingsError when there is none.

    Identity-based connections (`NAME__queueServiceUri`) are for Azure: they need https and a token.
    """
    for name in (connection, f"AzureWebJobs{connection}", f"ConnectionStrings:{connection}"):
        if value := os.environ.get(name):
            return value
    raise SettingsError(f"Connection '{connection}' is not set: the local host needs a connection string "
                        f"(for Azurite: {connection}={DEVELOPMENT_STORAGE}).")


def _json_object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise SettingsError(f"There is no {path.name} in {path.parent}.") from None
    except ValueError as error:
        raise SettingsError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise SettingsError(f"{path} must hold a JSON object.")
    return document
