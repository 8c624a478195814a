"""Champions change while they are asked: no request fails, every answer is wholly one version's, and none goes back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from detectors.volume import detect, model_name
from shared.blobs import Blobs
from shared.catalogue import Catalogue
from shared.contract import TrainRequest, VolumeRequest, parse
from shared.registry import Registry
from shared.settings import Settings
from tests.conftest import ACCOUNTS, ROOT, client_of
from tools.azurite import Azurite
from tools.local_host import LocalHost
from tools.made_up import counts, stamp
from training import volume_anomaly

DAYS, SWAPS, PAUSE_SECONDS = 90, 20, 0.35  # the 91st day is a Sunday
TABLES = ("orders", "items", "returns")
CALLERS = 6  # two a table
SUNDAYS = (1, 2, 4)  # times the usual, to the three models
NOW = datetime(2026, 9, 1, tzinfo=UTC)
QUESTION = {"current_row_count": 10_000, "timestamp": stamp(DAYS), "historical_data": counts(0, DAYS)[-30:], "record": False}


@dataclass(frozen=True, slots=True)
class Model:
    """A file, and all that an answer of it says."""

    payload: bytes
    told: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """The pointer of a table went to `version`, a copy of `model`, not before `began`."""

    version: str
    model: Model
    began: float


@dataclass(frozen=True, slots=True)
class Seen:
    """What one request brought, and when. `told` is what an answer says; None where it failed."""

    table: str
    began: float
    ended: float
    versions: tuple[str | None, ...]
    told: tuple[Any, ...] | None


def told_by(answer: dict[str, Any]) -> tuple[Any, ...]:
    """The parts of an answer that are the model's: which file it is, and what it found."""
    return (answer["model"]["sha256"], answer["model"]["trained_at"], answer["expected_value"], *answer["expected_range"],
            answer["deviation"]["score"])


def problems(moves: Sequence[Move], seen: Sequence[Seen]) -> list[str]:
    """What is wrong with the answers about one table, given the moves of its pointer, oldest first.

    An answer is of the earliest move that it can be of: one whose version it names, and not earlier than that of any answer
    that was there before it was asked for. So versions may come back after a rollback, and only then.
    """
    found, answered = [], list[tuple[float, int]]()  # (when it came, which move it is of)
    for one in sorted(seen, key=lambda each: each.began):
        if one.told is None:
            found.append("a request failed")
            continue
        if len(set(one.versions)) > 1:
            found.append(f"the header and the body name {' and '.join(map(str, one.versions))}")
            continue
        known = max((move for ended, move in answered if ended < one.began), default=0)
        version = one.versions[0]
        of = next((n for n in range(known, len(moves)) if moves[n].version == version and moves[n].began < one.ended), None)
        if of is None:
            found.append(f"version {version} after version {moves[known].version}")
            continue
        answered.append((one.ended, of))
        if one.told != moves[of].model.told:
            found.append(f"an answer of version {version} has parts of another")
    return found


@pytest.fixture(scope="module")
def account(azurite: Azurite) -> str:
    return azurite.connection_string(ACCOUNTS[-2])


@pytest.fixture(scope="module")
def registry(account: str) -> Registry:
    settings = Settings(connection_string=account)
    return Registry(Blobs(settings), settings)


@pytest.fixture(scope="module")
def models(account: str, registry: Registry) -> list[Model]:
    """Models that expect Sundays far from each other, each with what it answers alone."""
    catalogue, made = Catalogue(Settings(connection_string=account, recheck_seconds=0)), []
    for factor in SUNDAYS:
        history = counts(1, DAYS)
        for sunday in history[6::7]:
            sunday["row_count"] *= factor
        body = {"table_id": "alone", "training_days": 400, "historical_data": history}
        prepared = volume_anomaly.prepared(parse(TrainRequest, json.dumps(body).encode()), None)
        candidate = volume_anomaly.fit_candidate(prepared, "seasonal_decomposition")
        assert candidate.payload is not None
        version = registry.publish(model_name("alone"), candidate.payload, candidate.card).version
        registry.promote(model_name("alone"), version, reason="to be asked alone")
        answer = detect(parse(VolumeRequest, json.dumps({"table_id": "alone", **QUESTION}).encode()), catalogue, NOW)
        made.append(Model(candidate.payload, told_by(answer.model_dump(mode="json"))))
    return made


@pytest.fixture(scope="module")
def host(account: str, registry: Registry, models: list[Model]) -> Iterator[LocalHost]:
    """A worker that looks for a new champion every second, and a first champion for every table."""
    for table in TABLES:
        published(registry, table, models[0])
    settings = {"AzureWebJobsStorage": account, "DATA_STORAGE": account, "RECHECK_SECONDS": "1"}
    with LocalHost(app=ROOT, settings=settings) as running:
        yield running


def published(registry: Registry, table: str, model: Model) -> Move:
    version = registry.publish(model_name(table), model.payload, {}).version
    began = time.monotonic()
    registry.promote(model_name(table), version, reason="swapped")
    return Move(version, model, began)


def rolled_back(registry: Registry, table: str, moves: Sequence[Move]) -> Move:
    began = time.monotonic()
    version = registry.rollback(model_name(table)).version
    return replace(next(move for move in moves if move.version == version), began=began)


def ask(client: httpx.Client, table: str) -> Seen:
    began = time.monotonic()
    try:
        response = client.post("/v1/detect/volume", json={"table_id": table, **QUESTION}).raise_for_status()
    except httpx.HTTPError:
        return Seen(table, began, time.monotonic(), (), None)
    answer = response.json()
    return Seen(table, began, time.monotonic(), (response.headers["x-model-version"], answer["model"]["version"]),
                told_by(answer))


def test_no_request_fails_and_no_answer_is_mixed_while_champions_change(
        host: LocalHost, registry: Registry, models: list[Model]) -> None:
    moves = {table: [Move("1", models[0], 0.0)] for table in TABLES}
    ended = threading.Event()

    def call(number: int) -> list[Seen]:
        table, seen = TABLES[number % len(TABLES)], list[Seen]()
        with client_of(host) as client:
            # Until the swaps are over, and then until the last of them has arrived.
            while not ended.is_set() or seen[-1].versions[:1] != (moves[table][-1].version,):
                seen.append(ask(client, table))
        return seen

    with ThreadPoolExecutor(CALLERS) as pool:
        calls = [pool.submit(call, number) for number in range(CALLERS)]
        for swap in range(1, SWAPS + 1):
            for table, past in moves.items():
                rolls_back = swap % 5 == 0
                past.append(rolled_back(registry, table, past) if rolls_back
                            else published(registry, table, models[swap % len(models)]))
            time.sleep(PAUSE_SECONDS)
        ended.set()
        seen = [one for done in calls for one in done.result(timeout=60)]

    for part in (0, 2, 3, 4):  # file, expected value and range: each alone tells the models apart
        assert len({model.told[part] for model in models}) == len(SUNDAYS)
    for table, past in moves.items():
        of_table = [one for one in seen if one.table == table]
        assert problems(past, of_table) == []
        assert len({one.versions[0] for one in of_table}) > 3, "the champions have to change under the callers"


# The check itself: it finds what it is there to find.

OLD, NEW = Model(b"", ("a", 1.0)), Model(b"", ("b", 2.0))
FIRST, SECOND, BACK = Move("1", OLD, 0.0), Move("2", NEW, 10.0), Move("1", OLD, 20.0)


def seen(version: str, model: Model, began: float, header: str | None = None, ended: float | None = None) -> Seen:
    return Seen("orders", began, ended or began + 1, (header or version, version), model.told)


@pytest.mark.parametrize(("moves", "answers", "found"), [
    ([FIRST, SECOND], [seen("1", OLD, 5), seen("1", OLD, 12), seen("2", NEW, 14)], []),
    ([FIRST, SECOND, BACK], [seen("2", NEW, 12), seen("1", OLD, 22)], []),
    ([FIRST, SECOND], [seen("2", NEW, 12, ended=19), seen("1", OLD, 15)], []),
    ([FIRST, SECOND], [seen("2", NEW, 12), seen("1", OLD, 14)], ["version 1 after version 2"]),
    ([FIRST, SECOND], [seen("2", NEW, 5)], ["version 2 after version 1"]),
    ([FIRST, SECOND], [seen("2", OLD, 12)], ["an answer of version 2 has parts of another"]),
    ([FIRST, SECOND], [seen("2", Model(b"", ("b", 1.0)), 12)], ["an answer of version 2 has parts of another"]),
    ([FIRST, SECOND], [seen("2", NEW, 12, header="1")], ["the header and the body name 1 and 2"]),
    ([FIRST, SECOND], [Seen("orders", 1, 2, (), None)], ["a request failed"]),
], ids=["late but whole", "back after a rollback", "side by side", "back without a rollback", "before its time",
        "another's parts", "a mixture", "another header", "a failure"])
def test_torn_answers_and_versions_that_go_back_are_found(
        moves: list[Move], answers: list[Seen], found: list[str]) -> None:
    assert problems(moves, answers) == found
