"""HTTP functions served by the local host: a real process, real sockets, a real storage account."""

from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from azure.storage.queue import QueueClient

from tests.conftest import ACCOUNTS
from tools.azurite import Azurite
from tools.local_host import LocalHost

HOST_APP = Path(__file__).parent / "host_app"


@pytest.fixture(scope="module")
def storage_account(azurite: Azurite) -> str:
    return azurite.connection_string(ACCOUNTS[-1])


@pytest.fixture(scope="module")
def host(storage_account: str) -> Iterator[LocalHost]:
    settings = {"AzureWebJobsStorage": storage_account, "AzureWebJobs.tick.Disabled": "true"}
    with LocalHost(HOST_APP, settings) as running:
        yield running


@pytest.fixture(scope="module")
def client(host: LocalHost) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=host.url, headers={"x-functions-key": host.key}, timeout=20) as opened:
        yield opened


def test_a_route_parameter_arrives_and_text_is_answered_as_plain_text(client: httpx.Client) -> None:
    answer = client.get("/api/hello/Ada")

    assert (answer.status_code, answer.text) == (200, "Hello Ada")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_a_literal_route_goes_before_a_parameter_and_a_constraint_must_hold(client: httpx.Client) -> None:
    assert client.get("/api/hello/you").text == "Hello, it is you"
    assert client.get("/api/hello/r2d2").status_code == 404


def test_a_method_that_no_function_takes_is_not_found(client: httpx.Client) -> None:
    assert client.delete("/api/hello/Ada").status_code == 404


def test_a_catch_all_takes_the_rest_of_the_path(client: httpx.Client) -> None:
    assert client.get("/api/files/2026/11/a%20b.csv").text == "2026/11/a b.csv"


def test_the_whole_request_reaches_the_function(client: httpx.Client) -> None:
    answer = client.put("/api/echo/a%2Fb/7?tag=x&tag=y&empty=", content=b"\xff\x00", headers={"Accept-Language": "fr"})

    told = answer.json()
    assert told["method"] == "PUT"
    assert told["url"] == f"{client.base_url}/api/echo/a%2Fb/7?tag=x&tag=y&empty="
    assert told["params"] == {"id": "a%2Fb", "part": "7"}
    assert told["query"] == {"tag": "x,y", "empty": ""}
    assert (told["accept"], told["bytes"]) == ("fr", 2)


def test_status_headers_cookies_and_bytes_of_an_answer_arrive(client: httpx.Client) -> None:
    answer = client.get("/api/picture")

    assert (answer.status_code, answer.content) == (203, bytes(range(256)))
    assert (answer.headers["content-type"], answer.headers["etag"]) == ("image/png", '"7"')
    assert answer.cookies["seen"] == "yes"


@pytest.mark.parametrize("headers", [{}, {"x-functions-key": "guessed"}, {"x-functions-key": ""}])
def test_without_the_key_a_function_is_not_called(host: LocalHost, headers: dict[str, str]) -> None:
    answer = httpx.post(f"{host.url}/api/echo/a", headers=headers)

    assert (answer.status_code, answer.content) == (401, b"")
    assert httpx.get(f"{host.url}/api/protected", headers=headers).status_code == 401


def test_the_key_is_taken_from_the_query_too(host: LocalHost) -> None:
    assert httpx.post(f"{host.url}/api/echo/a?code={host.key}").status_code == 200


def test_a_function_that_raises_answers_500_with_nothing_and_tells_the_log(host: LocalHost, client: httpx.Client) -> None:
    answer = client.get("/api/fail")

    assert (answer.status_code, answer.content) == (500, b"")
    assert "Function 'fail' raised ValueError: this function always fails" in host.logs


def test_a_body_of_8_megabytes_passes_and_one_over_the_limit_is_413(client: httpx.Client) -> None:
    assert client.post("/api/echo/a", content=b"x" * 8_000_000).json()["bytes"] == 8_000_000
    assert client.post("/api/echo/a", content=b"x" * 20_000_001).status_code == 413
    assert client.post("/api/echo/a", content=(b"x" * 1_000_000 for _ in range(21))).status_code == 413


def test_dots_in_a_path_do_not_reach_another_route(host: LocalHost) -> None:
    with httpx.Client() as client:
        escaped = client.build_request("GET", f"{host.url}/api/files/%2e%2e/%2e%2e/admin/functions")
        assert client.send(escaped).status_code == 401
        assert client.get(f"{host.url}/api/files/%ff").status_code == 400


def test_synchronous_functions_run_side_by_side_in_the_workers_threads(client: httpx.Client) -> None:
    with ThreadPoolExecutor(4) as pool:
        threads = set(pool.map(lambda _: client.get("/api/sleep?seconds=0.5").text, range(4)))

    assert len(threads) == 4


def test_queue_outputs_of_an_http_function_are_delivered(client: httpx.Client, storage_account: str) -> None:
    assert client.post("/api/send/outbox", json="one").status_code == 202
    assert client.post("/api/send/outbox", json=["two", "three"]).status_code == 202

    with QueueClient.from_connection_string(storage_account, "outbox") as outbox:
        messages = [b64decode(m.content).decode() for m in outbox.receive_messages(max_messages=5)]
    assert sorted(messages) == ["one", "three", "two"]


def test_an_output_that_cannot_be_delivered_fails_the_call(host: LocalHost, client: httpx.Client) -> None:
    assert client.post("/api/send/No_Such_Name!", json="x").status_code == 500
    assert "A binding of function 'send' failed" in host.logs


def test_a_blob_input_is_read_by_its_route_parameter(client: httpx.Client) -> None:
    assert client.get("/api/stored/nothing").status_code == 404


def test_functions_are_listed_as_func_start_lists_them(host: LocalHost) -> None:
    assert f"\techo: [POST,PUT] {host.url}/api/echo/{{id}}/{{part:int?}}\n" in host.logs
    assert "\ton_job: queueTrigger jobs\n" in host.logs
    assert "\ttick: timerTrigger */1 * * * * * (disabled)\n" in host.logs
    assert "The 'in_error' function is in error: '%NO_SUCH_SETTING%' does not resolve" in host.logs


def test_the_admin_api_tells_the_state_and_wants_the_key(host: LocalHost, client: httpx.Client) -> None:
    assert client.get("/admin/host/status").json()["state"] == "Running"
    assert "hello" in {f["name"] for f in client.get("/admin/functions").json()}
    assert httpx.get(f"{host.url}/admin/host/status").status_code == 401
    assert httpx.post(f"{host.url}/admin/functions/tick").status_code == 401
    assert httpx.get(host.url).status_code == 200
