"""Training a table's model as a durable job: plan, fit every candidate on its own, choose.

    train_table
      plan_training       what history there is, and which families are worth a try
      fit_candidate  x n  one family: back-test, fit, calibrate, export, parity
      choose_champion     publish the best, promote it, write the result
      mirror_model        show the new version in Azure ML, where there is a workspace

What an orchestration carries is a job id; rows, models and figures lie in the job's folder. Every activity can run twice.
"""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Generator
from datetime import timedelta
from importlib import import_module
from typing import Any

import azure.durable_functions as df

from detectors.directory import detector
from shared.contract import parse
from shared.errors import Conflict, InvalidRequest
from shared.jobs import FINAL, Jobs
from shared.tables import with_baseline
from shared.worker import history, jobs, registry, tables
from shared.workspace import outlook

blueprint = df.Blueprint()
RETRY = df.RetryPolicy(first_retry_interval=timedelta(seconds=5), max_number_of_attempts=3, backoff_coefficient=2.0)
MAX_BODY_BYTES = 16 * 2**20
RUNNING = ("Running", "Pending", "ContinuedAsNew", "Suspended")


async def start(client: df.DurableOrchestrationClient, records: Jobs, kind: str, body: bytes) -> dict[str, Any]:
    """Keeps the request for a model of detector `kind` and starts its job; the answer says where to ask how it goes.

    Raises NotFound for a detector that is none, PayloadTooLarge, InvalidJson, InvalidRequest.
    """
    trained = detector(kind)
    request: Any = parse(trained.train_request, body, MAX_BODY_BYTES)
    request = await to_thread(with_baseline, request, kind, tables())
    record = await to_thread(records.accept, kind, request.model_dump_json(by_alias=True, exclude_none=True),
                             table_id=request.table_id, model_name=trained.model_name(request))
    return await _run(client, record)


async def restart(client: df.DurableOrchestrationClient, records: Jobs, job_id: str) -> dict[str, Any]:
    """Runs an interrupted or failed job again; candidates that were fitted before are kept. Raises NotFound, Conflict."""
    record = await status(client, records, job_id)
    if record["state"] not in ("failed", "interrupted"):
        raise Conflict(f"The job is {record['state']}; only an interrupted or failed one can be started again.", "job_id")
    return await _run(client, await to_thread(records.update, job_id, state="accepted", reason=None))


async def status(client: df.DurableOrchestrationClient, records: Jobs, job_id: str) -> dict[str, Any]:
    """The job's record, and while it runs the candidates that are done. One the engine no longer runs is `interrupted`.

    Raises NotFound.
    """
    record = await to_thread(records.record, job_id)
    if record["state"] in FINAL:
        return record
    instance = await client.get_status(job_id)
    running = instance is not None and instance.runtime_status is not None and instance.runtime_status.name in RUNNING
    # Read after the engine was asked: a job that ends in between is not taken for an interrupted one.
    record = await to_thread(records.progress, job_id)
    if record["state"] not in FINAL and not running:
        record |= {"state": "interrupted", "reason": "The host was restarted while the job ran. POST "
                   f"/api/v1/train/jobs/{job_id}/restart goes on with it."}
    return record


async def _run(client: df.DurableOrchestrationClient, record: dict[str, Any]) -> dict[str, Any]:
    job_id = record["job_id"]
    await client.start_new("train_table", instance_id=job_id, client_input={"job_id": job_id})
    return {"job_id": job_id, "status": "accepted", "model_name": record["model_name"], "table_id": record["table_id"],
            "status_url": f"/api/v1/train/jobs/{job_id}"}


@blueprint.orchestration_trigger(context_name="context")  # type: ignore[arg-type]  # it types two-argument functions only
def train_table(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    job = context.get_input()
    try:
        plan = yield context.call_activity_with_retry("plan_training", RETRY, job)
        if plan["refused"]:
            return plan
        context.set_custom_status({"candidates": plan["algorithms"]})
        fits = [context.call_activity_with_retry("fit_candidate", RETRY, {**job, "algorithm": algorithm})
                for algorithm in plan["algorithms"]]
        yield context.task_all(fits)
        result = yield context.call_activity_with_retry("choose_champion", RETRY, job)
    except Exception as error:
        yield context.call_activity_with_retry("record_failure", RETRY, {**job, "reason": str(error)})
        raise
    if result.get("registration", {}).get("status") == "pending":
        model = {**job, "name": result["model_name"], "version": result["challenger"]["version"]}
        result["registration"] = yield context.call_activity_with_retry("mirror_model", RETRY, model)
    return result


@blueprint.activity_trigger(input_name="job")
def plan_training(job: dict) -> dict[str, Any]:  # type: ignore[type-arg]  # the worker takes plain types alone
    job_id = job["job_id"]
    request, trainer = _asked(job_id)
    try:
        prepared = trainer.prepare(request, history())
    except InvalidRequest as error:
        return _refuse(job_id, error)
    algorithms = trainer.families(request, registry())
    jobs().write(job_id, "series.json", prepared.to_json())
    jobs().update(job_id, state="running", algorithms=algorithms, history=prepared.facts())
    return {"algorithms": algorithms, "refused": None}


@blueprint.activity_trigger(input_name="job")
def fit_candidate(job: dict) -> None:  # type: ignore[type-arg]  # the worker takes plain types alone
    job_id, algorithm = job["job_id"], job["algorithm"]
    if jobs().read(job_id, f"{algorithm}.json") is not None:
        return
    _, trainer = _asked(job_id)
    prepared = trainer.Prepared.from_json(jobs().read(job_id, "series.json") or b"")
    candidate = trainer.fit_candidate(prepared, algorithm)
    for ending, part in candidate.to_parts().items():
        jobs().write(job_id, f"{algorithm}.{ending}", part)


@blueprint.activity_trigger(input_name="job")
def choose_champion(job: dict) -> dict[str, Any]:  # type: ignore[type-arg]  # the worker takes plain types alone
    from training import promotion
    from training.candidates import Candidate

    job_id = job["job_id"]
    record = jobs().record(job_id)
    if record["state"] == "succeeded":
        return dict(record["result"])
    request, trainer = _asked(job_id)
    endings = ("onnx", "choosing", "json")
    candidates = [Candidate.from_parts(a, {e: jobs().read(job_id, f"{a}.{e}") for e in endings})
                  for a in record["algorithms"]]
    prepared = trainer.Prepared.from_json(jobs().read(job_id, "series.json") or b"")
    try:
        result = promotion.conclude(trainer, prepared, candidates, record["model_name"], request, registry())
    except InvalidRequest as error:
        return _refuse(job_id, error)
    result["registration"] = outlook()
    jobs().update(job_id, state="succeeded", result=result)
    return result


def _asked(job_id: str) -> tuple[Any, Any]:
    """A job's request, and the module that trains what it asks for."""
    kind = jobs().record(job_id)["kind"]
    request = detector(kind).train_request.model_validate_json(jobs().read(job_id, "request.json") or b"")
    return request, import_module(f"training.{kind}_anomaly")


def _refuse(job_id: str, error: InvalidRequest) -> dict[str, Any]:
    """The end of a job that no retry would help."""
    jobs().update(job_id, state="failed", reason=error.message)
    return {"refused": error.message}


@blueprint.activity_trigger(input_name="job")
def record_failure(job: dict) -> None:  # type: ignore[type-arg]  # the worker takes plain types alone
    jobs().update(job["job_id"], state="failed", reason=job["reason"][:2000])
