"""A file of rows: CSV, Parquet, NDJSON or JSON, read whole. What is wrong in it is told with line and column."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from shared.batch_input import of_file
from shared.errors import InvalidRequest, ServiceError

NULLS = frozenset({"", "null", "none", "nan", "na", "n/a", "nat"})
SEPARATORS = ",;\t|"
KINDS = {".ndjson": "ndjson", ".jsonl": "ndjson", ".parquet": "parquet", ".json": "json"}
CHUNK_BYTES = 2**20
LONGEST_CELL = 16 * 2**20  # characters
SHOWN = 12  # columns in a message


@dataclass(frozen=True, slots=True)
class Row:
    """`place` is what people call it, such as `line 7`; `cells` are by the names of the columns."""

    place: str
    cells: dict[str, Any]


class TableFile:
    """The rows of a file. Raises InvalidRequest for a file that cannot be read, holds none, or is no table."""

    def __init__(self, path: Path, encoding: str = "utf-8") -> None:
        self.name = path.name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InvalidRequest(f"{path} cannot be read: {error.strerror}.") from None
        if not data.strip():
            raise self.refuses(None, "the file is empty")
        if data.startswith(b"PK\x03\x04"):
            raise self.refuses(None, "this is a workbook or a ZIP archive: save the sheet as CSV")
        kind = "parquet" if data.startswith(b"PAR1") else KINDS.get(path.suffix.lower(), "csv")
        self.rows = list(_csv(self, data, encoding) if kind == "csv" else _json(self, data) if kind == "json"
                         else _items(self, data, kind))
        if not self.rows:
            raise self.refuses(None, "there are no rows" + (" under the first line" if kind == "csv" else ""))
        self.columns = list(dict.fromkeys(name for row in self.rows for name in row.cells))

    def refuses(self, where: str | None, reason: str) -> InvalidRequest:
        return InvalidRequest(f"{self.name}{f', {where}' if where else ''}: {reason}.")

    def column(self, asked: str | None, usual: Sequence[str], option: str) -> str:
        """The column asked for, else the first that has one of the usual names, whatever its case. Raises InvalidRequest."""
        found = self.column_if_there((asked,) if asked else usual)
        if found is None:
            wanted = repr(asked) if asked else f"{usual[0]} (or {', '.join(usual[1:])})"
            has = ", ".join(map(repr, self.columns[:SHOWN])) + (" ..." if len(self.columns) > SHOWN else "")
            raise self.refuses(None, f"there is no column {wanted}, but {has}; {option} names another")
        return found

    def column_if_there(self, usual: Sequence[str]) -> str | None:
        names = {name.lower(): name for name in reversed(self.columns)}
        return next((names[name.lower()] for name in usual if name.lower() in names), None)

    def time(self, row: Row, column: str, zone: ZoneInfo) -> datetime:
        """Aware, in `zone` where nothing else is said. Raises InvalidRequest, also where there is none."""
        moment = self.time_if_there(row, column, zone)
        if moment is None:
            raise self.refuses(f"{row.place}, column {column}", "there is no time")
        return moment

    def time_if_there(self, row: Row, column: str, zone: ZoneInfo) -> datetime | None:
        """None for an empty cell. Raises InvalidRequest for what is no time."""
        cell = row.cells.get(column)
        if _is_empty(cell):
            return None
        try:
            moment = datetime.fromisoformat(cell.strip())  # type: ignore[union-attr]
        except (ValueError, AttributeError):
            raise self.refuses(f"{row.place}, column {column}", f"{_shown(cell)} is no date or time such as 2026-09-21 or "
                                                                "2026-09-21T02:00:00Z") from None
        return moment if moment.tzinfo else moment.replace(tzinfo=zone)

    def number(self, row: Row, column: str) -> float | None:
        """Finite; None for an empty cell. Raises InvalidRequest."""
        cell = row.cells.get(column)
        if _is_empty(cell):
            return None
        try:
            number = math.nan if isinstance(cell, bool) else float(cell)  # type: ignore[arg-type]
        except (ValueError, TypeError):
            number = math.nan
        if not math.isfinite(number):
            comma = isinstance(cell, str) and "," in cell
            hint = ": numbers are written as 1234.5, without separators of thousands" if comma else ""
            raise self.refuses(f"{row.place}, column {column}", f"{_shown(cell)} is no number{hint}")
        return number


def _csv(file: TableFile, data: bytes, encoding: str) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_CELL)
    whole = _decoded(file, data, encoding)
    text = whole.lstrip("\r\n")
    header, skipped = text.partition("\n")[0], whole[:len(whole) - len(text)].count("\n")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(SEPARATORS, key=header.count), strict=True)
    try:
        names = [name.strip() for name in next(reader)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise file.refuses(f"line {skipped + 1}", f"the column {twice!r} is there more than once")
        for cells in reader:
            place = f"line {skipped + reader.line_num:,}"
            if cells and len(cells) != len(names):
                raise file.refuses(place, f"{_many(len(cells), 'cell')}; the first line names {_many(len(names), 'column')}")
            if any(map(str.strip, cells)) or (cells and len(names) == 1):
                yield Row(place, dict(zip(names, cells, strict=True)))
    except csv.Error as error:
        raise file.refuses(f"line {skipped + reader.line_num:,}",
                           f"it cannot be read ({error}); look for a quote that is not closed") from None


def _decoded(file: TableFile, data: bytes, encoding: str) -> str:
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))  # what Excel calls Unicode text
    try:
        return data.decode("utf-16" if wide else encoding).removeprefix("\ufeff")
    except LookupError:
        raise InvalidRequest(f"{encoding!r} is no encoding that is known here, such as utf-8 or cp1252.") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise file.refuses(f"line {line:,}", f"the byte 0x{data[error.start]:02x} is not {encoding.upper()}; save the file "
                                             "as UTF-8, or name its encoding, such as --encoding cp1252") from None


def _json(file: TableFile, data: bytes) -> Iterator[Row]:
    try:
        document = json.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except ValueError as error:
        raise file.refuses(None, f"this is no JSON: {error}") from None
    for number, entry in enumerate(document if isinstance(document, list) else [document], 1):
        yield _of_object(file, f"entry {number:,}", entry)


def _items(file: TableFile, data: bytes, kind: str) -> Iterator[Row]:
    """Of NDJSON and Parquet, as batches read them."""
    chunks = (data[at:at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES))
    items = of_file(kind, chunks, BaseModel)
    while True:
        try:
            number, item = next(items, (0, b""))
        except ServiceError as error:
            raise file.refuses(None, error.message.rstrip(".")) from None
        if not number:
            return
        place = f"{'line' if kind == 'ndjson' else 'row'} {number:,}"
        if isinstance(item, ServiceError):
            raise file.refuses(place, item.message.rstrip("."))
        try:
            entry = json.loads(item)
        except ValueError as error:
            raise file.refuses(place, f"this is no JSON: {error}") from None
        yield _of_object(file, place, entry)


def _of_object(file: TableFile, place: str, entry: Any) -> Row:
    if not isinstance(entry, dict):
        raise file.refuses(place, "this is no JSON object with a name for every value")
    return Row(place, entry)


def _is_empty(cell: object) -> bool:
    """Whether a cell that should hold a number or a time holds nothing."""
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in NULLS)


def _shown(cell: object) -> str:
    return repr(cell if len(str(cell)) <= 40 else f"{str(cell)[:40]}...")


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
