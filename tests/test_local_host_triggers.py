"""Queue, blob and timer triggers served by the local host over a real storage account."""

import json
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueServiceClient

from tests.conftest import ACCOUNTS
from tools.azurite import Azurite
from tools.local_host import LocalHost

HOST_APP = Path(__file__).parent / "host_app"


class Account:
    """The storage account of a running host, with what its functions told so far."""

    def __init__(self, connection_string: str) -> None:
        self.connection_string = connection_string
        self.blobs = BlobServiceClient.from_connection_string(connection_string)
        self.queues = QueueServiceClient.from_connection_string(connection_string)
        self.told: list[dict[str, Any]] = []

    def job(self, body: str, encoded: bool = True) -> None:
        queue = self.queues.get_queue_client("jobs")
        with suppress(ResourceExistsError):  # whoever comes first creates it, this test or the host
            queue.create_queue()
        queue.send_message(b64encode(body.encode()).decode() if encoded else body)

    def upload(self, name: str, content: bytes, container_name: str = "uploads") -> None:
        container = self.blobs.get_container_client(container_name)
        if not container.exists():
            container.create_container()
        container.upload_blob(name, content, overwrite=True)

    def wait_for(self, fits: Callable[[dict[str, Any]], bool], count: int = 1, queue: str = "results",
                 seconds: float = 10) -> list[dict[str, Any]]:
        """The messages that fit, once there are `count` of them or the time is up."""
        deadline = time.monotonic() + seconds
        client = self.queues.get_queue_client(queue)
        while len(found := [m for m in self.told if fits(m)]) < count and time.monotonic() < deadline:
            with suppress(ResourceNotFoundError):  # the host creates a queue with the first message to it
                for message in client.receive_messages(max_messages=32):
                    self.told.append(json.loads(b64decode(message.content)))
                    client.delete_message(message)
            time.sleep(0.05)
        return found

    def peek(self, queue: str, wanted: str) -> str:
        """The raw text of the message on a queue whose content holds `wanted`; fails after ten seconds."""
        deadline = time.monotonic() + 10
        client = self.queues.get_queue_client(queue)
        while time.monotonic() < deadline:
            with suppress(ResourceNotFoundError):
                for message in client.peek_messages(max_messages=32):
                    if wanted in message.content or wanted.encode() in b64decode(message.content + "=="):
                        return str(message.content)
            time.sleep(0.05)
        raise AssertionError(f"no message with {wanted} on {queue}")


@pytest.fixture(scope="module")
def account(azurite: Azurite) -> Account:
    return Account(azurite.connection_string(ACCOUNTS[-2]))


@pytest.fixture(scope="module")
def host(account: Account) -> Iterator[LocalHost]:
    with LocalHost(HOST_APP, {"AzureWebJobsStorage": account.connection_string}) as running:
        yield running


def test_a_queue_message_runs_its_function_and_its_output_is_sent(host: LocalHost, account: Account) -> None:
    account.job("plain")

    assert account.wait_for(lambda m: m.get("job") == "plain")[0]["dequeue_count"] == 1


def test_fifty_messages_are_all_handled_once(host: LocalHost, account: Account) -> None:
    for n in range(50):
        account.job(f"many-{n}")

    done = account.wait_for(lambda m: m.get("job", "").startswith("many-"), count=50)
    assert sorted(m["job"] for m in done) == sorted(f"many-{n}" for n in range(50))


def test_a_message_whose_function_fails_is_tried_again(host: LocalHost, account: Account) -> None:
    account.job("flaky-1")

    assert account.wait_for(lambda m: m.get("job") == "flaky-1")[0]["dequeue_count"] == 2


def test_after_the_last_try_a_message_lies_on_the_poison_queue_as_it_was(host: LocalHost, account: Account) -> None:
    account.job("bad-ü")

    assert b64decode(account.peek("jobs-poison", "bad-ü")).decode() == "bad-ü"
    assert "goes to 'jobs-poison' after 3 tries: RuntimeError: cannot do bad-ü" in host.logs


def test_a_message_in_the_wrong_encoding_goes_to_the_poison_queue_at_once(host: LocalHost, account: Account) -> None:
    account.job("not base64!", encoded=False)

    assert account.peek("jobs-poison", "not base64!") == "not base64!"
    assert "the message is not base64" in host.logs


def test_a_blob_runs_its_function_once_for_every_version(host: LocalHost, account: Account) -> None:
    def contents(count: int, seconds: float = 10) -> list[tuple[str, int]]:
        told = account.wait_for(lambda m: m.get("blob") == "uploads/orders/2026/a.csv", count, seconds=seconds)
        return [(m["content"], m["bytes"]) for m in told]

    account.upload("orders/2026/a.csv", b"first")
    assert contents(1) == [("first", 5)]
    account.upload("orders/2026/a.csv", b"second!")
    assert contents(2) == [("first", 5), ("second!", 7)]
    assert contents(3, seconds=1.5) == [("first", 5), ("second!", 7)]  # not a third time at the next poll

    assert account.blobs.get_blob_client("stored", "orders-2026/a.csv").download_blob().readall() == b"SECOND!"


def test_a_blob_that_does_not_fit_the_path_is_left_alone(host: LocalHost, account: Account) -> None:
    account.upload("top-level.csv", b"x")
    account.upload("orders/b.csv", b"y")

    account.wait_for(lambda m: m.get("blob") == "uploads/orders/b.csv")
    assert not [m for m in account.told if m.get("blob") == "uploads/top-level.csv"]


def test_a_blob_whose_function_keeps_failing_is_told_on_the_poison_queue(host: LocalHost, account: Account) -> None:
    account.upload("orders/bad.csv", b"bad")

    told = json.loads(b64decode(account.peek("webjobs-blobtrigger-poison", "orders/bad.csv")))
    assert (told["ContainerName"], told["BlobName"]) == ("uploads", "orders/bad.csv")
    assert told["FunctionId"] == "Host.Functions.on_upload"


def test_a_function_that_takes_an_sdk_client_opens_the_blob_itself(host: LocalHost, account: Account) -> None:
    account.upload("a/b.csv", b"hello" + bytes(1_000_000), "large")

    assert account.wait_for(lambda m: m.get("large") == "large/a/b.csv")[0]["head"] == "hello"


def test_a_timer_runs_on_its_schedule(host: LocalHost, account: Account) -> None:
    ticks = account.wait_for(lambda m: m.get("timer") == "tick", count=2, queue="ticks")

    assert len(ticks) >= 2
    assert not any(m["past_due"] for m in ticks)


def test_a_timer_can_run_at_the_start(host: LocalHost, account: Account) -> None:
    assert account.wait_for(lambda m: m.get("timer") == "at_start", queue="ticks")


def test_a_queue_function_can_be_run_by_hand(host: LocalHost, account: Account) -> None:
    headers = {"x-functions-key": host.key}

    answer = httpx.post(f"{host.url}/admin/functions/on_job", json={"input": "by hand"}, headers=headers)

    assert answer.status_code == 202
    assert httpx.post(f"{host.url}/admin/functions/nothing", json={}, headers=headers).status_code == 404


def test_after_a_restart_what_was_done_is_not_done_again_and_a_missed_timer_is_past_due(storage: str) -> None:
    account = Account(storage)
    hourly = LocalHost(HOST_APP, {"AzureWebJobsStorage": storage, "TICK_SCHEDULE": "0 0 * * * *"})
    with hourly as host:
        account.upload("orders/once.csv", b"once")
        assert account.wait_for(lambda m: m.get("blob") == "uploads/orders/once.csv")
        time.sleep(0.5)  # the receipt is written after the outputs
        url = host.url
        host.kill()
        missed_an_hour_ago(account)

        host.start()

        assert host.url == url
        assert account.wait_for(lambda m: m.get("timer") == "tick", queue="ticks")[0]["past_due"]
        account.upload("orders/twice.csv", b"twice")
        assert account.wait_for(lambda m: m.get("blob") == "uploads/orders/twice.csv")
        assert len([m for m in account.told if m.get("blob") == "uploads/orders/once.csv"]) == 1


def missed_an_hour_ago(account: Account) -> None:
    """Sets the timer's status back, as if no host had run when it was due."""
    blob = account.blobs.get_blob_client("azure-webjobs-hosts", "timers/tick/status")
    status = json.loads(blob.download_blob().readall())
    blob.upload_blob(json.dumps({**status, "Next": "2026-01-01T00:00:00+00:00"}), overwrite=True)


def test_a_message_in_work_comes_back_when_the_host_is_stopped(storage: str) -> None:
    account = Account(storage)
    account.queues.create_queue("jobs")
    with LocalHost(HOST_APP, {"AzureWebJobsStorage": storage, "AzureWebJobs.tick.Disabled": "1"}) as host:
        account.job("slow")
        deadline = time.monotonic() + 5
        while account.queues.get_queue_client("jobs").peek_messages() and time.monotonic() < deadline:
            time.sleep(0.05)
        began = time.monotonic()
        host.stop()

        assert time.monotonic() - began < 4
        assert [b64decode(m.content) for m in account.queues.get_queue_client("jobs").peek_messages()] == [b"slow"]
