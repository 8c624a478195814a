"""Queue triggers: polling with back-off, leases, dequeue counts and poison queues, as the Functions host does it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import datetime

from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.storage.queue import QueueClient, QueueMessage

from tools.local_host.execution import Execute
from tools.local_host.messages import Message
from tools.local_host.settings import HostConfig
from tools.local_host.storage import Outage, Storage, UnreadableMessage, create, first_line
from tools.local_host.worker import Function, InvocationError

LEASE_SECONDS = 30  # a message whose host was killed comes back after this; renewed while its function runs
FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.1, 1.0
OUTAGE_SECONDS = 2.0
log = logging.getLogger("tools.local_host.queues")


class QueueListener:
    """Feeds one function from its queue until cancelled. Messages in work are then given back at once."""

    def __init__(self, function: Function, execute: Execute, storage: Storage, config: HostConfig) -> None:
        self.function, self.execute, self.storage, self.config = function, execute, storage, config
        self.name = function.trigger["queueName"].lower()
        self.connection = function.trigger["connection"]
        self.client = storage.queue(self.connection, self.name)
        self.outage = Outage(f"Queue '{self.name}'")

    async def run(self) -> None:
        longest = min(self.config.queue_poll_seconds, LONGEST_POLL_SECONDS)
        arrival = self.storage.arrivals[self.name]
        pause = FIRST_POLL_SECONDS
        running: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as tasks:
            while True:
                arrival.clear()
                messages = await self._receive()
                running |= {tasks.create_task(self._process(m)) for m in messages}
                while len(running) > self.config.queue_new_batch_threshold:
                    _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                running = {task for task in running if not task.done()}
                pause = FIRST_POLL_SECONDS if messages else min(pause * 2, longest)
                if not messages:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(arrival.wait(), pause)

    async def _receive(self) -> list[QueueMessage]:
        batch = min(self.config.queue_batch, 32)

        def receive() -> list[QueueMessage]:
            return list(self.client.receive_messages(messages_per_page=batch, max_messages=batch,
                                                     visibility_timeout=LEASE_SECONDS))

        fetching = asyncio.ensure_future(asyncio.to_thread(receive))
        try:
            messages = await asyncio.shield(fetching)
        except asyncio.CancelledError:
            with contextlib.suppress(AzureError):
                for message in await fetching:  # the thread went on and took them all the same
                    await _Lease(self.client, message).settle(visible_after=0)
            raise
        except ResourceNotFoundError:
            with contextlib.suppress(AzureError):
                await asyncio.to_thread(create, self.client)
        except AzureError as error:
            self.outage.away(error)
            await asyncio.sleep(OUTAGE_SECONDS)
        else:
            self.outage.back()
            return messages
        return []

    async def _process(self, message: QueueMessage) -> None:
        lease = _Lease(self.client, message)
        try:
            async with lease:
                await self._execute(message)
        except asyncio.CancelledError:
            await lease.settle(visible_after=0)
            raise
        except (InvocationError, UnreadableMessage, AzureError) as error:
            # Unreadable once is unreadable always: the host does not retry it.
            if isinstance(error, UnreadableMessage) or (message.dequeue_count or 1) >= self.config.queue_max_dequeue:
                log.error("Message '%s' of queue '%s' goes to '%s-poison' after %s tries: %s",
                          message.id, self.name, self.name, message.dequeue_count, error)
                if await self._bury(message):
                    await lease.settle(visible_after=None)
            else:
                await lease.settle(visible_after=int(self.config.queue_visibility_seconds))
        else:
            await lease.settle(visible_after=None)

    async def _execute(self, message: QueueMessage) -> None:
        content = self.storage.decode(message.content)
        try:
            value = Message(string=content.decode())
        except UnicodeDecodeError:
            value = Message(bytes=content)
        await self.execute(self.function, value, _metadata(message, value))

    async def _bury(self, message: QueueMessage) -> bool:
        poison = self.storage.queue(self.connection, f"{self.name}-poison")
        try:
            await asyncio.to_thread(self.storage.send_raw, poison, [message.content])
        except AzureError as error:
            log.error("Queue '%s-poison' cannot be written, the message stays: %s", self.name, error)
            return False
        self.storage.arrivals[f"{self.name}-poison"].set()
        return True


class _Lease:
    """Keeps a message invisible while its function runs, then deletes it or gives it back."""

    def __init__(self, client: QueueClient, message: QueueMessage) -> None:
        self._client, self._message, self._receipt = client, message, message.pop_receipt
        self._renewal: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._renewal = asyncio.create_task(self._renew())

    async def __aexit__(self, *_: object) -> None:
        assert self._renewal is not None
        self._renewal.cancel()
        await asyncio.wait([self._renewal])

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            with contextlib.suppress(AzureError):
                await self._update(LEASE_SECONDS)

    async def _update(self, visible_after: int) -> None:
        updated = await asyncio.to_thread(
            self._client.update_message, self._message.id, self._receipt, visibility_timeout=visible_after)
        self._receipt = updated.pop_receipt

    async def settle(self, visible_after: int | None) -> None:
        """Deletes the message, or shows it again after so many seconds. A storage outage leaves it to the lease's end."""
        try:
            if visible_after is None:
                await asyncio.to_thread(self._client.delete_message, self._message.id, self._receipt)
            else:
                await self._update(visible_after)
        except AzureError as error:
            log.warning("Message '%s' could not be settled and will come back: %s", self._message.id, first_line(error))


def _metadata(message: QueueMessage, value: Message) -> dict[str, Message]:
    def time(moment: datetime | None) -> Message:
        return Message(string=moment.isoformat() if moment else "")

    return {"QueueTrigger": value, "Id": Message(string=message.id), "PopReceipt": Message(string=message.pop_receipt or ""),
            "DequeueCount": Message(json=str(message.dequeue_count or 1)), "InsertionTime": time(message.inserted_on),
            "ExpirationTime": time(message.expires_on), "NextVisibleTime": time(message.next_visible_on)}
