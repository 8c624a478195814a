"""Batches, with what fills the history they are judged by."""

import azure.durable_functions as df
import azure.functions as func

from orchestrations import batch_scoring
from shared import observations
from shared.answers import answer, refusals
from shared.worker import catalogue, history

app = df.DFApp(http_auth_level=func.AuthLevel.FUNCTION)
app.register_functions(batch_scoring.blueprint)


@app.route(route="v1/observations", methods=["POST"])
@refusals
def load_observations(req: func.HttpRequest) -> func.HttpResponse:
    return answer(observations.load(req.get_body(), catalogue()))


@app.queue_trigger(arg_name="message", queue_name="%OBSERVATIONS_QUEUE%", connection="DATA_STORAGE")
def observe_queued(message: func.QueueMessage) -> None:
    observations.observe(message.get_body(), history())
