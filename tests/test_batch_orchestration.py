"""The orchestrators of a batch as stories: what they ask for and in which order, alone and under Microsoft's replay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from azure.durable_functions.internal.compat.orchestration_context import wrap_orchestrator
from durabletask.client import OrchestrationStatus, TaskHubGrpcClient
from durabletask.worker import TaskHubGrpcWorker

from orchestrations import batch_scoring
from tools.local_host.durable import Backend

JOB = {"batch_id": "b" * 32, "instance": "b-1"}
type Call = tuple[str, Any]


def orchestrator(name: str) -> Callable[[Any], Any]:
    """The generator function as it was written, below its decorators."""
    return getattr(batch_scoring, name)._function.get_user_function().orchestrator_function


class Story:
    """What an orchestrator sees of the engine: it writes down each call and answers from `results`, or raises them."""

    def __init__(self, given: Any, **results: Any) -> None:
        self.calls: list[Call] = []
        self._given, self._results = given, results

    def get_input(self) -> Any:
        return self._given

    def call_activity_with_retry(self, name: str, retry: Any, given: Any) -> Any:
        assert retry.max_number_of_attempts > 2
        return self._called(name, given)

    def call_sub_orchestrator(self, name: str, given: Any) -> Any:
        return self._called(name, given)

    def _called(self, name: str, given: Any) -> Any:
        self.calls.append((name, given))
        result = self._results.get(name)
        return result(given) if callable(result) else result

    def tell(self, name: str) -> Any:
        """Runs the orchestrator `name` to its end; what it returned."""
        return self.told(orchestrator(name))

    def told(self, orchestrator: Callable[[Any], Any]) -> Any:
        told = orchestrator(self)
        answer, failure = None, None
        while True:
            try:
                task = told.throw(failure) if failure else told.send(answer)
            except StopIteration as end:
                return end.value
            answer, failure = (None, task) if isinstance(task, Exception) else (task, None)


@pytest.mark.parametrize(("chunks", "groups"), [(1, [(1, 1)]), (200, [(1, 200)]), (401, [(1, 200), (201, 400), (401, 401)])])
def test_a_batch_is_planned_scored_in_groups_and_finished(chunks: int, groups: list[tuple[int, int]]) -> None:
    story = Story(JOB, plan_batch={"chunks": chunks}, finish_batch={"total": 9})

    assert story.tell("score_batch") == {"total": 9}
    assert story.calls == [("plan_batch", JOB), *[("score_chunks", {**JOB, "first": a, "last": b}) for a, b in groups],
                           ("finish_batch", JOB)]


def test_a_batch_without_chunks_scores_nothing() -> None:
    story = Story(JOB, plan_batch={"chunks": 0})

    story.tell("score_batch")

    assert [name for name, _ in story.calls] == ["plan_batch", "finish_batch"]


def test_a_group_asks_for_each_of_its_chunks_once() -> None:
    story = Story({**JOB, "first": 201, "last": 203})

    story.tell("score_chunks")

    assert story.calls == [("score_chunk", {**JOB, "chunk": n}) for n in (201, 202, 203)]


def test_a_chunk_that_fails_for_good_does_not_keep_the_others_from_being_scored() -> None:
    story = Story({**JOB, "first": 1, "last": 3}, score_chunk=lambda job: OSError("gone") if job["chunk"] == 1 else None)

    with pytest.raises(OSError, match="gone"):
        story.tell("score_chunks")
    assert len(story.calls) == 3


def test_a_batch_with_a_failed_group_waits_for_the_others_and_says_why_it_failed() -> None:
    story = Story(JOB, plan_batch={"chunks": 500}, score_chunks=lambda job: OSError("gone") if job["first"] == 1 else None)

    with pytest.raises(OSError):
        story.tell("score_batch")
    assert [name for name, _ in story.calls] == ["plan_batch", *["score_chunks"] * 3, "fail_batch"]
    assert story.calls[-1][1] == {**JOB, "reason": "gone"}


def test_told_twice_a_story_is_the_same() -> None:
    first, second = (Story(JOB, plan_batch={"chunks": 777}) for _ in range(2))

    first.tell("score_batch"), second.tell("score_batch")

    assert first.calls == second.calls


def test_what_an_orchestration_carries_does_not_grow_with_the_batch() -> None:
    story = Story(JOB, plan_batch={"chunks": 4000})

    story.tell("score_batch")

    assert max(len(str(given)) for _, given in story.calls) < 200


@pytest.fixture(scope="module")
def engine() -> Iterator[tuple[TaskHubGrpcClient, Counter[str], dict[str, int]]]:
    """Microsoft's replay over its in-memory backend: a client, how often what was called, and what is to fail how often."""
    calls, failing = Counter[str](), dict[str, int]()
    backend = Backend()
    worker = TaskHubGrpcWorker(host_address=backend.start())
    for name in ("score_batch", "score_chunks"):
        worker.add_orchestrator(wrap_orchestrator(orchestrator(name)))
    for name in ("plan_batch", "score_chunk", "finish_batch", "fail_batch"):
        worker.add_activity(_activity(name, calls, failing))
    with worker:
        worker.start()
        yield TaskHubGrpcClient(host_address=backend.address), calls, failing
    backend.stop()


def _activity(name: str, calls: Counter[str], failing: dict[str, int]) -> Callable[[Any, Any], Any]:
    def run(_: Any, job: dict[str, Any]) -> Any:
        what = f"{name}:{job['batch_id']}:{job.get('chunk', '')}"
        calls[what] += 1
        if calls[what] <= failing.get(what, 0):
            raise ConnectionError(f"try {calls[what]}")
        return {"plan_batch": {"chunks": 210}, "finish_batch": {"total": 1}}.get(name)

    run.__name__ = name
    return run


def run(client: TaskHubGrpcClient, batch_id: str) -> Any:
    instance = client.schedule_new_orchestration("score_batch", input={"batch_id": batch_id, "instance": "1"})
    return client.wait_for_orchestration_completion(instance, timeout=60)


def test_under_replay_activities_that_die_twice_are_tried_again_and_all_chunks_are_scored_once(engine: Any) -> None:
    client, calls, failing = engine
    failing |= {"plan_batch:flaky:": 1, "score_chunk:flaky:7": 2, "score_chunk:flaky:210": 2}

    state = run(client, "flaky")

    assert state.runtime_status == OrchestrationStatus.COMPLETED, state.failure_details
    scored = {name: n for name, n in calls.items() if name.startswith("score_chunk:flaky:")}
    assert len(scored) == 210 and sum(scored.values()) == 210 + 4
    assert (calls["plan_batch:flaky:"], calls["finish_batch:flaky:"], calls["fail_batch:flaky:"]) == (2, 1, 0)


def test_under_replay_batches_beside_each_other_do_not_mix(engine: Any) -> None:
    client, calls, _ = engine

    with ThreadPoolExecutor(3) as pool:
        states = list(pool.map(lambda n: run(client, f"side{n}"), range(3)))

    assert [s.runtime_status for s in states] == [OrchestrationStatus.COMPLETED] * 3
    assert all(calls[f"score_chunk:side{n}:{chunk}"] == 1 for n in range(3) for chunk in range(1, 211))
