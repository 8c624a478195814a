"""What is asked about a table that nobody sent anything about: is its newest point normal, is it late by now?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final

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


# By detector: the fields of the request that a table's history gives.
_ASKED: Final[dict[str, Callable[[str, Catalogue], dict[str, Any]]]] = {"volume": _count, "timeliness": lambda *_: {}}


def check(detector: str) -> None:
    """Raises InvalidRequest where a table's newest point cannot be asked about."""
    if detector not in _ASKED:
        raise InvalidRequest(f"tables: \"all\" is for {', '.join(_ASKED)}; give the items of {detector}.", "tables")


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
            return line, json.dumps({**given, **_ASKED[detector](given["table_id"], catalogue), "record": False}).encode()
        except InvalidRequest as error:
            return line, error

    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(ask, tables)
