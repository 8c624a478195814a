"""Which models a retraining trains, and what the training request of each is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import ValidationError

from detectors import pattern_history
from detectors.directory import DETECTORS
from shared.contract import Input
from shared.contract_retraining import RetrainRequest
from shared.contract_tables import Table
from shared.errors import ModelUnavailable
from shared.history import History
from shared.registry import Registry

LEAST_DAYS, MOST_DAYS = 7, 3660
# What a table's settings say, else the card of its champion, else nobody.
SETTLED = ("timezone", "granularity", "holidays", "schedule")


@dataclass(frozen=True, slots=True)
class Target:
    """One model: that of a detector and a table, of a string column of it for `pattern`."""

    detector: str
    table_id: str
    column: str | None = None

    @property
    def name(self) -> str:
        """Its name in the registry."""
        column = f".{pattern_history.slug(self.column)}" if self.column is not None else ""
        return f"{self.detector}-anomaly.{self.table_id}{column}"

    def to_json(self) -> dict[str, Any]:
        return {"detector": self.detector, "table_id": self.table_id, "column": self.column}


class Planned(NamedTuple):
    targets: list[Target]
    unknown: list[str]  # tables asked for that nothing was ever seen of


def planned(request: RetrainRequest, history: History, registry: Registry) -> Planned:
    """The models of all tables that have a history or a model already, in order. Raises StorageUnavailable."""
    wanted = None if request.tables is None else set(request.tables)
    found = sorted({target for name in request.kinds for target in _known(name, history, registry)
                    if wanted is None or target.table_id in wanted}, key=lambda t: (t.detector, t.table_id, t.column or ""))
    return Planned(found, sorted((wanted or set()) - {target.table_id for target in found}))


def train_request(target: Target, asked: RetrainRequest, table: Table | None, registry: Registry,
                  history_days: int) -> Input:
    """The training request of a model. Raises StorageUnavailable."""
    kind = DETECTORS[target.detector].train_request
    card = _card(target.name, registry)
    settings = table.settings.model_dump(mode="json") if table else {}
    fields: dict[str, Any] = {"table_id": target.table_id, "algorithm": asked.algorithm, "promote": asked.promote,
                              "training_days": min(max(history_days, LEAST_DAYS), MOST_DAYS),
                              "baseline": settings.get("baselines", {}).get(target.detector)}
    carded = {name: card.get(name) for name in SETTLED} | {"schedule": _cron(card.get("schedule"))}
    settled = {name: settings.get(name) for name in SETTLED if _fits(kind, name, settings.get(name))}
    if target.column is not None:
        # The name of a column in ids tells it from all others, but only a model knows how it is spelt.
        spelt = card.get("column_name")
        same = spelt is not None and pattern_history.slug(spelt) == pattern_history.slug(target.column)
        fields["column"] = spelt if same else target.column
    try:
        return _parsed(kind, {**fields, **carded, **settled})
    except ValidationError:  # a card that says what nobody may ask for any more
        return _parsed(kind, {**fields, **settled})


def _parsed(kind: type[Input], fields: dict[str, Any]) -> Input:
    given = {name: value for name, value in fields.items() if name in kind.model_fields and value is not None}
    return kind.model_validate_json(json.dumps(given))


def _known(detector: str, history: History, registry: Registry) -> Iterator[Target]:
    prefix = f"{detector}-anomaly."
    trained = (name.removeprefix(prefix) for name in registry.names(prefix))
    if detector == pattern_history.DETECTOR:
        for name, table_id in history.listed(f"{detector}."):
            yield Target(detector, table_id, name.removeprefix(f"{detector}."))
        for name in trained:
            table_id, _, column = name.rpartition(".")
            yield Target(detector, table_id, column)
    else:
        yield from (Target(detector, table_id) for table_id in (*history.tables(detector), *trained))


def _card(name: str, registry: Registry) -> dict[str, Any]:
    """The card of the reigning champion, an empty one where there is none or it cannot be read."""
    try:
        champion = registry.champion(name)
        return dict(registry.manifest(name, champion.version).card) if champion else {}
    except ModelUnavailable:
        return {}


def _cron(schedule: Any) -> dict[str, Any] | None:
    """A card's schedule as a request gives it; one that was learnt is learnt again."""
    return {"cron": schedule["text"]} if schedule and schedule.get("kind") == "cron" else None


def _fits(kind: type[Input], name: str, value: Any) -> bool:
    """Whether a setting is one that this detector takes: not all know weeks and months."""
    field = kind.model_fields.get(name)
    choices = getattr(getattr(field and field.annotation, "__value__", field and field.annotation), "__args__", ())
    return field is not None and value is not None and (name != "granularity" or value in choices)
