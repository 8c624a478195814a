"""The host as a whole: what it starts, in which order, and how all of it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from tools.local_host import bindings, durable, settings
from tools.local_host.blobs import BlobListener
from tools.local_host.execution import Execution
from tools.local_host.queues import QueueListener
from tools.local_host.server import Server
from tools.local_host.storage import Storage
from tools.local_host.timers import TimerListener
from tools.local_host.webhooks import Webhooks
from tools.local_host.worker import Function, Worker

STOP_SECONDS = 4.0  # for giving messages back to their queues
log = logging.getLogger("tools.local_host")


@dataclass
class Host:
    """An app being served on a socket that is already bound. `base_url` is how callers reach it."""

    app: Path
    config: settings.HostConfig
    listening: socket.socket
    base_url: str
    key: str
    worker: Worker = field(default_factory=Worker)

    async def prepare(self) -> None:
        """Indexes the app. Raises IndexingError."""
        self.worker = await Worker.start(self.app, self.config.route_prefix)
        for function in self.worker.functions.values():
            if reason := bindings.unsupported(function):
                self.worker.in_error[function.name] = reason

    async def serve(self, started: Callable[[], None], stop: asyncio.Event) -> None:
        """Runs until `stop` is set; `started` is called once requests are answered. Needs the storage to be up."""
        storage = Storage(self.config.queue_base64)
        backend = durable.Backend() if durable.is_durable(self.worker) else None
        client = ""
        if backend is not None:
            client = durable.client_configuration(backend.start(), self.base_url, self.config.task_hub, self.key)
        execution = Execution(self.worker, storage, client)
        server = Server(self.worker, execution, self.key, Webhooks(client) if backend is not None else None)
        web = _Uvicorn(uvicorn.Config(server, log_config=None, access_log=False, lifespan="off", server_header=False,
                                      timeout_graceful_shutdown=1))
        listeners = [asyncio.create_task(run) for run in self._listeners(execution, storage, backend)]
        web_task = asyncio.create_task(web.serve(sockets=[self.listening]))
        try:
            while not web.started and not web_task.done():
                await asyncio.sleep(0.01)
            started()
            stopped = asyncio.create_task(stop.wait())
            # A listener only ends by a bug: better to stop than to serve without it.
            done, _ = await asyncio.wait([stopped, web_task, *listeners], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                log.error("The host stops: %r", task.exception(), exc_info=task.exception())
        finally:
            for task in listeners:
                task.cancel()
            if listeners:
                await asyncio.wait(listeners, timeout=STOP_SECONDS)
            web.should_exit = True
            await asyncio.gather(web_task, return_exceptions=True)
            if backend is not None:
                backend.stop()

    def _listeners(self, execution: Execution, storage: Storage,
                   backend: durable.Backend | None) -> Iterator[Coroutine[Any, Any, None]]:
        for function in self.worker.functions.values():
            if function.name in self.worker.in_error or settings.is_disabled(function.name):
                continue
            try:
                if listener := self._listener(function, execution, storage):
                    yield listener.run()
            except settings.SettingsError as error:
                self.worker.in_error[function.name] = str(error)
        if backend is not None:
            yield durable.DurablePump(self.worker, execution, self.config, backend.address).run()

    def _listener(self, function: Function, execution: Execution,
                  storage: Storage) -> QueueListener | BlobListener | TimerListener | None:
        match function.trigger["type"]:
            case "queueTrigger":
                return QueueListener(function, execution, storage, self.config)
            case "blobTrigger":
                return BlobListener(function, execution, storage, self.config)
            case "timerTrigger":
                return TimerListener(function, execution, storage)
            case _:
                return None


class _Uvicorn(uvicorn.Server):
    """Leaves signals to the host, which has more to stop than the web server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
