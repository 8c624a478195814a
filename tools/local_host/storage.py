"""Blobs and queues for triggers and bindings. The SDK is synchronous here, so every call runs in a thread."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections import defaultdict
from typing import Any

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import BlobServiceClient, ContainerClient, LinearRetry
from azure.storage.queue import QueueClient, QueueServiceClient

from tools.local_host.settings import SettingsError, connection_string

# Loopback answers at once or not at all, so a retry is for a connection that was closed while idle. The SDK's own policy
# would hold up a request for 20 seconds and more.
_PATIENCE: dict[str, Any] = {"connection_timeout": 2, "read_timeout": 10,
                             "retry_policy": LinearRetry(backoff=0, retry_total=2, random_jitter_range=0)}
log = logging.getLogger("tools.local_host.storage")


class UnreadableMessage(ValueError):
    """A queue message that is not in the encoding host.json asks for."""


class Storage:
    """The storage accounts that bindings name in `connection`. Raises SettingsError for one that is not set or malformed."""

    def __init__(self, queue_base64: bool = True) -> None:
        self._base64 = queue_base64
        self._queues: dict[str, QueueServiceClient] = {}
        self._blobs: dict[str, BlobServiceClient] = {}
        # Set when this host itself sends to a queue, so that its listener need not wait for the next poll.
        self.arrivals: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def queue(self, connection: str, name: str) -> QueueClient:
        if connection not in self._queues:
            self._queues[connection] = _service(QueueServiceClient, connection)
        return self._queues[connection].get_queue_client(name)

    def container(self, connection: str, name: str) -> ContainerClient:
        if connection not in self._blobs:
            self._blobs[connection] = _service(BlobServiceClient, connection)
        return self._blobs[connection].get_container_client(name)

    async def send(self, connection: str, queue: str, contents: list[bytes]) -> None:
        """Puts each content on the queue, which is created when it is missing."""
        await asyncio.to_thread(self.send_raw, self.queue(connection, queue), [self.encode(c) for c in contents])
        self.arrivals[queue].set()

    @staticmethod
    def send_raw(client: QueueClient, texts: list[str]) -> None:
        """Puts texts on the queue as they are, blocking."""
        for text in texts:
            try:
                client.send_message(text)
            except ResourceNotFoundError:
                create(client)
                client.send_message(text)

    async def write(self, connection: str, path: str, content: bytes) -> None:
        """Writes the blob `container/name`; the container is created when it is missing."""
        container, _, name = path.partition("/")
        client = self.container(connection, container)

        def upload() -> None:
            try:
                client.upload_blob(name, content, overwrite=True)
            except ResourceNotFoundError:
                create(client)
                client.upload_blob(name, content, overwrite=True)

        await asyncio.to_thread(upload)

    async def read(self, connection: str, path: str) -> bytes | None:
        """The blob `container/name`, None when there is none."""
        container, _, name = path.partition("/")
        client = self.container(connection, container)
        try:
            return await asyncio.to_thread(lambda: client.download_blob(name).readall())
        except ResourceNotFoundError:
            return None

    def encode(self, content: bytes) -> str:
        return base64.b64encode(content).decode() if self._base64 else content.decode()

    def decode(self, text: str) -> bytes:
        """Raises UnreadableMessage."""
        if not self._base64:
            return text.encode()
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise UnreadableMessage("the message is not base64: send it encoded, or set messageEncoding to none") from None


def _service[S: (QueueServiceClient, BlobServiceClient)](kind: type[S], connection: str) -> S:
    try:
        return kind.from_connection_string(connection_string(connection), **_PATIENCE)
    except ValueError as error:
        raise SettingsError(f"Connection '{connection}' is no connection string: {error}") from None


def first_line(error: Exception) -> str:
    """The SDK's errors go on with headers and XML that say nothing more."""
    return (str(error) or type(error).__name__).splitlines()[0]


class Outage:
    """Tells the log once that a poller's storage is away, and once that it is back."""

    def __init__(self, what: str) -> None:
        self._what, self._away = what, False

    def away(self, error: Exception) -> None:
        if not self._away:
            log.warning("%s cannot be read, trying again: %s", self._what, first_line(error))
        self._away = True

    def back(self) -> None:
        if self._away:
            log.info("%s can be read again.", self._what)
        self._away = False


def create(client: QueueClient | ContainerClient) -> None:
    """Creates a queue or a container unless it is there."""
    try:
        if isinstance(client, QueueClient):
            client.create_queue()
        else:
            client.create_container()
    except ResourceExistsError:
        pass
