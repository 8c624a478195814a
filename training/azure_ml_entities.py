"""What is created in an Azure ML workspace: datastores, environments, training jobs and their schedule, monitors, endpoints.

Every function returns an entity of the SDK and asks nobody anything, so that a dry run shows what would be sent.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from shared.registry import Manifest
from shared.settings import Settings
from shared.workspace import Workspace
from training.azure_ml import asset_name

if TYPE_CHECKING:
    from azure.ai.ml.entities import (
        AzureBlobDatastore,
        Environment,
        JobSchedule,
        ManagedOnlineDeployment,
        ManagedOnlineEndpoint,
        MonitorSchedule,
        SparkComponent,
    )

type Purpose = Literal["cpu", "gpu", "serving"]
PURPOSES: Final[tuple[Purpose, ...]] = ("cpu", "gpu", "serving")
ROOT: Final = Path(__file__).resolve().parent.parent
IMAGE: Final = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:latest"
# The server that calls a scoring script. It wants an older pydantic than the app is pinned to, and an older opentelemetry
# than azure-ai-ml: so what serves has an environment of its own, without the packages of Functions and of training.
SERVER: Final = ("azureml-inference-server-http==1.5.1", "pydantic~=2.12.0")
_NOT_SERVED: Final = ("azure-functions", "azurefunctions", "durabletask", "croniter", "pydantic")
LOGS_DATASTORE: Final = "claritydq_logs"
GPU_FAMILIES: Final = ("autoencoder", "lstm")
GPU_INSTANCE: Final = "Standard_NC4as_T4_v3"
EXPERIMENT: Final = "claritydq-anomaly"
SPARK: Final = {"instance_type": "standard_e4s_v3", "runtime_version": "3.4"}
# What a monitor looks at: the columns of the inference logs that went in, and those that came out.
LOGGED: Final = {"inputs": ("table_id", "value"), "outputs": ("score", "is_anomaly", "severity")}
WINDOW: Final = "1"  # version of the components that cut the window: one more with every change of azure_ml_window.py


def datastores(workspace: Workspace, settings: Settings) -> list[AzureBlobDatastore]:
    """The containers of models and of inference logs, without credentials: who reads needs a role on the account."""
    from azure.ai.ml.entities import AzureBlobDatastore

    account = account_of(settings)
    return [AzureBlobDatastore(name=name, account_name=account, container_name=container, description=words)
            for name, container, words in (
                (workspace.datastore, settings.models_container, "Published models; written by the app alone"),
                (LOGS_DATASTORE, settings.logs_container or "inference-logs", "Verdicts as Parquet, by detector and day"))]


def environment(purpose: Purpose) -> Environment:
    """Python with the app's pinned packages, as the purpose wants them; its version is their digest."""
    from azure.ai.ml.entities import Environment

    packages = _serving() if purpose == "serving" else [*_requirements("requirements.txt"),
                                                        *_requirements("requirements-deep.txt")]
    if purpose == "gpu":
        packages = [re.sub(r"^jax==", "jax[cuda12]==", line) for line in packages]
    conda = {"name": "claritydq", "channels": ["conda-forge"], "dependencies": ["python=3.13", "pip", {"pip": packages}]}
    version = hashlib.sha256(f"{IMAGE}{conda}".encode()).hexdigest()[:12]
    return Environment(name=f"claritydq-{purpose}", version=version, image=IMAGE, conda_file=conda,
                       description=f"The anomaly service's packages: {purpose}")


def training_job(detector: str, table_id: str, code: Path, workspace: Workspace, settings: Settings, *,
                 algorithm: str = "auto", data: str | None = None, options: Sequence[str] = (), gpu: bool = False) -> Any:
    """A command that trains one table with `training.train_{detector}_anomaly` and registers what it finds.

    `data` is a file or an azureml: address, None for the stored history, which the job reads as its own identity.
    """
    from azure.ai.ml import Input, command

    # The compute tells a job which identity is its own; where it has none to tell, the setting is empty.
    own = "DATA_STORAGE__clientId=$DEFAULT_IDENTITY_CLIENT_ID"
    words = ["python", "-m", f"training.train_{detector}_anomaly", "--table-id", table_id, "--algorithm", algorithm,
             "--register", "--json", *options]
    source = "--data ${{inputs.data}}" if data else "--from-history"
    compute = workspace.gpu_compute if gpu else workspace.compute
    machine: dict[str, Any] = {} if compute else {"instance_type": GPU_INSTANCE if gpu else workspace.instance_type}
    return command(
        command=f"{own} {shlex.join(words)} {source}", code=str(code),
        environment=workspace.environment or _named(environment("gpu" if gpu else "cpu")),
        inputs={"data": Input(type="uri_file", path=data)} if data else {}, compute=compute or None, **machine,
        environment_variables=storage_variables(settings) | workspace.to_environment(), instance_count=1,
        experiment_name=EXPERIMENT, display_name=f"{detector} {table_id} {algorithm}",
        tags={"detector": detector, "table": table_id, "algorithm": algorithm})


def schedule(name: str, jobs: Mapping[str, Any], cron: str, time_zone: str = "UTC") -> JobSchedule:
    """The jobs as steps of one pipeline, at the times that `cron` tells: a schedule takes no command by itself."""
    from azure.ai.ml import dsl
    from azure.ai.ml.entities import CronTrigger, JobSchedule

    def retraining() -> None:
        for step, job in jobs.items():
            job().name = re.sub(r"[^a-z0-9_]", "_", step.lower())

    pipeline: Any = dsl.pipeline(retraining, name=name, display_name=name, experiment_name=EXPERIMENT)()
    pipeline.settings.continue_on_step_failure = True
    if not any(job.compute for job in jobs.values()):
        pipeline.settings.default_compute = "serverless"
    return JobSchedule(name=name, trigger=CronTrigger(expression=cron, time_zone=time_zone), create_job=pipeline,
                       display_name=name)


def window_component(part: str, code: Path) -> SparkComponent:
    """The component that cuts a monitor's window out of the inference logs; `part` is a key of LOGGED."""
    from azure.ai.ml import Input, Output
    from azure.ai.ml.entities import SparkComponent

    names = ("data_window_start", "data_window_end", "input_data")
    args = " ".join(f"--{name} ${{{{inputs.{name}}}}}" for name in names)
    return SparkComponent(
        name=f"claritydq_log_{part}", version=WINDOW, code=str(code), entry={"file": "azure_ml_window.py"},
        inputs={"data_window_start": Input(type="string"), "data_window_end": Input(type="string"),
                "input_data": Input(type="uri_folder", mode="direct")},
        outputs={"preprocessed_input_data": Output(type="mltable", mode="direct")},
        args=f"{args} --preprocessed_input_data ${{{{outputs.preprocessed_input_data}}}} --columns {','.join(LOGGED[part])}",
        driver_cores=1, driver_memory="2g", executor_cores=2, executor_memory="2g", executor_instances=1)


def monitor(detector: str, emails: Sequence[str], cron: str, days: int = 7) -> MonitorSchedule:
    """Compares the verdicts of the last `days` with those of as many days before: inputs, verdicts, and missing values."""
    from azure.ai.ml.entities import (
        AlertNotification,
        CategoricalDriftMetrics,
        CronTrigger,
        DataDriftMetricThreshold,
        DataDriftSignal,
        DataQualityMetricsNumerical,
        DataQualityMetricThreshold,
        DataQualitySignal,
        MonitorDefinition,
        MonitoringTarget,
        MonitorSchedule,
        NumericalDriftMetrics,
        PredictionDriftMetricThreshold,
        PredictionDriftSignal,
        ServerlessSparkCompute,
    )

    drift: Any = {"numerical": NumericalDriftMetrics(jensen_shannon_distance=0.1),
                  "categorical": CategoricalDriftMetrics(jensen_shannon_distance=0.1)}
    missing = DataQualityMetricThreshold(numerical=DataQualityMetricsNumerical(null_value_rate=0.0))
    signals: dict[str, Any] = {
        "data_drift": DataDriftSignal(**_windows(detector, "inputs", days), features=["value"], alert_enabled=bool(emails),
                                      metric_thresholds=DataDriftMetricThreshold(**drift)),
        "prediction_drift": PredictionDriftSignal(**_windows(detector, "outputs", days), alert_enabled=bool(emails),
                                                  metric_thresholds=PredictionDriftMetricThreshold(**drift)),
        "data_quality": DataQualitySignal(**_windows(detector, "inputs", days), features=["value"],
                                          alert_enabled=bool(emails), metric_thresholds=missing)}
    definition = MonitorDefinition(
        compute=ServerlessSparkCompute(**SPARK), monitoring_target=MonitoringTarget(ml_task="classification"),
        monitoring_signals=signals, alert_notification=AlertNotification(emails=list(emails)) if emails else None)
    return MonitorSchedule(name=f"claritydq-{detector}-monitor", trigger=CronTrigger(expression=cron, time_zone="UTC"),
                           create_monitor=definition, display_name=f"Verdicts on {detector}")


def endpoint_name(model: str) -> str:
    """A name that Azure allows, 3 to 32 letters, digits and hyphens, unique in its region: a digest tells models apart."""
    words = re.sub(r"[^a-z0-9]+", "-", model.lower().replace("-anomaly", ""))
    return f"{words[:23].strip('-')}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


def endpoint(name: str, model: str) -> ManagedOnlineEndpoint:
    """An address that answers detect requests for one model; callers show a token of the tenant."""
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    return ManagedOnlineEndpoint(name=name, auth_mode="aad_token", description=f"Verdicts of {model}", tags={"model": model})


def deployment(endpoint_name: str, manifest: Manifest, code: Path, workspace: Workspace,
               settings: Settings | None = None) -> ManagedOnlineDeployment:
    """The registered version behind an endpoint, served by azure_ml_scoring.py.

    With `settings` it reads the stored history as the endpoint's identity; without, a verdict rests on the request's own.
    """
    from azure.ai.ml.entities import CodeConfiguration, ManagedOnlineDeployment

    return ManagedOnlineDeployment(
        name=f"version-{manifest.version}", endpoint_name=endpoint_name,
        model=f"azureml:{asset_name(manifest.name)}:{manifest.version}", environment=_named(environment("serving")),
        instance_type=workspace.instance_type, instance_count=1,
        code_configuration=CodeConfiguration(code=str(code), scoring_script="score.py"),
        environment_variables={"MODEL_VERSION": manifest.version, "MODEL_SHA256": manifest.sha256,
                               **(storage_variables(settings) if settings else {})},
        tags={"model": manifest.name, "sha256": manifest.sha256})


def training_code(to: Path) -> Path:
    """The packages that a training job runs, copied: nothing else of the checkout leaves it."""
    return _snapshot(to, "detectors", "shared", "training")


def scoring_code(to: Path) -> Path:
    """What a deployment runs: the request path alone, and the script as `score.py` beside it."""
    _snapshot(to, "detectors", "shared")
    shutil.copy(ROOT / "training" / "azure_ml_scoring.py", to / "score.py")
    return to


def window_code(to: Path) -> Path:
    """What a monitor runs to cut its window."""
    shutil.copy(ROOT / "training" / "azure_ml_window.py", to)
    return to


def account_of(settings: Settings) -> str:
    """The name of the data storage account, "" where none is set."""
    text = settings.connection_string or ""
    found = re.search(r"AccountName=([^;]+)", text) or re.match(r"https?://([^./]+)\.", settings.blob_uri or "")
    return found[1] if found else ""


def storage_variables(settings: Settings) -> dict[str, str]:
    """The settings by which a job finds the data storage as its own identity. Keys never leave the app."""
    account = account_of(settings)
    own = {"blob": settings.blob_uri, "queue": settings.queue_uri, "table": settings.table_uri}
    found = {f"DATA_STORAGE__{service}ServiceUri": uri or f"https://{account}.{service}.core.windows.net"
             for service, uri in own.items() if uri or account}
    return found | {"MODELS_CONTAINER": settings.models_container, "HISTORY_TABLE": settings.history_table,
                    "TABLES_TABLE": settings.tables_table}


def _windows(detector: str, part: str, days: int) -> dict[str, Any]:
    from azure.ai.ml import Input
    from azure.ai.ml.entities import BaselineDataRange, ProductionData, ReferenceData

    def of(kind: Any, offset: int) -> Any:
        return kind(input_data=Input(type="uri_folder", path=f"azureml://datastores/{LOGS_DATASTORE}/paths/{detector}/"),
                    data_context=f"model_{part}", pre_processing_component=f"azureml:claritydq_log_{part}:{WINDOW}",
                    data_window=BaselineDataRange(lookback_window_size=f"P{days}D", lookback_window_offset=f"P{offset}D"))

    return {"production_data": of(ProductionData, 0), "reference_data": of(ReferenceData, days)}


def _named(made: Environment) -> str:
    return f"azureml:{made.name}:{made.version}"


def _requirements(name: str) -> list[str]:
    return [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]


def _serving() -> list[str]:
    """The first block of the requirements: what serves requests."""
    first = (ROOT / "requirements.txt").read_text().partition("\n\n")[0].splitlines()
    return [line for line in first if not line.startswith(("#", *_NOT_SERVED))] + list(SERVER)


def _snapshot(to: Path, *packages: str) -> Path:
    for package in packages:
        shutil.copytree(ROOT / package, to / package, ignore=shutil.ignore_patterns("__pycache__"))
    return to
