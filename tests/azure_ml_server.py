"""Azure's management REST as far as the Azure ML SDK speaks it, on a loopback port: it keeps what it was sent.

A transport sends there what the SDK addresses to management.azure.com; policies above it see https, so tokens are sent too.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from azure.core.credentials import AccessToken

from tests.loopback import serving
from training.azure_ml import Patient

ARM = "https://management.azure.com"
WORKSPACE = "/subscriptions/sub/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"
STAMP = {"createdAt": "2026-09-21T02:00:00Z", "createdBy": "app", "createdByType": "Application",
         "lastModifiedAt": "2026-09-21T02:00:00Z"}
SLOW = ("onlineEndpoints", "deployments", "schedules")  # answered at once and done later


@dataclass
class Fault:
    """What a request that matches is answered with, so many times: a status, or `seconds` of silence."""

    request: str
    status: int = 0
    times: int = 1_000
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Sent:
    method: str
    path: str
    query: dict[str, list[str]]
    body: Any
    authorization: str


class AzureMl(ThreadingHTTPServer):
    """`resources` by their path after the workspace; `sent` in order; `faults` are looked at first."""

    daemon_threads = True

    def __init__(self, upload_to: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.resources: dict[str, dict[str, Any]] = {}
        self.polls: dict[str, int] = {}
        self.sent: list[Sent] = []
        self.faults: list[Fault] = []
        self.upload_to = upload_to

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def bodies(self, path: str, method: str = "PUT") -> list[Any]:
        """What was sent to resources whose whole path matches, in order."""
        return [sent.body for sent in self.sent if sent.method == method and re.fullmatch(path, sent.path)]

    def fault(self, request: str) -> Fault | None:
        for one in self.faults:
            if one.times > 0 and re.search(one.request, request):
                one.times -= 1
                return one
        return None

    def handle_error(self, *_: object) -> None:
        """Silence: clients that give up are the point."""


class _Handler(BaseHTTPRequestHandler):
    server: AzureMl
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = parts.path.removeprefix(WORKSPACE).lstrip("/")
        self.server.sent.append(Sent(self.command, path, parse_qs(parts.query), json.loads(body) if body else None,
                                     self.headers.get("Authorization", "")))
        if fault := self.server.fault(f"{self.command} {path}"):
            time.sleep(fault.seconds)
            self._answer(fault.status or 503, {"error": {"code": "Injected", "message": f"injected {fault.status}"}},
                         fault.headers)
        elif self.command == "GET":
            self._get(path)
        elif self.command == "PUT":
            self._put(path, self.server.sent[-1].body)
        else:
            self._post(path)

    do_PUT = do_POST = do_PATCH = do_DELETE = do_GET

    def _get(self, path: str) -> None:
        known = self.server.resources
        segments = path.split("/") if path else []
        if path.startswith("operations/"):
            self.server.polls[path] = self.server.polls.get(path, 0) + 1
            status = "InProgress" if self.server.polls[path] < 2 else "Succeeded"
            self._answer(200, {"status": status}, {"Retry-After": "0.01"})
        elif not segments:
            self._answer(200, {"id": WORKSPACE, "name": "ws", "location": "westeurope", "properties": {
                "workspaceId": "w", "discoveryUrl": f"{ARM}/discovery", "mlFlowTrackingUri": f"{ARM}/mlflow"}})
        elif path in known:
            self._answer(200, known[path])
        elif len(segments) % 2:
            inside = [r for p, r in sorted(known.items()) if p.rpartition("/")[0] == path]
            self._answer(200, {"value": inside})
        else:
            self._answer(404, {"error": {"code": "ResourceNotFound", "message": f"There is no {path}."}})

    def _put(self, path: str, body: Any) -> None:
        known, existing = self.server.resources, self.server.resources.get(path)
        old = existing and existing["properties"].get("modelUri")
        if old and old != body["properties"]["modelUri"]:
            return self._answer(409, {"error": {"code": "UserError", "message": "The version exists with another path."}})
        properties = {"provisioningState": "Succeeded", **_defaults(path), **body["properties"]}
        resource = {**body, "id": f"{WORKSPACE}/{path}", "name": path.rpartition("/")[2], "type": "t",
                    "systemData": STAMP, "properties": properties}
        known[path] = resource
        headers = {}
        if path.split("/")[-2] in SLOW:
            operation = f"operations/{path.replace('/', '-')}-{len(self.server.sent)}"
            headers = {"Azure-AsyncOperation": f"{ARM}{WORKSPACE}/{operation}", "Retry-After": "0.01"}
        return self._answer(201 if existing is None else 200, resource, headers)

    def _post(self, path: str) -> None:
        if path.endswith("/startPendingUpload"):
            self._answer(200, {"pendingUploadId": "1", "pendingUploadType": "TemporaryBlobReference",
                               "blobReferenceForConsumption": {
                                   "blobUri": self.server.upload_to.partition("?")[0], "storageAccountArmId": "account",
                                   "credential": {"credentialType": "SAS", "sasUri": self.server.upload_to}}})
        else:
            self._answer(200, {})

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Silence."""


def _defaults(path: str) -> dict[str, Any]:
    """What the service itself adds to a resource."""
    if path.startswith("models/"):
        return {"flavors": {}, "jobName": None, "tags": {}, "properties": {}}
    if path.startswith("onlineEndpoints/") and "/deployments/" not in path:
        return {"scoringUri": "https://endpoint.westeurope.inference.ml.azure.com/score"}
    if "/deployments/" in path:
        return {"scaleSettings": {"scaleType": "Default"}}
    return {"status": "Starting"} if path.startswith("jobs/") else {}


class ToLoopback(Patient):
    """Everything for management.azure.com goes to `url`."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(**options)
        self._url = url

    def send(self, request: Any, **options: Any) -> Any:
        asked, request.url = request.url, request.url.replace(ARM, self._url)
        try:
            return super().send(request, **options)
        finally:
            request.url = asked  # a retry is a request for Azure again


class Token:
    """An identity whose token says who it is."""

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        return AccessToken("loopback-token", int(time.time()) + 3600)


@contextmanager
def azure_ml(upload_to: str = "") -> Iterator[AzureMl]:
    with serving(AzureMl(upload_to)) as server:
        yield server
