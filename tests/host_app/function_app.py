"""An app with every kind of trigger, served by the tests of the local host. What happened is told on the queue `results`."""

import json
import logging
import threading
import time
from collections import Counter
from datetime import timedelta
from typing import Any, List  # noqa: UP035

import azure.durable_functions as df
import azure.functions as func
import azurefunctions.extensions.bindings.blob as blob_sdk

STORAGE = "AzureWebJobsStorage"
app = df.DFApp(http_auth_level=func.AuthLevel.FUNCTION)
tries: Counter[str] = Counter()
threads: set[str] = set()


# HTTP


@app.route(route="hello/{name:alpha}", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
def hello(req: func.HttpRequest) -> str:
    return f"Hello {req.route_params['name']}"


@app.route(route="hello/you", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
def hello_you(req: func.HttpRequest) -> str:
    return "Hello, it is you"


@app.route(route="files/{*path}", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
async def files(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(req.route_params.get("path", ""))


@app.route(route="echo/{id}/{part:int?}", methods=["POST", "PUT"])
def echo(req: func.HttpRequest) -> func.HttpResponse:
    told = {"method": req.method, "url": req.url, "params": dict(req.route_params), "query": dict(req.params),
            "accept": req.headers.get("accept-language"), "bytes": len(req.get_body())}
    return func.HttpResponse(json.dumps(told), mimetype="application/json")


@app.route(route="picture", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
def picture(req: func.HttpRequest) -> func.HttpResponse:
    headers = {"ETag": '"7"', "Set-Cookie": "seen=yes; Path=/; HttpOnly"}
    return func.HttpResponse(bytes(range(256)), status_code=203, headers=headers, mimetype="image/png")


@app.route(route="fail", auth_level=func.AuthLevel.ANONYMOUS)
def fail(req: func.HttpRequest) -> str:
    raise ValueError("this function always fails")


@app.route(route="protected", auth_level=func.AuthLevel.ADMIN)
def protected(req: func.HttpRequest) -> str:
    return "in"


@app.route(route="sleep", auth_level=func.AuthLevel.ANONYMOUS)
def sleep(req: func.HttpRequest) -> str:
    time.sleep(float(req.params["seconds"]))
    return threading.current_thread().name


@app.route(route="send/{queue}", methods=["POST"])
@app.queue_output(arg_name="one", queue_name="{queue}", connection=STORAGE)
@app.queue_output(arg_name="many", queue_name="{queue}", connection=STORAGE)
def send(req: func.HttpRequest, one: func.Out[str], many: func.Out[List[str]]) -> func.HttpResponse:  # noqa: UP006  the worker knows no other
    given = req.get_json()
    if isinstance(given, list):
        many.set(given)
    else:
        one.set(given)
    return func.HttpResponse(status_code=202)


@app.route(route="stored/{name}", methods=["GET"])
@app.blob_input(arg_name="content", path="stored/{name}", connection=STORAGE)
def stored(req: func.HttpRequest, content: func.InputStream) -> func.HttpResponse:
    return func.HttpResponse(content.read()) if content is not None else func.HttpResponse(status_code=404)


# Queues, blobs and timers


@app.queue_trigger(arg_name="message", queue_name="%JOBS_QUEUE%", connection=STORAGE)
@app.queue_output(arg_name="result", queue_name="results", connection=STORAGE)
def on_job(message: func.QueueMessage, result: func.Out[str]) -> None:
    body = message.get_body().decode()
    tries[body] += 1
    if body.startswith("bad") or (body.startswith("flaky") and tries[body] < 2):
        raise RuntimeError(f"cannot do {body}")
    if body.startswith("slow"):
        time.sleep(30)
    assert message.insertion_time is not None and message.pop_receipt
    result.set(json.dumps({"job": body, "id": message.id, "dequeue_count": message.dequeue_count}))


@app.blob_trigger(arg_name="blob", path="uploads/{table}/{name}", connection=STORAGE)
@app.blob_output(arg_name="copy", path="stored/{table}-{name}", connection=STORAGE)
@app.queue_output(arg_name="result", queue_name="results", connection=STORAGE)
def on_upload(blob: func.InputStream, copy: func.Out[bytes], result: func.Out[str]) -> None:
    content = blob.read()
    if content == b"bad":
        raise RuntimeError("cannot read this blob")
    copy.set(content.upper())
    result.set(json.dumps({"blob": blob.name, "bytes": blob.length, "content": content.decode()}))


@app.blob_trigger(arg_name="client", path="large/{name}", connection=STORAGE, source=func.BlobSource.EVENT_GRID)
@app.queue_output(arg_name="result", queue_name="results", connection=STORAGE)
def on_large_upload(client: blob_sdk.BlobClient, result: func.Out[str]) -> None:
    head = client.download_blob(offset=0, length=5).readall()
    result.set(json.dumps({"large": f"{client.container_name}/{client.blob_name}", "head": head.decode()}))


@app.timer_trigger(arg_name="timer", schedule="%TICK_SCHEDULE%")
@app.queue_output(arg_name="result", queue_name="ticks", connection=STORAGE)
def tick(timer: func.TimerRequest, result: func.Out[str]) -> None:
    result.set(json.dumps({"timer": "tick", "past_due": timer.past_due}))


@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *", run_on_startup=True, use_monitor=False)
@app.queue_output(arg_name="result", queue_name="ticks", connection=STORAGE)
def at_start(timer: func.TimerRequest, result: func.Out[str]) -> None:
    result.set(json.dumps({"timer": "at_start", "past_due": timer.past_due}))


@app.timer_trigger(arg_name="timer", schedule="%NO_SUCH_SETTING%")
def in_error(timer: func.TimerRequest) -> None:
    logging.error("never called")


# Durable Functions


@app.route(route="start/{orchestrator}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def start(req: func.HttpRequest, client: df.DurableFunctionsClient) -> func.HttpResponse:
    given = req.get_json() if req.get_body() else None
    instance = await client.schedule_new_orchestration(req.route_params["orchestrator"], input=given,
                                                       instance_id=req.params.get("id"))
    return client.create_check_status_response(req, instance)


@app.orchestration_trigger(context_name="context")
def fan_out(context: df.DurableOrchestrationContext) -> Any:
    results = yield context.task_all([context.call_activity("double", n) for n in range(context.get_input())])
    context.set_custom_status({"done": len(results)})
    return sum(results)


@app.orchestration_trigger(context_name="context")
def retries(context: df.DurableOrchestrationContext) -> Any:
    options = df.RetryOptions(first_retry_interval_in_milliseconds=50, max_number_of_attempts=3)
    return (yield context.call_activity_with_retry("fails_twice", options, context.instance_id))


@app.orchestration_trigger(context_name="context")
def fails(context: df.DurableOrchestrationContext) -> Any:
    return (yield context.call_activity("always_fails", None))


@app.orchestration_trigger(context_name="context")
def catches(context: df.DurableOrchestrationContext) -> Any:
    try:
        yield context.call_activity("always_fails", None)
    except Exception as error:
        return {"type": error.details.error_type, "message": error.details.message}


@app.orchestration_trigger(context_name="context")
def parent(context: df.DurableOrchestrationContext) -> Any:
    sums = yield context.task_all([context.call_sub_orchestrator("fan_out", n) for n in (2, 3)])
    return sums


@app.orchestration_trigger(context_name="context")
def naps(context: df.DurableOrchestrationContext) -> Any:
    began = context.current_utc_datetime
    yield context.create_timer(began + timedelta(seconds=context.get_input()))
    return (context.current_utc_datetime - began).total_seconds()


@app.orchestration_trigger(context_name="context")
def waits(context: df.DurableOrchestrationContext) -> Any:
    return (yield context.wait_for_external_event("go"))


@app.orchestration_trigger(context_name="context")
def large(context: df.DurableOrchestrationContext) -> Any:
    return (yield context.call_activity("repeat", {"text": context.get_input(), "times": 1}))


@app.orchestration_trigger(context_name="context")
def counts(context: df.DurableOrchestrationContext) -> Any:
    entity = df.EntityId("counter", context.instance_id)
    yield context.call_entity(entity, "add", 2)
    return (yield context.call_entity(entity, "add", 3))


@app.orchestration_trigger(context_name="context")
def crowds(context: df.DurableOrchestrationContext) -> Any:
    most = yield context.task_all([context.call_activity("together", n) for n in range(context.get_input())])
    return max(most)


@app.activity_trigger(input_name="number")
def double(number: int) -> int:
    return number * 2


@app.activity_trigger(input_name="key")
def fails_twice(key: str) -> int:
    tries[key] += 1
    if tries[key] < 3:
        raise ConnectionError(f"try {tries[key]}")
    return tries[key]


@app.activity_trigger(input_name="nothing")
def always_fails(nothing: None) -> None:
    raise ValueError


@app.activity_trigger(input_name="given")
def repeat(given: dict) -> str:
    return given["text"] * given["times"]


@app.activity_trigger(input_name="number")
def together(number: int) -> int:
    name = threading.current_thread().name
    threads.add(name)
    time.sleep(0.05)
    seen = len(threads)
    threads.discard(name)
    return seen


@app.entity_trigger(context_name="context")
def counter(context: df.DurableEntityContext) -> None:
    total = context.get_state(lambda: 0) + context.get_input()
    context.set_state(total)
    context.set_result(total)
