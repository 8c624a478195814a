"""Blob triggers: a function runs once for every version (ETag) of a blob, also across restarts; five failures poison it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections import Counter

from azure.core import MatchConditions
from azure.core.exceptions import AzureError, ResourceModifiedError, ResourceNotFoundError
from azure.storage.blob import BlobProperties

from tools.local_host.execution import Execute
from tools.local_host.messages import Message
from tools.local_host.settings import HostConfig
from tools.local_host.storage import Outage, Storage, first_line
from tools.local_host.worker import Binding, Function, InvocationError

HOST_CONTAINER = "azure-webjobs-hosts"
HOST_CONNECTION = "AzureWebJobsStorage"
POISON_QUEUE = "webjobs-blobtrigger-poison"
POLL_SECONDS = 1.0
OUTAGE_SECONDS = 2.0
log = logging.getLogger("tools.local_host.blobs")


class BlobListener:
    """Feeds one function from its container until cancelled.

    The receipt of a version that is done, `blobreceipts/<function>/<etag>/<path>`, is written after the function has run:
    what a killed host had begun runs again.
    """

    def __init__(self, function: Function, execute: Execute, storage: Storage, config: HostConfig) -> None:
        self.function, self.execute, self.storage, self.config = function, execute, storage, config
        self.connection = function.trigger["connection"]
        self.container, _, self.template = function.trigger["path"].partition("/")
        self.pattern = path_pattern(self.template)
        self.prefix = self.template.partition("{")[0]
        self.client = storage.container(self.connection, self.container)
        self.receipts = storage.container(HOST_CONNECTION, HOST_CONTAINER)
        self.outage = Outage(f"Container '{self.container}'")
        self.tries: Counter[str] = Counter()
        self.done: set[str] = set()

    async def run(self) -> None:
        in_work: set[str] = set()
        slots = asyncio.Semaphore(self.config.blob_parallelism)

        async def process(blob: BlobProperties, receipt: str, params: dict[str, str]) -> None:
            async with slots:
                await self._process(blob, receipt, params)
            in_work.discard(receipt)

        await self._load_receipts()
        async with asyncio.TaskGroup() as tasks:
            while True:
                started = time.monotonic()
                for blob in await self._list():
                    receipt = f"{_etag(blob)}/{self.container}/{blob.name}"
                    found = self.pattern.fullmatch(blob.name)
                    if found and receipt not in self.done and receipt not in in_work:
                        in_work.add(receipt)
                        tasks.create_task(process(blob, receipt, found.groupdict()))
                # A container that takes long to list is listed less often.
                await asyncio.sleep(max(POLL_SECONDS, 5 * (time.monotonic() - started)))

    async def _list(self) -> list[BlobProperties]:
        try:
            found = await asyncio.to_thread(
                lambda: list(self.client.list_blobs(name_starts_with=self.prefix, include=["metadata"])))
        except ResourceNotFoundError:
            found = []
        except AzureError as error:
            self.outage.away(error)
            await asyncio.sleep(OUTAGE_SECONDS)
            return []
        self.outage.back()
        return found

    async def _process(self, blob: BlobProperties, receipt: str, params: dict[str, str]) -> None:
        try:
            value = self._reference(blob) if is_deferred(self.function.trigger) else await self._content(blob)
        except (ResourceModifiedError, ResourceNotFoundError):
            return  # replaced or deleted since it was listed; the next listing tells
        except AzureError as error:
            log.warning("Blob '%s' cannot be read, trying again: %s", blob.name, first_line(error))
            return
        try:
            await self.execute(self.function, value, self._metadata(blob, params))
        except InvocationError as error:
            self.tries[receipt] += 1
            if self.tries[receipt] < self.config.blob_max_tries:
                return
            log.error("Blob '%s/%s' goes to '%s' after %d tries: %s",
                      self.container, blob.name, POISON_QUEUE, self.tries[receipt], error)
            poison = {"Type": "BlobTrigger", "FunctionId": f"Host.Functions.{self.function.name}", "BlobType": "BlockBlob",
                      "ContainerName": self.container, "BlobName": blob.name, "ETag": f'"{_etag(blob)}"'}
            try:
                await self.storage.send(self.connection, POISON_QUEUE, [json.dumps(poison).encode()])
            except AzureError:
                return
        await self._write_receipt(receipt)

    async def _content(self, blob: BlobProperties) -> Message:
        content = await asyncio.to_thread(lambda: self.client.download_blob(
            blob.name, etag=blob.etag, match_condition=MatchConditions.IfNotModified).readall())
        return Message(bytes=content)

    def _reference(self, blob: BlobProperties) -> Message:
        """What a function that takes an SDK client is given in place of the content, however large that is."""
        content = {"Connection": self.connection, "ContainerName": self.container, "BlobName": blob.name}
        return Message(model_binding_data=Message(version="1.0", source="AzureStorageBlobs", content_type="application/json",
                                                  content=json.dumps(content).encode()))

    async def _load_receipts(self) -> None:
        prefix = f"blobreceipts/{self.function.name}/"
        while True:
            try:
                names = await asyncio.to_thread(lambda: list(self.receipts.list_blob_names(name_starts_with=prefix)))
            except ResourceNotFoundError:
                return
            except AzureError as error:
                # Without its receipts the trigger would run for every blob again.
                log.warning("The receipts of '%s' cannot be read, trying again: %s", self.function.name, first_line(error))
                await asyncio.sleep(OUTAGE_SECONDS)
            else:
                self.done = {name.removeprefix(prefix) for name in names}
                return

    async def _write_receipt(self, receipt: str) -> None:
        self.done.add(receipt)
        try:
            await self.storage.write(HOST_CONNECTION, f"{HOST_CONTAINER}/blobreceipts/{self.function.name}/{receipt}", b"")
        except AzureError as error:
            log.warning("The receipt of '%s' could not be written: %s", receipt, first_line(error))

    def _metadata(self, blob: BlobProperties, params: dict[str, str]) -> dict[str, Message]:
        properties = {"Length": blob.size, "ContentLength": blob.size, "ETag": f'"{_etag(blob)}"',
                      "ContentType": blob.content_settings.content_type,
                      "LastModified": blob.last_modified.isoformat(), "CreatedOn": blob.creation_time.isoformat()}
        return {**{name: Message(string=value) for name, value in params.items()},
                "BlobTrigger": Message(string=f"{self.container}/{blob.name}"),
                "Uri": Message(string=f"{self.client.url}/{blob.name}"),
                "Properties": Message(json=json.dumps(properties)),
                "Metadata": Message(json=json.dumps(blob.metadata or {}))}


def path_pattern(template: str) -> re.Pattern[str]:
    """`{table}/{name}` as a pattern: a parameter before a slash holds no slash, any other takes what it can."""
    parts = re.split(r"\{(\w+)\}", template)
    pattern = re.escape(parts[0])
    for name, literal in zip(parts[1::2], parts[2::2], strict=True):
        pattern += f"(?P<{name}>{'[^/]+' if literal.startswith('/') else '.+'}){re.escape(literal)}"
    return re.compile(pattern)


def is_deferred(trigger: Binding) -> bool:
    """Whether the function opens the blob itself, by an SDK type (azurefunctions-extensions-bindings-blob)."""
    return bool(trigger.get("properties", {}).get("SupportsDeferredBinding"))


def _etag(blob: BlobProperties) -> str:
    return str(blob.etag).strip('"')
