"""Labels, settings and alert budgets of tables: four routes."""

from __future__ import annotations

from datetime import UTC, datetime

import azure.durable_functions as df
import azure.functions as func

from detectors import alert_budget
from shared import tables as known
from shared.answers import answer, refusals
from shared.worker import catalogue, tables, watch

blueprint = df.Blueprint()


@blueprint.route(route="v1/tables/{table_id}", methods=["POST"])
@refusals
def describe_table(req: func.HttpRequest) -> func.HttpResponse:
    table_id = req.route_params["table_id"]
    described = known.describe(tables(), table_id, req.get_body())
    watch().soon(table_id, datetime.now(UTC), is_new="schedule" in described["settings"])
    return answer(described)


@blueprint.route(route="v1/tables/{table_id}/alert-budget", methods=["POST"])
@refusals
def set_alert_budget(req: func.HttpRequest) -> func.HttpResponse:
    table_id = req.route_params["table_id"]
    return answer(alert_budget.propose(table_id, req.get_body(), catalogue(), tables(), datetime.now(UTC)))


@blueprint.route(route="v1/tables/{table_id}", methods=["GET"])
@refusals
def show_table(req: func.HttpRequest) -> func.HttpResponse:
    return answer(known.description(tables(), req.route_params["table_id"]))


@blueprint.route(route="v1/tables", methods=["GET"])
@refusals
def list_tables(req: func.HttpRequest) -> func.HttpResponse:
    return answer(known.listing(tables(), req.params))
