"""Batches over HTTP: every item has one result, and nothing is lost or done twice when things break."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from azure.storage.blob import BlobServiceClient

from detectors.pattern_history import series_name
from shared.history import History
from shared.queues import Queues
from shared.runs import id_of_key
from shared.settings import Settings
from shared.tables import Tables
from tests.conftest import ACCOUNTS, ROOT, client_of
from tests.test_service import counts, eventually
from tools.azurite import Azurite, free_ports
from tools.local_host import LocalHost

ENDED = ("succeeded", "failed", "cancelled", "interrupted")
MONDAY = "2026-07-06T02:00:00Z"
HISTORY = [point["row_count"] for point in counts(35)]


def settings(account: str) -> dict[str, str]:
    return {"AzureWebJobsStorage": account, "DATA_STORAGE": account}


@pytest.fixture(scope="module")
def account(azurite: Azurite) -> str:
    return azurite.connection_string(ACCOUNTS[-7])


@pytest.fixture(scope="module")
def host(account: str) -> Iterator[LocalHost]:
    with LocalHost(ROOT, settings(account)) as running:
        yield running


@pytest.fixture(scope="module")
def service(host: LocalHost) -> Iterator[httpx.Client]:
    with client_of(host) as client:
        yield client


def item(name: object, rows: float = 1010, **more: Any) -> dict[str, Any]:
    """A Monday's count with its own history: no table, so nothing has to be fetched."""
    return {"request_id": str(name), "current_row_count": rows, "timestamp": MONDAY, "historical_data": HISTORY, **more}


def post(service: httpx.Client, key: str = "", **request: Any) -> dict[str, Any]:
    answer = service.post("/v1/batch/score", json={"detector": "volume", **request},
                          headers={"Idempotency-Key": key} if key else {})
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def path_of(accepted: dict[str, Any]) -> str:
    return str(accepted["status_url"]).removeprefix("/api")


def ended(service: httpx.Client, accepted: dict[str, Any]) -> dict[str, Any]:
    return eventually(lambda: (b := service.get(path_of(accepted)).json())["state"] in ENDED and b, seconds=120)


def lines(service: httpx.Client, batch: dict[str, Any]) -> list[dict[str, Any]]:
    """All results, from the parts in their order."""
    parts = [service.get(f"{path_of(batch)}/parts/{n}") for n in range(1, batch["parts"] + 1)]
    return [json.loads(line) for part in parts for line in part.text.splitlines()]


def scored(account: str, batch_id: str) -> dict[str, str]:
    """The ETag of what every scoring of a chunk writes anew, by chunk: it changes when a chunk is scored again."""
    container = BlobServiceClient.from_connection_string(account).get_container_client("jobs")
    return {blob.name[-10:-5]: blob.etag for blob in container.list_blobs(f"batches/{batch_id}/digest-")}


def test_every_good_item_has_one_result_every_bad_one_a_reason_and_the_summary_adds_up(service: httpx.Client) -> None:
    items: list[Any] = [item(n, 10 if n in (50, 300) else 1010) for n in range(1, 521)]
    bad = {7: "no object", 20: [], 21: {}, 100: item(100, -1), 250: {**item(250), "timestamp": "yesterday"},
           251: item(251, table_id="../up"), 400: {**item(400), "current_row_count": None}}
    missing = {n: {**item(n), "table_id": f"ghost{n}", "require_model": True} for n in (30, 251 + 60, 519)}
    for number, replaced in (bad | missing).items():
        items[number - 1] = replaced

    batch = ended(service, post(service, items=items))

    assert batch["state"] == "succeeded", batch["reason"]
    results = lines(service, batch)
    assert [r["line"] for r in results] == list(range(1, 521))
    assert all(("answer" in r) != ("error" in r) for r in results)
    failed = {r["line"]: r["error"]["code"] for r in results if "error" in r}
    assert failed == dict.fromkeys(bad, "InvalidRequest") | dict.fromkeys(missing, "ModelNotFound")
    assert {f["line"]: f["code"] for f in batch["failures"]} == failed and all(f["message"] for f in batch["failures"])
    assert (batch["total"], batch["done"], batch["failed"], batch["parts"]) == (520, 520, 10, 3)
    assert batch["severity"] == Counter(r["answer"]["severity"] for r in results if "answer" in r)
    assert batch["status"] == {"evaluated": 510} and sum(batch["severity"].values()) == 510
    assert batch["anomalies"] == 2 and [a["line"] for a in batch["anomalous"]] == [50, 300]
    times = [one["latency_ms"] for one in batch["slowest"]]
    assert batch["rate"] > 0 and 1 <= len(times) <= 10 and times == sorted(times, reverse=True)
    assert {r["item_id"] for r in results if r["line"] in (1, 30)} == {"1", "30"}


def test_a_chunk_whose_storage_fails_twice_is_tried_again(service: httpx.Client, host: LocalHost, account: str) -> None:
    digest = BlobServiceClient.from_connection_string(account).get_blob_client(
        "jobs", f"batches/{id_of_key('dies-twice')}/digest-00002.json")
    digest.upload_blob(b"{}")
    lease = digest.acquire_lease(60)  # until it is released, storage refuses to write this one blob
    before = host.logs.count("Function 'score_chunk' raised")

    accepted = post(service, "dies-twice", items=[item(n) for n in range(600)])
    eventually(lambda: host.logs.count("Function 'score_chunk' raised") >= before + 2, seconds=60)
    lease.release()
    batch = ended(service, accepted)

    assert (batch["state"], batch["done"], batch["failed"], batch["parts"]) == ("succeeded", 600, 0, 3)
    assert [r["item_id"] for r in lines(service, batch)] == [str(n) for n in range(600)]


def test_the_same_key_is_the_same_batch_and_never_runs_twice(service: httpx.Client, account: str) -> None:
    request = {"items": [item(n) for n in range(5)]}

    with ThreadPoolExecutor(4) as pool:
        accepted = list(pool.map(lambda _: post(service, "once", **request), range(4)))
    assert {a["batch_id"] for a in accepted} == {id_of_key("once")}
    ended(service, accepted[0])
    first = scored(account, id_of_key("once"))
    again = post(service, idempotency_key="once", **request)

    assert again["batch_id"] == accepted[0]["batch_id"] and again["status"] == "succeeded"
    assert scored(account, id_of_key("once")) == first and len(first) == 1
    other = service.post("/v1/batch/score", json={"detector": "volume", "items": [item(9)], "idempotency_key": "once"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "Conflict")


def test_a_cancelled_batch_stops_leaves_what_is_done_and_can_go_on(service: httpx.Client, account: str) -> None:
    accepted = post(service, items=[item(n) for n in range(3000)])
    eventually(lambda: service.get(path_of(accepted)).json()["parts"] >= 1, seconds=60)

    cancelled = service.post(f"{path_of(accepted)}/cancel")

    assert cancelled.status_code == 202 and cancelled.json()["state"] == "cancelled"
    eventually(lambda: _is_quiet(account, accepted["batch_id"]), seconds=30)
    batch = service.get(path_of(accepted)).json()
    assert (batch["state"], batch["total"]) == ("cancelled", 3000) and 1 <= batch["parts"] < 12
    assert len(lines(service, batch)) == batch["done"]
    done = scored(account, accepted["batch_id"])
    assert service.post(f"{path_of(accepted)}/restart").status_code == 202
    batch = ended(service, accepted)
    assert (batch["state"], batch["done"]) == ("succeeded", 3000)
    assert sorted(r["line"] for r in lines(service, batch)) == list(range(1, 3001))
    assert scored(account, accepted["batch_id"]).items() >= done.items()
    assert service.post(f"{path_of(accepted)}/restart").status_code == 409
    assert service.post(f"{path_of(accepted)}/cancel").json()["state"] == "succeeded"


def _is_quiet(account: str, batch_id: str) -> bool:
    before = scored(account, batch_id)
    time.sleep(1)
    return scored(account, batch_id) == before


def test_a_batch_that_the_host_did_not_survive_is_finished_from_what_is_written(tmp_path: Path) -> None:
    with Azurite(tmp_path, tuple(free_ports(3))) as azurite:  # type: ignore[arg-type]  # three they are
        account = azurite.connection_string()
        with LocalHost(ROOT, settings(account)) as host, client_of(host) as service:
            request = {"items": [item(n, table_id=f"../{n}") if n % 100 == 0 else item(n) for n in range(1500)]}
            accepted = post(service, "survivor", **request)
            eventually(lambda: service.get(path_of(accepted)).json()["parts"] >= 2, seconds=60)

            host.kill()
            done = scored(account, accepted["batch_id"])
            host.start()
            interrupted = service.get(path_of(accepted)).json()
            again = post(service, "survivor", **request)
            batch = ended(service, again)

            assert interrupted["state"] == "interrupted" and "restart" in interrupted["reason"]
            assert 2 <= interrupted["parts"] < 6 and interrupted["done"] == 250 * interrupted["parts"]
            assert again["batch_id"] == accepted["batch_id"]
            assert (batch["state"], batch["done"], batch["failed"]) == ("succeeded", 1500, 15)
            assert [r["line"] for r in lines(service, batch)] == list(range(1, 1501))
            kept = {chunk: etag for chunk, etag in scored(account, accepted["batch_id"]).items() if done.get(chunk) == etag}
            assert len(kept) >= interrupted["parts"]


@pytest.mark.parametrize("kind", ["ndjson", "csv", "parquet"])
def test_a_file_is_scored_from_the_body_or_from_a_blob(service: httpx.Client, account: str, kind: str) -> None:
    frame = pd.DataFrame({"request_id": [f"r{n}" for n in range(3)], "current_row_count": [1010.0, 5.0, 990.0]})
    history, buffer = {"historical_data": HISTORY, "timestamp": MONDAY}, io.BytesIO()
    if kind == "parquet":
        frame.to_parquet(buffer)
    else:
        (frame.to_csv if kind == "csv" else frame.to_json)(buffer, **({"index": False} if kind == "csv" else
                                                                       {"orient": "records", "lines": True}))
    container = BlobServiceClient.from_connection_string(account).get_container_client("batches")
    if not container.exists():
        container.create_container()
    container.upload_blob(f"mine/today.{kind}", buffer.getvalue())

    batch = ended(service, post(service, input_blob=f"batches/mine/today.{kind}", defaults=history))
    mime = {"ndjson": "application/x-ndjson", "csv": "text/csv", "parquet": "application/vnd.apache.parquet"}[kind]
    sent = service.post("/v1/batch/score?detector=volume", content=buffer.getvalue(), headers={"Content-Type": mime})

    assert (batch["state"], batch["done"], batch["anomalies"]) == ("succeeded", 3, 1), batch
    first = 2 if kind == "csv" else 1
    assert [(r["line"], r["item_id"]) for r in lines(service, batch)] == [(first + n, f"r{n}") for n in range(3)]
    assert [a["item_id"] for a in batch["anomalous"]] == ["r1"]
    assert ended(service, sent.json())["status"] == {"learning": 3}


def test_the_newest_point_of_every_table_is_asked_about_and_nothing_is_written(service: httpx.Client, account: str) -> None:
    rows = [{"table_id": f"fleet{n}", **point, **({"row_count": 3} if n == 4 and p == 35 else {})}
            for n in range(6) for p, point in enumerate(counts(36))]
    service.post("/v1/observations", content="\n".join(map(json.dumps, rows)))
    history = History(Settings(connection_string=account))
    before = history.read("volume", "fleet4")

    batch = ended(service, post(service, tables="all", defaults={"sensitivity": 80}))

    results = {r["item_id"]: r["answer"] for r in lines(service, batch)}
    assert {f"fleet{n}" for n in range(6)} <= set(results)
    assert all(results[f"fleet{n}"]["timestamp"] == MONDAY for n in range(6))
    assert [name for name, answer in results.items() if name.startswith("fleet") and answer["is_anomaly"]] == ["fleet4"]
    after = history.read("volume", "fleet4")
    assert (after.values == before.values).all() and (after.status == before.status).all()


def test_what_a_batch_sees_is_kept_in_the_history_with_its_verdict(service: httpx.Client, account: str) -> None:
    items = [item(n, 12 if n == 3 else 1010, table_id=f"kept{n}") for n in range(5)]

    batch = ended(service, post(service, items=[*items, item(9, table_id="traceless", record=False)]))

    history = History(Settings(connection_string=account))
    kept = [history.read("volume", f"kept{n}") for n in range(5)]
    assert batch["anomalies"] == 1
    assert [(list(series.values), int(series.status[0])) for series in kept] == [([12.0 if n == 3 else 1010.0], int(n == 3))
                                                                                 for n in range(5)]
    assert not len(history.read("volume", "traceless").values)


def test_every_feed_is_asked_whether_it_is_late_by_now(service: httpx.Client) -> None:
    today = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    rows = [{"detector": "timeliness", "table_id": name, "timestamp": (today - timedelta(days=day)).isoformat()}
            for name, last in (("punctual", 0), ("silent", 4)) for day in range(last, 40)]
    service.post("/v1/observations", content="\n".join(map(json.dumps, rows)))

    batch = ended(service, post(service, detector="timeliness", tables="all"))

    states = {r["item_id"]: r["answer"]["state"] for r in lines(service, batch)}
    assert states["punctual"] in ("on_time", "pending") and states["silent"] in ("late", "stopped")
    assert [a["table_id"] for a in batch["anomalous"]] == ["silent"]


def test_a_batch_of_columns_is_judged_and_kept_like_single_calls(service: httpx.Client, account: str) -> None:
    values = [f"{n:03d}-{n * 7 % 900 + 100}" for n in range(60)]
    items = [{"table_id": "people", "column": f"phone{n}", "values": values, "timestamp": MONDAY} for n in range(3)]

    batch = ended(service, post(service, detector="pattern", items=[*items, {**items[0], "values": "many"}]))

    assert (batch["state"], batch["done"], batch["failed"]) == ("succeeded", 4, 1), batch
    assert batch["failures"][0]["target"] == "values"
    history = History(Settings(connection_string=account))
    assert [list(history.tables(series_name(f"phone{n}"))) for n in range(4)] == [["people"]] * 3 + [[]]


def test_anomalies_that_share_a_label_are_one_incident(service: httpx.Client, account: str) -> None:
    tables = Tables(History(known := Settings(connection_string=account)), known.tables_table)
    for n in range(8):
        settings = {"min_change": {"percent": 99.9}} if n == 7 else {}
        tables.put(f"shop{n}", {"labels": {"source": "sap"}, "settings": settings})

    batch = ended(service, post(service, items=[item(n, 10 if n < 8 else 1010, table_id=f"shop{n}") for n in range(40)]))

    assert batch["anomalies"] == 7, "the settings of the eighth table let its drop pass"
    (incident,) = batch["incidents"]
    assert incident["count"] == 7 and incident["factors"][0]["value"] == "sap"
    told = [json.loads(text) for text in Queues(Settings(connection_string=account)).peek("anomalies").values()]
    assert [event["data"]["count"] for event in told if event["type"] == "com.claritydq.incident.v1"] == [7]
    assert not [event for event in told if event["subject"].startswith("shop")], "seven anomalies are told as one event"


@pytest.mark.parametrize(("request_", "status", "target"), [
    ({}, 422, None),
    ({"items": []}, 422, "items"),
    ({"items": [{}], "tables": "all"}, 422, None),
    ({"input_blob": "batches/../models/x.csv"}, 422, "input_blob"),
    ({"input_blob": "models/x.csv"}, 422, "input_blob"),
    ({"input_blob": "batches/x.exe"}, 422, "input_blob"),
    ({"input_blob": "batches/gone.csv"}, 404, "input_blob"),
    ({"items": [{}], "detector": "weather"}, 404, "detector"),
    ({"tables": "some"}, 422, "tables"),
    ({"tables": "all", "detector": "pattern"}, 422, "tables"),
])
def test_a_request_that_makes_no_sense_is_refused_at_once(service: httpx.Client, request_: Any, status: int,
                                                          target: str | None) -> None:
    answer = service.post("/v1/batch/score", json={"detector": "volume", **request_})

    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["target"] == target


def test_a_file_that_cannot_be_read_fails_the_batch_with_the_reason(service: httpx.Client) -> None:
    for mime, body in (("text/csv", b"nothing,known\n1,2\n"), ("application/vnd.apache.parquet", b"PAR1"),
                       ("application/x-ndjson", b"\n\n")):
        accepted = service.post("/v1/batch/score", content=body, headers={"Content-Type": mime}).json()
        batch = ended(service, accepted)
        assert (batch["state"], batch["done"]) == ("failed", 0) and len(batch["reason"]) > 20


@pytest.mark.parametrize("batch_id", ["0" * 32, "x", "..", "%2e%2e%2fmodels"])
def test_a_batch_that_is_none_is_not_found(service: httpx.Client, batch_id: str) -> None:
    assert service.get(f"/v1/batch/{batch_id}").status_code == 404
    assert service.post(f"/v1/batch/{batch_id}/cancel").status_code == 404
    assert service.get(f"/v1/batch/{batch_id}/parts/1").status_code == 404
