"""What was observed of each table where that is more than a number: one JSON document a point, in Table storage.

The entities lie in the history's table, in partitions of their own, `:documents:{detector}:{table_id}`, under the same
RowKey; the table's id is listed where the points' are. A document is compressed and cut to what a property may hold.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import batched
from typing import Any, Final

from azure.core import MatchConditions
from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.data.tables import UpdateMode

from shared import storage
from shared.errors import InvalidRequest, NotFound, PayloadTooLarge
from shared.history import SAID, STATUSES, History, partition, row_key

# The service allows 64 KiB a property and 1 MiB an entity; the emulator counts them in base64.
CHUNK_BYTES: Final = 60 * 1024
MAX_CHUNKS: Final = 12
MAX_BYTES: Final = MAX_CHUNKS * CHUNK_BYTES
_CHUNKS: Final = [f"chunk{n:02d}" for n in range(MAX_CHUNKS)]
# What was made of a document, beside what was seen.
_JUDGED: Final = ("score", "reasons", "model", "observed_at")
_COLUMNS: Final = ["RowKey", "Timestamp", "status", *_CHUNKS]
# The service's servers do not agree on the time to the second.
OVERLAP: Final = timedelta(seconds=10)

type Document = dict[str, Any]


class Documents:
    """The documents of all tables, over the history's client; every method may be called from any thread.

    All of them raise StorageUnavailable when the account does not answer, and InvalidRequest for an id that is none or a
    timestamp without a time zone.
    """

    def __init__(self, history: History) -> None:
        self._history = history

    def record(self, detector: str, table_id: str, timestamp: datetime, document: Mapping[str, Any],
               status: str = "ok") -> None:
        """Keeps a document in place of what was stored at this time. It may be repeated.

        Raises PayloadTooLarge beyond MAX_BYTES compressed, InvalidRequest for a status that is none.
        """
        self._check(status)
        entity = self._entity(detector, table_id, timestamp, document, status)
        self._history._list(detector, [table_id])
        with storage.answering():
            # Replaced and not merged: a shorter document would keep the end of a longer one.
            self._history._creating(lambda: self._history._table.upsert_entity(entity, UpdateMode.REPLACE))

    def observe(self, detector: str, table_id: str, timestamp: datetime, document: Mapping[str, Any],
                status: str = "ok") -> None:
        """`record` for what may have been seen before: what a person said of it stays as long as it is the same.

        What was made of it, such as a score, may be another.
        """
        self._check(status)
        entity = self._entity(detector, table_id, timestamp, document, status)
        self._history._list(detector, [table_id])
        table = self._history._table
        with storage.answering():
            while True:
                try:
                    self._history._creating(lambda: table.create_entity(entity))
                    return
                except ResourceExistsError:
                    pass
                try:
                    known = table.get_entity(entity["PartitionKey"], entity["RowKey"])
                    stays = known["status"] in SAID and _same(_document(known)[1], document)
                    table.update_entity(entity | ({"status": known["status"]} if stays else {}), UpdateMode.REPLACE,
                                        etag=known.metadata["etag"], match_condition=MatchConditions.IfNotModified)
                    return
                except (ResourceModifiedError, ResourceNotFoundError):
                    continue  # somebody else wrote or removed it meanwhile: look again

    def statuses(self, detector: str, table_id: str, start: datetime | None = None,
                 end: datetime | None = None) -> list[tuple[datetime, str]]:
        """(time in UTC, status) of what `read` finds."""
        where = _from(detector, table_id, start) + (f" and RowKey lt '{row_key(end)}'" if end else "")
        return [(datetime.fromisoformat(row["RowKey"]), row["status"])
                for row in self._history._query(where, ["RowKey", "status"])]

    def read(self, detector: str, table_id: str, start: datetime | None = None,
             end: datetime | None = None) -> list[tuple[datetime, Document, str]]:
        """(time in UTC, document, status) from `start` on and before `end`, oldest first; nothing for a table not known."""
        where = _from(detector, table_id, start) + (f" and RowKey lt '{row_key(end)}'" if end else "")
        rows = self._history._query(where, _COLUMNS)
        return [_document(row) for row in rows]

    def changes(self, detector: str, table_id: str, start: datetime | None,
                since: datetime | None) -> tuple[list[tuple[datetime, Document, str]], datetime | None]:
        """The documents from `start` on that were written or marked from `since` on, and when the last of them was.

        Give that as `since` the next time. It is the service's own clock, taken a few seconds back, so some documents come
        again and none is missed.
        """
        where = _from(detector, table_id, start)
        where += f" and Timestamp ge datetime'{row_key(since - OVERLAP)}'" if since else ""
        found, latest = [], since
        for row in self._history._query(where, _COLUMNS):
            found.append(_document(row))
            written = row.metadata["timestamp"]  # type: ignore[attr-defined]  # an entity is more than a mapping
            latest = max(latest or written, written)
        return found, latest

    def set_status(self, detector: str, table_id: str, timestamp: datetime, status: str) -> None:
        """What a user says about a stored document. Raises NotFound where there is none, InvalidRequest."""
        self._check(status)
        entity = {"PartitionKey": _partition(detector, table_id), "RowKey": row_key(timestamp), "status": status}
        with storage.answering():
            try:
                self._history._table.update_entity(entity, UpdateMode.MERGE)
            except ResourceNotFoundError:
                raise NotFound(f"{table_id} has no document at {entity['RowKey']}.", "timestamp") from None

    @staticmethod
    def _entity(detector: str, table_id: str, timestamp: datetime, document: Mapping[str, Any],
                status: str) -> dict[str, Any]:
        packed = zlib.compress(json.dumps(document, allow_nan=False, separators=(",", ":")).encode())
        if len(packed) > MAX_BYTES:
            raise PayloadTooLarge(f"The document has {len(packed):,} bytes compressed; at most {MAX_BYTES:,} are kept.")
        chunks = (bytes(chunk) for chunk in batched(packed, CHUNK_BYTES, strict=False))
        return {"PartitionKey": _partition(detector, table_id), "RowKey": row_key(timestamp), "status": status,
                **dict(zip(_CHUNKS, chunks, strict=False))}

    @staticmethod
    def _check(status: str) -> None:
        if status not in STATUSES:
            raise InvalidRequest(f"A status is one of {', '.join(STATUSES)}.", "status")


def _partition(detector: str, table_id: str) -> str:
    # A colon first: no detector's points can be in a partition of this name.
    return f":documents:{partition(detector, table_id)}"


def _from(detector: str, table_id: str, start: datetime | None) -> str:
    return f"PartitionKey eq '{_partition(detector, table_id)}'" + (f" and RowKey ge '{row_key(start)}'" if start else "")


def _same(known: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    seen, again = ({name: value for name, value in one.items() if name not in _JUDGED} for one in (known, document))
    return bool(seen == json.loads(json.dumps(again)))


def _document(row: Mapping[str, Any]) -> tuple[datetime, Document, str]:
    packed = b"".join(row[name] for name in _CHUNKS if row.get(name) is not None)
    document: Document = json.loads(zlib.decompress(packed))
    return datetime.fromisoformat(row["RowKey"]), document, row["status"]
