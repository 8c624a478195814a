"""The doors alone, with the queue that keeps what they saw."""

import azure.durable_functions as df
import azure.functions as func

from orchestrations import doors
from shared import observations
from shared.worker import history

app = df.DFApp(http_auth_level=func.AuthLevel.FUNCTION)
app.register_functions(doors.blueprint)


@app.queue_trigger(arg_name="message", queue_name="%OBSERVATIONS_QUEUE%", connection="DATA_STORAGE")
def observe_queued(message: func.QueueMessage) -> None:
    observations.observe(message.get_body(), history())
