"""Durable Functions served by the local host: orchestrations run for real, watched through the status webhooks."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ACCOUNTS
from tools.azurite import Azurite
from tools.local_host import LocalHost

HOST_APP = Path(__file__).parent / "host_app"
WEBHOOKS = "/runtime/webhooks/durabletask"


@pytest.fixture(scope="module")
def host(azurite: Azurite) -> Iterator[LocalHost]:
    settings = {"AzureWebJobsStorage": azurite.connection_string(ACCOUNTS[-3]), "AzureWebJobs.tick.Disabled": "true"}
    with LocalHost(HOST_APP, settings) as running:
        yield running


@pytest.fixture(scope="module")
def client(host: LocalHost) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=host.url, headers={"x-functions-key": host.key}, timeout=20) as opened:
        yield opened


def start(client: httpx.Client, orchestrator: str, given: Any = None, instance: str = "") -> dict[str, str]:
    """The management URLs of a new instance."""
    answer = client.post(f"/api/start/{orchestrator}", json=given, params={"id": instance} if instance else {})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == answer.json()["statusQueryGetUri"]
    return answer.json()


def wait(links: dict[str, str], *states: str) -> dict[str, Any]:
    """The status once it is one of `states`, by default an end; the last one seen after ten seconds."""
    deadline = time.monotonic() + 10
    while True:
        status = httpx.get(links["statusQueryGetUri"]).json()
        if status["runtimeStatus"] in (states or ("Completed", "Failed", "Terminated")) or time.monotonic() > deadline:
            return status
        time.sleep(0.03)


def test_two_hundred_parallel_activities_complete(client: httpx.Client) -> None:
    status = wait(start(client, "fan_out", 200))

    assert status["runtimeStatus"] == "Completed"
    assert (status["output"], status["customStatus"], status["input"]) == (39800, {"done": 200}, 200)
    assert status["name"] == "fan_out"


def test_no_more_activities_run_at_a_time_than_host_json_allows(client: httpx.Client) -> None:
    assert wait(start(client, "crowds", 12))["output"] == 3


def test_a_flaky_activity_is_retried_until_it_succeeds(client: httpx.Client) -> None:
    assert wait(start(client, "retries"))["output"] == 3


def test_a_failing_activity_fails_its_orchestration_even_without_a_message(client: httpx.Client) -> None:
    status = wait(start(client, "fails"))

    assert status["runtimeStatus"] == "Failed"
    assert "ValueError" in status["output"]


def test_an_orchestrator_that_catches_a_failure_sees_its_type_and_message(client: httpx.Client) -> None:
    assert wait(start(client, "catches"))["output"] == {"type": "ValueError", "message": "ValueError"}


def test_sub_orchestrations_give_their_results_to_the_parent(client: httpx.Client) -> None:
    assert wait(start(client, "parent"))["output"] == [2, 6]


def test_a_durable_timer_waits_as_long_as_it_should(client: httpx.Client) -> None:
    assert 0.4 <= wait(start(client, "naps", 0.4))["output"] < 2


def test_payloads_over_four_megabytes_pass(client: httpx.Client) -> None:
    assert wait(start(client, "large", "x" * 4_300_000))["output"] == "x" * 4_300_000


def test_an_entity_keeps_its_state_between_calls(client: httpx.Client) -> None:
    assert wait(start(client, "counts"))["output"] == 5


def test_an_orchestrator_that_does_not_exist_fails_its_instance(client: httpx.Client) -> None:
    status = wait(start(client, "no_such_orchestrator"))

    assert status["runtimeStatus"] == "Failed"
    assert "no_such_orchestrator" in status["output"]


def test_while_an_instance_runs_its_status_is_202_and_says_where_to_ask_again(client: httpx.Client) -> None:
    links = start(client, "waits")
    wait(links, "Running")

    answer = httpx.get(links["statusQueryGetUri"])
    assert (answer.status_code, answer.headers["location"]) == (202, links["statusQueryGetUri"])
    httpx.post(links["terminatePostUri"])


def test_an_event_raised_by_webhook_reaches_the_orchestrator(client: httpx.Client) -> None:
    links = start(client, "waits")
    event = links["sendEventPostUri"].replace("{eventName}", "go")

    assert httpx.post(event, content="not json").status_code == 400
    assert httpx.post(event, json={"ready": True}).status_code == 202
    assert wait(links)["output"] == {"ready": True}
    assert httpx.post(event, json={"ready": True}).status_code == 410


def test_a_terminated_instance_ends_and_stays_so(client: httpx.Client) -> None:
    links = start(client, "waits")
    wait(links, "Running")
    terminate = links["terminatePostUri"].replace("{text}", "enough")

    assert httpx.post(terminate).status_code == 202
    assert (wait(links)["runtimeStatus"], wait(links)["output"]) == ("Terminated", "enough")
    assert httpx.post(terminate).status_code == 410


def test_an_activity_that_ends_after_its_orchestration_does_not_wake_it(client: httpx.Client) -> None:
    links = start(client, "crowds", 40)
    wait(links, "Running")
    httpx.post(links["terminatePostUri"])
    ended = wait(links)

    time.sleep(0.3)  # the activities that were running end now
    assert wait(links) == ended
    assert ended["runtimeStatus"] == "Terminated"


def test_a_suspended_instance_waits_and_goes_on_when_resumed(client: httpx.Client) -> None:
    links = start(client, "waits")
    wait(links, "Running")

    assert httpx.post(links["suspendPostUri"]).status_code == 202
    assert wait(links, "Suspended")["runtimeStatus"] == "Suspended"
    httpx.post(links["sendEventPostUri"].replace("{eventName}", "go"), json=1)
    assert httpx.post(links["resumePostUri"]).status_code == 202
    assert wait(links)["output"] == 1


def test_a_purged_instance_is_gone(client: httpx.Client) -> None:
    links = start(client, "fan_out", 1)
    wait(links)

    assert httpx.delete(links["purgeHistoryDeleteUri"]).json() == {"instancesDeleted": 1}
    assert httpx.get(links["statusQueryGetUri"]).status_code == 404
    assert httpx.delete(links["purgeHistoryDeleteUri"]).status_code == 404


def test_an_ended_instance_can_be_restarted(client: httpx.Client) -> None:
    links = start(client, "fan_out", 3)
    wait(links)

    again = httpx.post(links["restartPostUri"])

    assert again.status_code == 202
    assert again.json()["id"] != links["id"]
    assert wait(again.json())["output"] == 6


def test_the_id_of_an_ended_instance_can_be_used_again_but_not_that_of_a_running_one(client: httpx.Client) -> None:
    assert wait(start(client, "fan_out", 2, "job-1"))["output"] == 2
    assert wait(start(client, "fan_out", 3, "job-1"))["output"] == 6

    links = start(client, "waits", None, "job-2")
    wait(links, "Running")
    assert client.post("/api/start/waits", params={"id": "job-2"}).status_code == 500
    assert client.post(f"{WEBHOOKS}/orchestrators/waits/job-2").status_code == 409
    httpx.post(links["terminatePostUri"])


def test_an_orchestrator_can_be_started_by_webhook(client: httpx.Client) -> None:
    answer = client.post(f"{WEBHOOKS}/orchestrators/fan_out", json=4)

    assert answer.status_code == 202
    assert wait(answer.json())["output"] == 12


def test_instances_are_listed_by_status_and_prefix(client: httpx.Client) -> None:
    wait(start(client, "fan_out", 2, "list-1"))
    wait(start(client, "fails", None, "list-2"))

    def ids(**query: str) -> list[str]:
        found = client.get(f"{WEBHOOKS}/instances", params={"instanceIdPrefix": "list-", **query}).json()
        return [instance["instanceId"] for instance in found]

    assert ids() == ["list-1", "list-2"]
    assert ids(runtimeStatus="Failed,Running") == ["list-2"]
    assert client.get(f"{WEBHOOKS}/instances?runtimeStatus=Odd").status_code == 400


def test_the_history_and_the_input_are_shown_as_asked(client: httpx.Client) -> None:
    links = start(client, "fan_out", 2)
    wait(links)

    shown = httpx.get(links["statusQueryGetUri"] + "&showHistory=true&showHistoryOutput=true&showInput=false").json()
    events = [event["EventType"] for event in shown["historyEvents"]]
    assert events.count("TaskCompleted") == 2
    assert (events[0], events[-1], shown["input"]) == ("ExecutionStarted", "ExecutionCompleted", None)


def test_a_failure_is_500_for_callers_who_ask_for_that(client: httpx.Client) -> None:
    links = start(client, "fails")
    wait(links)

    assert httpx.get(links["statusQueryGetUri"]).status_code == 200
    assert httpx.get(links["statusQueryGetUri"] + "&returnInternalServerErrorOnFailure=true").status_code == 500


def test_the_webhooks_want_the_key_and_know_their_instances(host: LocalHost, client: httpx.Client) -> None:
    assert httpx.get(f"{host.url}{WEBHOOKS}/instances/x").status_code == 401
    assert httpx.get(f"{host.url}{WEBHOOKS}/instances/x?code=guessed").status_code == 401
    assert client.get(f"{WEBHOOKS}/instances/x").status_code == 404
    assert client.post(f"{WEBHOOKS}/instances/x/terminate").status_code == 404
