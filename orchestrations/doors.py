"""Doors beside HTTP: a detect request as a message on a queue, a file in a container. Triggers alone, nothing durable."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import azure.durable_functions as df
import azure.functions as func

from shared import doors
from shared.errors import ServiceError
from shared.worker import catalogue, queues

STORAGE = "DATA_STORAGE"
blueprint = df.Blueprint()


@blueprint.queue_trigger(arg_name="message", queue_name="%DETECT_REQUESTS_QUEUE%", connection=STORAGE)
@blueprint.queue_output(arg_name="answered", queue_name="%DETECT_RESULTS_QUEUE%", connection=STORAGE)
@blueprint.queue_output(arg_name="observed", queue_name="%OBSERVATIONS_QUEUE%", connection=STORAGE)
def detect_queued(message: func.QueueMessage, answered: func.Out[str], observed: func.Out[str]) -> None:
    text, number = message.get_body(), message.id or ""
    try:
        judged = doors.judge(text, catalogue(), datetime.now(UTC))
        answered.set(doors.answer_message(judged.answer, number, catalogue()))
        if judged.observation is not None:
            observed.set(judged.observation)
    except Exception as error:
        refused = isinstance(error, ServiceError) and error.status < 500
        if not refused and (message.dequeue_count or 1) < doors.TRIES:
            raise  # an outage, or a fault of ours: the host hands the message out again
        logging.warning("Message %s goes to the poison queue: %s", number, type(error).__name__, exc_info=not refused)
        doors.bury(text, number, error, queues(), catalogue())
