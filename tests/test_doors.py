"""The queue door: what becomes of a message, without a host and through one."""

import gzip
import json
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import BlobBlock, BlobServiceClient
from azure.storage.queue import QueueServiceClient

from shared import doors
from shared.catalogue import Catalogue
from shared.errors import InvalidJson, InvalidRequest, NotFound, ServiceError
from shared.history import STATUSES
from shared.queues import LONGEST_BYTES, Queues
from shared.settings import Settings
from shared.tables import Tables
from tests.catalogues import promote
from tests.conftest import ACCOUNTS, ROOT
from tests.test_drops import NESTED, bomb
from tests.test_service import counts, eventually
from tools.azurite import Azurite
from tools.local_host import LocalHost

APP = ROOT / "tests" / "doors_app"
NOW = datetime(2026, 7, 6, 9, tzinfo=UTC)


def asked(**fields: Any) -> dict[str, Any]:
    """A message about a table whose rows collapsed."""
    return {"detector": "volume", "table_id": "orders", "current_row_count": 310, "timestamp": "2026-07-06T02:00:00Z",
            "historical_data": counts(35), **fields}


@pytest.fixture
def catalogue(storage: str) -> Catalogue:
    return Catalogue(Settings(connection_string=storage, recheck_seconds=0, tables_table="described"))


def judge(catalogue: Catalogue, message: bytes) -> doors.Judged:
    return doors.judge_message(message, catalogue, Tables(catalogue.history, catalogue.settings.tables_table, 0), NOW)


@pytest.mark.parametrize("encode", [bytes, b64encode, lambda body: b" " + body], ids=["plain", "base64", "white space"])
def test_a_message_is_read_as_json_and_as_json_in_base64(catalogue: Catalogue, encode: Any) -> None:
    judged = judge(catalogue, encode(json.dumps(asked(request_id="r-1")).encode()))

    assert judged.answer.is_anomaly and judged.answer.request_id == "r-1"
    seen = json.loads(judged.observation or "")
    assert seen["status"] == "anomaly" and seen["verdict"]["table_id"] == "orders"


@pytest.mark.parametrize(("message", "error", "target"), [
    (b"", InvalidJson, None),
    (b"not json, not base64!", InvalidJson, None),
    (b64encode(b"not json"), InvalidJson, None),
    (b64encode(b"\xff\xfe"), InvalidJson, None),
    (b"[" * 60_000, InvalidJson, None),
    (b"[]", InvalidRequest, None),
    (b"{}", InvalidRequest, "detector"),
    (json.dumps(asked(detector="weather")).encode(), NotFound, "detector"),
    (json.dumps(asked(table_id="../models")).encode(), InvalidRequest, "table_id"),
    (json.dumps(asked(table_id="a/../../b")).encode(), InvalidRequest, "table_id"),
    (json.dumps(asked(current_row_count="many")).encode(), InvalidRequest, "current_row_count"),
])
def test_a_message_that_no_retry_would_help_is_refused(catalogue: Catalogue, message: bytes, error: type[ServiceError],
                                                       target: str | None) -> None:
    with pytest.raises(error) as refused:
        judge(catalogue, message)

    assert refused.value.status < 500 and refused.value.target == target


def test_what_is_said_about_a_table_counts_where_the_message_says_nothing(catalogue: Catalogue) -> None:
    Tables(catalogue.history, catalogue.settings.tables_table, 0).put("orders", {"settings": {"direction": "spike"}})

    assert not judge(catalogue, json.dumps(asked()).encode()).answer.is_anomaly
    assert judge(catalogue, json.dumps(asked(direction="both")).encode()).answer.is_anomaly


def test_the_poison_queue_keeps_the_message_with_the_reason(catalogue: Catalogue) -> None:
    queues = Queues(catalogue.settings)

    doors.bury(b'{"a": "\xc3\xbc"}', "m-1", InvalidRequest("detector: is missing.", "detector"), queues, catalogue)

    [kept] = map(json.loads, queues.peek("detect-requests-poison").values())
    assert kept["message"] == '{"a": "ü"}' and kept["id"] == "m-1"
    assert (kept["reason"], kept["code"], kept["target"]) == ("detector: is missing.", "InvalidRequest", "detector")
    assert datetime.now(UTC) - datetime.fromisoformat(kept["dequeued_at"]) < timedelta(minutes=1)
    assert doors.poisoned(queues, ["detect-requests", "observations"]) == {
        "detect-requests-poison": 1, "observations-poison": 0, "webjobs-blobtrigger-poison": 0}


@pytest.mark.parametrize("message", [b'{"' * 32_000, b"\xff" * 10], ids=["as long as a message can be", "no text"])
def test_a_poison_message_that_fits_no_message_lies_in_a_blob(catalogue: Catalogue, message: bytes) -> None:
    queues = Queues(catalogue.settings)

    doors.bury(message, "m-1", InvalidJson("x" * 100_000, "y" * 100_000), queues, catalogue)

    [kept] = map(json.loads, queues.peek("detect-requests-poison").values())
    container, _, name = kept["message_blob"].partition("/")
    assert kept["message"] is None
    assert catalogue.blobs.get(container, name).data == message  # type: ignore[union-attr]


def test_a_fault_of_the_service_has_its_name_on_the_poison_queue(catalogue: Catalogue) -> None:
    queues = Queues(catalogue.settings)

    doors.bury(b"{}", "m-1", ZeroDivisionError("division by zero"), queues, catalogue)

    [kept] = map(json.loads, queues.peek("detect-requests-poison").values())
    assert (kept["code"], kept["reason"]) == ("InternalError", "ZeroDivisionError: division by zero")


def test_an_answer_too_long_for_a_message_lies_in_a_blob_that_the_message_names(catalogue: Catalogue) -> None:
    answer = judge(catalogue, json.dumps(asked(request_id="r-1")).encode()).answer
    answer.warnings = ["w" * 1000] * 70

    told = json.loads(text := doors.answer_message(answer, "m-1", catalogue))

    assert len(text) < LONGEST_BYTES
    assert (told["message_id"], told["request_id"], told["severity"]) == ("m-1", "r-1", "critical")
    assert told["result"] == "results/detect-results/m-1.json"
    whole = json.loads(catalogue.blobs.get("results", "detect-results/m-1.json").data)  # type: ignore[union-attr]
    assert whole == {"message_id": "m-1", **answer.model_dump(mode="json")}


def test_messages_are_counted_taken_and_come_back_unless_deleted(storage: str) -> None:
    queues = Queues(Settings(connection_string=storage))
    assert (queues.length("some"), queues.peek("some"), list(queues.take("some"))) == (0, {}, [])
    for n in range(40):
        queues.put("some", f"<&ü{n}>")

    for message in queues.take("some", seconds=1):
        if message.text != "<&ü7>":
            message.delete()

    assert queues.length("some") == 1
    assert list(eventually(lambda: queues.peek("some")).values()) == ["<&ü7>"]


class Door:
    """The queues of a running host."""

    def __init__(self, connection_string: str, host: LocalHost) -> None:
        self.host = host
        self.catalogue = Catalogue(Settings(connection_string=connection_string, recheck_seconds=0))
        self.queues = Queues(self.catalogue.settings)
        self._raw = QueueServiceClient.from_connection_string(connection_string)
        self._blobs = BlobServiceClient.from_connection_string(connection_string)
        self._seen: dict[str, list[dict[str, Any]]] = {}

    def send(self, message: str | dict[str, Any]) -> None:
        self.queues.put("detect-requests", message if isinstance(message, str) else json.dumps(message))

    def send_raw(self, text: str) -> None:
        """As long as the service takes it."""
        self.queues.put("detect-requests", "{}")  # the queue is there after it
        self._raw.get_queue_client("detect-requests").send_message(text)

    def kept(self, table_id: str) -> list[tuple[float, str]]:
        """(count, status) of every point in a table's history."""
        series = self.catalogue.history.read("volume", table_id)
        return [(float(v), STATUSES[int(s)]) for v, s in zip(series.values, series.status, strict=True)]

    def drop(self, name: str, content: bytes) -> None:
        container = self._blobs.get_container_client("profiles")
        if not container.exists():
            container.create_container()
        container.upload_blob(name, content)

    def drop_large(self, name: str, megabytes: int) -> None:
        """A file of so many million bytes, all of them the same block."""
        blob = self._blobs.get_blob_client("profiles", name)
        blob.stage_block("block", b"1" * 1_000_000)
        blob.commit_block_list([BlobBlock("block")] * megabytes)

    def content(self, container: str, name: str) -> bytes:
        return bytes(self._blobs.get_blob_client(container, name).download_blob().readall())

    def peak_megabytes(self) -> float:
        """The most memory the host and its worker, one process here, ever had."""
        status = Path(f"/proc/{self.host.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def messages(self, queue: str, field: str, value: Any, count: int = 1) -> list[dict[str, Any]]:
        """The messages on a queue whose `field` is `value`, once there are `count` of them."""
        seen = self._seen.setdefault(queue, [])

        def look() -> list[dict[str, Any]] | None:
            for message in self.queues.take(queue):
                seen.append(json.loads(message.text))
                message.delete()
            found = [m for m in seen if m.get(field) == value]
            return found if len(found) >= count else None

        return eventually(look) or []


@pytest.fixture(scope="module")
def door(azurite: Azurite) -> Iterator[Door]:
    account = azurite.connection_string(ACCOUNTS[-3])
    settings = {"AzureWebJobsStorage": account, "DATA_STORAGE": account, "DROP_MAX_BYTES": str(64 * 2**20)}
    with LocalHost(APP, settings) as host:
        yield Door(account, host)


def test_a_message_is_answered_on_the_results_queue_and_kept_in_the_history(door: Door) -> None:
    door.send(asked(table_id="kept", request_id="first"))

    [told] = door.messages("detect-results", "request_id", "first")

    assert told["is_anomaly"] and told["detector"] == "volume" and told["table_id"] == "kept" and told["message_id"]
    series = eventually(lambda: door.kept("kept"))
    assert series == [(310.0, "anomaly")]


def test_duplicates_get_the_same_answer_and_leave_the_history_as_it_was(door: Door) -> None:
    for _ in range(3):
        door.send(asked(table_id="twice", request_id="again"))

    told = door.messages("detect-results", "request_id", "again", count=3)

    assert len({m.pop("message_id") for m in told}) == 3
    assert len({json.dumps({**m, "latency_ms": 0}) for m in told}) == 1
    eventually(lambda: door.queues.length("observations") == 0)
    assert [v for v, _ in door.kept("twice")] == [310.0]


def test_messages_out_of_order_get_the_answers_they_get_in_order(door: Door) -> None:
    days = [asked(table_id=f"{way}-order", request_id=f"{way}-{day}", timestamp=f"2026-07-{day:02}T02:00:00Z")
            for way, order in (("in", (6, 7, 8)), ("out", (8, 6, 7))) for day in order]
    for message in days:
        door.send(message)

    for day in (6, 7, 8):
        [there], [back] = (door.messages("detect-results", "request_id", f"{way}-{day}") for way in ("in", "out"))
        assert (there["severity"], there["timestamp"]) == (back["severity"], back["timestamp"])


@pytest.mark.parametrize(("text", "code"), [
    ("malformed {", "InvalidJson"),
    (json.dumps(asked(table_id="../../secret")), "InvalidRequest"),
    (json.dumps(asked(detector="weather")), "NotFound"),
])
def test_a_message_that_cannot_be_used_lies_on_the_poison_queue_with_its_reason(door: Door, text: str, code: str) -> None:
    door.send(text)

    [kept] = door.messages("detect-requests-poison", "message", text)
    assert kept["code"] == code and kept["reason"]


def test_what_may_pass_is_tried_again_before_it_lies_on_the_poison_queue(door: Door) -> None:
    version = promote(door.catalogue, 2, "volume-anomaly.broken")
    door.catalogue.blobs.put("models", f"volume-anomaly.broken/{version}/model.onnx", b"broken")

    door.send(text := json.dumps(asked(table_id="broken", fallback=False)))

    [kept] = door.messages("detect-requests-poison", "message", text)
    assert kept["code"] == "ModelUnavailable"
    assert door.host.logs.count("raised ModelUnavailable") == doors.TRIES - 1


def test_the_host_tries_as_often_as_the_door_counts() -> None:
    queues = json.loads((ROOT / "host.json").read_text())["extensions"]["queues"]

    assert queues["maxDequeueCount"] == doors.TRIES


def test_a_message_of_64_kib_is_answered(door: Door) -> None:
    body = json.dumps(asked(request_id="full", note=""))

    door.send_raw(body.replace('"note": ""', f'"note": "{"n" * (2**16 - len(body))}"'))

    assert door.messages("detect-results", "request_id", "full")[0]["is_anomaly"]


def test_a_malformed_message_of_64_kib_is_kept_whole(door: Door) -> None:
    door.send_raw('{"' * 2**15)

    kept = next(k for k in door.messages("detect-requests-poison", "message", None) if k["message_blob"])
    container, _, name = kept["message_blob"].partition("/")
    assert door.catalogue.blobs.get(container, name).data == b'{"' * 2**15  # type: ignore[union-attr]


def test_a_dropped_file_is_judged_and_its_result_lies_beside_it(door: Door) -> None:
    door.drop("dropped/2026-07-06.csv.gz", gzip.compress(b"id,city\n" + b"1,Ulm\n" * 50))

    told = door.messages("detect-results", "source", "profiles/dropped/2026-07-06.csv.gz", count=2)

    assert {m["detector"] for m in told} == {"distribution", "volume"}
    result = json.loads(door.content("results", "dropped/2026-07-06.csv.gz.json"))
    assert {a["detector"]: a["table_id"] for a in result["answers"]} == {"distribution": "dropped", "volume": "dropped"}
    assert eventually(lambda: door.kept("dropped")) == [(50.0, "ok")]


@pytest.mark.parametrize(("name", "content", "words"), [
    ("empty.csv", b"", "empty"),
    ("nested.parquet", NESTED, "nested"),
    ("bomb.csv.gz", None, "unpacked"),
    ("odd name.txt", b"hello", ".csv"),
])
def test_a_dropped_file_that_cannot_be_read_is_reported_and_left_where_it_was(door: Door, name: str, words: str,
                                                                              content: bytes | None) -> None:
    content = bomb(40) if content is None else content

    door.drop(f"unreadable/{name}", content)

    [told] = door.messages("detect-results", "source", f"profiles/unreadable/{name}")

    assert words in told["error"]["message"]
    assert json.loads(door.content(*told["result"].split("/", 1)))["error"] == told["error"]
    assert door.content("profiles", f"unreadable/{name}") == content


def test_a_file_of_200_mb_is_refused_and_the_worker_stays_small(door: Door) -> None:
    before = door.peak_megabytes()

    door.drop_large("huge/table.csv", 200)

    [told] = door.messages("detect-results", "source", "profiles/huge/table.csv")
    assert told["error"]["message"] == "The file has 200,000,000 bytes; at most 67,108,864 are read."
    assert door.peak_megabytes() - before < 100
