"""A retraining over HTTP: several tables and detectors, watched, cancelled, killed and taken up again, and by timers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from orchestrations.retraining import start_scheduled
from shared.blobs import Blobs
from shared.contract_retraining import RetrainRequest
from shared.entities import Entities
from shared.history import History
from shared.retrainings import Retrainings
from shared.runs import id_of_key
from shared.settings import Settings
from tests.conftest import ACCOUNTS, ROOT, client_of
from tests.test_service import eventually
from tools.azurite import Azurite
from tools.local_host import LocalHost
from tools.made_up import arrivals, batches, counts

ENDED = ("succeeded", "failed", "cancelled", "interrupted")
VOLUME = {"detectors": ["volume"], "algorithm": "structural"}
FORMATS = {"detectors": ["pattern"], "algorithm": "formats"}  # trained in a second


@pytest.fixture(scope="module")
def account(azurite: Azurite) -> str:
    return azurite.connection_string(ACCOUNTS[-8])


@pytest.fixture(scope="module")
def host(account: str) -> Iterator[LocalHost]:
    with LocalHost(ROOT, {"AzureWebJobsStorage": account, "DATA_STORAGE": account, "RECHECK_SECONDS": "0"}) as running:
        yield running


@pytest.fixture(scope="module")
def service(host: LocalHost) -> Iterator[httpx.Client]:
    with client_of(host) as client:
        yield client


def load(service: httpx.Client, table: str, entries: list[dict[str, Any]], **more: Any) -> None:
    lines = "\n".join(json.dumps({"table_id": table, **entry, **more}) for entry in entries)
    assert service.post("/v1/observations", content=lines).json()["accepted"] == len(entries)


def start(service: httpx.Client, **request: Any) -> str:
    accepted = service.post("/v1/retrain", json=request)
    assert accepted.status_code == 202, accepted.text
    return str(accepted.json()["status_url"]).removeprefix("/api")


def ended(service: httpx.Client, url: str) -> dict[str, Any]:
    return eventually(lambda: (r := service.get(url).json())["state"] in ENDED and r, seconds=150)


def decisions(service: httpx.Client, url: str, part: int = 1) -> dict[str, dict[str, Any]]:
    lines = service.get(f"{url}/parts/{part}").text.splitlines()
    return {one["name"]: one for one in map(json.loads, lines)}


def test_several_tables_are_trained_a_bad_one_fails_alone_and_the_next_time_nothing_is_done_twice(
        service: httpx.Client, account: str) -> None:
    load(service, "orders", counts(1, 91))
    load(service, "few", counts(2, 4))
    load(service, "broken", counts(3, 91))
    Blobs(Settings(connection_string=account)).put("models", "volume-anomaly.broken/champion.json", b"no pointer")

    url = start(service, **VOLUME, tables=["orders", "few", "broken", "ghost"])
    eventually(lambda: 1 <= service.get(url).json()["done"] < 3, seconds=60)
    first = ended(service, url)
    again = ended(service, start(service, **VOLUME, tables=["orders"]))

    assert first["state"] == "succeeded" and first["unknown_tables"] == ["ghost"]
    assert (first["total"], first["done"], first["parts"]) == (3, 3, 1)
    assert first["outcomes"] == {"first": 1, "untrainable": 1, "failed": 1} == first["detectors"]["volume"]
    assert [one["name"] for one in first["promoted"]] == ["volume-anomaly.orders"]
    skipped = {one["name"]: one["reason"] for one in first["skipped"]}
    assert "champion.json" in skipped["volume-anomaly.broken"] and skipped["volume-anomaly.few"]
    assert first["models_per_minute"] > 0 and first["seconds"] > 0
    told = decisions(service, url)
    assert list(told) == [f"volume-anomaly.{name}" for name in ("broken", "few", "orders")]
    model = service.get("/v1/models/volume-anomaly.orders").json()
    assert model["decision"] == told["volume-anomaly.orders"] and model["champion"]["version"] == "1"
    assert again["outcomes"] == {"unchanged": 1} and again["promoted"] == []
    assert service.get(f"{url}/parts/2").status_code == 404
    assert service.post(f"{url}/restart").status_code == 409


def test_every_detector_has_its_models_trained(service: httpx.Client) -> None:
    load(service, "feed", [{"arrived_at": entry["timestamp"]} for entry in arrivals(1, 60)], detector="timeliness")
    load(service, "codes", batches(1, 20), detector="pattern", column="Order id")

    run = ended(service, start(service, detectors=["timeliness", "pattern"]))

    assert run["state"] == "succeeded", run["reason"]
    assert run["detectors"] == {"pattern": {"first": 1}, "timeliness": {"first": 1}}
    assert {one["name"].partition(".")[0] for one in run["promoted"]} == {"pattern-anomaly", "timeliness-anomaly"}


def test_the_same_key_is_the_same_retraining_and_wrong_ones_are_refused(service: httpx.Client) -> None:
    nothing = {**VOLUME, "tables": ["ghost"], "idempotency_key": "weekly"}

    urls = {start(service, **nothing) for _ in range(2)}

    assert len(urls) == 1
    assert ended(service, urls.pop())["total"] == 0
    assert service.post("/v1/retrain", json={**nothing, "tables": ["other"]}).status_code == 409
    wrong = service.post("/v1/retrain", json={"tables": ["../up"]}).json()["error"]
    assert wrong["target"] == "tables[0]"
    assert service.get(f"/v1/retrain/{'0' * 32}").status_code == 404


def test_a_cancelled_retraining_stops_keeps_what_is_decided_and_can_go_on(service: httpx.Client) -> None:
    tables = [f"cancel{n}" for n in range(5)]
    for seed, table in enumerate(tables):
        load(service, table, batches(seed, 20), detector="pattern", column="code")
    url = start(service, **FORMATS, tables=tables)
    eventually(lambda: service.get(url).json()["done"] >= 1, seconds=60)

    cancelled = service.post(f"{url}/cancel")

    assert cancelled.status_code == 202 and cancelled.json()["state"] == "cancelled" and cancelled.json()["done"] < 5
    kept = decisions(service, url)
    assert service.post(f"{url}/restart").status_code == 202
    run = ended(service, url)
    assert (run["state"], run["outcomes"]) == ("succeeded", {"first": 5})
    assert decisions(service, url).items() >= kept.items()
    assert service.post(f"{url}/cancel").json()["state"] == "succeeded"


def test_a_retraining_that_the_host_did_not_survive_goes_on_where_it_was_and_promotes_nothing_twice(
        service: httpx.Client, host: LocalHost) -> None:
    tables = [f"killed{n}" for n in range(5)]
    for seed, table in enumerate(tables):
        load(service, table, batches(seed, 20), detector="pattern", column="code")
    url = start(service, **FORMATS, tables=tables)
    eventually(lambda: service.get(url).json()["done"] >= 1, seconds=60)

    host.kill()
    host.start()
    left = service.get(url).json()
    assert left["state"] == "interrupted" and "restart" in left["reason"]
    kept = decisions(service, url)
    assert service.post(f"{url}/restart").status_code == 202
    run = ended(service, url)

    assert (run["state"], run["outcomes"]) == ("succeeded", {"first": 5})
    assert decisions(service, url).items() >= kept.items()
    for table in tables:
        model = service.get(f"/v1/models/pattern-anomaly.{table}.code").json()
        assert (model["champion"]["version"], model["previous"], len(model["versions"])) == ("1", [], 1)


def test_a_table_whose_training_ends_the_process_again_and_again_is_given_up_alone(
        service: httpx.Client, account: str) -> None:
    load(service, "large", batches(1, 20), detector="pattern", column="code")
    attempts = f"retraining/{id_of_key('large')}/attempt-00001"
    Blobs(Settings(connection_string=account)).put("jobs", attempts, b"3")

    run = ended(service, start(service, **FORMATS, tables=["large"], idempotency_key="large"))

    assert (run["state"], run["outcomes"]) == ("succeeded", {"failed": 1})
    assert "ended the process 3 times" in run["skipped"][0]["reason"]


def test_settings_that_nobody_can_read_end_no_training_but_their_table_s(service: httpx.Client, account: str) -> None:
    for table in ("sound", "unsound"):
        load(service, table, batches(1, 20), detector="pattern", column="code")
    settings = Settings(connection_string=account)
    unreadable = {"PartitionKey": "tables", "RowKey": "unsound", "described": '{"settings": {"timezone": "Mars"}}'}
    Entities(History(settings), settings.tables_table).put_many([unreadable])

    run = ended(service, start(service, **FORMATS, tables=["sound", "unsound"]))

    assert (run["state"], run["outcomes"]) == ("succeeded", {"first": 1, "failed": 1})
    assert "timezone" in next(one["reason"] for one in run["skipped"] if "unsound" in one["name"])


def test_an_attempt_counts_unless_it_ends_with_a_word(storage: str) -> None:
    runs, run_id = Retrainings(Blobs(settings := Settings(connection_string=storage)), settings), "a" * 32
    with suppress(ValueError), runs.attempt(run_id, 1):
        raise ValueError("with a word")
    killed = runs.attempt(run_id, 1)
    killed.__enter__()

    with runs.attempt(run_id, 1) as died:
        assert died == 1


def test_a_timer_that_fires_while_its_run_goes_on_starts_no_other(service: httpx.Client, host: LocalHost,
                                                                  account: str) -> None:
    load(service, "timed", counts(8, 91))
    runs = Retrainings(Blobs(settings := Settings(connection_string=account)), settings)

    for timer in ("retrain_weekly", "retrain_weekly", "watch_drift"):
        fired = httpx.post(f"{host.url}/admin/functions/{timer}", headers={"x-functions-key": host.key}, json={})
        assert fired.status_code == 202, fired.text
        eventually(lambda: runs.scheduled("changed")[0] is not None, seconds=30)
    eventually(lambda: host.logs.count("still goes") >= 1 and runs.scheduled("drifted")[0] is not None, seconds=30)

    # A drift watch that goes on keeps no weekly run from starting, nor the other way round.
    for only in ("changed", "drifted"):
        url = f"/v1/retrain/{runs.scheduled(only)[0]}"
        eventually(partial(_is_known, service, url), seconds=30)
        assert service.post(f"{url}/cancel").json()["asked"]["only"] == only
    assert host.logs.count("Weekly retraining: started run") == host.logs.count("Drift watch: started run") == 1


def _is_known(service: httpx.Client, url: str) -> bool:
    return service.get(url).is_success


class Engine:
    """The engine as a timer sees it: it knows which instances run, and writes down which are started."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.started: list[str] = []

    async def get_status(self, instance: str) -> Any:
        return SimpleNamespace(runtime_status=SimpleNamespace(name="Running")) if instance in self.running else None

    async def start_new(self, name: str, instance_id: str, client_input: Any) -> str:
        assert name == "retrain_models"
        self.started.append(instance_id)
        return instance_id


def test_a_timer_goes_on_with_a_run_that_was_interrupted_and_starts_another_when_it_has_ended(storage: str) -> None:
    runs, engine = Retrainings(Blobs(settings := Settings(connection_string=storage)), settings), Engine()

    def fire() -> str:
        return asyncio.run(start_scheduled(engine, runs, RetrainRequest()))  # type: ignore[arg-type]

    first = fire()
    run_id = engine.started[0].removesuffix("-1")
    while_accepted = fire()
    runs.update(run_id, f"{run_id}-1", state="running")
    engine.running.add(f"{run_id}-1")
    while_running = fire()
    engine.running.clear()
    interrupted = fire()
    runs.update(run_id, f"{run_id}-2", state="succeeded")
    ended = fire()

    assert first == f"started run {run_id}" and while_accepted == while_running == f"run {run_id} still goes"
    assert interrupted == f"run {run_id} was interrupted and goes on"
    assert engine.started[:2] == [f"{run_id}-1", f"{run_id}-2"] and len(engine.started) == 3
    assert ended.startswith("started run") and run_id not in ended
