"""Doors beside HTTP: a detect request as a message on a queue, a file in a container. Triggers alone, nothing durable."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import List  # noqa: UP035

import azure.durable_functions as df
import azure.functions as func
import azurefunctions.extensions.bindings.blob as sdk
from azure.core import MatchConditions
from azure.core.exceptions import ResourceNotFoundError

from shared import doors, drops, storage
from shared.errors import ServiceError
from shared.worker import catalogue, queues, tables

STORAGE = "DATA_STORAGE"
blueprint = df.Blueprint()


@blueprint.queue_trigger(arg_name="message", queue_name="%DETECT_REQUESTS_QUEUE%", connection=STORAGE)
@blueprint.queue_output(arg_name="answered", queue_name="%DETECT_RESULTS_QUEUE%", connection=STORAGE)
@blueprint.queue_output(arg_name="observed", queue_name="%OBSERVATIONS_QUEUE%", connection=STORAGE)
def detect_queued(message: func.QueueMessage, answered: func.Out[str], observed: func.Out[str]) -> None:
    text, number = message.get_body(), message.id or ""
    try:
        judged = doors.judge_message(text, catalogue(), tables(), datetime.now(UTC))
        answered.set(doors.answer_message(judged.answer, number, catalogue()))
        if judged.observation is not None:
            observed.set(judged.observation)
    except Exception as error:
        refused = isinstance(error, ServiceError) and error.status < 500
        if not refused and (message.dequeue_count or 1) < doors.TRIES:
            raise  # an outage, or a fault of ours: the host hands the message out again
        logging.warning("Message %s goes to the poison queue: %s", number, type(error).__name__, exc_info=not refused)
        doors.bury(text, number, error, queues(), catalogue())


@blueprint.blob_trigger(arg_name="dropped", path="%PROFILES_CONTAINER%/{table_id}/{name}", connection=STORAGE,
                        source=func.BlobSource.EVENT_GRID)
@blueprint.queue_output(arg_name="answered", queue_name="%DETECT_RESULTS_QUEUE%", connection=STORAGE)
@blueprint.queue_output(arg_name="observed", queue_name="%OBSERVATIONS_QUEUE%", connection=STORAGE)
def judge_dropped(dropped: sdk.BlobClient, answered: func.Out[List[str]], observed: func.Out[List[str]]) -> None:  # noqa: UP006
    if (file := _file(dropped)) is not None:
        told = drops.judge_file(file, catalogue(), tables(), datetime.now(UTC), drops.Limits.from_environment())
        answered.set(told.results)
        observed.set(told.observations)


def _file(blob: sdk.BlobClient) -> drops.File | None:
    """The blob as a file that is not read yet; None where it was deleted meanwhile."""
    with storage.answering():
        try:
            known = blob.get_blob_properties()
        except ResourceNotFoundError:
            return None

    def parts() -> Iterator[bytes]:
        # Another version written meanwhile ends the reading: the host hands that one out anyway.
        version = {"etag": known.etag, "match_condition": MatchConditions.IfNotModified}
        with storage.answering():
            yield from blob.download_blob(max_concurrency=1, **version).chunks()

    return drops.File(blob.blob_name, known.size, known.etag.strip('"'), known.last_modified, parts)
