"""Training the models of all tables anew, as one durable run: every week, where data drifted, or when somebody asks.

    retrain_models
      plan_retraining              which models there are to train
      retrain_some  x groups       AT_ONCE at a time, at most GROUP each
        retrain_model  x GROUP     one model: prepare, fit, judge against the champion, publish, promote, monitor
      finish_retraining            the summary

What an orchestration carries is a run id and counts; plan and decisions lie in blobs. Every activity can run twice: a model
that is decided about is done, so a run that was interrupted goes on where it was, on whichever machine.
"""

from __future__ import annotations

import logging
from asyncio import to_thread
from collections.abc import Generator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import azure.durable_functions as df
import azure.functions as func

from detectors.alert_budget import renewed
from orchestrations import engine, inference_logs
from orchestrations.engine import RETRY
from shared import retrainings as told
from shared.answers import answer, refusals
from shared.contract import parse
from shared.contract_retraining import RetrainRequest
from shared.errors import NotFound, StorageUnavailable
from shared.retrainings import GROUP, Retrainings
from shared.runs import is_current
from shared.worker import catalogue, decisions, history, monitoring, registry, retrainings, tables

if TYPE_CHECKING:
    from training.targets import Target

blueprint = df.Blueprint()
log = logging.getLogger(__name__)
AT_ONCE: Final = 8
# As many models as the plan can train at the same time: Flex Consumption gives up to 100 instances unless told otherwise,
# host.json lets each run two activities. Fewer open ones would leave instances idle; the queue grows no longer for more.
WIDTH: Final = 200
MOST_DEATHS: Final = 3


@blueprint.timer_trigger(arg_name="timer", schedule="%RETRAIN_SCHEDULE%", run_on_startup=False, use_monitor=True)
@blueprint.durable_client_input(client_name="client")
async def retrain_weekly(timer: func.TimerRequest, client: df.DurableOrchestrationClient) -> None:
    log.info("Weekly retraining: %s", await start_scheduled(client, retrainings(), RetrainRequest()))


@blueprint.timer_trigger(arg_name="timer", schedule="%DRIFT_SCHEDULE%", run_on_startup=False, use_monitor=True)
@blueprint.durable_client_input(client_name="client")
async def watch_drift(timer: func.TimerRequest, client: df.DurableOrchestrationClient) -> None:
    log.info("Drift watch: %s", await start_scheduled(client, retrainings(), RetrainRequest(only="drifted")))
    await inference_logs.start(client, datetime.now(UTC))


@blueprint.route(route="v1/retrain", methods=["POST"])
@blueprint.durable_client_input(client_name="client")
@refusals
async def start_retraining(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    request = parse(RetrainRequest, req.get_body() or b"{}")
    key = req.headers.get("idempotency-key") or request.idempotency_key
    return answer(await start(client, retrainings(), request, key), 202)


@blueprint.route(route="v1/retrain/{run_id}", methods=["GET"])
@blueprint.durable_client_input(client_name="client")
@refusals
async def show_retraining(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    return answer(await status(client, retrainings(), req.route_params["run_id"]))


@blueprint.route(route="v1/retrain/{run_id}/parts/{part:int}", methods=["GET"])
@refusals
def show_retraining_part(req: func.HttpRequest) -> func.HttpResponse:
    part = retrainings().part(req.route_params["run_id"], int(req.route_params["part"]))
    return func.HttpResponse(part, mimetype="application/x-ndjson")


@blueprint.route(route="v1/retrain/{run_id}/cancel", methods=["POST"])
@blueprint.durable_client_input(client_name="client")
@refusals
async def cancel_retraining(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    await engine.cancel(client, retrainings(), req.route_params["run_id"])
    return answer(await status(client, retrainings(), req.route_params["run_id"]), 202)


@blueprint.route(route="v1/retrain/{run_id}/restart", methods=["POST"])
@blueprint.durable_client_input(client_name="client")
@refusals
async def restart_retraining(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    return answer(await engine.restart(client, retrainings(), req.route_params["run_id"]), 202)


async def start(client: df.DurableOrchestrationClient, runs: Retrainings, request: RetrainRequest,
                key: str | None = None) -> dict[str, Any]:
    """Starts a retraining, or goes on with the one that `key` stands for; the answer says where to ask how it goes.

    Raises Conflict for a key of another request.
    """
    record, is_new = await to_thread(runs.accept, request, key)
    return await engine.begin(client, runs, record, is_new)


async def start_scheduled(client: df.DurableOrchestrationClient, runs: Retrainings, request: RetrainRequest) -> str:
    """What a timer does, in words: it starts a run unless its last one still goes; an interrupted one goes on."""
    run_id, etag = await to_thread(runs.scheduled, request.only)
    if run_id is not None:
        try:
            last = await engine.seen(client, runs, run_id)
        except NotFound:  # whoever reserved it ended before it was on record
            last = {"state": "failed"}
        if last["state"] == "interrupted":
            await engine.take_up(client, runs, last)
            return f"run {run_id} was interrupted and goes on"
        if last["state"] in ("accepted", "running"):
            return f"run {run_id} still goes"
    key = await to_thread(runs.reserve, request.only, etag)
    if key is None:
        return "somebody else was quicker"
    return f"started run {(await start(client, runs, request, key))['run_id']}"


async def status(client: df.DurableOrchestrationClient, runs: Retrainings, run_id: str) -> dict[str, Any]:
    """How far the retraining is, and when it has succeeded its summary. Raises NotFound."""
    seen = await engine.seen(client, runs, run_id)
    return await to_thread(told.report, runs, seen)


@blueprint.orchestration_trigger(context_name="context")  # type: ignore[arg-type]  # it types two-argument functions only
def retrain_models(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    job = context.get_input()
    try:
        plan = yield context.call_activity_with_retry("plan_retraining", RETRY, job)
        groups = groups_of(plan["models"])
        # Every so many models, and not a run of them: slow detectors are spread over all groups.
        yield from engine.each([context.call_sub_orchestrator("retrain_some", {**job, "first": first, "step": groups,
                                                                                "last": plan["models"]})
                                for first in range(1, groups + 1)])
        return (yield context.call_activity_with_retry("finish_retraining", RETRY, job))
    except Exception as error:
        yield context.call_activity_with_retry("fail_retraining", RETRY, {**job, "reason": str(error)})
        raise


@blueprint.orchestration_trigger(context_name="context")  # type: ignore[arg-type]  # it types two-argument functions only
def retrain_some(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    job = context.get_input()
    run = {"run_id": job["run_id"], "instance": job["instance"]}
    yield from engine.each((context.call_activity_with_retry("retrain_model", RETRY, {**run, "model": model})
                            for model in range(job["first"], job["last"] + 1, job["step"])), AT_ONCE)


def groups_of(models: int) -> int:
    """Into how many groups so many models are cut: enough for WIDTH at once, and for GROUP in each."""
    return max(-(-models // GROUP), min(-(-models // AT_ONCE), WIDTH // AT_ONCE))


@blueprint.activity_trigger(input_name="job")
def plan_retraining(job: dict) -> dict[str, int]:  # type: ignore[type-arg]  # the worker takes plain types alone
    from training import targets

    run_id, instance = job["run_id"], job["instance"]
    runs = retrainings()
    record = runs.record(run_id)
    if not is_current(record, instance):
        return {"models": 0}
    facts: dict[str, Any] = {"total": record["total"]}
    if record["total"] is None:
        planned = targets.planned(runs.request(run_id), history(), registry())
        facts = {"total": runs.write_plan(run_id, (target.to_json() for target in planned.targets)),
                 "unknown_tables": planned.unknown[:told.MAX_LISTED]}
    runs.update(run_id, instance, state="running", started_at=_now(), done_before=len(runs.figures(run_id)), **facts)
    return {"models": facts["total"]}


@blueprint.activity_trigger(input_name="job")
def retrain_model(job: dict) -> None:  # type: ignore[type-arg]  # the worker takes plain types alone
    from training import targets
    from training.retraining import Order, Stores, given_up, retrain

    run_id, model, runs = job["run_id"], job["model"], retrainings()

    def goes_on() -> bool:
        return is_current(runs.record(run_id), job["instance"])

    if not goes_on() or runs.is_done(run_id, model):
        return
    target, asked = targets.Target(**runs.target(run_id, model)), runs.request(run_id)
    order = Order(run_id, asked.as_of, asked.only, asked.force, goes_on)
    try:
        request = targets.train_request(target, asked, tables().get(target.table_id), registry(),
                                        catalogue().settings.history_days)
    except StorageUnavailable:
        raise
    except Exception as error:  # its settings or its name: the others are trained all the same
        runs.decide(run_id, model, given_up(target, order, f"Nothing can be asked for it: {error}"[:2000]))
        return
    with runs.attempt(run_id, model) as died:
        # The engine would hand it out for ever: one table that fills the memory must not keep the run from ending.
        why = f"Its training ended the process {died} times: most likely it needs more memory than there is."
        decision = (given_up(target, order, why) if died >= MOST_DEATHS else
                    retrain(target.detector, request, Stores(history(), registry(), decisions(), monitoring()), order))
    if decision is not None:
        runs.decide(run_id, model, decision | _budgets(target, asked))


def _budgets(target: Target, asked: RetrainRequest) -> dict[str, Any]:
    """What the model's alert budgets mean by its newer past, calibrated again. Not as of a past day."""
    if asked.as_of is not None or asked.only == "drifted":
        return {}
    try:
        found = renewed(target.detector, target.table_id, target.column, catalogue(), tables(), datetime.now(UTC))
    except StorageUnavailable:
        raise
    except Exception as error:  # the threshold of the last time stays, and one table must not end the run of all
        log.warning("The alert budgets of %s were not calibrated again", target.name, exc_info=True)
        return {"alert_budgets": [f"{type(error).__name__}: {error}"[:2000]]}
    return {"alert_budgets": [one["meaning"] for one in found]} if found else {}


@blueprint.activity_trigger(input_name="job")
def finish_retraining(job: dict) -> dict[str, Any]:  # type: ignore[type-arg]  # the worker takes plain types alone
    run_id, instance, runs = job["run_id"], job["instance"], retrainings()
    record = runs.record(run_id)
    if not is_current(record, instance):
        return {}
    finished, made = datetime.now(UTC), runs.figures(run_id)
    if len(made) < record["total"]:
        raise RuntimeError(f"Only {len(made):,} of {record['total']:,} models are decided about")
    summary = told.summed_up(record, made, finished)
    runs.write_summary(run_id, summary)
    runs.update(run_id, instance, state="succeeded", finished_at=finished.isoformat())
    return {"total": summary["total"], "outcomes": summary["outcomes"]}


@blueprint.activity_trigger(input_name="job")
def fail_retraining(job: dict) -> None:  # type: ignore[type-arg]  # the worker takes plain types alone
    retrainings().update(job["run_id"], job["instance"], **engine.failure_of(retrainings(), job))


def _now() -> str:
    return datetime.now(UTC).isoformat()
