"""History in bulk: many counts in one body, the good ones kept, the bad ones reported by line."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from shared.catalogue import Catalogue
from shared.contract import OBSERVATION, JudgedObservation, Observation, check_size, refusal
from shared.errors import InvalidJson, InvalidRequest
from shared.history import History, Point

MAX_BODY_BYTES = 64 * 2**20
MAX_POINTS = 200_000
MAX_ERRORS = 1_000


def load(body: bytes, catalogue: Catalogue) -> dict[str, Any]:
    """Keeps every good row of a JSON array or of NDJSON and tells how many there were and what was wrong with the others.

    `errors[].line` counts from 1: the line of the body, or the place in the array. Raises PayloadTooLarge, InvalidJson when
    nothing can be read, InvalidRequest when there is no row at all.
    """
    check_size(body, MAX_BODY_BYTES)
    points: dict[str, dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    errors: list[dict[str, Any]] = []
    accepted = rejected = 0
    for line, row in rows(body):
        if isinstance(row, Observation):
            points[row.detector][row.table_id].append(Point(row.timestamp, row.value, row.status))
            accepted += 1
        else:
            rejected += 1
            if len(errors) < MAX_ERRORS:
                errors.append({"line": line, **row.render()["error"]})
        if accepted + rejected > MAX_POINTS:
            raise InvalidRequest(f"At most {MAX_POINTS:,} rows are read in one call; nothing was kept.")
    if not accepted and not rejected:
        raise InvalidRequest("The body holds no row.")
    for detector, tables in points.items():
        catalogue.history.record_many(detector, tables)
        for table_id in tables:
            catalogue.forget(detector, table_id)
    loaded = sum(len(tables) for tables in points.values())
    return {"accepted": accepted, "rejected": rejected, "tables": loaded, "errors": errors}


def rows(body: bytes) -> Iterator[tuple[int, Observation | InvalidJson | InvalidRequest]]:
    """(line, row or what is wrong with it) of a JSON array or NDJSON."""
    if body.lstrip()[:1] == b"[":
        try:
            items = json.loads(body)
        except ValueError as error:
            raise InvalidJson(f"The body is not JSON: {error}.") from None
        for number, item in enumerate(items, 1):
            # Through JSON once more: strict checking of text accepts time stamps as text, of Python objects it does not.
            yield number, _checked(json.dumps(item).encode())
    else:
        for number, line in enumerate(body.split(b"\n"), 1):
            if line.strip():
                yield number, _checked(line)


def _checked(text: bytes) -> Observation | InvalidJson | InvalidRequest:
    try:
        return OBSERVATION.validate_json(text)
    except ValidationError as error:
        return refusal(error.errors(include_url=False, include_input=False))


def observe(message: bytes, history: History) -> None:
    """One judged count from the queue. Harmless when it comes twice; of two at one time the one observed later stays.

    Raises pydantic's ValidationError for a message that cannot be read, so that it ends in the poison queue.
    """
    seen = JudgedObservation.model_validate_json(message)
    point = Point(seen.timestamp, seen.value, seen.status, seen.score, seen.model)
    history.observe(seen.detector, seen.table_id, point, seen.observed_at)
