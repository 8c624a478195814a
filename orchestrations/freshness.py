"""What is told without being asked: feeds that should have come, and events on their way to the webhook."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import azure.durable_functions as df
import azure.functions as func

from shared import events
from shared.settings import Settings
from shared.worker import queues, sweep

blueprint = df.Blueprint()
log = logging.getLogger(__name__)


@blueprint.timer_trigger(arg_name="timer", schedule="%FRESHNESS_SCHEDULE%", run_on_startup=False)
def sweep_freshness(timer: func.TimerRequest) -> None:
    log.info("Freshness: %s", sweep().run(datetime.now(UTC)))


@blueprint.queue_trigger(arg_name="message", queue_name="%ANOMALIES_QUEUE%-webhook", connection="DATA_STORAGE")
def deliver_webhook(message: func.QueueMessage) -> None:
    events.deliver(message.get_body(), queues(), Settings.from_environment())
