"""A training job on storage that fails at each call in turn: a champion always answers, and the job can be started again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import pytest

from detectors.artefact import Artefact
from orchestrations import training
from shared.blobs import Blobs
from shared.errors import StorageUnavailable
from shared.jobs import Jobs
from shared.registry import Registry
from shared.settings import Settings
from tools.made_up import batches

READS = 8  # of the job's own files, before anything is decided
TABLE, NAME = "orders", "pattern-anomaly.orders.order_id"


class Failing(Blobs):
    """Storage that fails from call `number` on; with `late` that call is carried out and only its answer is lost."""

    def __init__(self, settings: Settings, number: float = float("inf"), late: bool = False) -> None:
        super().__init__(settings)
        self.number, self.late, self.calls = number, late, 0

    def _failing[T](self, call: Callable[[], T]) -> T:
        self.calls += 1
        if self.calls >= self.number:
            if self.late and self.calls == self.number:
                call()
            raise StorageUnavailable("Storage does not answer.")
        return call()

    def get(self, *args: Any, **options: Any) -> Any:
        return self._failing(lambda: super(Failing, self).get(*args, **options))

    def put(self, *args: Any, **options: Any) -> str:
        return self._failing(lambda: super(Failing, self).put(*args, **options))

    def names(self, *args: Any, **options: Any) -> Iterator[str]:
        return self._failing(lambda: iter(list(super(Failing, self).names(*args, **options))))


@pytest.fixture
def settings(storage: str) -> Settings:
    return Settings(connection_string=storage)


def use(monkeypatch: pytest.MonkeyPatch, blobs: Blobs, settings: Settings) -> tuple[Jobs, Registry]:
    """What the activities of this process take for their storage from now on."""
    jobs, registry = Jobs(blobs, settings.jobs_container), Registry(blobs, settings)
    for name, what in (("jobs", jobs), ("registry", registry), ("history", None)):
        monkeypatch.setattr(training, name, lambda what=what: what)
    return jobs, registry


def run(name: str, job_id: str, **more: str) -> Any:
    activity = getattr(training, name)._function.get_user_function()
    return activity({"job_id": job_id, **more})


def accepted(jobs: Jobs) -> str:
    body = {"table_id": TABLE, "column": "order_id", "algorithm": "formats", "historical_data": batches(1, 4, 60),
            "promote": "always"}
    return str(jobs.accept("pattern", json.dumps(body), table_id=TABLE, model_name=NAME)["job_id"])


def whole(job_id: str) -> dict[str, Any]:
    """The steps of a job as a restart takes them, from the first on; what was fitted before is kept."""
    assert run("plan_training", job_id)["refused"] is None
    run("fit_candidate", job_id, algorithm="formats")
    return dict(run("choose_champion", job_id))


def serves(registry: Registry) -> str:
    """The champion's version, after its file was verified and loaded as a worker does."""
    champion = registry.champion(NAME)
    assert champion is not None
    Artefact.load(registry.promoted(NAME, champion.current))
    return champion.version


@pytest.mark.parametrize("late", [False, True], ids=["not carried out", "answer lost"])
def test_storage_that_fails_at_each_call_leaves_a_champion_and_a_job_that_goes_on(
        late: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, registry = use(monkeypatch, Blobs(settings), settings)
    first = accepted(jobs)
    whole(first)
    names = ("series.json", "formats.onnx", "formats.choosing", "formats.json")
    files = {name: jobs.read(first, name) or b"" for name in names}
    met = []

    for number in count(READS):
        job_id, before, published = accepted(jobs), serves(registry), len(registry.versions(NAME))
        for name, data in files.items():
            jobs.write(job_id, name, data)
        jobs.update(job_id, state="running", algorithms=["formats"])
        failing = Failing(settings, number, late)
        use(monkeypatch, failing, settings)
        with suppress(StorageUnavailable):
            run("choose_champion", job_id)
        use(monkeypatch, Blobs(settings), settings)
        met.append((serves(registry) != before, len(registry.versions(NAME)) - published, jobs.record(job_id)["state"]))
        if failing.calls < number:
            break

        result = whole(job_id)

        assert (result["decision"], result["champion"]) == ("promoted", serves(registry)), number
        assert jobs.record(job_id)["state"] == "succeeded"

    # Every state between nothing and all of it was met: (promoted, versions published, the record), in this order.
    assert sorted(set(met), key=met.index) == [
        (False, 0, "running"), (False, 1, "running"), (True, 1, "running"), (True, 1, "succeeded")]
