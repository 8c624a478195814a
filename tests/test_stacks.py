"""States of the filter that a batch leaves for the next one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from detectors import stacks
from detectors.context import FloatArray
from detectors.replays import Replays, Told
from shared.blobs import Blobs
from shared.settings import Settings

START = 20_000
TABLES = [name for name in (f"table-{i}" for i in range(40_000)) if stacks.shard(name) == 7][: stacks.FEWEST + 3]


@pytest.fixture
def blobs(storage: str) -> Blobs:
    return Blobs(Settings(connection_string=storage))


def told(days: int, table_id: str) -> Told:
    """A short history has two filters at its end, a long one has one."""
    m = days if len(table_id) % 2 else days - 20
    counts = np.random.default_rng(len(table_id) + sum(table_id.encode())).poisson(500, 100)[:m].astype(float)
    return Told(table_id, START, counts, np.zeros(m, np.int64))


def same(a: FloatArray, b: FloatArray) -> bool:
    return np.array_equal(a, b, equal_nan=True)


def batch(replays: Replays, histories: list[Told], blobs: Blobs) -> list[FloatArray]:
    with (ThreadPoolExecutor(4) as pool,
          stacks.restored(replays, [h.table_id or "" for h in histories], "daily", blobs, pool)):
        return replays.rows(histories, "daily")


def paths(blobs: Blobs) -> list[str]:
    return list(blobs.names(stacks.CONTAINER))


def test_the_next_batch_goes_on_from_where_this_one_ended(blobs: Blobs) -> None:
    batch(Replays(), [told(40, table) for table in TABLES], blobs)
    tomorrow, worker = [told(41, table) for table in TABLES], Replays()

    with ThreadPoolExecutor(4) as pool, stacks.restored(worker, TABLES, "daily", blobs, pool):
        left = [len(worker._past(history, "daily").values) for history in tomorrow]
        states = worker.rows(tomorrow, "daily")

    assert left == [1] * len(TABLES)
    assert all(map(same, states, Replays().rows(tomorrow, "daily")))


def test_a_history_that_was_repaired_is_replayed_whatever_is_stored(blobs: Blobs) -> None:
    histories = [told(40, table) for table in TABLES]
    batch(Replays(), histories, blobs)
    histories[3].values[5] = 9_000.0

    assert all(map(same, batch(Replays(), histories, blobs), Replays().rows(histories, "daily")))


def test_a_part_of_a_shard_leaves_the_rest_as_it_was(blobs: Blobs) -> None:
    histories = [told(40, table) for table in TABLES]
    batch(Replays(), histories, blobs)
    batch(Replays(), [told(41, table) for table in TABLES[: stacks.FEWEST]], blobs)

    worker = Replays()
    stored = blobs.get(stacks.CONTAINER, paths(blobs)[0])
    assert stored is not None and worker.unpack(stored.data, "daily") and len(paths(blobs)) == 1
    assert len(worker._past(histories[-1], "daily").values) == 0


def test_few_tables_are_not_worth_a_shard(blobs: Blobs) -> None:
    batch(Replays(), [told(40, table) for table in TABLES[: stacks.FEWEST - 1]], blobs)

    assert paths(blobs) == []


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"no archive at all", None])
def test_a_damaged_shard_costs_time_and_no_verdict(blobs: Blobs, damage: bytes | None) -> None:
    histories = [told(40, table) for table in TABLES]
    batch(Replays(), histories, blobs)
    path = paths(blobs)[0]
    found = blobs.get(stacks.CONTAINER, path)
    assert found is not None
    blobs.put(stacks.CONTAINER, path, found.data[: len(found.data) // 2] if damage is None else damage)

    assert all(map(same, batch(Replays(), histories, blobs), Replays().rows(histories, "daily")))


def test_storage_that_does_not_answer_stops_no_batch() -> None:
    nowhere = Blobs(Settings(connection_string=None))

    assert len(batch(Replays(), [told(40, table) for table in TABLES], nowhere)) == len(TABLES)
