"""Verdicts as Parquet, where INFERENCE_LOGS_CONTAINER says: of a batch at its end, of all doors once a day.

    log_verdicts
      log_day  x detectors    yesterday, as the history has it
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import azure.durable_functions as df

from detectors.directory import DETECTORS
from shared import inference_log
from shared.worker import batches, catalogue, history

blueprint = df.Blueprint()
RETRY = df.RetryPolicy(first_retry_interval=timedelta(seconds=5), max_number_of_attempts=5, backoff_coefficient=2.0)
log = logging.getLogger(__name__)


async def start(client: df.DurableOrchestrationClient, now: datetime) -> str | None:
    """Has the day before `now` logged; the id of the run, None where no container is set. The same day is one run."""
    if catalogue().settings.logs_container is None:
        return None
    day = (now.astimezone(UTC) - timedelta(days=1)).date().isoformat()
    return str(await client.start_new("log_verdicts", instance_id=f"log-{day}", client_input={"day": day}))


@blueprint.orchestration_trigger(context_name="context")  # type: ignore[arg-type]  # it types two-argument functions only
def log_verdicts(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    job = context.get_input()
    yield context.task_all([context.call_activity_with_retry("log_day", RETRY, {**job, "detector": name})
                            for name in DETECTORS])


@blueprint.activity_trigger(input_name="job")
def log_day(job: dict) -> int:  # type: ignore[type-arg]  # the worker takes plain types alone
    container = catalogue().settings.logs_container
    if container is None:
        return 0
    day = date.fromisoformat(job["day"])
    return len(inference_log.log_day(job["detector"], day, history(), catalogue().blobs, container))


@blueprint.activity_trigger(input_name="job")
def log_batch(job: dict) -> int:  # type: ignore[type-arg]  # the worker takes plain types alone
    container = catalogue().settings.logs_container
    if container is None:
        return 0
    try:
        return len(inference_log.log_batch(job["batch_id"], batches(), catalogue().blobs, container))
    except ValueError:  # pyarrow's errors are of this kind: the batch itself has succeeded, and no retry would help
        log.exception("The verdicts of batch %s were not logged.", job["batch_id"])
        return 0
