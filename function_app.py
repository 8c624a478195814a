"""Every event that wakes the app."""

from __future__ import annotations

from asyncio import to_thread
from datetime import UTC, datetime

import azure.durable_functions as df
import azure.functions as func

from detectors.backtest import backtest
from detectors.directory import detector
from orchestrations import azure_ml, batch_scoring, doors, feedback, freshness, inference_logs, metrics, retraining, training
from orchestrations import tables as described
from shared import health, models, observations, telling
from shared.answers import answer, refusals
from shared.contract import parse
from shared.judging import judge
from shared.worker import alerts, catalogue, decisions, history, jobs, publisher, queues, registry, tables

app = df.DFApp(http_auth_level=func.AuthLevel.FUNCTION)
for blueprint in (training.blueprint, retraining.blueprint, batch_scoring.blueprint, described.blueprint,
                  freshness.blueprint, doors.blueprint, feedback.blueprint, azure_ml.blueprint, metrics.blueprint,
                  inference_logs.blueprint):
    app.register_functions(blueprint)


@app.route(route="v1/detect/{detector}", methods=["POST"])
@app.queue_output(arg_name="observed", queue_name="%OBSERVATIONS_QUEUE%", connection="DATA_STORAGE")
@refusals
def detect(req: func.HttpRequest, observed: func.Out[str]) -> func.HttpResponse:
    kind = req.route_params["detector"]
    judged = judge(kind, parse(detector(kind).request, req.get_body()), catalogue(), tables(), datetime.now(UTC))
    if judged.observation is not None:
        observed.set(judged.observation)
    return answer(judged.answer, headers={"x-model-version": judged.answer.model.version})


@app.queue_trigger(arg_name="message", queue_name="%OBSERVATIONS_QUEUE%", connection="DATA_STORAGE")
def observe_queued(message: func.QueueMessage) -> None:
    observations.observe(message.get_body(), history())
    telling.consider(message.get_body(), alerts(), tables(), publisher())


@app.route(route="v1/observations", methods=["POST"])
@refusals
def load_observations(req: func.HttpRequest) -> func.HttpResponse:
    report = observations.load(req.get_body(), catalogue())
    return answer(report, 200 if report["accepted"] else 422)


@app.route(route="v1/backtest", methods=["POST"])
@refusals
def replay_history(req: func.HttpRequest) -> func.HttpResponse:
    return answer(backtest(req.get_body(), catalogue(), tables()))


@app.route(route="v1/train/{detector}-anomaly", methods=["POST"])
@app.durable_client_input(client_name="client")
@refusals
async def train(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    return answer(await training.start(client, jobs(), req.route_params["detector"], req.get_body()), 202)


@app.route(route="v1/train/jobs/{job_id}", methods=["GET"])
@app.durable_client_input(client_name="client")
@refusals
async def train_job(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    return answer(await training.status(client, jobs(), req.route_params["job_id"]))


@app.route(route="v1/train/jobs/{job_id}/restart", methods=["POST"])
@app.durable_client_input(client_name="client")
@refusals
async def restart_train_job(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    return answer(await training.restart(client, jobs(), req.route_params["job_id"]), 202)


@app.route(route="v1/models", methods=["GET"])
@refusals
def list_models(req: func.HttpRequest) -> func.HttpResponse:
    return answer(models.listing(registry(), req.params))


@app.route(route="v1/models/{name}", methods=["GET"])
@refusals
def show_model(req: func.HttpRequest) -> func.HttpResponse:
    return answer(models.description(registry(), decisions(), req.route_params["name"]))


@app.route(route="v1/models/{name}/rollback", methods=["POST"])
@app.durable_client_input(client_name="client")
@refusals
async def roll_back_model(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    back = await to_thread(models.rollback, registry(), req.route_params["name"], req.get_body())
    return answer(back | {"registration": await azure_ml.follow(client, back["name"])})


@app.route(route="health", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
def show_health(req: func.HttpRequest) -> func.HttpResponse:
    return answer(health.report(catalogue(), registry(), queues()))
