"""What people say of verdicts: two routes."""

from __future__ import annotations

from datetime import UTC, datetime

import azure.durable_functions as df
import azure.functions as func

from shared import correcting
from shared.answers import answer, refusals
from shared.correcting import Desk
from shared.worker import alerts, catalogue, feedback, publisher, tables

blueprint = df.Blueprint()


@blueprint.route(route="v1/feedback", methods=["POST"])
@refusals
def give_feedback(req: func.HttpRequest) -> func.HttpResponse:
    desk = Desk(catalogue(), tables(), feedback(), alerts(), publisher())
    return answer(correcting.say(req.get_body(), desk, datetime.now(UTC)))


@blueprint.route(route="v1/feedback", methods=["GET"])
@refusals
def list_feedback(req: func.HttpRequest) -> func.HttpResponse:
    return answer(correcting.listing(req.params, feedback()))
