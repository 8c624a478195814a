"""Blob storage: small objects read and written whole, with ETags. The only home of azure.storage.blob."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, BinaryIO, Final, overload

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.storage.blob import BlobClient, BlobPrefix, BlobServiceClient, LinearRetry

from shared import storage
from shared.errors import Conflict, PayloadTooLarge
from shared.ids import check_blob_name
from shared.settings import Settings


class NotModified(Enum):
    """The answer to a read that named an ETag which is still current."""

    NOT_MODIFIED = "not modified"


NOT_MODIFIED: Final = NotModified.NOT_MODIFIED


@dataclass(frozen=True, slots=True)
class Blob:
    data: bytes
    etag: str


class Blobs:
    """One client for the whole process, made at its first use; every method may be called from any thread.

    All of them raise StorageUnavailable when the account does not answer, and InvalidRequest for a name that is no path
    of ids. A container is created by the first write that misses it; reading one that is not there finds nothing.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @overload
    def get(self, container: str, name: str, *, longest: int | None = None) -> Blob | None: ...
    @overload
    def get(self, container: str, name: str, etag: str | None, *,
            longest: int | None = None) -> Blob | NotModified | None: ...

    def get(self, container: str, name: str, etag: str | None = None, *,
            longest: int | None = None) -> Blob | NotModified | None:
        """The blob, None where there is none, NOT_MODIFIED where it still has `etag`.

        Raises PayloadTooLarge before reading more than `longest` bytes.
        """
        condition: dict[str, Any] = {"etag": etag, "match_condition": MatchConditions.IfModified} if etag else {}
        with storage.answering():
            try:
                download = self._blob(container, name).download_blob(max_concurrency=1, **condition)
                if longest is not None and download.size > longest:
                    raise PayloadTooLarge(f"{name} holds {download.size:,} bytes, more than {longest:,}.")
                return Blob(download.readall(), download.properties.etag)
            except ResourceNotFoundError:
                return None
            except HttpResponseError as error:
                if error.status_code == 304:  # under more than one class
                    return NOT_MODIFIED
                raise

    def stream(self, container: str, name: str) -> Iterator[bytes]:
        """The blob in chunks of a few MiB."""
        with storage.answering(), suppress(ResourceNotFoundError):
            yield from self._blob(container, name).download_blob(max_concurrency=1).chunks()

    def put(self, container: str, name: str, data: bytes | BinaryIO, *, if_absent: bool = False,
            if_match: str | None = None, metadata: Mapping[str, str] | None = None) -> str:
        """Writes the blob, with short ASCII texts beside it, and returns its ETag.

        Raises Conflict when it is there already (`if_absent`) or is not the one with `if_match` any more.
        """
        blob = self._blob(container, name)
        condition: dict[str, Any] = {}
        if if_match:
            condition = {"etag": if_match, "match_condition": MatchConditions.IfNotModified}

        def upload() -> str:
            if not isinstance(data, bytes):
                data.seek(0)
            return str(blob.upload_blob(data, overwrite=not if_absent, max_concurrency=1, metadata=dict(metadata or {}),
                                        **condition)["etag"])

        with storage.answering():
            try:
                return self._creating(container, upload)
            except (ResourceExistsError, ResourceModifiedError) as error:
                raise Conflict(f"{name} was written by somebody else first.") from error

    def delete(self, container: str, name: str) -> None:
        """Removes the blob if it is there."""
        with storage.answering(), suppress(ResourceNotFoundError):
            self._blob(container, name).delete_blob()

    def names(self, container: str, prefix: str = "") -> Iterator[str]:
        """The names that start with `prefix`, in the order of their text."""
        with storage.answering(), suppress(ResourceNotFoundError):
            yield from self._service.get_container_client(container).list_blob_names(name_starts_with=prefix)

    def metadata(self, container: str, prefix: str = "") -> Iterator[tuple[str, Mapping[str, str]]]:
        """The names that start with `prefix`, in the order of their text, with what was written beside each."""
        with storage.answering(), suppress(ResourceNotFoundError):
            for item in self._service.get_container_client(container).list_blobs(prefix, include="metadata"):
                yield item.name, item.metadata or {}

    def folders(self, container: str, prefix: str = "") -> Iterator[str]:
        """The names that start with `prefix`, cut at the first `/` after it, each once."""
        with storage.answering(), suppress(ResourceNotFoundError):
            for item in self._service.get_container_client(container).walk_blobs(name_starts_with=prefix):
                if isinstance(item, BlobPrefix):
                    yield item.name.rstrip("/")

    def _creating[T](self, container: str, write: Callable[[], T]) -> T:
        try:
            return write()
        except ResourceNotFoundError as error:
            if storage.error_code(error) != "ContainerNotFound":
                raise
        with suppress(ResourceExistsError):  # another worker was quicker
            self._service.create_container(container)
        return write()

    def _blob(self, container: str, name: str) -> BlobClient:
        return self._service.get_blob_client(container, check_blob_name(name))

    @cached_property
    def _service(self) -> BlobServiceClient:
        return storage.client(BlobServiceClient, LinearRetry, "blob", self._settings.blob_uri, self._settings)
