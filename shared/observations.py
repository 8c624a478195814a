"""History in bulk, the good rows kept and the bad ones reported by line; and what single calls saw, from their queue."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Union

from pydantic import BaseModel, Discriminator, Tag, TypeAdapter, ValidationError

from detectors.directory import DETECTORS, detector
from shared.catalogue import Catalogue
from shared.contract import Input, check_size, refusal
from shared.errors import InvalidJson, InvalidRequest
from shared.history import History

MAX_BODY_BYTES = 64 * 2**20
MAX_POINTS = 200_000
MAX_ERRORS = 1_000


def load(body: bytes, catalogue: Catalogue) -> dict[str, Any]:
    """Keeps every good row of a JSON array or of NDJSON and tells how many there were and what was wrong with the others.

    `errors[].line` counts from 1: the line of the body, or the place in the array. Raises PayloadTooLarge, InvalidJson when
    nothing can be read, InvalidRequest when there is no row at all.
    """
    check_size(body, MAX_BODY_BYTES)
    good: dict[str, list[Any]] = defaultdict(list)
    errors: list[dict[str, Any]] = []
    accepted = rejected = 0
    for line, row in rows(body):
        if isinstance(row, Input):
            good[row.detector].append(row)  # type: ignore[attr-defined]  # every kind of row has it
            accepted += 1
        else:
            rejected += 1
            if len(errors) < MAX_ERRORS:
                errors.append({"line": line, **row.render()["error"]})
        if accepted + rejected > MAX_POINTS:
            raise InvalidRequest(f"At most {MAX_POINTS:,} rows are read in one call; nothing was kept.")
    if not accepted and not rejected:
        raise InvalidRequest("The body holds no row.")
    for name, some in good.items():
        DETECTORS[name].load(some, catalogue)
    tables = sum(len({row.table_id for row in some}) for some in good.values())
    return {"accepted": accepted, "rejected": rejected, "tables": tables, "errors": errors}


def rows(body: bytes) -> Iterator[tuple[int, Input | InvalidJson | InvalidRequest]]:
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


def observe(message: bytes, history: History) -> None:
    """What one detect call saw, from the queue; nothing where it only found something. Harmless when it comes twice.

    Raises pydantic's ValidationError or NotFound for a message that cannot be read, so that it ends in the poison queue.
    """
    kind = _Kind.model_validate_json(message)
    if kind.seen:
        detector(kind.detector).observe(message, history)


class _Kind(BaseModel):
    detector: str
    seen: bool = True


def _checked(text: bytes) -> Input | InvalidJson | InvalidRequest:
    try:
        return _row().validate_json(text)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        for one in errors:
            one["loc"] = tuple(one["loc"][1:])  # the name of the detector comes first
        return refusal(errors)


@cache
def _row() -> TypeAdapter[Input]:
    """A row of any detector, `volume` where it names none."""
    kinds = tuple(Annotated[known.row, Tag(name)] for name, known in DETECTORS.items())
    told = Discriminator(lambda row: row.get("detector", "volume") if isinstance(row, dict) else None, "detector",
                         f"detector is one of {', '.join(DETECTORS)}")
    return TypeAdapter(Annotated[Union[kinds], told])  # type: ignore[arg-type]  # noqa: UP007
