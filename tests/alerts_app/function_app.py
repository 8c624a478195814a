"""Tables, the freshness sweep and the webhook, with the queue that verdicts arrive on."""

import json

import azure.durable_functions as df
import azure.functions as func

from orchestrations import freshness, tables
from shared import observations, telling, worker

app = df.DFApp(http_auth_level=func.AuthLevel.FUNCTION)
app.register_functions(tables.blueprint)
app.register_functions(freshness.blueprint)


@app.queue_trigger(arg_name="message", queue_name="%OBSERVATIONS_QUEUE%", connection="DATA_STORAGE")
def observe_queued(message: func.QueueMessage) -> None:
    body = message.get_body()
    if json.loads(body).get("seen", True):
        observations.observe(body, worker.history())
    telling.consider(body, worker.alerts(), worker.tables(), worker.publisher())
