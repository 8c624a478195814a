"""What was observed of each table, one entity a point, in Table storage. The only home of azure.data.tables.

PartitionKey `{detector}:{table_id}`, RowKey the UTC time in fixed width, so that keys sort by time, a rerun of a load
replaces its failed point, and a training window is one range query. The partition `:tables:{detector}` lists the tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import batched
from typing import Any, Final

import numpy as np
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.data.tables import TableClient, TableServiceClient, UpdateMode
from numpy.typing import NDArray

from shared import storage, transactions
from shared.errors import InvalidRequest, NotFound
from shared.ids import check_id
from shared.settings import Settings

# `ok` and `anomaly` are verdicts; the others are a person's word: `confirmed` says that it was an anomaly indeed.
STATUSES: Final = ("ok", "anomaly", "expected", "repaired", "excluded", "confirmed")
OK, ANOMALY, EXPECTED, REPAIRED, EXCLUDED, CONFIRMED = range(len(STATUSES))
LEFT_OUT: Final = ("excluded", "confirmed")  # what no detector may learn from, whatever it thinks of it
SAID: Final = ("expected", "repaired", "excluded", "confirmed")
_CODES = {name: code for code, name in enumerate(STATUSES)}
PAGE_POINTS = 1000
CONNECTIONS = 4
# Every write here may be sent twice, so a connection that broke is no reason to give up, whatever the method.
_RETRIED: Final[dict[str, Any]] = {"retry_on_methods": frozenset({"GET", "POST", "PATCH"})}
# The emulator takes its time over partitions of many thousand points.
_PATIENT: Final[dict[str, Any]] = {**_RETRIED, "read_timeout": 60.0, "retry_total": 3}


@dataclass(frozen=True, slots=True)
class Point:
    """One observed value. `timestamp` aware, `value` finite, `score` in [0, 1], `model` the version that judged it.

    Raises InvalidRequest, naming the field.
    """

    timestamp: datetime
    value: float
    status: str = "ok"
    score: float | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        if self.timestamp.tzinfo is None:
            raise InvalidRequest("A timestamp needs a time zone here.", "timestamp")
        if not math.isfinite(self.value):
            raise InvalidRequest("A value must be a finite number.", "value")
        if self.status not in _CODES:
            raise InvalidRequest(f"A status is one of {', '.join(STATUSES)}.", "status")

    @property
    def seconds(self) -> int:
        """Since 1970-01-01 UTC, rounded down."""
        return math.floor(self.timestamp.timestamp())

    @property
    def code(self) -> int:
        return _CODES[self.status]


@dataclass(frozen=True, slots=True)
class Series:
    """The history of one table, oldest first.

    `seconds` (m,) int64 since 1970-01-01 UTC, `values` (m,) float64 in the metric's own unit, `status` (m,) uint8, the
    codes of STATUSES. `stale` says why it may lack the latest points, None when it lacks none.
    """

    seconds: NDArray[np.int64]
    values: NDArray[np.float64]
    status: NDArray[np.uint8]
    stale: str | None = None

    @classmethod
    def of(cls, seconds: Sequence[int], values: Sequence[float], status: Sequence[int]) -> Series:
        return cls(np.array(seconds, np.int64), np.array(values, np.float64), np.array(status, np.uint8))

    def said_of(self, second: int, value: float) -> str | None:
        """What a person said of this value at this time, None where nobody said anything."""
        at = int(np.searchsorted(self.seconds, second))
        if at == len(self.seconds) or self.seconds[at] != second or self.values[at] != value:
            return None
        return word if (word := STATUSES[self.status[at]]) in SAID else None

    def with_point(self, point: Point) -> Series:
        """The series with one point more, or with another value at a time that it has.

        What a person said of a value stays as long as the value does.
        """
        if self.said_of(point.seconds, point.value) is not None:
            return self
        at = int(np.searchsorted(self.seconds, point.seconds))
        rest = at + 1 if at < len(self.seconds) and self.seconds[at] == point.seconds else at

        def spliced[T: np.generic](array: NDArray[T], new: float) -> NDArray[T]:
            return np.concatenate((array[:at], np.array([new], array.dtype), array[rest:]))

        return Series(spliced(self.seconds, point.seconds), spliced(self.values, point.value),
                      spliced(self.status, point.code), self.stale)


class History:
    """One client for the whole process, made at its first use; every method may be called from any thread.

    All of them raise StorageUnavailable when the account does not answer, and InvalidRequest for an id that is none. The
    table is created by the first write that misses it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._listed: set[tuple[str, str]] = set()

    def record(self, detector: str, table_id: str, points: Sequence[Point]) -> None:
        """Keeps the points; of several at one time the last, and each in place of what was stored there."""
        self.record_many(detector, {table_id: points})

    def record_many(self, detector: str, points: Mapping[str, Sequence[Point]]) -> None:
        """`record` for many tables at once, several transactions at a time. Repeat it when it raises: it is idempotent."""
        now = row_key(datetime.now(UTC))
        latest = {table_id: {row_key(p.timestamp): p for p in some} for table_id, some in points.items()}
        entities = {table_id: [_entity(partition(detector, table_id), key, p, now) for key, p in some.items()]
                    for table_id, some in latest.items()}
        self._list(detector, points)
        self._upsert([batch for some in entities.values() for batch in _batches(some)])

    def observe(self, detector: str, table_id: str, point: Point, observed_at: datetime) -> bool:
        """Keeps a point unless one observed later, or this very one, is there; tells whether it did.

        Messages may so arrive twice and in any order. What a person said of the value stays as long as the value does.
        """
        self._list(detector, [table_id])
        entity = _entity(partition(detector, table_id), row_key(point.timestamp), point, row_key(observed_at))
        with storage.answering():
            while True:
                try:
                    self._creating(lambda: self._table.create_entity(entity, **_RETRIED))
                    return True
                except ResourceExistsError:
                    pass
                try:
                    stored = self._table.get_entity(entity["PartitionKey"], entity["RowKey"],
                                                    select=["observed_at", "value", "status"])
                    if stored.get("observed_at", "") >= entity["observed_at"]:
                        return False
                    stays = stored["status"] in SAID and stored["value"] == entity["value"]
                    update = {**entity, "status": stored["status"]} if stays else entity
                    self._table.update_entity(update, UpdateMode.MERGE, etag=stored.metadata["etag"],
                                              match_condition=MatchConditions.IfNotModified, **_RETRIED)
                    return True
                except (ResourceModifiedError, ResourceNotFoundError):
                    continue  # somebody else wrote or removed it meanwhile: look again

    def set_status(self, detector: str, table_id: str, timestamp: datetime, status: str) -> None:
        """What a user says about a stored point. Raises NotFound where there is none, InvalidRequest."""
        if status not in _CODES:
            raise InvalidRequest(f"A status is one of {', '.join(STATUSES)}.", "status")
        entity = {"PartitionKey": partition(detector, table_id), "RowKey": row_key(timestamp), "status": status}
        with storage.answering():
            try:
                self._table.update_entity(entity, UpdateMode.MERGE, **_RETRIED)
            except ResourceNotFoundError:
                raise NotFound(f"{table_id} has no point at {entity['RowKey']}.", "timestamp") from None

    def mark(self, detector: str, table_id: str, moments: Sequence[datetime], status: str) -> None:
        """`set_status` for many points that are there, a hundred at a time. It may be repeated. Raises InvalidRequest."""
        if status not in _CODES:
            raise InvalidRequest(f"A status is one of {', '.join(STATUSES)}.", "status")
        of = partition(detector, table_id)
        self._upsert(list(_batches({"PartitionKey": of, "RowKey": row_key(at), "status": status} for at in moments)))

    def read(self, detector: str, table_id: str, start: datetime | None = None, end: datetime | None = None) -> Series:
        """The points from `start` on and before `end`; an empty series for a table that is not known."""
        where = f"PartitionKey eq '{partition(detector, table_id)}'"
        where += f" and RowKey ge '{row_key(start)}'" if start else ""
        where += f" and RowKey lt '{row_key(end)}'" if end else ""
        rows = list(self._query(where, ["RowKey", "value", "status"]))
        return Series(np.array([row["RowKey"][:19] for row in rows], "datetime64[s]").astype(np.int64),
                      np.array([row["value"] for row in rows], np.float64),
                      np.array([_CODES[row["status"]] for row in rows], np.uint8))

    def tables(self, detector: str) -> Iterator[str]:
        """The ids of all tables that a point was ever kept of, sorted."""
        for row in self._query(f"PartitionKey eq '{_index(detector)}'", ["RowKey"]):
            yield row["RowKey"]

    def listed(self, prefix: str) -> Iterator[tuple[str, str]]:
        """(detector, table id) of all series whose detector's name begins with `prefix`, sorted."""
        first = ":tables:" + prefix
        for row in self._query(f"PartitionKey ge '{first}' and PartitionKey lt '{first}~'", ["PartitionKey", "RowKey"]):
            yield row["PartitionKey"].removeprefix(":tables:"), row["RowKey"]

    def _list(self, detector: str, table_ids: Iterable[str]) -> None:
        """Writes tables into the index, once for each worker; before their points, so that none is ever unlisted."""
        index = _index(detector)
        new = [table_id for table_id in table_ids if (detector, check_id(table_id, "table_id")) not in self._listed]
        rows = [{"PartitionKey": index, "RowKey": table_id} for table_id in new]
        self._upsert(list(_batches(rows)))
        self._listed.update((detector, table_id) for table_id in new)

    def _upsert(self, batches: Sequence[Sequence[dict[str, Any]]]) -> None:
        if len(batches) < 2:
            for batch in batches:
                self._transact(batch)
        else:
            with ThreadPoolExecutor(min(CONNECTIONS, len(batches))) as pool:
                list(pool.map(self._transact, batches))

    def _transact(self, entities: Sequence[dict[str, Any]]) -> None:
        with storage.answering():
            table = self._table
            request = transactions.upserts(table.url, table.table_name, table.api_version, entities)
            # The library signs and retries it as one of its own; nothing public of it sends what is already written.
            response = table._client.send_request(request, stream=True, **_PATIENT)
            if not transactions.kept(response.status_code, response.read(), entities):
                # The slow way creates the table, or says what is wrong.
                operations = [("upsert", entity, {"mode": UpdateMode.MERGE}) for entity in entities]
                self._creating(lambda: table.submit_transaction(operations, **_PATIENT))

    def _query(self, where: str, columns: list[str]) -> Iterator[Mapping[str, Any]]:
        with storage.answering():
            try:
                yield from self._table.query_entities(where, select=columns, results_per_page=PAGE_POINTS)
            except ResourceNotFoundError:
                return

    def _creating[T](self, write: Callable[[], T]) -> T:
        try:
            return write()
        except HttpResponseError as error:
            if storage.error_code(error) != "TableNotFound":
                raise
        self._service.create_table_if_not_exists(self._settings.history_table)
        return write()

    @cached_property
    def _table(self) -> TableClient:
        return self._service.get_table_client(self._settings.history_table)

    @cached_property
    def _service(self) -> TableServiceClient:
        settings = self._settings
        options: dict[str, Any] = {"connection_timeout": storage.CONNECT_SECONDS, "read_timeout": storage.READ_SECONDS,
                                   "retry_total": storage.TRIES - 1, "retry_backoff_factor": 0.1}
        if settings.connection_string:
            with storage.readable_connection():
                return TableServiceClient.from_connection_string(settings.connection_string, **options)
        if settings.table_uri:
            return TableServiceClient(settings.table_uri, credential=storage.credential(settings.client_id), **options)
        raise storage.missing_connection("table")


def left_out(status: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(m,) codes -> (m,) whether no detector may learn from the point."""
    return np.asarray((status == EXCLUDED) | (status == CONFIRMED))


def partition(detector: str, table_id: str) -> str:
    """The PartitionKey of a table's points. Raises InvalidRequest."""
    return f"{check_id(detector, 'detector')}:{check_id(table_id, 'table_id')}"


def row_key(timestamp: datetime) -> str:
    """UTC in fixed width, `2026-09-21T02:00:00.000000Z`, so that keys sort by time. Raises InvalidRequest."""
    if timestamp.tzinfo is None:
        raise InvalidRequest("A timestamp needs a time zone here.", "timestamp")
    try:
        return timestamp.astimezone(UTC).isoformat(timespec="microseconds")[:26] + "Z"
    except OverflowError:
        raise InvalidRequest("The timestamp is outside the years 1 to 9999 UTC.", "timestamp") from None


def _batches(entities: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], ...]]:
    return batched(entities, transactions.MAX_ENTITIES, strict=False)


def _index(detector: str) -> str:
    # A colon first: no detector's own partition can have this name.
    return f":tables:{check_id(detector, 'detector')}"


def _entity(partition_key: str, key: str, point: Point, observed_at: str) -> dict[str, Any]:
    entity = {"PartitionKey": partition_key, "RowKey": key, "value": float(point.value), "status": point.status,
              "observed_at": observed_at, "score": point.score, "model": point.model}
    return {name: value for name, value in entity.items() if value is not None}
