"""The items of a batch, one at a time, whatever they came in.

An item is the JSON text of one detect call; what cannot be read as one is given as the error to report, with its line, and
the next one is read. Memory stays bounded by the longest item, or by the row group of a Parquet file.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from typing import Any, Final

from pydantic import BaseModel

from shared import parquet
from shared.contract import MAX_BODY_BYTES
from shared.errors import InvalidRequest, PayloadTooLarge, ServiceError

type Item = tuple[int, bytes | ServiceError]

MAX_ITEM_BYTES: Final = MAX_BODY_BYTES
_TOO_LONG: Final = f"An item has at most {MAX_ITEM_BYTES:,} bytes."


def of_list(items: Iterable[Any]) -> Iterator[Item]:
    """(place from 1, item) of JSON values, as they are."""
    for number, item in enumerate(items, 1):
        text = json.dumps(item, separators=(",", ":")).encode()
        yield number, text if len(text) <= MAX_ITEM_BYTES else PayloadTooLarge(_TOO_LONG)


def of_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[Item]:
    """(place from 1, item) of Python's own objects, with dates, numpy's numbers and gaps in them."""
    for number, row in enumerate(rows, 1):
        yield number, _written(row)


def of_file(kind: str, chunks: Iterable[bytes], request: type[BaseModel]) -> Iterator[Item]:
    """(line from 1, item) of a file of `kind` ndjson, csv or parquet (there: the row), given in chunks.

    A csv file begins with the names of its columns, which are fields of `request`; an empty cell is a field not set, and
    what is no text is JSON. Raises InvalidRequest or PayloadTooLarge for a file that cannot be read at all.
    """
    if kind == "ndjson":
        return _of_lines(chunks)
    return _of_csv(chunks, fields_of(request)) if kind == "csv" else _of_parquet(chunks)


def filled(items: Iterable[Item], defaults: Mapping[str, Any]) -> Iterator[Item]:
    """The items, each with those of the `defaults` that it does not set."""
    for line, item in items:
        if isinstance(item, bytes):
            try:
                given = json.loads(item)
            except ValueError:
                given = None  # what is wrong with it is said where it is judged
            if isinstance(given, dict):
                item = json.dumps({**defaults, **given}, separators=(",", ":")).encode()
        yield line, item


def fields_of(request: type[BaseModel]) -> dict[str, bool]:
    """The fields of a request, and whether each takes text: `123` in such a column is a name and no number."""
    schema = request.model_json_schema()

    def takes_text(part: Mapping[str, Any]) -> bool:
        if "$ref" in part:
            return takes_text(schema["$defs"][part["$ref"].rpartition("/")[2]])
        return part.get("type") == "string" or any(map(takes_text, part.get("anyOf", ())))

    return {name: takes_text(part) for name, part in schema["properties"].items()}


def _of_lines(chunks: Iterable[bytes]) -> Iterator[Item]:
    for number, line in _lines(chunks):
        if len(line) > MAX_ITEM_BYTES:
            yield number, PayloadTooLarge(_TOO_LONG)
        elif text := line.strip():
            yield number, text


def _lines(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line); of a line that is too long as much as shows that it is."""
    number, held = 1, b""
    for at, chunk in enumerate(chunks):
        *lines, held = (held + (chunk.removeprefix(b"\xef\xbb\xbf") if at == 0 else chunk)).split(b"\n")
        for line in lines:
            yield number, line
            number += 1
        held = held[:MAX_ITEM_BYTES + 1]
    if held:
        yield number, held


class _Lines:
    """Lines as the csv reader wants them. `cut` tells that one was too long and is not whole."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._lines, self.number, self.cut = _lines(chunks), 0, False

    def __iter__(self) -> Iterator[str]:
        for number, line in self._lines:
            self.number = number
            self.cut |= len(line) > MAX_ITEM_BYTES
            # Bytes that are no UTF-8 become text that no JSON parser takes: the item is refused, not changed.
            yield line.decode("utf-8", "surrogateescape") + "\n"


def _of_csv(chunks: Iterable[bytes], takes_text: Mapping[str, bool]) -> Iterator[Item]:
    csv.field_size_limit(MAX_ITEM_BYTES)
    lines = _Lines(chunks)
    source = iter(lines)
    header = next((line for line in source if line.strip()), "")
    delimiter = max(",;\t", key=header.count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    if takes_text.keys().isdisjoint(names) or len(set(names)) < len(names):
        raise InvalidRequest("The first line of a csv file names its columns, each once, after the fields of a detect call.",
                             "input_blob")
    reader = csv.reader(source, delimiter=delimiter)
    while True:
        first, lines.cut = lines.number + 1, False
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield first, InvalidRequest(f"The line cannot be read: {error}.")
            continue
        if cells is None:
            return
        if lines.cut:
            yield first, PayloadTooLarge(_TOO_LONG)
        elif cells and len(cells) != len(names):
            yield first, InvalidRequest(f"The line has {len(cells)} cells; the first line names {len(names)}.")
        elif any(cells):
            yield first, _written({name: cell if takes_text.get(name) else _value(cell)
                                  for name, cell in zip(names, cells, strict=True) if cell.strip()})


def _value(cell: str) -> Any:
    try:
        return json.loads(cell)
    except ValueError:
        return cell  # the contract says what should be here


def _of_parquet(chunks: Iterable[bytes]) -> Iterator[Item]:
    for number, row in enumerate(parquet.read(chunks), 1):
        yield number, _written(row)


def _written(row: Mapping[str, Any]) -> bytes | ServiceError:
    try:
        text = json.dumps(_plain(row), separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        return InvalidRequest(f"The item cannot be written as JSON: {error}.")
    return text if len(text) <= MAX_ITEM_BYTES else PayloadTooLarge(_TOO_LONG)


def _plain(value: Any) -> Any:
    """What JSON knows: dates become text, numpy's numbers Python's, and a field without a value is left out."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float | Decimal):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        plain = ((str(name), _plain(part)) for name, part in value.items())
        return {name: part for name, part in plain if part is not None}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, date) or hasattr(value, "isoformat"):
        # pandas has a date that is none.
        return value.isoformat() if value == value else None
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    raise TypeError(f"{type(value).__name__} has no place in an item")
