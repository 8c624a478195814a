"""How good the detectors are, and whether their data drift: two routes."""

from __future__ import annotations

from datetime import UTC, datetime

import azure.durable_functions as df
import azure.functions as func

from shared import drift, quality
from shared.answers import answer, refusals
from shared.worker import feedback, history, monitoring, registry

blueprint = df.Blueprint()


@blueprint.route(route="v1/metrics/quality", methods=["GET"])
@refusals
def show_quality(req: func.HttpRequest) -> func.HttpResponse:
    sources = quality.Sources(feedback(), monitoring(), history(), registry())
    return answer(quality.report(req.params, sources, datetime.now(UTC)))


@blueprint.route(route="v1/metrics/drift", methods=["GET"])
@refusals
def show_drift(req: func.HttpRequest) -> func.HttpResponse:
    return answer(drift.listing(req.params, monitoring()))
