"""`python -m training.azure_ml`: what the service does there by itself, done by hand, and what a workspace can do beside."""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from azure.core.polling import LROPoller

from detectors.directory import DETECTORS
from shared.errors import InvalidRequest, ServiceError
from shared.ids import check_id
from shared.registry import Manifest, Registry
from shared.settings import InvalidSetting, Settings
from shared.workspace import Workspace, outlook
from training import azure_ml
from training import azure_ml_entities as entities

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

FAILED: Final = 1
# A deployment starts a machine and builds an environment.
LONGEST_SECONDS: Final = 3600.0


def main(arguments: Sequence[str] | None = None, client: MLClient | None = None) -> int:
    """0 where it was done, or shown; 1 with the reason on standard error."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    if asked.act is _register and asked.version and not asked.name:
        parser.error("--version is of one model: name it.")
    workspace = None
    try:
        workspace = Workspace.from_environment()
        if workspace is None and not asked.dry_run:
            raise InvalidSetting(outlook()["reason"])
        sending = Sending(workspace or Workspace("", "", ""), client, asked.dry_run)
        return int(asked.act(asked, sending) or 0)
    except (ServiceError, InvalidSetting) as error:
        print(error, file=sys.stderr)
    except Exception as error:
        if workspace is None:
            raise
        print(azure_ml.explain(error, workspace), file=sys.stderr)
    return FAILED


class Sending:
    """Creates entities in the workspace, or prints them where it is a dry run."""

    def __init__(self, workspace: Workspace, client: MLClient | None, dry: bool) -> None:
        self.workspace, self.dry, self._client = workspace, dry, client

    @property
    def client(self) -> MLClient:
        patient = azure_ml.Patient(math.inf, read_timeout=60)  # what is created slowly is asked about again and again
        self._client = self._client or azure_ml.connect(self.workspace, transport=patient)
        return self._client

    def create(self, entity: Any, how: Callable[[MLClient, Any], Any]) -> Any:
        """What `how` answers, waited for; nothing in a dry run."""
        if self.dry:
            text = io.StringIO()
            told = entity.dump(text)  # of endpoints alone it returns what it does not write
            print(f"# {type(entity).__name__}\n{text.getvalue().rstrip() or json.dumps(told, indent=2)}\n---")
            return None
        made = how(self.client, entity)
        if isinstance(made, LROPoller):
            made = made.result(LONGEST_SECONDS)
        print(json.dumps({"created": type(entity).__name__, "name": made.name, "id": made.id}))
        return made


@contextmanager
def _code(collect: Callable[[Path], Path]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="claritydq-") as folder:
        yield collect(Path(folder))


def _set_up(asked: argparse.Namespace, sending: Sending) -> None:
    settings = Settings.from_environment()
    for store in entities.datastores(sending.workspace, settings):
        sending.create(store, lambda ml, one: ml.datastores.create_or_update(one))
    for purpose in entities.PURPOSES:
        _create_environment(purpose, sending)
    with _code(entities.window_code) as code:
        for part in entities.LOGGED:
            sending.create(entities.window_component(part, code), lambda ml, one: ml.components.create_or_update(one))


def _register(asked: argparse.Namespace, sending: Sending) -> int:
    registry = _registry()
    failures = 0
    for name in [asked.name] if asked.name else registry.names():
        champion = registry.champion(name)
        chosen = [asked.version] if asked.version else registry.versions(name) if asked.all else [
            champion.version] if champion else []
        for version in chosen:
            if sending.dry:
                manifest = registry.manifest(name, version)
                sending.create(azure_ml.entity(manifest, azure_ml.stage_of(version, champion), sending.workspace.datastore),
                               lambda ml, one: None)
                continue
            done = azure_ml.mirror(name, registry, version, sending.client)
            failures += done["status"] == "failed"
            print(json.dumps({"model": name, "version": version, **done}))
    return FAILED if failures else 0


def _train(asked: argparse.Namespace, sending: Sending) -> None:
    if not sending.workspace.environment:
        _create_environment("gpu" if _on_gpu(asked) else "cpu", sending)
    with _code(entities.training_code) as code:
        for job in _jobs(asked, sending, code).values():
            sending.create(job, lambda ml, one: ml.jobs.create_or_update(one))


def _schedule(asked: argparse.Namespace, sending: Sending) -> None:
    if not sending.workspace.environment:
        _create_environment("gpu" if _on_gpu(asked) else "cpu", sending)
    with _code(entities.training_code) as code:
        made = entities.schedule(asked.name or f"claritydq-{asked.detector}", _jobs(asked, sending, code), asked.cron,
                                 asked.timezone)
        sending.create(made, lambda ml, one: ml.schedules.begin_create_or_update(one))


def _monitor(asked: argparse.Namespace, sending: Sending) -> None:
    sending.create(entities.monitor(asked.detector, asked.email, asked.cron, asked.days),
                   lambda ml, one: ml.schedules.begin_create_or_update(one))


def _deploy(asked: argparse.Namespace, sending: Sending) -> None:
    registry = _registry()
    manifest = _chosen(registry, asked.name, asked.version)
    name = asked.endpoint or entities.endpoint_name(manifest.name)
    settings = Settings.from_environment() if asked.history else None
    _create_environment("serving", sending)
    made = entities.endpoint(name, manifest.name)
    sending.create(made, lambda ml, one: ml.online_endpoints.begin_create_or_update(one))
    with _code(entities.scoring_code) as code:
        deployed = entities.deployment(name, manifest, code, sending.workspace, settings)
        sending.create(deployed, lambda ml, one: ml.online_deployments.begin_create_or_update(one))
    made.traffic = {deployed.name: 100}
    if not sending.dry:  # requests reach the new deployment once it is there
        sending.create(made, lambda ml, one: ml.online_endpoints.begin_create_or_update(one))


def _jobs(asked: argparse.Namespace, sending: Sending, code: Path) -> dict[str, Any]:
    settings, gpu = Settings.from_environment(), _on_gpu(asked)
    return {table: entities.training_job(asked.detector, table, code, sending.workspace, settings,
                                         algorithm=asked.algorithm, data=asked.data, options=asked.option, gpu=gpu)
            for table in asked.table_id}


def _on_gpu(asked: argparse.Namespace) -> bool:
    return bool(asked.algorithm in entities.GPU_FAMILIES if asked.gpu is None else asked.gpu)


def _create_environment(purpose: entities.Purpose, sending: Sending) -> None:
    sending.create(entities.environment(purpose), lambda ml, one: ml.environments.create_or_update(one))


def _table(text: str) -> str:
    try:
        return check_id(text, "table_id")
    except InvalidRequest as error:
        raise argparse.ArgumentTypeError(error.message) from None


def _registry() -> Registry:
    from shared.worker import registry

    return registry()


def _chosen(registry: Registry, name: str, version: str | None) -> Manifest:
    champion = registry.champion(name)
    return registry.manifest(name, version or (champion.version if champion else "1"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.azure_ml",
        description="Shows the models in an Azure ML workspace, and trains and serves them there.",
        epilog="The workspace is that of AZURE_SUBSCRIPTION_ID, AZURE_RESOURCE_GROUP and AZUREML_WORKSPACE_NAME, storage "
               "that of DATA_STORAGE or STORAGE_CONNECTION_STRING. A dry run needs no workspace.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, act: Callable[[argparse.Namespace, Sending], Any], words: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=words, description=words[0].upper() + words[1:] + ".")
        one.add_argument("--dry-run", action="store_true", help="print the entities that would be sent, and send nothing")
        one.set_defaults(act=act)
        return one

    def trained(one: argparse.ArgumentParser) -> None:
        one.add_argument("detector", choices=list(DETECTORS))
        one.add_argument("--table-id", action="append", required=True, metavar="ID", type=_table,
                         help="may be given several times")
        source = one.add_mutually_exclusive_group()
        source.add_argument("--data", metavar="FILE", help="a file, or an address (azureml://datastores/...)")
        source.add_argument("--from-history", action="store_true", help="what the service has stored of the table (default)")
        one.add_argument("--algorithm", default="auto", help="a family, or auto: all of them (auto)")
        one.add_argument("--gpu", action=argparse.BooleanOptionalAction,
                         help=f"on the GPU compute (for {' and '.join(entities.GPU_FAMILIES)})")
        one.add_argument("--option", action="append", default=[], metavar="=--NAME=VALUE",
                         help="another argument of training.train_{detector}_anomaly, such as --option=--training-days=365")

    command("setup", _set_up, "creates what the others use: datastores, environments, components")
    one = command("register", _register, "registers published versions, and tags them with their stages")
    one.add_argument("name", nargs="?", help="a model, such as volume-anomaly.orders (all of them)")
    one.add_argument("--version", help="(the champion)")
    one.add_argument("--all", action="store_true", help="every version, not the champion alone")
    one = command("train", _train, "trains tables on a compute of the workspace, and registers what is found")
    trained(one)
    one = command("schedule", _schedule, "trains tables there at set times")
    trained(one)
    one.add_argument("--cron", default="0 3 * * 0", help="(0 3 * * 0: Sundays at three)")
    one.add_argument("--timezone", default="UTC", help="(UTC)")
    one.add_argument("--name", help="of the schedule (claritydq-DETECTOR)")
    one = command("monitor", _monitor, "watches the inference logs: data drift, prediction drift, data quality")
    one.add_argument("detector", choices=list(DETECTORS))
    one.add_argument("--email", action="append", default=[], help="whom to tell; may be given several times")
    one.add_argument("--cron", default="0 6 * * *", help="(0 6 * * *: every morning at six)")
    one.add_argument("--days", type=int, default=7, help="length of the window, compared with the one before (7)")
    one = command("deploy", _deploy, "serves one model at a managed online endpoint")
    one.add_argument("name", help="a model, such as volume-anomaly.orders")
    one.add_argument("--version", help="(the champion)")
    one.add_argument("--endpoint", help="its name (made of the model's)")
    one.add_argument("--history", action="store_true", help="let it read the stored history, as its own identity")
    return parser
