"""A way to a storage emulator that at some point says no: every request from one on is refused."""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

_HOPS = ("connection", "keep-alive", "transfer-encoding", "content-length", "host")


class Refusing:
    """Stands before an account's blob and table endpoints: from request `number` on all are refused.

    With `after`, from write `number` on, which is carried out all the same: only its answer is lost.
    """

    def __init__(self, account: str, number: int, after: bool = False) -> None:
        self.number, self.after, self.count, self.refused = number, after, 0, False
        self._lock = threading.Lock()
        fields = dict(part.split("=", 1) for part in account.split(";") if part)
        self._servers = []
        for name in ("BlobEndpoint", "TableEndpoint"):
            target = urlsplit(fields[name])
            server = _Proxy(self, str(target.hostname), int(target.port or 80))
            fields[name] = f"http://127.0.0.1:{server.server_port}{target.path}"
            self._servers.append(server)
        self.connection_string = ";".join(f"{key}={value}" for key, value in fields.items())

    def says(self, method: str) -> tuple[bool, bool]:
        """(whether the next request is carried out, whether it is answered)"""
        with self._lock:
            counts = not self.refused and (method not in ("GET", "HEAD") or not self.after)
            self.count += counts
            now = counts and self.count == self.number
            self.refused |= now
            return not self.refused or (now and self.after), not self.refused

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: Refusing, host: str, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.owner, self.target = owner, (host, port)


class _Handler(BaseHTTPRequestHandler):
    server: _Proxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        carried, answered = self.server.owner.says(self.command)
        status, headers, answer = 403, [("x-ms-error-code", "AuthorizationFailure")], b""
        if carried:
            connection = http.client.HTTPConnection(*self.server.target)
            sent = {name: value for name, value in self.headers.items() if name.lower() not in _HOPS}
            connection.request(self.command, self.path, body, {**sent, "Content-Length": str(len(body))})
            reply = connection.getresponse()
            if answered:
                status, answer = reply.status, reply.read()
                headers = [(name, value) for name, value in reply.getheaders() if name.lower() not in _HOPS]
            connection.close()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_PUT = do_POST = do_PATCH = do_DELETE = do_HEAD = do_MERGE = do_GET

    def log_message(self, *_: object) -> None:
        """Silence."""
