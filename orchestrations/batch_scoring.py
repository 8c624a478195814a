"""Scoring many tables as one durable batch: cut into chunks, score every chunk on its own, sum up.

    score_batch
      plan_batch               cuts the input into chunks
      score_chunks  x n        at most GROUP chunks each
        score_chunk  x GROUP   one chunk: judge its items, keep what was seen, write its part
      finish_batch             the summary, with incidents; anomalies are told as events, an incident's as one
      log_batch                the verdicts as Parquet, where a container is set for them

What an orchestration carries is a batch id and counts; items and answers lie in blobs. Every activity can run twice: a chunk
whose part is written is done, so a batch that was interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from asyncio import to_thread
from collections.abc import Generator, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import azure.durable_functions as df
import azure.functions as func

from detectors.anomaly_detector import AnomalyDetector
from detectors.directory import DETECTORS, detector
from orchestrations import engine
from orchestrations.engine import RETRY
from shared import batch_input, batch_items, batch_summary, newest, telling
from shared.answers import answer, refusals
from shared.batch_input import Item
from shared.batches import Batches
from shared.catalogue import Catalogue
from shared.contract import check_size, parse
from shared.contract_batch import INPUT_CONTAINER, MAX_BODY_BYTES, BatchRequest
from shared.errors import InvalidRequest, NotFound, PayloadTooLarge, ServiceError
from shared.runs import is_current
from shared.settings import Settings
from shared.worker import alerts, batches, catalogue, publisher, tables

if TYPE_CHECKING:
    import pandas as pd

blueprint = df.Blueprint()
GROUP: Final = 200
AT_ONCE: Final = 8
CHUNK_ITEMS: Final = 250
CHUNK_BYTES: Final = 4 * 2**20
MAX_ITEMS: Final = 1_000_000
MAX_UPLOAD_BYTES: Final = 64 * 2**20
# What a file may be sent as in place of a JSON request.
UPLOADS: Final = {"application/x-ndjson": "ndjson", "application/jsonl": "ndjson", "text/csv": "csv",
                  "application/vnd.apache.parquet": "parquet"}


@blueprint.route(route="v1/batch/score", methods=["POST"])
@blueprint.durable_client_input(client_name="client")
@refusals
async def start_batch(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    body, kind = req.get_body(), UPLOADS.get(req.headers.get("content-type", "").partition(";")[0].strip().lower())
    request = await to_thread(_uploaded, body, kind, req.params) if kind else await to_thread(_asked, body)
    key = req.headers.get("idempotency-key") or req.params.get("idempotency_key") or request.idempotency_key
    return answer(await start(client, batches(), request, key), 202)


@blueprint.route(route="v1/batch/{batch_id}", methods=["GET"])
@blueprint.durable_client_input(client_name="client")
@refusals
async def show_batch(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    return answer(await status(client, batches(), req.route_params["batch_id"]))


@blueprint.route(route="v1/batch/{batch_id}/parts/{part:int}", methods=["GET"])
@refusals
def show_batch_part(req: func.HttpRequest) -> func.HttpResponse:
    part = batches().part(req.route_params["batch_id"], int(req.route_params["part"]))
    return func.HttpResponse(part, mimetype="application/x-ndjson")


@blueprint.route(route="v1/batch/{batch_id}/cancel", methods=["POST"])
@blueprint.durable_client_input(client_name="client")
@refusals
async def cancel_batch(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    await engine.cancel(client, batches(), req.route_params["batch_id"])
    return answer(await status(client, batches(), req.route_params["batch_id"]), 202)


@blueprint.route(route="v1/batch/{batch_id}/restart", methods=["POST"])
@blueprint.durable_client_input(client_name="client")
@refusals
async def restart_batch(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    return answer(await engine.restart(client, batches(), req.route_params["batch_id"]), 202)


async def start(client: df.DurableOrchestrationClient, records: Batches, request: BatchRequest,
                key: str | None) -> dict[str, Any]:
    """Starts a batch, or goes on with the one that `key` stands for; the answer says where to ask how it goes.

    Raises NotFound for a detector or an input blob that is none, InvalidRequest, Conflict for a key of another request.
    """
    detector(request.detector)
    if request.tables is not None:
        newest.check(request.detector)
    if request.input_blob is not None:
        await to_thread(_find, request.input_blob)
    record, is_new = await to_thread(records.accept, request, key)
    return await engine.begin(client, records, record, is_new)


async def status(client: df.DurableOrchestrationClient, records: Batches, batch_id: str) -> dict[str, Any]:
    """How far the batch is, and when it has succeeded its summary. Raises NotFound."""
    seen = await engine.seen(client, records, batch_id)
    return await to_thread(batch_summary.report, records, seen)


def _asked(body: bytes) -> BatchRequest:
    return parse(BatchRequest, body, MAX_BODY_BYTES)


def _uploaded(body: bytes, kind: str, params: Mapping[str, str]) -> BatchRequest:
    """The request that a file as the body stands for; the file is kept under its own digest.

    Raises PayloadTooLarge, InvalidRequest.
    """
    check_size(body, MAX_UPLOAD_BYTES)
    name = f"uploads/{hashlib.sha256(body).hexdigest()[:32]}.{kind}"
    catalogue().blobs.put(INPUT_CONTAINER, name, body)
    asked = {"detector": params.get("detector", "volume"), "input_blob": f"{INPUT_CONTAINER}/{name}"}
    return parse(BatchRequest, json.dumps(asked).encode())


def _find(input_blob: str) -> str:
    """The blob's name in its container. Raises NotFound."""
    name = input_blob.removeprefix(f"{INPUT_CONTAINER}/")
    if next(catalogue().blobs.names(INPUT_CONTAINER, name), None) != name:
        raise NotFound(f"There is no blob {input_blob}.", "input_blob")
    return name


@blueprint.orchestration_trigger(context_name="context")  # type: ignore[arg-type]  # it types two-argument functions only
def score_batch(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    job = context.get_input()
    try:
        plan = yield context.call_activity_with_retry("plan_batch", RETRY, job)
        groups = [context.call_sub_orchestrator("score_chunks", {**job, "first": first, "last": min(first + GROUP - 1,
                                                                                                   plan["chunks"])})
                  for first in range(1, plan["chunks"] + 1, GROUP)]
        yield from engine.each(groups)
        finished = yield context.call_activity_with_retry("finish_batch", RETRY, job)
    except Exception as error:
        yield context.call_activity_with_retry("fail_batch", RETRY, {**job, "reason": str(error)})
        raise
    if finished and finished.get("to_log"):
        yield context.call_activity_with_retry("log_batch", RETRY, job)
    return finished


@blueprint.orchestration_trigger(context_name="context")  # type: ignore[arg-type]  # it types two-argument functions only
def score_chunks(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    job = context.get_input()
    run = {"batch_id": job["batch_id"], "instance": job["instance"]}
    # A few at a time: a small batch that comes later does not wait for the whole of a large one.
    yield from engine.each((context.call_activity_with_retry("score_chunk", RETRY, {**run, "chunk": chunk})
                            for chunk in range(job["first"], job["last"] + 1)), AT_ONCE)


@blueprint.activity_trigger(input_name="job")
def plan_batch(job: dict) -> dict[str, int]:  # type: ignore[type-arg]  # the worker takes plain types alone
    batch_id, instance = job["batch_id"], job["instance"]
    record = batches().record(batch_id)
    if not is_current(record, instance):
        return {"chunks": 0}
    now = datetime.now(UTC).isoformat()
    if record["chunks"] is None:
        try:
            chunks, total = _cut(batch_id, batches().request(batch_id))
        except (InvalidRequest, NotFound, PayloadTooLarge) as error:  # no retry would help
            batches().update(batch_id, instance, state="failed", reason=error.message, finished_at=now)
            return {"chunks": 0}
        record = record | {"chunks": chunks, "total": total}
    done_before = sum(part.items for part in batches().parts(batch_id))
    batches().update(batch_id, instance, state="running", started_at=now, done_before=done_before, chunks=record["chunks"],
                     total=record["total"])
    return {"chunks": record["chunks"]}


@blueprint.activity_trigger(input_name="job")
def score_chunk(job: dict) -> None:  # type: ignore[type-arg]  # the worker takes plain types alone
    batch_id, chunk = job["batch_id"], job["chunk"]
    record = batches().record(batch_id)
    if not is_current(record, job["instance"]) or batches().is_done(batch_id, chunk):
        return
    name, now = record["detector"], datetime.now(UTC)
    items: Iterable[Item] = batches().chunk(batch_id, chunk)
    if record["source"] == "tables":
        items = newest.asked(name, items, catalogue())
        judged = batch_items.judge(name, items, catalogue(), now, tables(), newest.score)
    else:
        judged = batch_items.judge(name, items, catalogue(), now, tables())
    batch_items.keep(name, judged, catalogue())
    telling.consider_many(name, batch_items.verdicts(judged, now), alerts(), tables())
    batches().finish_chunk(batch_id, chunk, (one.render() for one in judged), batch_items.digest(judged),
                           batch_items.figures(judged))


@blueprint.activity_trigger(input_name="job")
def finish_batch(job: dict) -> dict[str, int]:  # type: ignore[type-arg]  # the worker takes plain types alone
    batch_id, instance = job["batch_id"], job["instance"]
    record = batches().record(batch_id)
    if not is_current(record, instance):
        return {}
    finished = datetime.now(UTC)
    summary = batch_summary.summed_up(batches(), record, finished, tables())
    if summary["parts"] < record["chunks"]:
        raise RuntimeError(f"Only {summary['parts']:,} of {record['chunks']:,} parts are there")
    batches().write_summary(batch_id, summary)
    telling.announce(record["detector"], alerts(), publisher(),
                     lambda: batch_summary.labels(batch_summary.tables_of(batches(), record), tables()))
    batches().update(batch_id, instance, state="succeeded", finished_at=finished.isoformat())
    return {name: summary[name] for name in ("total", "failed", "anomalies")} | (
        {"to_log": True} if catalogue().settings.logs_container else {})


@blueprint.activity_trigger(input_name="job")
def fail_batch(job: dict) -> None:  # type: ignore[type-arg]  # the worker takes plain types alone
    batches().update(job["batch_id"], job["instance"], **engine.failure_of(batches(), job))


def _cut(batch_id: str, request: BatchRequest) -> tuple[int, int]:
    """Writes the chunks of the input; how many there are, and of how many items."""
    items = _items(request)
    if request.defaults:
        items = batch_input.filled(items, request.defaults)
    chunks = total = 0
    for some in _chunks(items):
        chunks, total = chunks + 1, total + len(some)
        if total > MAX_ITEMS:
            raise PayloadTooLarge(f"A batch has at most {MAX_ITEMS:,} items; nothing was scored.", "items")
        batches().write_chunk(batch_id, chunks, some)
    if not total:
        raise InvalidRequest("There is nothing to score: the input holds no item.", request.source)
    return chunks, total


def _items(request: BatchRequest) -> Iterator[Item]:
    if request.items is not None:
        return batch_input.of_list(request.items)
    if request.input_blob is None:
        return batch_input.of_list({"table_id": name} for name in catalogue().history.tables(request.detector))
    stream = catalogue().blobs.stream(INPUT_CONTAINER, _find(request.input_blob))
    return batch_input.of_file(request.input_blob.rpartition(".")[2], stream, DETECTORS[request.detector].request)


def _chunks(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Lists of CHUNK_ITEMS items, of fewer where they are large."""
    some: list[Item] = []
    held = 0
    for item in items:
        size = 0 if isinstance(item[1], ServiceError) else len(item[1])
        if some and (len(some) == CHUNK_ITEMS or held + size > CHUNK_BYTES):
            yield some
            some, held = [], 0
        some.append(item)
        held += size
    if some:
        yield some


class BatchScorer:
    """Batches from Python, scored in this process without an engine. They leave no trace in the history."""

    def __init__(self, settings: Settings | None = None) -> None:
        """On the storage that `settings` (or the environment) names."""
        self._settings = settings or Settings.from_environment()

    def score_batch(self, model_name: str, input_data: pd.DataFrame, progress: bool = True) -> pd.DataFrame:
        """Rows, each the fields of a detect call -> a verdict for each, under the index of the input.

        `model_name` is a model that judges every row (`volume-anomaly.orders`), or a detector (`volume`) that judges each by
        its own table. Columns: item_id, status, is_anomaly, severity, confidence, lower, upper, message and error, which
        says what was wrong with a row that has no verdict. `progress` shows a bar on stderr. Raises ModelNotFound,
        ModelUnavailable, StorageUnavailable, InvalidRequest for a name that is none.
        """
        from tqdm import tqdm

        name, fixed, known = model_name, dict[str, Any](), None
        if model_name not in DETECTORS:
            model = AnomalyDetector.from_registry(model_name, self._settings)
            name, fixed, known = model.kind, dict(model.fixed), model.catalogue
        known = known or Catalogue(self._settings)
        rows = ({**row, **fixed, "record": False} for row in input_data.to_dict("records"))
        verdicts: list[dict[str, Any]] = []
        with tqdm(total=len(input_data), unit="item", desc=model_name, disable=not progress) as bar:
            for some in _chunks(batch_input.of_rows(rows)):
                judged = batch_items.judge(name, some, known, datetime.now(UTC))
                verdicts += [one.row() for one in judged]
                bar.update(len(some))
        return type(input_data)(verdicts, index=input_data.index, columns=list(batch_items.COLUMNS))
