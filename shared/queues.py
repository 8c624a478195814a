"""Queues, written, counted and read by hand; triggers read them by themselves. The only home of azure.storage.queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.storage.queue import LinearRetry, QueueClient, QueueMessage, QueueServiceClient

from shared import storage
from shared.settings import Settings

# The service takes 64 KiB of text; what is left is for characters that XML writes as several.
LONGEST_BYTES: Final = 60 * 1024
NEVER: Final = -1
_PAGE: Final = 32


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message taken from a queue for a while. It comes back unless it is deleted."""

    id: str
    text: str
    delete: Callable[[], None]


class Queues:
    """One client for the whole process, made at its first use; every method may be called from any thread.

    All of them raise StorageUnavailable when the account does not answer. Texts go as they are, without base64, as
    host.json says (`messageEncoding`).
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def put(self, queue: str, text: str, delay_seconds: int = 0) -> None:
        """Puts a text of at most LONGEST_BYTES on the queue, which is created where it is missing. It never expires.

        Nobody sees it before `delay_seconds`, a week at most, have passed.
        """
        client = self._queue(queue)
        with storage.answering():
            try:
                client.send_message(text, time_to_live=NEVER, visibility_timeout=delay_seconds)
            except ResourceNotFoundError:
                with suppress(ResourceExistsError):  # another worker was quicker
                    client.create_queue()
                client.send_message(text, time_to_live=NEVER, visibility_timeout=delay_seconds)

    def length(self, queue: str) -> int:
        """About how many messages there are; 0 where there is no such queue."""
        with storage.answering(), suppress(ResourceNotFoundError):
            return self._queue(queue).get_queue_properties().approximate_message_count or 0
        return 0

    def peek(self, queue: str) -> dict[str, str]:
        """The texts of the next messages by id, 32 at most, which stay where they are."""
        with storage.answering(), suppress(ResourceNotFoundError):
            return {message.id: message.content for message in self._queue(queue).peek_messages(_PAGE)}
        return {}

    def take(self, queue: str, seconds: int = 300) -> Iterator[Waiting]:
        """Every message once; nobody else sees them for so many seconds."""
        client = self._queue(queue)
        with storage.answering(), suppress(ResourceNotFoundError):
            for message in client.receive_messages(messages_per_page=_PAGE, visibility_timeout=seconds):
                yield Waiting(message.id, message.content, partial(_delete, client, message))

    def _queue(self, name: str) -> QueueClient:
        return self._service.get_queue_client(name)

    @cached_property
    def _service(self) -> QueueServiceClient:
        return storage.client(QueueServiceClient, LinearRetry, "queue", self._settings.queue_uri, self._settings)


def _delete(client: QueueClient, message: QueueMessage) -> None:
    with storage.answering(), suppress(ResourceNotFoundError):
        client.delete_message(message)
