"""The blob door: a file in `{table_id}/` of the profiles container, judged as one batch of that table.

    profiles/orders/2026-09-21.csv.gz -> fetched, unpacked -> profiled -> distribution and volume
                                      -> results/orders/2026-09-21.csv.gz.json, and a message for each answer

A file that cannot be read is reported in the same places and stays where it is. Memory is bounded: the content passes in
parts through a temporary file, and how large that may become is limited.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, Self

from shared.catalogue import Catalogue
from shared.contract import DetectOptions, VolumeRequest, parse
from shared.contract_distribution import DistributionRequest
from shared.doors import short
from shared.errors import InvalidRequest, PayloadTooLarge, ServiceError, StorageUnavailable
from shared.ids import ID_PATTERN, check_blob_name, check_id
from shared.judging import judge
from shared.queues import LONGEST_BYTES
from shared.settings import InvalidSetting
from shared.tables import Tables

KINDS: Final = ("json", "csv", "parquet")
PART_BYTES: Final = 2**20
MAX_PROFILE_BYTES: Final = 16 * 2**20
# A file that unpacks to more than this many times its size is taken for a bomb, once it is not small any more.
MAX_RATIO: Final = 250
RATIO_FROM_BYTES: Final = 32 * 2**20
# A Parquet file of a few bytes may tell of any number of equal rows.
MAX_ROWS: Final = 50_000_000
# Of what a file of JSON asks for, this is meant for the count of its rows too.
_SHARED: Final = {"request_id", "timezone", "granularity", "holidays", "record"}
_REQUEST: Final = re.compile(rb'"current_profile"\s*:')
_DATE: Final = re.compile(r"(?<!\d)(20\d\d)([-_]?)(\d\d)\2(\d\d)(?:T(\d\d)[-_:]?(\d\d)(?:[-_:]?(\d\d))?Z?)?(?!\d)")


@dataclass(frozen=True, slots=True)
class Limits:
    """`file_bytes` is how large a dropped file may be, as it lies there and unpacked."""

    file_bytes: int = 256 * 2**20

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Raises InvalidSetting."""
        text = environ.get("DROP_MAX_BYTES", "").strip()
        if text and not (text.isdecimal() and int(text)):
            raise InvalidSetting(f"DROP_MAX_BYTES is {text!r}; it must be a whole number from 1 on.")
        return cls(int(text)) if text else cls()


@dataclass(frozen=True, slots=True)
class File:
    """A blob before it is read: its `name` within the container, when it was written, and its content in parts."""

    name: str
    size: int
    etag: str
    written: datetime
    parts: Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Told:
    """What goes out after a file: texts for the results queue, and for the observations queue."""

    results: list[str] = field(default_factory=list)
    observations: list[str] = field(default_factory=list)


def judge_file(file: File, catalogue: Catalogue, tables: Tables, now: datetime, limits: Limits) -> Told:
    """Judges a file and writes the result beside it; also where it cannot be read.

    The same file again gives the same. A name that begins with `_` or `.` is another tool's marker, and is left alone.
    Raises StorageUnavailable.
    """
    if file.name.rpartition("/")[2][:1] in ("_", "."):
        return Told()
    settings, place = catalogue.settings, result_name(file.name)
    about = {"source": f"{settings.profiles_container}/{file.name}", "etag": file.etag,
             "result": f"{settings.results_container}/{place}"}
    observations: list[str] = []
    try:
        table_id = check_id(file.name.partition("/")[0], "table_id")
        judged = [judge(kind, request, catalogue, tables, now) for kind, request in _requests(file, table_id, limits)]
    except ServiceError as error:
        if isinstance(error, StorageUnavailable):
            raise
        result = {**about, "error": error.render()["error"]}
        messages = [result]
    else:
        answers = [one.answer.model_dump(mode="json") for one in judged]
        observations = [one.observation for one in judged if one.observation is not None]
        result, messages = {**about, "answers": answers}, [{**about, **answer} for answer in answers]
    catalogue.blobs.put(settings.results_container, place, json.dumps(result).encode())
    return Told([_fitting(message) for message in messages], observations)


def result_name(name: str) -> str:
    """Where the result of a file is kept: under its own name, or one made of it where that is no id."""
    try:
        return check_blob_name(f"{name}.json")
    except InvalidRequest:
        folder, _, rest = name.partition("/")
        folder = folder if ID_PATTERN.fullmatch(folder) else "unnamed"
        plain = re.sub(r"[^A-Za-z0-9-]+", "_", rest)[-150:]
        return f"{folder}/{hashlib.sha256(name.encode()).hexdigest()[:12]}-{plain}.json"


def moment_of(name: str) -> datetime | None:
    """The last date, or date and time joined by T, in a file's name. Without a Z it has no zone: it is the table's own."""
    for found in reversed(list(_DATE.finditer(name))):
        year, month, day, hour, minute, second = (int(part or 0) for part in found.group(1, 3, 4, 5, 6, 7))
        try:
            return datetime(year, month, day, hour, minute, second, tzinfo=UTC if found[0].endswith("Z") else None)
        except ValueError:
            continue
    return None


def unpacked(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The content of a gzip file, of several in one too, in parts of at most PART_BYTES. Raises InvalidRequest."""
    stream = None
    try:
        for part in parts:
            rest = part
            while rest:
                stream = stream or zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
                yield stream.decompress(rest, PART_BYTES)
                if stream.eof:
                    rest, stream = stream.unused_data, None
                else:
                    rest = stream.unconsumed_tail
    except zlib.error:
        raise InvalidRequest("The file is no gzip file, or it is damaged.") from None
    if stream is not None:
        raise InvalidRequest("The gzip file ends in the middle.")


def _requests(file: File, table_id: str, limits: Limits) -> list[tuple[str, DetectOptions]]:
    """What is asked about a file, by detector: is this batch like those before, and is its count of rows?"""
    request = _read(file, limits)
    if request.table_id not in (None, table_id):
        raise InvalidRequest(f"The file is about another table than its folder, {table_id}.", "table_id")
    told = request.timestamp or request.current_profile.profiled_at
    moment = told or moment_of(file.name.partition("/")[2]) or file.written
    shared = {name: getattr(request, name) for name in _SHARED & request.model_fields_set}
    count = VolumeRequest.model_validate({"table_id": table_id, "timestamp": moment.isoformat(), **shared,
                                          "current_row_count": request.current_profile.row_count})
    return [("distribution", request.model_copy(update={"table_id": table_id, "timestamp": moment})), ("volume", count)]


def _read(file: File, limits: Limits) -> DistributionRequest:
    """A file as a request about its profile: the profile or request it holds, else the profile of the table it holds."""
    kind, packed = _kind(file.name)
    if file.size > limits.file_bytes:
        raise PayloadTooLarge(f"The file has {file.size:,} bytes; at most {limits.file_bytes:,} are read.")
    with tempfile.NamedTemporaryFile(prefix="drop-") as temporary:
        _fetch(file, packed, temporary, MAX_PROFILE_BYTES if kind == "json" else limits.file_bytes)
        path = Path(temporary.name)
        if kind == "json":
            given = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        else:
            given = json.dumps(_profile(path, kind)).encode()
    # Looked for in the text: a large profile is made into objects once, by the contract.
    if not _REQUEST.search(given):
        given = b'{"current_profile":%b}' % given
    return parse(DistributionRequest, given, 2 * MAX_PROFILE_BYTES)


def _kind(name: str) -> tuple[str, bool]:
    """What a file holds by its name, and whether it is gzipped."""
    plain = name.lower().removesuffix(".gz")
    kind = plain.rpartition(".")[2]
    if kind not in KINDS:
        raise InvalidRequest("A dropped file ends in .json, .csv or .parquet, or in one of these and .gz.", "name")
    return kind, len(plain) < len(name)


def _fetch(file: File, packed: bool, into: IO[bytes], longest: int) -> None:
    """Writes the content, unpacked. Raises PayloadTooLarge as soon as it is longer, or grows beyond what a table would."""
    written = 0
    for part in unpacked(file.parts()) if packed else file.parts():
        written += len(part)
        if written > longest:
            raise PayloadTooLarge(f"The file has more than {longest:,} bytes{' unpacked' * packed}; no more are read.")
        if written > max(RATIO_FROM_BYTES, MAX_RATIO * file.size):
            raise PayloadTooLarge(f"The file unpacks to more than {MAX_RATIO} times its size: that is no table.")
        into.write(part)
    into.flush()
    if not written:
        raise InvalidRequest("The file is empty.")


def _profile(path: Path, kind: str) -> dict[str, Any]:
    # Imported when a file is read: with them come pandas and pyarrow.
    from shared import frames

    if kind == "parquet":
        _check_parquet(path)
    return frames.profile_file(path)


def _check_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidRequest("The file is no Parquet file, or it is damaged.") from error
    if rows > MAX_ROWS:
        raise PayloadTooLarge(f"The file tells of {rows:,} rows; at most {MAX_ROWS:,} are read.")


def _fitting(message: Mapping[str, Any]) -> str:
    if len(text := json.dumps(message)) <= LONGEST_BYTES:
        return text
    return json.dumps(short(message) | ({"error": error | {"details": []}} if (error := message.get("error")) else {}))
