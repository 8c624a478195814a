"""The HTTP API of the Durable extension, `/runtime/webhooks/durabletask`: the links of `create_check_status_response`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import azure.functions as func
from azure.durable_functions import DurableFunctionsClient, DurableOrchestrationStatus
from durabletask.client import OrchestrationQuery, OrchestrationStatus
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

PREFIX = "/runtime/webhooks/durabletask"
_FIELDS = ("name", "instanceId", "runtimeStatus", "input", "customStatus", "output", "createdTime", "lastUpdatedTime")
_STATES = {state.name.replace("_", "").lower(): state for state in OrchestrationStatus}
_ENDED = (OrchestrationStatus.COMPLETED, OrchestrationStatus.FAILED, OrchestrationStatus.TERMINATED)


class Webhooks:
    """`configuration` is the client binding's; every call opens a client of its own, as each invocation with it does."""

    def __init__(self, configuration: str) -> None:
        self._configuration = configuration

    def routes(self) -> list[Route]:
        instance, orchestrator = f"{PREFIX}/instances/{{id}}", f"{PREFIX}/orchestrators/{{name}}"
        return [
            Route(f"{PREFIX}/instances", self.search, methods=["GET"]),
            Route(instance, self.status, methods=["GET"]),
            Route(instance, self.purge, methods=["DELETE"]),
            Route(f"{instance}/raiseEvent/{{event}}", self.raise_event, methods=["POST"]),
            Route(f"{instance}/{{verb}}", self.change, methods=["POST"]),
            Route(orchestrator, self.start, methods=["POST"]),
            Route(f"{orchestrator}/{{id}}", self.start, methods=["POST"]),
        ]

    async def status(self, request: Request) -> Response:
        """200 once the instance has ended, 202 with Location before; a failure is 500 for callers who asked for that."""
        async with self._client() as client:
            status = await client.get_status(
                request.path_params["id"], show_history=_flag(request, "showHistory"),
                show_history_output=_flag(request, "showHistoryOutput"), show_input=_flag(request, "showInput", True))
        state = status.orchestration_state
        if state is None:
            return Response(status_code=404)
        if state.runtime_status not in _ENDED:
            return JSONResponse(_document(status), 202, {"Location": str(request.url), "Retry-After": "10"})
        failed = state.runtime_status == OrchestrationStatus.FAILED and _flag(request, "returnInternalServerErrorOnFailure")
        return JSONResponse(_document(status), 500 if failed else 200)

    async def search(self, request: Request) -> Response:
        """Instances by runtimeStatus (comma-separated), createdTimeFrom, createdTimeTo, instanceIdPrefix; at most `top`."""
        given = request.query_params
        show_input = _flag(request, "showInput", True)
        try:
            since, until = (datetime.fromisoformat(given[name]) if name in given else None
                            for name in ("createdTimeFrom", "createdTimeTo"))
            states = [_STATES[name.strip().lower()] for name in given.get("runtimeStatus", "").split(",") if name]
            top = int(given.get("top", 100))
        except (ValueError, KeyError) as error:
            return Response(f"A query parameter cannot be read: {error}", 400)
        query = OrchestrationQuery(since, until, states or None, fetch_inputs_and_outputs=True,
                                   instance_id_prefix=given.get("instanceIdPrefix"))
        async with self._client() as client:
            found = await client.get_all_orchestration_states(query)
        shown = (DurableOrchestrationStatus.from_orchestration_state(s, include_input=show_input) for s in found[:top])
        return JSONResponse([_document(status) for status in shown])

    async def purge(self, request: Request) -> Response:
        async with self._client() as client:
            deleted = (await client.purge_orchestration(request.path_params["id"])).deleted_instance_count
        return JSONResponse({"instancesDeleted": deleted}, 200 if deleted else 404)

    async def raise_event(self, request: Request) -> Response:
        """The body, JSON or nothing, is the event's data: 400 when it is neither, 410 when the instance has ended."""
        try:
            data = json.loads(await request.body() or b"null")
        except ValueError as error:
            return Response(f"The body is not JSON: {error}", 400)
        return await self._change(request, "raiseEvent", data)

    async def change(self, request: Request) -> Response:
        return await self._change(request, request.path_params["verb"], request.query_params.get("reason"))

    async def _change(self, request: Request, verb: str, given: Any) -> Response:
        instance = request.path_params["id"]
        async with self._client() as client:
            state = await client.get_orchestration_state(instance, fetch_payloads=False)
            if state is None:
                return Response(status_code=404)
            ended = state.runtime_status in _ENDED
            if verb == "restart":
                if not ended:
                    return Response(f"Instance '{instance}' still runs.", 409)
                anew = _flag(request, "restartWithNewInstanceId", True)
                instance = await client.restart_orchestration(instance, restart_with_new_instance_id=anew)
                return _links(client, request, instance)
            if state.runtime_status != OrchestrationStatus.FAILED if verb == "rewind" else ended:
                return Response(status_code=410)
            match verb:
                case "terminate":
                    await client.terminate_orchestration(instance, output=given)
                case "suspend":
                    await client.suspend_orchestration(instance, reason=given)
                case "resume":
                    await client.resume_orchestration(instance, reason=given)
                case "rewind":
                    await client.rewind_orchestration(instance, reason=given)
                case "raiseEvent":
                    await client.raise_orchestration_event(instance, request.path_params["event"], data=given)
                case _:
                    return Response(status_code=404)
        return Response(status_code=202)

    async def start(self, request: Request) -> Response:
        """Starts an orchestrator by name with the JSON body as its input; 409 when an instance of that id still runs."""
        try:
            given = json.loads(await request.body() or b"null")
        except ValueError as error:
            return Response(f"The body is not JSON: {error}", 400)
        wanted = request.path_params.get("id")
        async with self._client() as client:
            state = await client.get_orchestration_state(wanted, fetch_payloads=False) if wanted else None
            if state is not None and state.runtime_status not in _ENDED:
                return Response(f"Instance '{wanted}' still runs.", 409)
            instance = await client.schedule_new_orchestration(request.path_params["name"], input=given, instance_id=wanted)
            return _links(client, request, instance)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[DurableFunctionsClient]:
        client = DurableFunctionsClient(self._configuration)
        async with client:
            yield client


def _document(status: DurableOrchestrationStatus) -> dict[str, Any]:
    return dict.fromkeys(_FIELDS) | status.to_json()


def _links(client: DurableFunctionsClient, request: Request, instance: str) -> Response:
    asked = func.HttpRequest(method=request.method, url=str(request.url), body=b"")
    answer = client.create_check_status_response(asked, instance)
    return Response(answer.get_body(), answer.status_code, dict(answer.headers))


def _flag(request: Request, name: str, default: bool = False) -> bool:
    return request.query_params.get(name, str(default)).lower() == "true"
