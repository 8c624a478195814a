"""The models of the registry shown in an Azure ML workspace: registered where they lie, their stage kept in tags.

Nothing here raises into a training: the answer says whether a model was registered, why it was skipped, or what failed.
Without a workspace everything else works the same. `python -m training.azure_ml --help` trains and serves there.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ServiceRequestError, ServiceResponseError
from azure.core.pipeline.transport import RequestsTransport

from shared.registry import Champion, Manifest, Registry
from shared.settings import Settings
from shared.storage import credential
from shared.workspace import Workspace, outcome, outlook

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Model

type Stage = Literal["champion", "challenger", "previous"]
CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
PREVIOUS: Final = "previous"
# A workspace that does not answer costs an activity half a minute: two tries of so many seconds.
CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 15.0
PATIENCE_SECONDS: Final = 60.0
RETRIES: Final[dict[str, Any]] = {"retry_total": 2, "retry_connect": 1, "retry_read": 1, "retry_status": 2,
                                  "retry_backoff_factor": 0.4}
# One that did not answer is left alone for a while: a retraining of a thousand models must not wait a thousand times.
QUIET_SECONDS: Final = 300.0
_quiet_until: dict[str, float] = {}
_ROLE: Final = "It needs the role AzureML Data Scientist on the workspace"
_ESCAPES: Final = {"_": "__", ".": "_-"}
_UNESCAPES: Final = {escape: char for char, escape in _ESCAPES.items()}
log = logging.getLogger(__name__)


class Patient(RequestsTransport):  # type: ignore[misc]  # the package hides its type
    """Waits as long as a service asks for with Retry-After, but no longer than `seconds` in all its life."""

    def __init__(self, seconds: float = PATIENCE_SECONDS, **options: Any) -> None:
        super().__init__(**{"connection_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, **options})
        self._left = seconds

    def sleep(self, duration: float) -> None:
        wait = min(duration, self._left)
        self._left -= wait
        super().sleep(wait)


def connect(workspace: Workspace, identity: Any = None, transport: Patient | None = None) -> MLClient:
    """A client of the workspace as this app's identity, for one piece of work; asks nothing yet."""
    from azure.ai.ml import MLClient

    return MLClient(identity or credential(Settings.from_environment().client_id), workspace.subscription_id,
                    workspace.resource_group, workspace.name, enable_telemetry=False, show_progress=False,
                    transport=transport or Patient(), **RETRIES)


def asset_name(name: str) -> str:
    """A model's name as Azure ML allows it: `_` is written `__` and `.` `_-`, at most 254 characters."""
    return re.sub(r"[_.]", lambda found: _ESCAPES[found[0]], name)


def model_name(asset: str) -> str:
    """The name in the registry of what `asset_name` made."""
    return re.sub(r"__|_-", lambda found: _UNESCAPES[found[0]], asset)


def register(manifest: Manifest, stage: Stage = CHALLENGER, client: MLClient | None = None) -> dict[str, Any]:
    """Registers a published version as a custom model whose path is its blob, through the workspace's datastore; no copy.

    Returns {"status": registered|skipped|failed, "reason", "id"}. A version that is there with the same SHA-256 is
    registered, and keeps its tags.
    """
    return _attempt(client, lambda workspace, ml: _register(manifest, stage, workspace, ml))


def tag_stage(name: str, version: str, stage: Stage = CHAMPION, client: MLClient | None = None) -> dict[str, Any]:
    """Tags a registered version with its stage. Where that is champion, every other that says so becomes `previous`.

    Returns what `register` does.
    """
    return _attempt(client, lambda workspace, ml: _tag(name, version, stage, ml))


def mirror(name: str, registry: Registry, version: str | None = None, client: MLClient | None = None) -> dict[str, Any]:
    """Registers a version (the champion where none is given) and tags it as the registry has it. May be repeated.

    This is what follows a publication, a promotion and a rollback. Returns what `register` does.
    """

    def follow(workspace: Workspace, ml: MLClient) -> dict[str, Any]:
        champion = registry.champion(name)
        manifest = registry.manifest(name, version or (champion.version if champion else ""))
        stage = stage_of(manifest.version, champion)
        done = _register(manifest, stage, workspace, ml)
        return _tag(name, manifest.version, stage, ml) if done["status"] == "registered" else done

    return _attempt(client, follow)


def entity(manifest: Manifest, stage: Stage, datastore: str) -> Model:
    """The model as it is registered. Tags are what people look for, properties what never changes."""
    from azure.ai.ml.entities import Model

    kind, _, table = manifest.name.partition("-anomaly.")
    card, quality = manifest.card, manifest.card.get("quality") or {}
    column = card.get("column_name")
    tags = {"model": manifest.name, "detector": kind, "table": table.rpartition(".")[0] if column else table,
            "column": column, "family": card.get("algorithm"), "stage": stage,
            **{figure: quality.get(figure) for figure in ("f1", "precision", "recall", "fpr")}}
    properties = {"sha256": manifest.sha256, "bytes": manifest.size, "opset": card.get("opset", 21),
                  "created_at": manifest.created_at, "trained_at": card.get("trained_at"), "metrics": json.dumps(quality),
                  "training": json.dumps(card.get("training") or {})}
    return Model(name=asset_name(manifest.name), version=manifest.version, type="custom_model",
                 path=f"azureml://datastores/{datastore}/paths/{manifest.name}/{manifest.version}/model.onnx",
                 description=f"{card.get('algorithm')} for {kind} anomalies of {table}",
                 tags={name: str(value) for name, value in tags.items() if value is not None},
                 properties={name: str(value) for name, value in properties.items() if value is not None})


def _register(manifest: Manifest, stage: Stage, workspace: Workspace, ml: MLClient) -> dict[str, Any]:
    wanted = entity(manifest, stage, workspace.datastore)
    found = _find(wanted.name, manifest.version, ml)
    if found is None:
        try:
            found = ml.models.create_or_update(wanted)
        except HttpResponseError as error:
            # Somebody else was quicker, perhaps this very request: where its answer was lost, the client sent it once more.
            found = _find(wanted.name, manifest.version, ml) if error.status_code == 409 else None
            if found is None:
                raise
    there = (found.properties or {}).get("sha256")
    if there != manifest.sha256:
        return outcome("failed", f"Version {manifest.version} of {wanted.name} is there with another file: its SHA-256 is "
                       f"{there}, that of this one {manifest.sha256}.", found.id)
    return outcome("registered", f"Version {manifest.version} of {wanted.name}, {_stage(found)}, in the workspace "
                   f"{workspace.name}.", found.id)


def _tag(name: str, version: str, stage: Stage, ml: MLClient) -> dict[str, Any]:
    asset = asset_name(name)
    chosen = _find(asset, version, ml)
    if chosen is None:
        return outcome("failed", f"There is no version {version} of {asset} in the workspace: register it first.")
    # The new champion first: at no time is there none.
    _set_stage(chosen, stage, ml)
    if stage == CHAMPION:
        for other in ml.models.list(name=asset):
            if other.version != version and _stage(other) == CHAMPION:
                _set_stage(other, PREVIOUS, ml)
    return outcome("registered", f"Version {version} of {asset} is tagged {stage}.", chosen.id)


def stage_of(version: str, champion: Champion | None) -> Stage:
    """Which stage a version has while `champion` answers."""
    if champion is None:
        return CHALLENGER
    if champion.version == version:
        return CHAMPION
    return PREVIOUS if version in {promotion.version for promotion in champion.previous} else CHALLENGER


def _set_stage(model: Model, stage: str, ml: MLClient) -> None:
    if _stage(model) != stage:
        model.tags = {**(model.tags or {}), "stage": stage}
        ml.models.create_or_update(model)


def _stage(model: Model) -> str | None:
    return (model.tags or {}).get("stage")


def _find(asset: str | None, version: str, ml: MLClient) -> Model | None:
    try:
        found: Model = ml.models.get(str(asset), version)
        return found
    except HttpResponseError as error:
        if error.status_code == 404:
            return None
        raise


def _attempt(client: MLClient | None, ask: Callable[[Workspace, MLClient], dict[str, Any]]) -> dict[str, Any]:
    """What `ask` answers, and in words whatever else may happen."""
    outlooked = outlook()
    workspace = Workspace.from_environment() if outlooked["status"] == "pending" else None
    if workspace is None:
        return outlooked
    if time.monotonic() < _quiet_until.get(workspace.name, 0.0):
        return outcome("failed", "Azure ML did not answer minutes ago. `python -m training.azure_ml register` catches up.")
    try:
        return ask(workspace, client or connect(workspace))
    except Exception as error:  # a model that answers must not wait for a catalogue of models
        log.warning("Azure ML: %s", error, exc_info=not isinstance(error, HttpResponseError))
        if _is_silence(error):
            _quiet_until[workspace.name] = time.monotonic() + QUIET_SECONDS
        return outcome("failed", explain(error, workspace))


def _is_silence(error: Exception) -> bool:
    """Whether nobody answered, or there is no identity to ask with: so it will be for the next model too."""
    unanswered = isinstance(error, ServiceRequestError | ServiceResponseError)
    return unanswered or (isinstance(error, ClientAuthenticationError) and error.status_code is None)


def explain(error: Exception, workspace: Workspace) -> str:
    """What went wrong and who can do something about it, in one or two sentences."""
    status = error.status_code if isinstance(error, HttpResponseError) else None
    if isinstance(error, ClientAuthenticationError) and status is None:
        return "This app cannot sign in: it has no identity that Azure knows, or signing in is not answered. Switch on " \
               "its managed identity; on a machine of your own, az login."
    if status == 401:
        return f"Azure does not accept this app's identity in the tenant of the workspace {workspace.name} (401). {_ROLE}."
    if status == 403:
        return f"This app's identity may not do this in the workspace {workspace.name} (403). {_ROLE}."
    if status == 404:
        return f"There is no workspace {workspace.name} in {workspace.resource_group}, or not what it was asked for (404)."
    if status == 429:
        return "Azure ML asks to wait longer than could be waited (429). Try again later."
    if status is not None:
        return f"Azure ML answers with an error ({status}): {_first_line(error)}"
    if _is_silence(error):
        return f"Azure ML does not answer within {READ_SECONDS:.0f} seconds: {type(error).__name__}. Try again later."
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    """What the SDK marks as wrong in its long explanations, else the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return next((line for line in lines if line.startswith("(x)")), lines[0])[:300]


if __name__ == "__main__":
    from training.azure_ml_commands import main

    raise SystemExit(main())
