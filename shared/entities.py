"""One table of the storage account, entity by entity, over the history's client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import batched
from typing import Any, Final

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.data.tables import TableClient, UpdateMode

from shared import storage
from shared.history import PAGE_POINTS, History
from shared.transactions import MAX_ENTITIES

type Row = Mapping[str, Any]

# Sent twice, each of them does what it does once, or says that somebody was there before.
_RETRIED: Final[dict[str, Any]] = {"retry_on_methods": frozenset({"GET", "POST", "PUT", "PATCH"})}


class Entities:
    """Reads and writes entities by PartitionKey and RowKey; every method may be called from any thread.

    All of them raise StorageUnavailable when the account does not answer. The table is created by the first write.
    """

    def __init__(self, history: History, name: str) -> None:
        self._history, self._name = history, name

    def get(self, partition: str, row: str) -> tuple[Row, str] | None:
        """An entity and its ETag, None where there is none."""
        with storage.answering():
            try:
                found = self._table.get_entity(partition, row)
            except ResourceNotFoundError:
                return None
            return found, str(found.metadata["etag"])

    def swap(self, entity: Row, etag: str | None) -> bool:
        """Writes an entity in place of the one with this ETag, or as a new one; False where somebody else was quicker."""
        with storage.answering():
            try:
                if etag is None:
                    self._creating(lambda: self._table.create_entity(entity, **_RETRIED))
                else:
                    self._table.update_entity(entity, UpdateMode.REPLACE, etag=etag,
                                              match_condition=MatchConditions.IfNotModified, **_RETRIED)
            except (ResourceExistsError, ResourceModifiedError, ResourceNotFoundError):
                return False
            return True

    def put_many(self, entities: Sequence[Row]) -> None:
        """Writes entities of one partition, each once, in place of what was there."""
        for some in batched(entities, MAX_ENTITIES, strict=False):
            operations = [("upsert", entity, {"mode": UpdateMode.REPLACE}) for entity in some]
            with storage.answering():
                self._creating(lambda operations=operations: self._table.submit_transaction(operations, **_RETRIED))

    def remove(self, partition: str, row: str) -> None:
        """Deletes an entity; nothing happens where there is none."""
        with storage.answering(), suppress(ResourceNotFoundError):
            self._table.delete_entity(partition, row, retry_on_methods=frozenset({"DELETE"}))

    def query(self, where: str, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """The entities that fit an OData filter, in the order of their keys, page by page; none where there is no table."""
        with storage.answering():
            try:
                pages = self._table.query_entities(where, select=list(columns) if columns else None,
                                                   results_per_page=PAGE_POINTS)
                yield from pages
            except ResourceNotFoundError:
                return

    def _creating(self, write: Any) -> None:
        try:
            write()
        except HttpResponseError as error:
            # An entity is created whether it is there or not: what is missing can only be the table.
            if error.status_code != 404 and storage.error_code(error) != "TableNotFound":
                raise
            self._history._service.create_table_if_not_exists(self._name)
            write()

    @cached_property
    def _table(self) -> TableClient:
        return self._history._service.get_table_client(self._name)


def quoted(text: str) -> str:
    """A text as an OData literal."""
    return "'" + text.replace("'", "''") + "'"
