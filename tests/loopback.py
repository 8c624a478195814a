"""An HTTP server in the place of a storage account: for what Azurite never does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from shared.settings import Settings


class Loopback(ThreadingHTTPServer):
    """Answers every request with `status` and remembers the paths; drops each request once where `drops` is set."""

    def __init__(self, status: int, drops: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.drops, self.paths = status, drops, list[str]()

    @property
    def settings(self) -> Settings:
        at = f"http://127.0.0.1:{self.server_port}/account"
        return Settings(connection_string=f"AccountName=account;AccountKey=a2V5;BlobEndpoint={at};TableEndpoint={at}")

    def handle_error(self, *_: object) -> None:
        """Silence: dropped connections are the point."""


class _Handler(BaseHTTPRequestHandler):
    server: Loopback

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.paths.append(self.path)
        if self.server.drops and self.server.paths.count(self.path) == 1:
            self.close_connection = True
            return
        batch = self.path.endswith("$batch")
        answer = b"HTTP/1.1 204 No Content" if batch else b""
        self.send_response(202 if batch else self.server.status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_PUT = do_POST = do_PATCH = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        """Silence."""


@contextmanager
def loopback(status: int, drops: bool = False) -> Iterator[Loopback]:
    with serving(Loopback(status, drops)) as server:
        yield server


@contextmanager
def serving[S: ThreadingHTTPServer](server: S) -> Iterator[S]:
    """A server answering on its own thread."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
