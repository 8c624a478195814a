"""What is asked about a table that nobody sent anything about: is its newest point normal, is it late by now?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final

from detectors import many
from detectors.directory import DETECTORS
from detectors.many import Outcome
from shared.batch_input import Item
from shared.catalogue import Catalogue
from shared.errors import InvalidRequest, ServiceError

READERS: Final = 8


def _count(table_id: str, catalogue: Catalogue) -> dict[str, Any]:
    series = catalogue.series("volume", table_id)
    if not len(series.seconds):
        raise InvalidRequest("The table has no count in its history.", "table_id")
    moment = datetime.fromtimestamp(int(series.seconds[-1]), UTC).isoformat()
    return {"current_row_count": float(series.values[-1]), "timestamp": moment}


# What is asked in the detector's own words, by detector. The others judge the newest of their past once more.
_ASKED: Final[dict[str, Callable[[str, Catalogue], dict[str, Any]]]] = {"volume": _count, "timeliness": lambda *_: {}}


def check(detector: str) -> None:
    """Raises InvalidRequest for a detector that is asked about columns, not tables."""
    if "column" in DETECTORS[detector].request.model_fields:
        raise InvalidRequest(f"A history does not tell which columns {detector} is for: give the items.", "tables")


def asked(detector: str, tables: Iterable[Item], catalogue: Catalogue) -> Iterator[Item]:
    """Items that name a table alone -> whole ones, a few tables at a time. They leave no trace: nothing new was seen.

    Raises StorageUnavailable.
    """
    def ask(item: Item) -> Item:
        line, text = item
        if isinstance(text, ServiceError):
            return item
        given = json.loads(text)
        try:
            fields = _ASKED[detector](given["table_id"], catalogue) if detector in _ASKED else DETECTORS[detector].blank
            return line, json.dumps({**given, **fields, "record": False}).encode()
        except InvalidRequest as error:
            return line, error

    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(ask, tables)


def score(name: str, requests: Sequence[Any], catalogue: Catalogue, now: datetime) -> list[Outcome]:
    """`many.score` for the requests of `asked`."""
    return many.score(name, requests, catalogue, now) if name in _ASKED else [_again(name, r, catalogue) for r in requests]


def _again(name: str, request: Any, catalogue: Catalogue) -> Outcome:
    """The newest point of the past, judged by what was before it."""
    try:
        for answer in DETECTORS[name].replay(request, catalogue, 1):
            return Outcome(answer)
    except ServiceError as error:
        return Outcome(error=error)
    return Outcome(error=InvalidRequest("The table has no history.", "table_id"))
