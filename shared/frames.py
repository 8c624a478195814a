"""A raw table file as a column profile: CSV or Parquet, read in pieces, so that memory does not grow with the rows.

What leaves is what a profile carries: numbers about columns, shapes of texts, and frequent values as hashes. No text of a
cell is returned or put into an error. The only home of pandas outside training; it and pyarrow are imported when a file is
read.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import batched
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from detectors.shapes import formats, masks
from shared.contract_distribution import LARGEST, MAX_COLUMNS
from shared.errors import InvalidRequest

type FloatArray = NDArray[np.float64]
type Hashes = NDArray[np.uint64]
type Values = Sequence[Any] | NDArray[Any]

PIECE = 20_000  # rows
LONGEST_CELL = 16 * 2**20  # characters
LONGEST_NAME = 256
# So many distinct values are counted exactly; of more the smallest hashes are kept, and the count is right within 0.3 %.
MOST_HASHES = 2**17
SAMPLE = 50_000  # values that quantiles are taken from
MOST_COUNTED, MOST_TOLD = 20_000, 20  # frequent values and patterns while counting, and in the profile
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# A column of texts is of a kind when so many of its values are: a single "unknown" does not make numbers texts.
OF_A_KIND = 0.9
NULLS = frozenset({"", "null", "none", "nan", "na", "n/a", "#n/a", "nat", "\\n"})
PARQUET = b"PAR1"
_RUNS = 2  # level of detectors.shapes: letters and digits in runs, whatever their length
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?")


def profile_file(source: bytes | Path, profiled_at: datetime | None = None) -> dict[str, Any]:
    """The profile of a table file in the shape that POST /api/v1/detect/distribution takes. A file without rows has none.

    CSV is UTF-8 with a header and commas, semicolons, tabs or bars; a file that begins as Parquet does is read as Parquet.
    Raises InvalidRequest naming what is wrong: an empty file, a row that is longer than the header, nested columns.
    """
    stream: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with stream:
        start = stream.read(len(PARQUET))
        stream.seek(0)
        names, pieces = _parquet(stream) if start == PARQUET else _csv(stream)
        columns = [_Column(name) for name in _checked(names)]
        rows, whole = 0, _Distinct()
        for piece in pieces:
            hashes = [column.add(values) for column, values in zip(columns, piece, strict=True)]
            rows += len(hashes[0])
            whole.add(_rows(hashes))
    told: dict[str, Any] = {"rowCount": rows, "columnProfiles": [column.profile() for column in columns]}
    if rows:
        told["duplicateRowPercentage"] = _percent(max(rows - whole.count(), 0), rows)
    return ({"profiledAt": profiled_at.isoformat()} if profiled_at else {}) | told


# Reading


def _csv(stream: BinaryIO) -> tuple[list[str], Iterator[list[Values]]]:
    csv.field_size_limit(LONGEST_CELL)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    line = next(_decoded((text.readline(LONGEST_CELL) for _ in range(1)), 0))
    if not line.strip():
        raise InvalidRequest("The first line of the file is empty: it names no columns." if line else "The file is empty.")
    text.seek(0)
    reader = csv.reader(text, delimiter=max(",;\t|", key=line.count), strict=True)
    lines = _decoded(reader, 1)
    names = [name.strip() or f"column_{i}" for i, name in enumerate(next(lines), 1)]
    return names, (_transposed(piece) for piece in batched(_even(lines, len(names), reader), PIECE, strict=False))


def _decoded[T](lines: Iterator[T], line: int) -> Iterator[T]:
    """Raises InvalidRequest for what is not UTF-8 and for cells without an end."""
    while True:
        line += 1
        try:
            yield next(lines)
        except StopIteration:
            return
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise InvalidRequest(f"The file is not UTF-8 (it has a byte 0x{byte:02x}). Save it as UTF-8.") from None
        except csv.Error as error:
            raise InvalidRequest(f"Row {line:,} of the CSV file cannot be read: {error}. A quote that is not closed is the "
                                 "usual reason.") from None


def _even(rows: Iterator[list[str]], width: int, reader: Any) -> Iterator[list[str]]:
    for row in rows:
        if len(row) == width:
            yield row
        elif row:
            raise InvalidRequest(f"Line {reader.line_num:,} of the CSV file has {len(row)} cells; the header has {width}.")


def _transposed(piece: Sequence[list[str]]) -> list[Values]:
    return [[None if cell.strip().lower() in NULLS else cell for cell in cells] for cells in zip(*piece, strict=True)]


def _parquet(stream: BinaryIO) -> tuple[list[str], Iterator[list[Values]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(stream)
        nested = [f.name for f in file.schema_arrow if pa.types.is_nested(f.type)]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidRequest(f"The Parquet file cannot be read: {_reason(error)}") from None
    if nested:
        raise InvalidRequest(f"Column {nested[0][:LONGEST_NAME]!r} of the Parquet file is nested: only columns of single "
                             "values have a profile.")

    def pieces() -> Iterator[list[Values]]:
        try:
            for batch in file.iter_batches(PIECE):
                yield [_arrow_values(array, pa) for array in batch.columns]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InvalidRequest(f"The Parquet file cannot be read: {_reason(error)}") from None

    return file.schema_arrow.names, pieces()


def _arrow_values(array: Any, pa: Any) -> Values:
    kind = array.type
    if pa.types.is_dictionary(kind):
        array, kind = array.dictionary_decode(), kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    if pa.types.is_temporal(kind) or pa.types.is_boolean(kind):
        return [None if value is None else str(value) for value in array.to_pylist()]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return [None if value is None else value.hex() for value in array.to_pylist()]
    return [None if value is None else str(value) for value in array.to_pylist()]


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _checked(names: Sequence[str]) -> Sequence[str]:
    if not names:
        raise InvalidRequest("The file has no columns.")
    if len(names) > MAX_COLUMNS:
        raise InvalidRequest(f"The file has {len(names):,} columns; at most {MAX_COLUMNS:,} are profiled.")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise InvalidRequest(f"The file has the column {twice[0][:LONGEST_NAME]!r} more than once.")
    if longest := next((name for name in names if len(name) > LONGEST_NAME), None):
        raise InvalidRequest(f"The column {longest[:40]!r}... has a name of {len(longest):,} characters; "
                             f"at most {LONGEST_NAME} are allowed.")
    return names


# Measuring


@dataclass(slots=True)
class _Distinct:
    """How many different values: exactly up to MOST_HASHES, beyond by how close together the smallest hashes lie."""

    smallest: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))

    def add(self, hashes: Hashes) -> None:
        self.smallest = np.union1d(self.smallest, hashes)[:MOST_HASHES]

    def count(self) -> int:
        """K minimum values (Bar-Yossef et al. 2002, https://doi.org/10.1007/3-540-45726-7_1)."""
        k = len(self.smallest)
        return k if k < MOST_HASHES else round((k - 1) / (float(self.smallest[-1]) / 2**64))


@dataclass(slots=True)
class _Moments:
    """Numbers in pieces: their count, mean and sum of squares (Chan et al. 1979), ends, and an even sample of them."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    zeros: int = 0
    negatives: int = 0
    sample: FloatArray = field(default_factory=lambda: np.empty((2, 0)))
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, x: FloatArray) -> None:
        if not len(x):
            return
        n, mean = self.n + len(x), float(x.mean())
        gap = mean - self.mean
        self.squares += float(((x - mean) ** 2).sum()) + gap * gap * self.n * (len(x) / n)
        self.mean += gap * (len(x) / n)
        self.n, self.low, self.high = n, min(self.low, float(x.min())), max(self.high, float(x.max()))
        self.zeros, self.negatives = self.zeros + int((x == 0).sum()), self.negatives + int((x < 0).sum())
        # The values with the smallest random keys are an even sample, however the pieces fall.
        sample = np.concatenate([self.sample, np.stack([self.random.random(len(x)), x])], axis=1)
        self.sample = sample if n <= SAMPLE else sample[:, np.argpartition(sample[0], SAMPLE - 1)[:SAMPLE]]

    @property
    def deviation(self) -> float:
        return float(min(np.sqrt(self.squares / self.n), LARGEST)) if self.n else 0.0


@dataclass(slots=True)
class _Column:
    """One column while its pieces pass by. A text is looked at as all it might be; what it was is told in the end."""

    name: str
    nulls: int = 0
    values: int = 0
    texts: bool = False
    distinct: _Distinct = field(default_factory=_Distinct)
    numbers: _Moments = field(default_factory=_Moments)
    lengths: _Moments = field(default_factory=_Moments)
    frequent: Counter[int] = field(default_factory=Counter)
    patterns: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    dates: int = 0
    first: datetime | None = None
    last: datetime | None = None

    def add(self, values: Values) -> Hashes:
        """Takes a piece in; returns a hash for each of its cells, 0 for a null."""
        import pandas as pd

        if isinstance(values, np.ndarray):
            known = np.abs(values) <= LARGEST  # NaN and infinities are no values
            unique, inverse, counts = np.unique(values[known], return_inverse=True, return_counts=True)
            self.numbers.add(values[known])
        else:
            self.texts = True
            known = np.array([value is not None for value in values], np.bool_)
            unique, inverse, counts = _unique([value for value in values if value is not None])
            self._add_texts(unique, counts, inverse)
        hashes = pd.util.hash_array(unique, categorize=False)
        self.nulls, self.values = self.nulls + int((~known).sum()), self.values + int(known.sum())
        self.distinct.add(hashes)
        self.frequent.update(dict(zip(hashes.tolist(), counts.tolist(), strict=True)))
        self.frequent = _bounded(self.frequent)
        cells = np.zeros(len(known), np.uint64)
        cells[known] = hashes[inverse]
        return cells

    def _add_texts(self, unique: NDArray[Any], counts: NDArray[np.int64], inverse: NDArray[np.int64]) -> None:
        import pandas as pd

        numbers = np.asarray(pd.to_numeric(pd.Series(unique, dtype=object), errors="coerce"), np.float64)[inverse]
        self.numbers.add(numbers[np.abs(numbers) <= LARGEST])
        self.lengths.add(np.fromiter(map(len, unique), np.float64, len(unique))[inverse])
        shapes = masks(unique.tolist())
        for pattern, text, count in zip(formats(shapes, _RUNS), unique.tolist(), counts.tolist(), strict=True):
            self.patterns[pattern] += count
            self._add_text(text, count)
        self.patterns = _bounded(self.patterns)

    def _add_text(self, text: str, count: int) -> None:
        plain = text.strip().lower()
        if plain in ("true", "false"):
            self.flags[plain] += count
        elif text[:1].isdecimal() and _DATE.fullmatch(text) and (moment := _moment(text)):
            self.dates += count
            self.first = moment if self.first is None else min(self.first, moment)
            self.last = moment if self.last is None else max(self.last, moment)
        told = text[:1000]
        self.characters.update(all=count * len(told), digit=count * sum(map(str.isdecimal, told)),
                               upper=count * sum(map(str.isupper, told)), space=count * sum(map(str.isspace, told)))
        if not told.isascii():
            self.characters["foreign"] += count * sum(c > "\x7f" for c in told)

    def profile(self) -> dict[str, Any]:
        """What is known of the column in the end; shares are of the values that are no nulls."""
        n = self.values
        told: dict[str, Any] = {"columnName": self.name, "distinctCount": min(self.distinct.count(), n)}
        if n + self.nulls:
            told["nullPercentage"] = _percent(self.nulls, n + self.nulls)
        if not n:
            return told
        told["topPercentage"] = _percent(self.frequent.most_common(1)[0][1], n)
        if sum(self.flags.values()) >= OF_A_KIND * n:
            return told | {"dataType": "boolean", "truePercentage": _percent(self.flags["true"], self.flags.total())}
        if self.first and self.last and self.dates >= OF_A_KIND * n:
            return told | {"dataType": "date", "minValue": self.first.isoformat(), "maxValue": self.last.isoformat()}
        if self.numbers.n >= OF_A_KIND * n:
            return told | self._of_numbers()
        return told | self._of_texts(n)

    def _of_numbers(self) -> dict[str, Any]:
        m = self.numbers
        quantiles = np.quantile(m.sample[1], QUANTILES)
        return {"dataType": "numeric", "minValue": m.low, "maxValue": m.high, "mean": m.mean, "stddev": m.deviation,
                "quantiles": {str(level): float(value) for level, value in zip(QUANTILES, quantiles, strict=True)},
                "zeroPercentage": _percent(m.zeros, m.n), "negativePercentage": _percent(m.negatives, m.n)}

    def _of_texts(self, n: int) -> dict[str, Any]:
        lengths, characters = self.lengths, max(self.characters["all"], 1)
        shares = {f"{name}Percentage": _percent(self.characters[kind], characters) for name, kind in
                  (("digit", "digit"), ("upper", "upper"), ("space", "space"), ("nonAscii", "foreign"))}
        return shares | {
            "dataType": "string", "patterns": dict(self.patterns.most_common(MOST_TOLD)),
            "topValues": [{"value": f"#{label:016x}", "count": n} for label, n in self.frequent.most_common(MOST_TOLD)],
            "lengths": {"min": lengths.low, "max": lengths.high, "mean": lengths.mean, "std": lengths.deviation}}


def _unique(texts: list[str]) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """-> the different texts in the order they came, where each text is among them, and how often each came."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    inverse = np.fromiter((places[text] for text in texts), np.int64, len(texts))
    unique = np.empty(len(places), object)
    unique[:] = list(places)
    return unique, inverse, np.bincount(inverse, minlength=len(places))


def _bounded[T](counts: Counter[T]) -> Counter[T]:
    """Only the more frequent half where there are too many; what was rare so far may so be counted short."""
    return counts if len(counts) <= MOST_COUNTED else Counter(dict(counts.most_common(MOST_COUNTED // 2)))


def _rows(hashes: Iterable[Hashes]) -> Hashes:
    """A hash of each row; equal in equal rows."""
    whole: Hashes | None = None
    for column in hashes:
        mixed = column if whole is None else whole * np.uint64(0x9E3779B97F4A7C15) + column
        whole = mixed ^ (mixed >> np.uint64(29))
    assert whole is not None  # a file without columns is refused
    return whole * np.uint64(0xBF58476D1CE4E5B9)


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _percent(part: float, whole: float) -> float:
    return min(100.0 * part / whole, 100.0)
