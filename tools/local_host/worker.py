"""Microsoft's worker library (azure-functions-runtime) in this process: its indexing, its converters, its thread pool."""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import azure_functions_runtime as runtime

from tools.local_host import settings
from tools.local_host.messages import PROTOS, Message, ParameterBinding, Response, StatusResult, http_request, http_response
from tools.local_host.routes import Route, RouteError, RouteTable, decode_path

Binding = Mapping[str, Any]
_NO_RETRY = SimpleNamespace(retry_count=0, max_retry_count=0, exception=None)
_NO_TRACE = SimpleNamespace(trace_parent="", trace_state="", attributes={})


class IndexingError(RuntimeError):
    """The app could not be imported or its functions are wrong; the message is the worker's, with the stack."""


class InvocationError(RuntimeError):
    """A function raised. `error_type` and `message` are the exception's, `stack` its traceback."""

    def __init__(self, function: str, error_type: str, message: str, stack: str) -> None:
        super().__init__(f"{error_type}: {message}")
        self.function, self.error_type, self.message, self.stack = function, error_type, message, stack


@dataclass(frozen=True, slots=True)
class Function:
    """One function of the app. `bindings` are its raw bindings with the settings filled in, the trigger among them."""

    name: str
    id: str
    bindings: Sequence[Binding]

    @property
    def trigger(self) -> Binding:
        return next(b for b in self.bindings if b["type"].lower().endswith("trigger"))

    def inputs(self) -> list[Binding]:
        return [b for b in self.bindings if b["direction"] == "IN" and b is not self.trigger]

    def outputs(self) -> list[Binding]:
        """Output bindings but for the HTTP answer."""
        return [b for b in self.bindings if b["direction"] == "OUT" and b["type"] != "http"]


@dataclass(frozen=True, slots=True)
class Result:
    """What an invocation gave back: the value of `$return`, and of each `func.Out` that was set, by parameter name."""

    return_value: Message | None
    outputs: Mapping[str, Message]

    def output(self, binding: Binding) -> Message | None:
        return self.return_value if binding["name"] == "$return" else self.outputs.get(binding["name"])


@dataclass
class Worker:
    """An indexed app. The library keeps its state in module globals: one Worker in a process.

    `in_error` holds the functions that cannot run, by name, with the reason; the others do.
    """

    functions: dict[str, Function] = field(default_factory=dict)
    in_error: dict[str, str] = field(default_factory=dict)
    routes: RouteTable = field(default_factory=lambda: RouteTable([]))

    @classmethod
    async def start(cls, app: Path, route_prefix: str = "api") -> Worker:
        """Imports `app`/function_app.py and indexes it. Raises IndexingError."""
        sys.path.insert(0, str(app))
        request = SimpleNamespace(worker_init_request=SimpleNamespace(capabilities={}, function_app_directory=str(app)))
        answer = await runtime.worker_init_request(
            SimpleNamespace(request=request, properties={"host": "127.0.0.1", "protos": PROTOS}))
        if answer.result.status != StatusResult.Success:
            raise IndexingError(f"{answer.result.exception.message}\n{answer.result.exception.stack_trace}")
        runtime.start_threadpool_executor()
        metadata = await runtime.functions_metadata_request(None)
        worker = cls()
        routes = []
        for found in metadata.function_metadata_results or ():
            try:
                bindings = [settings.resolve_binding(json.loads(text)) for text in found.raw_bindings]
                function = Function(found.name, found.function_id, bindings)
                if function.trigger["type"] == "httpTrigger" and not settings.is_disabled(found.name):
                    template = f"{route_prefix}/{function.trigger['route']}"
                    routes.append(Route.parse(found.name, template, function.trigger.get("methods") or ()))
                worker.functions[found.name] = function
            except (settings.SettingsError, RouteError) as error:
                worker.in_error[found.name] = str(error)
        worker.routes = RouteTable(routes)
        return worker

    async def invoke(self, name: str, inputs: Mapping[str, Message],
                     metadata: Mapping[str, Message] | None = None) -> Result:
        """Runs a function: `inputs` by parameter name, `metadata` for the trigger. Raises InvocationError when it raises."""
        data = [ParameterBinding(name=parameter, data=value) for parameter, value in inputs.items()]
        request = SimpleNamespace(invocation_id=str(uuid.uuid4()), function_id=self.functions[name].id, input_data=data,
                                  trigger_metadata=metadata or {}, trace_context=_NO_TRACE, retry_context=_NO_RETRY)
        answer = await runtime.invocation_request(SimpleNamespace(request=SimpleNamespace(invocation_request=request)))
        if answer.result.status != StatusResult.Success:
            error_type, _, message = answer.result.exception.message.partition(": ")
            raise InvocationError(name, error_type, message, answer.result.exception.stack_trace)
        return Result(answer.return_value, {output.name: output.data for output in answer.output_data})

    async def request(self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Response:
        """An HTTP function's answer without a socket, for benchmarks: keys are not asked for, output bindings not delivered.

        404 when no route fits. Raises InvocationError when the function raises.
        """
        parts = urlsplit(url)
        matched = self.routes.match(method, decode_path(parts.path))
        if matched is None:
            return Response(404)
        name, params = matched
        data = http_request(method, url, headers or {}, dict(parse_qsl(parts.query, keep_blank_values=True)), params, body)
        function = self.functions[name]
        return self.answer(function, await self.invoke(name, {function.trigger["name"]: data}))

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Response:
        return await self.request("GET", url, headers)

    @staticmethod
    def answer(function: Function, result: Result) -> Response:
        """The HTTP answer in a result: that of its http output binding."""
        binding = next((b for b in function.bindings if b["type"] == "http"), None)
        return http_response(result.output(binding) if binding is not None else None)


def prepare_environment(port: int) -> None:
    """Sets what the Functions host sets for every app."""
    for name, value in (("FUNCTIONS_WORKER_RUNTIME", "python"), ("AZURE_FUNCTIONS_ENVIRONMENT", "Development"),
                        ("WEBSITE_HOSTNAME", f"localhost:{port}")):
        os.environ.setdefault(name, value)
