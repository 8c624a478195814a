"""What is known of each table besides its history: labels and settings, one entity a table, in Table storage.

One partition, RowKey the table's id, so that a list is a range in order. Each label is also a property of its own,
`label_{name}`, which the service filters by.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from pydantic import ValidationError

from detectors.context import calendar_of
from shared.cache import Cache
from shared.contract import DetectOptions, Input, check_size, refusal, whole_number
from shared.contract_tables import Table, with_defaults
from shared.entities import Entities, Row, quoted
from shared.errors import InvalidJson, InvalidRequest, NotFound, PayloadTooLarge, StorageUnavailable
from shared.history import History
from shared.ids import check_id

PAGE: Final = 100
MAX_BODY_BYTES: Final = 256 * 1024
MAX_CHARACTERS: Final = 24_000  # Table storage takes 32,768 of a text
CACHE_BYTES: Final = 8 * 2**20
_PARTITION: Final = "tables"

type _Known = tuple[Table | None, str | None]


class Tables:
    """The tables that somebody described; every method may be called from any thread.

    All of them raise StorageUnavailable when the account does not answer, and InvalidRequest for an id that is none.
    """

    def __init__(self, history: History, name: str, recheck_seconds: float = 60.0,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._entities = Entities(history, name)
        self._cache: Cache[str, _Known] = Cache(CACHE_BYTES, recheck_seconds, clock, size=_bytes,
                                                aged=lambda known, reason: (known[0], reason))

    def get(self, table_id: str) -> Table | None:
        """What is known of the table, None where nobody said anything: at most `recheck_seconds` old."""
        check_id(table_id, "table_id")
        return self._cache.get(table_id, lambda _: (self._read(table_id)[0], None))[0]

    def current(self, table_id: str) -> Table | None:
        """The same as storage has it now: for whoever changes it by what it is."""
        check_id(table_id, "table_id")
        return self._read(table_id)[0]

    def put(self, table_id: str, patch: Mapping[str, Any]) -> Table:
        """Changes what is known by a JSON merge patch (RFC 7396): given fields replace, null removes, others stay.

        Returns the result. Raises InvalidRequest naming the field.
        """
        check_id(table_id, "table_id")
        while True:
            known, etag = self._read(table_id)
            before = known.model_dump(mode="json", exclude_unset=True) if known else {}
            table = _table(merged(before, patch))
            if table.settings.holidays is not None:
                calendar_of(table.settings.holidays, 0, 0, "daily")  # a calendar that does not exist would fail every call
            if self._entities.swap(_entity(table_id, table), etag):
                self._cache.drop(table_id)
                return table

    def page(self, prefix: str = "", after: str = "", limit: int = PAGE,
             labels: Mapping[str, str] | None = None) -> list[tuple[str, Table]]:
        """(id, table) by id: those that begin with `prefix`, come after `after` and have all of the labels."""
        return list(islice(self.scan(prefix, after, labels), limit))

    def scan(self, prefix: str = "", after: str = "", labels: Mapping[str, str] | None = None,
             where: str = "") -> Iterator[tuple[str, Table]]:
        """`page` without an end. `where` is more of an OData filter."""
        for text, target in ((prefix, "prefix"), (after, "after")):
            if text:
                check_id(text.rstrip("."), target)
        conditions = [f"PartitionKey eq '{_PARTITION}'"]
        if prefix:
            # The next id that does not begin with it: `~` is beyond every character of an id.
            conditions.append(f"RowKey ge {quoted(prefix)} and RowKey lt {quoted(prefix + '~')}")
        if after:
            conditions.append(f"RowKey gt {quoted(after)}")
        for name, value in (_labels(labels) if labels else {}).items():
            conditions.append(f"label_{name} eq {quoted(value)}")
        conditions += [where] if where else []
        for row in self._entities.query(" and ".join(conditions), ["RowKey", "described"]):
            yield row["RowKey"], _parsed(row)

    def scheduled(self) -> Iterator[str]:
        """The ids of the tables with a schedule of their own among their settings."""
        return (table_id for table_id, _ in self.scan(where="scheduled eq true"))

    def _read(self, table_id: str) -> tuple[Table | None, str | None]:
        found = self._entities.get(_PARTITION, table_id)
        return (None, None) if found is None else (_parsed(found[0]), found[1])


def settled[T: DetectOptions](request: T, detector: str, tables: Tables) -> tuple[T, list[str]]:
    """The request with its table's settings, and the warning where storage does not answer and nothing is in memory."""
    if request.table_id is None:
        return request, []
    try:
        return with_defaults(request, tables.get(request.table_id), detector), []
    except StorageUnavailable:
        return request, ["Storage does not answer: the table's settings were left out."]


def with_baseline[T: Input](request: T, detector: str, tables: Tables) -> T:
    """A training request with the new normal of its table, where it tells none. Raises StorageUnavailable."""
    asked: Any = request
    table = tables.get(asked.table_id)
    baseline = table.settings.baselines.get(detector) if table else None  # type: ignore[call-overload]
    return request if asked.baseline or baseline is None else request.model_copy(update={"baseline": baseline})


def describe(tables: Tables, table_id: str, body: bytes) -> dict[str, Any]:
    """POST /api/v1/tables/{table_id}. Raises PayloadTooLarge, InvalidJson, InvalidRequest."""
    check_size(body, MAX_BODY_BYTES)
    try:
        patch = json.loads(body)
    except ValueError as error:
        raise InvalidJson(f"The body is not JSON: {error}.") from None
    if not isinstance(patch, dict):
        raise InvalidRequest("The body must be an object with labels and settings.")
    return _shown(table_id, tables.put(table_id, patch))


def description(tables: Tables, table_id: str) -> dict[str, Any]:
    """GET /api/v1/tables/{table_id}. Raises NotFound."""
    table = tables.get(table_id)
    if table is None:
        raise NotFound(f"Nothing was said about table {table_id}.", "table_id")
    return _shown(table_id, table)


def listing(tables: Tables, params: Mapping[str, str]) -> dict[str, Any]:
    """GET /api/v1/tables: `prefix`, `after` (an id: the next page), `limit` up to 1,000, `label` such as source:sap.

    Several labels are joined by commas, and all must fit. `next` is what to give as `after` for more, null at the end.
    Raises InvalidRequest.
    """
    limit = whole_number(params, "limit", PAGE, 1, 1000)
    labels = dict(_pair(text) for text in params.get("label", "").split(",") if text)
    page = tables.page(params.get("prefix", ""), params.get("after", ""), limit + 1, labels)
    shown = [_shown(table_id, table) for table_id, table in page[:limit]]
    return {"tables": shown, "next": page[limit - 1][0] if len(page) > limit else None}


def merged(known: Any, patch: Any) -> Any:
    """RFC 7396, section 2: what becomes of a JSON value under a merge patch."""
    if not isinstance(patch, dict):
        return patch
    result = dict(known) if isinstance(known, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def _pair(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise InvalidRequest("label must be a name and a value joined by a colon, such as source:sap.", "label")
    return name, value


def _labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    try:
        return Table.model_validate({"labels": dict(labels)}).labels
    except ValidationError:
        raise InvalidRequest("label is no label's name and value.", "label") from None


def _table(document: Any) -> Table:
    try:
        # Through JSON: strict checking of text takes lists and dates as JSON has them.
        return Table.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise refusal(error.errors(include_url=False, include_input=False)) from None


def _entity(table_id: str, table: Table) -> Row:
    text = table.model_dump_json(exclude_unset=True)
    if len(text) > MAX_CHARACTERS:
        raise PayloadTooLarge(f"Labels and settings have {len(text):,} characters; at most {MAX_CHARACTERS:,} are kept.")
    labels = {f"label_{name}": value for name, value in table.labels.items()}
    return {"PartitionKey": _PARTITION, "RowKey": table_id, "described": text,
            "scheduled": table.settings.schedule is not None, **labels}


def _parsed(row: Row) -> Table:
    return Table.model_validate_json(row["described"])


def _shown(table_id: str, table: Table) -> dict[str, Any]:
    return {"table_id": table_id, "labels": table.labels,
            "settings": table.settings.model_dump(mode="json", exclude_unset=True)}


def _bytes(known: _Known) -> int:
    return 512 + (4096 if known[0] is not None else 0)
