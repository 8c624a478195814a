"""The filters' states of thousands of tables in a few hundred blobs: a batch goes on where the one before it ended.

A blob is a shard of the tables. It saves work and holds no truth: a state is only used where the table's history still
begins with exactly what it was made of, and whoever lost a shard replays the histories.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

from detectors import filter_bank, season, structural
from detectors.replays import Replays
from shared.blobs import Blobs
from shared.errors import ServiceError

CONTAINER = "states"
SHARDS = 256
# Fewer tables of a shard are replayed sooner than their shard is read and written.
FEWEST = 32
LONGEST = 256 * 1024 * 1024


def shard(table_id: str) -> int:
    """Where a table is kept, 0 to SHARDS - 1. Tables scored together should be of few shards."""
    return crc32(table_id.encode()) % SHARDS


@contextmanager
def restored(replays: Replays, table_ids: Iterable[str], granularity: str, blobs: Blobs, pool: Executor) -> Iterator[None]:
    """Takes over what an earlier batch knew of these tables, and afterwards keeps what this one knows."""
    shards: dict[int, set[str]] = {}
    for table_id in table_ids:
        shards.setdefault(shard(table_id), set()).add(table_id)
    paths = {f"{_code()}/{granularity}/{number:03d}.npz": some for number, some in shards.items() if len(some) >= FEWEST}
    files = dict(zip(paths, pool.map(lambda path: _read(blobs, path), paths), strict=True))
    for path, file in files.items():
        if file is not None:
            paths[path].update(replays.unpack(file, granularity))
    yield
    changed = {path: packed for path, some in paths.items() if (packed := replays.packed(some, granularity)) != files[path]}
    list(pool.map(lambda path: _write(blobs, path, changed), changed))


def _read(blobs: Blobs, path: str) -> bytes | None:
    with suppress(ServiceError):
        found = blobs.get(CONTAINER, path, longest=LONGEST)
        return found.data if found else None
    return None


def _write(blobs: Blobs, path: str, files: Mapping[str, bytes]) -> None:
    with suppress(ServiceError):
        blobs.put(CONTAINER, path, files[path])


@cache
def _code() -> str:
    """A name for the filter's code: states of another version of it are another's."""
    sources = b"".join(Path(str(module.__file__)).read_bytes() for module in (filter_bank, season, structural))
    return blake2b(sources, digest_size=8).hexdigest()
