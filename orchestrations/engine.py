"""How a run is started, watched, cancelled and taken up again in the engine: the same for batches and for retraining."""

from __future__ import annotations

import re
from asyncio import to_thread
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

import azure.durable_functions as df

from shared.errors import Conflict
from shared.runs import FINAL, Runs

RETRY = df.RetryPolicy(first_retry_interval=timedelta(seconds=1), max_number_of_attempts=7, backoff_coefficient=2.0)
RUNNING: Final = ("Running", "Pending", "ContinuedAsNew", "Suspended")
# A run is on record before the engine knows of it.
GRACE: Final = timedelta(seconds=30)


async def begin(client: df.DurableOrchestrationClient, runs: Runs, record: dict[str, Any], is_new: bool) -> dict[str, Any]:
    """Sets the engine to work on a run that was accepted; one known already goes on where it was interrupted or failed."""
    if is_new:
        return await _run(client, runs, record)
    known = await seen(client, runs, record[runs.id_name])
    return await take_up(client, runs, known) if known["state"] in ("interrupted", "failed") else accepted(runs, known)


async def restart(client: df.DurableOrchestrationClient, runs: Runs, run_id: str) -> dict[str, Any]:
    """Goes on with a run that was interrupted or cancelled, or failed. Raises NotFound, Conflict."""
    known = await seen(client, runs, run_id)
    if known["state"] not in ("interrupted", "failed", "cancelled"):
        raise Conflict(f"The {runs.noun} is {known['state']}; only one that was interrupted or cancelled, or failed, "
                       "can be started again.", runs.id_name)
    return await take_up(client, runs, known)


async def cancel(client: df.DurableOrchestrationClient, runs: Runs, run_id: str) -> None:
    """Ends a run within seconds; what is done can be read. One that has ended stays as it is. Raises NotFound."""
    record = await to_thread(runs.cancel, run_id)
    if record["state"] == "cancelled" and await _is_running(client, record):
        # Activities that wait find the word in the record, whether or not the engine ends those of sub-orchestrations.
        await client.terminate(record["instance"], "cancelled")


async def seen(client: df.DurableOrchestrationClient, runs: Runs, run_id: str) -> dict[str, Any]:
    """The record; `interrupted` where it has not ended and the engine no longer works on it. Raises NotFound."""
    record = await to_thread(runs.record, run_id)
    if record["state"] in FINAL or await _is_running(client, record):
        return record
    # Read after the engine was asked: a run that ends in between is not taken for an interrupted one.
    record = await to_thread(runs.record, run_id)
    waits = record["state"] == "accepted" and datetime.now(UTC) - datetime.fromisoformat(record["updated_at"]) < GRACE
    if record["state"] not in FINAL and not waits:
        return record | {"state": "interrupted", "reason": f"The host was restarted while the {runs.noun} ran. The same "
                         f"idempotency key, or POST {runs.route}/{run_id}/restart, goes on with it."}
    return record


async def take_up(client: df.DurableOrchestrationClient, runs: Runs, known: Mapping[str, Any]) -> dict[str, Any]:
    """Goes on with a run whose record is `known`, unless somebody else was quicker."""
    record, mine = await to_thread(runs.take_up, known)
    return await _run(client, runs, record) if mine else accepted(runs, record)


def accepted(runs: Runs, record: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to whoever started a run: where to ask how it goes."""
    url = f"{runs.route}/{record[runs.id_name]}"
    return {runs.id_name: record[runs.id_name], "status": record["state"], **{name: record[name] for name in runs.told},
            "status_url": url, "cancel_url": f"{url}/cancel"}


def each(tasks: Iterable[Any], at_once: int = 10_000) -> Generator[Any, Any]:
    """Waits for all tasks, also where some fail. Raises what the first one failed with.

    Of tasks that are called as they are iterated over, `at_once` are open at a time, and none is called after a failure.
    """
    left, waiting = iter(tasks), deque[Any]()
    failure: Exception | None = None
    while True:
        if failure is None:
            waiting.extend(islice(left, at_once - len(waiting)))
        if not waiting:
            break
        try:
            yield waiting.popleft()
        except Exception as error:
            failure = failure or error
    if failure is not None:
        raise failure


def failure_of(runs: Runs, job: Mapping[str, Any]) -> dict[str, Any]:
    """What the record says of a run that a step failed for good. `job` has the engine's word as its `reason`."""
    # The engine puts every task on the way in front of what was wrong.
    why = re.split(r"task #\d+ failed: ", job["reason"])[-1][:2000].rstrip(".")
    return {"state": "failed", "finished_at": datetime.now(UTC).isoformat(),
            "reason": f"A step failed {RETRY.max_number_of_attempts} times: {why}. What is done is kept, and the same "
                      f"idempotency key, or POST {runs.route}/{job[runs.id_name]}/restart, goes on."}


async def _is_running(client: df.DurableOrchestrationClient, record: Mapping[str, Any]) -> bool:
    instance = await client.get_status(record["instance"])
    return instance is not None and instance.runtime_status is not None and instance.runtime_status.name in RUNNING


async def _run(client: df.DurableOrchestrationClient, runs: Runs, record: Mapping[str, Any]) -> dict[str, Any]:
    job = {runs.id_name: record[runs.id_name], "instance": record["instance"]}
    await client.start_new(runs.orchestrator, instance_id=record["instance"], client_input=job)
    return accepted(runs, record)
