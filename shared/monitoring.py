"""How each model is doing, one entity a model: whether its data drifted, and what its detector judged, month by month.

Retraining writes them, weekly and daily; the metrics routes read them. PartitionKey is the detector, RowKey the name of the
model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from shared.entities import Entities, Row, quoted
from shared.history import History
from shared.ids import check_id, check_model_name

type Figures = dict[str, Any]
type Verdict = Literal["stable", "moderate", "drifted", "not_evaluated"]

# What is kept as a property of its own, which the service filters by, and what as JSON.
_PLAIN: Final = ("table_id", "column", "version", "algorithm", "checked_at", "verdict", "reason", "spacing_seconds")
_PARTS: Final = ("drift", "counts", "injected")
COUNTS: Final = ("table_id", "column", "algorithm", "spacing_seconds", "counts", "injected")
DRIFT: Final = ("table_id", "column", "version", "algorithm", "checked_at", "verdict", "reason", "drift")


class Monitoring:
    """The figures of all models; every method may be called from any thread.

    All of them raise StorageUnavailable when the account does not answer, and InvalidRequest for a name that is none.
    """

    def __init__(self, history: History, name: str) -> None:
        self._entities = Entities(history, name)

    def put(self, figures: Mapping[str, Any]) -> None:
        """Keeps what training.monitoring.monitor found in place of what was kept of this model."""
        self.put_many([figures])

    def put_many(self, figures: Sequence[Mapping[str, Any]]) -> None:
        """The same of several models of one detector."""
        self._entities.put_many([_entity(one) for one in figures])

    def get(self, detector: str, name: str) -> Figures | None:
        """What is kept of a model by its name in the registry, None where nothing is."""
        found = self._entities.get(check_id(detector, "detector"), check_model_name(name))
        return None if found is None else _figures(found[0])

    def scan(self, detector: str | None = None, table_id: str | None = None, verdict: str | None = None,
             after: str = "", fields: Sequence[str] | None = None) -> Iterator[Figures]:
        """All of them by detector and name, 1,000 at a time; `after` is the `cursor` of one of them.

        `fields` names those that are wanted: the others are not read.
        """
        conditions = [f"PartitionKey eq {quoted(check_id(detector, 'detector'))}"] if detector else []
        conditions += [f"table_id eq {quoted(check_id(table_id, 'table_id'))}"] if table_id else []
        conditions += [f"verdict eq {quoted(verdict)}"] if verdict else []
        if after:
            of, _, name = after.partition(":")
            of, name = quoted(check_id(of, "after")), quoted(check_model_name(name, "after"))
            conditions.append(f"(PartitionKey gt {of} or (PartitionKey eq {of} and RowKey gt {name}))")
        wanted = ["PartitionKey", "RowKey", *fields] if fields is not None else None
        return (_figures(row) for row in self._entities.query(" and ".join(conditions), wanted))


def drifted(figures: Mapping[str, Any] | None) -> bool:
    """Whether a model should be trained again before its week: its data are no longer what it was trained on."""
    return figures is not None and figures.get("verdict") == "drifted"


def cursor(figures: Mapping[str, Any]) -> str:
    """What to give as `after` for those behind this one."""
    return f"{figures['detector']}:{figures['name']}"


def _entity(figures: Mapping[str, Any]) -> Row:
    plain = {name: figures[name] for name in _PLAIN if figures.get(name) is not None}
    parts = {name: json.dumps(figures[name], allow_nan=False, separators=(",", ":")) for name in _PARTS if figures.get(name)}
    return {"PartitionKey": figures["detector"], "RowKey": figures["name"], **plain, **parts}


def _figures(row: Row) -> Figures:
    parts = {name: json.loads(row[name]) if row.get(name) else {} for name in _PARTS}
    return {"detector": row["PartitionKey"], "name": row["RowKey"], **{name: row.get(name) for name in _PLAIN}, **parts}
