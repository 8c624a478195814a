"""The HTTP side of the host: the app's HTTP functions, the durable webhooks and a little of the admin API."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import os
from collections import defaultdict

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from tools.local_host.execution import Execution
from tools.local_host.messages import Message, http_request
from tools.local_host.routes import decode_path
from tools.local_host.webhooks import PREFIX, Webhooks
from tools.local_host.worker import Function, InvocationError, Worker

DEFAULT_BODY_LIMIT = 104_857_600  # the host's own, in bytes
log = logging.getLogger("tools.local_host")


class BodyTooLarge(Exception):
    """A request body over FUNCTIONS_REQUEST_BODY_SIZE_LIMIT."""


class Server:
    """The ASGI application. One key serves as function, admin and system key."""

    def __init__(self, worker: Worker, execution: Execution, key: str, webhooks: Webhooks | None) -> None:
        self._worker, self._execution, self._key = worker, execution, key
        self._limit = int(os.environ.get("FUNCTIONS_REQUEST_BODY_SIZE_LIMIT", DEFAULT_BODY_LIMIT))
        self._by_hand: set[asyncio.Task[None]] = set()
        self._own = Router([
            Route("/", self._home), Route("/admin/host/ping", self._home), Route("/admin/host/status", self._status),
            Route("/admin/functions", self._list), Route("/admin/functions/{name}", self._run_by_hand, methods=["POST"]),
            *(webhooks.routes() if webhooks is not None else ()),
        ])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self._answer(request)
        if response is None:
            await self._own(scope, receive, send)
        else:
            await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response | None:
        """The answer of a function or a refusal; None for what the host itself answers."""
        try:
            path = decode_path(request.scope["raw_path"].decode("latin-1"))
        except ValueError:
            return Response(status_code=400)
        if path.startswith(("/admin/functions", "/admin/host/status", PREFIX)):
            return None if self._has_key(request) else Response(status_code=401)
        matched = self._worker.routes.match(request.method, path)
        if matched is None or matched[0] in self._worker.in_error:
            return None
        name, params = matched
        function = self._worker.functions[name]
        if function.trigger.get("authLevel", "FUNCTION").upper() != "ANONYMOUS" and not self._has_key(request):
            return Response(status_code=401)
        try:
            return await self._call(function, request, params)
        except BodyTooLarge:
            return Response(status_code=413)
        except InvocationError:
            return Response(status_code=500)
        except asyncio.CancelledError:  # the host is stopping and has waited long enough
            return Response(status_code=503)

    async def _call(self, function: Function, request: Request, params: dict[str, str]) -> Response:
        query = _joined(request.query_params.multi_items())
        headers = _joined(request.headers.items())
        value = http_request(request.method, _url(request), headers, query, params, await self._body(request))
        answer = self._worker.answer(function, await self._execution(function, value, {}))
        response = Response(answer.body, answer.status)
        raw = [(name.lower().encode("latin-1"), text.encode("latin-1")) for name, text in answer.headers]
        response.raw_headers = [*response.raw_headers, *(pair for pair in raw if pair[0] != b"content-length")]
        return response

    async def _body(self, request: Request) -> bytes:
        """Raises BodyTooLarge; the rest is read all the same, so that the caller, still sending, gets to see the answer."""
        chunks, size = [], 0
        async for chunk in request.stream():
            size += len(chunk)
            if size <= self._limit:
                chunks.append(chunk)
            else:
                chunks.clear()
        if size > self._limit:
            raise BodyTooLarge
        return b"".join(chunks)

    def _has_key(self, request: Request) -> bool:
        given = request.headers.get("x-functions-key") or request.query_params.get("code") or ""
        return hmac.compare_digest(given.encode(), self._key.encode())

    async def _home(self, request: Request) -> Response:
        return PlainTextResponse("Your Functions app is up and running.\n")

    async def _status(self, request: Request) -> Response:
        errors = [f"{name}: {reason}" for name, reason in self._worker.in_error.items()]
        return JSONResponse({"id": "localhost", "state": "Running", "version": "local", "errors": errors})

    async def _list(self, request: Request) -> Response:
        functions = self._worker.functions.values()
        return JSONResponse([{"name": f.name, "config": {"bindings": list(f.bindings)}} for f in functions])

    async def _run_by_hand(self, request: Request) -> Response:
        """202: runs a timer or queue function in the background, with `{"input": "..."}` as the message."""
        function = self._worker.functions.get(request.path_params["name"])
        if function is None:
            return Response(status_code=404)
        try:
            given = json.loads(await request.body() or b"{}").get("input") or ""
        except (ValueError, AttributeError):
            return Response('The body must be a JSON object such as {"input": ""}.', 400)
        match function.trigger["type"]:
            case "queueTrigger":
                value, metadata = Message(string=given), {"Id": Message(string="by-hand"), "DequeueCount": Message(json="1")}
            case "timerTrigger":
                value, metadata = Message(json=json.dumps({"IsPastDue": False})), {}
            case other:
                return Response(f"A {other} cannot be run by hand here.", 400)
        task = asyncio.create_task(self._run(function, value, metadata))
        self._by_hand.add(task)
        task.add_done_callback(self._by_hand.discard)
        return Response(status_code=202)

    async def _run(self, function: Function, value: Message, metadata: dict[str, Message]) -> None:
        with contextlib.suppress(InvocationError):  # logged
            await self._execution(function, value, metadata)


def _url(request: Request) -> str:
    """The URL as it was sent; starlette's own has its escapes undone."""
    raw, query = request.scope["raw_path"].decode("latin-1"), request.url.query
    return f"{request.url.scheme}://{request.url.netloc}{raw}" + (f"?{query}" if query else "")


def _joined(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Repeated names become one value with commas, as the host passes them on."""
    values: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in pairs:
        values[name].append(value)
    return {name: ",".join(found) for name, found in values.items()}
