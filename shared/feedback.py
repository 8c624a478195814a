"""What people said of verdicts, each word with the verdict that it is about, in a table of Table storage.

PartitionKey `{detector}:{table_id}` and RowKey the point's UTC time in fixed width, with the column's hash where there is
one: a later word about a point takes the place of the earlier, and words sort by time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from itertools import islice
from typing import Any, Final

from shared.entities import Entities, Row, quoted
from shared.history import History, partition, row_key
from shared.ids import check_id

LABELS: Final = {"expected": "expected", "anomaly": "confirmed", "ignore": "excluded", "new_normal": "expected"}


@dataclass(frozen=True, slots=True)
class Said:
    """What a person said of one point: `label` one of LABELS, `scope` once or always, `timestamp` that of the stored point.

    `said_at` is when. The rest is what was known of the point when its first word was said, None where nothing was stored:
    its `value`, whether it was `flagged` and with which calibrated `score`, by which `model` version and `algorithm`, and
    when it was judged. `rule_id` names the rule in the table's settings that the word made.
    """

    detector: str
    table_id: str
    timestamp: datetime
    label: str
    scope: str
    note: str
    said_at: datetime
    column: str | None = None
    value: float | None = None
    flagged: bool | None = None
    score: float | None = None
    model: str | None = None
    algorithm: str | None = None
    observed_at: datetime | None = None
    rule_id: str | None = None


class Feedback:
    """The words of all tables; every method may be called from any thread.

    All of them raise StorageUnavailable when the account does not answer, and InvalidRequest for an id that is none.
    """

    def __init__(self, history: History, name: str) -> None:
        self._entities = Entities(history, name)

    def put(self, said: Said) -> None:
        """Keeps a word in place of what was said of the point before. It may be repeated."""
        self._entities.put_many([_entity(said)])

    def get(self, detector: str, table_id: str, timestamp: datetime, column: str | None = None) -> Said | None:
        """What was said of a point, None where nothing was."""
        found = self._entities.get(partition(detector, table_id), _key(timestamp, column))
        return None if found is None else _said(found[0])

    def remove(self, said: Said) -> None:
        """Takes a word back. Nothing happens where it is gone already."""
        self._entities.remove(partition(said.detector, said.table_id), _key(said.timestamp, said.column))

    def of(self, detector: str, table_id: str) -> list[Said]:
        """What was said of a table's points, by their time."""
        where = f"PartitionKey eq {quoted(partition(detector, table_id))}"
        return [_said(row) for row in self._entities.query(where)]

    def scan(self, detector: str | None = None, since: datetime | None = None) -> Iterator[Said]:
        """All words, by detector, table and time of the point; of one detector, and those said from `since` on."""
        conditions = []
        if detector is not None:
            # The next character after a colon is a semicolon.
            conditions.append(f"PartitionKey ge '{check_id(detector, 'detector')}:' and PartitionKey lt '{detector};'")
        if since is not None:
            conditions.append(f"said_at ge {quoted(row_key(since))}")
        return (_said(row) for row in self._entities.query(" and ".join(conditions)))

    def page(self, detector: str | None, table_id: str | None, after: str, limit: int) -> tuple[list[Said], str | None]:
        """Up to `limit` words as `scan` gives them, and what to give as `after` for more, None at the end."""
        conditions = []
        if detector is not None and table_id is not None:
            conditions.append(f"PartitionKey eq {quoted(partition(detector, table_id))}")
        elif detector is not None:
            conditions.append(f"PartitionKey ge '{check_id(detector, 'detector')}:' and PartitionKey lt '{detector};'")
        elif table_id is not None:
            conditions.append(f"table_id eq {quoted(check_id(table_id, 'table_id'))}")
        if after:
            of, _, at = after.partition("|")
            conditions.append(f"(PartitionKey gt {quoted(of)} or (PartitionKey eq {quoted(of)} and RowKey gt {quoted(at)}))")
        rows = list(islice(self._entities.query(" and ".join(conditions)), limit + 1))
        more = rows[limit - 1] if len(rows) > limit else None
        return [_said(row) for row in rows[:limit]], f"{more['PartitionKey']}|{more['RowKey']}" if more else None


def _key(timestamp: datetime, column: str | None) -> str:
    # A column's name may hold what a key must not.
    return row_key(timestamp) + (f":{hashlib.sha256(column.encode()).hexdigest()[:16]}" if column else "")


def _entity(said: Said) -> Row:
    known: dict[str, Any] = {name: row_key(value) if isinstance(value, datetime) else value
                             for name, value in asdict(said).items() if value is not None}
    # `Timestamp` is a name of the service's own, whatever its case.
    known["about"] = known.pop("timestamp")
    return {"PartitionKey": partition(said.detector, said.table_id), "RowKey": _key(said.timestamp, said.column), **known}


def _said(row: Row) -> Said:
    known: dict[str, Any] = {field.name: row.get("about" if field.name == "timestamp" else field.name)
                             for field in fields(Said)}
    for name in ("timestamp", "said_at", "observed_at"):
        known[name] = datetime.fromisoformat(known[name]) if known[name] else None
    return Said(**known)
