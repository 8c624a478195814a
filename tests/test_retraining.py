"""One model trained anew on a real storage emulator: what is written when, and what survives when that breaks off."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from detectors.artefact import Artefact
from shared import models
from shared.blobs import Blobs
from shared.contract import TrainRequest
from shared.decisions import Decisions
from shared.errors import ModelNotFound, StorageUnavailable
from shared.history import History, Point
from shared.monitoring import Monitoring
from shared.registry import Registry
from shared.settings import Settings
from tests.refusing import Refusing
from training import gates, volume_anomaly
from training.candidates import Candidate
from training.retraining import Order, Stores, retrain

NAME = "volume-anomaly.orders"
START = datetime(2026, 1, 5, 2, tzinfo=UTC)  # a Monday
REQUEST = TrainRequest(table_id="orders", training_days=400, algorithm="structural")
_fit = volume_anomaly.fit_candidate
ALWAYS = REQUEST.model_copy(update={"promote": "always"})
WEEK = np.array([1.0, 1.1, 1.1, 1.05, 0.9, 0.4, 0.3])


def opened(account: str) -> Stores:
    settings = Settings(connection_string=account)
    blobs, history = Blobs(settings), History(settings)
    return Stores(history, Registry(blobs, settings), Decisions(blobs, settings), Monitoring(history, "monitoring"))


def load(stores: Stores, days: int, first: int = 0, table: str = "orders", level: float = 10_000.0) -> None:
    """Daily counts from day `first` to before day `days`, the same ones each time."""
    noise = np.random.default_rng(5).normal(0, 0.03, 400)
    stores.history.record("volume", table, [
        Point(START + timedelta(days=d), round(level * WEEK[d % 7] * np.exp(noise[d]))) for d in range(first, days)])


def run(stores: Stores, run_id: str = "first", request: TrainRequest = REQUEST, **order: Any) -> dict[str, Any]:
    record = retrain("volume", request, stores, Order(run_id, **order))
    assert record is not None
    return record


def would_train(stores: Stores, **order: Any) -> bool:
    """Whether a run gets as far as training: there it is told to end."""
    return retrain("volume", REQUEST, stores, Order("would", goes_on=lambda: False, **order)) is None


def champion(stores: Stores, name: str = NAME) -> str | None:
    """The version that answers, loaded as a worker would load it; None where there is none."""
    found = stores.registry.champion(name)
    if found is None:
        return None
    assert Artefact.load(stores.registry.promoted(name, found.current)).algorithm == "structural"
    return found.version


@pytest.fixture(autouse=True)
def _fits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same data are fitted by the same family once, and not by every test: an export takes seconds. Timed briefly."""
    monkeypatch.setattr(gates, "CALLS", 5)
    monkeypatch.setattr(volume_anomaly, "fit_candidate", lambda prepared, algorithm: _fitted(prepared.to_json(), algorithm))


@functools.cache
def _fitted(prepared: bytes, algorithm: str) -> Candidate:
    return _fit(volume_anomaly.Prepared.from_json(prepared), algorithm)


@pytest.fixture
def stores(storage: str) -> Stores:
    return opened(storage)


def test_a_first_model_is_published_promoted_and_its_decision_lies_beside_it(stores: Stores) -> None:
    load(stores, 91)

    record = run(stores)

    assert (record["outcome"], record["version"], champion(stores)) == ("first", "1", "1")
    assert record["challenger"]["quality"]["f1"] > 0.5 and record["history"]["points"] == 91
    assert record["registration"]["status"] == "skipped" and record["drift"]["verdict"]
    shown = models.description(stores.registry, stores.decisions, NAME)
    assert shown["decision"] == record and shown["decisions_before"] == []
    assert shown["champion"]["reason"] == record["reason"]


def test_data_that_did_not_change_are_not_trained_on_again_until_a_day_more_or_force(stores: Stores) -> None:
    load(stores, 91)
    run(stores)

    again, forced = run(stores, "second"), run(stores, "third", force=True)
    load(stores, 92, first=91)

    assert again["outcome"] == "unchanged" and "first" in again["reason"]
    assert forced["outcome"] == "equal" and would_train(stores)
    assert [one["run_id"] for one in stores.decisions.read(NAME)["before"]] == ["first"]


def test_a_word_about_a_point_is_a_change_of_the_data(stores: Stores) -> None:
    load(stores, 91)
    run(stores)
    as_it_was = would_train(stores)

    stores.history.set_status("volume", "orders", START + timedelta(days=40), "excluded")

    assert not as_it_was and would_train(stores)


def test_a_refused_challenger_is_not_published_and_its_figures_are_told(stores: Stores) -> None:
    load(stores, 91)
    run(stores)

    record = run(stores, "second", force=True)

    assert record["outcome"] == "equal" and record["version"] is None and record["reigned"] == "1"
    assert record["challenger"]["quality"]["points"] and record["champion"]["quality"]["points"] and record["interval"]
    assert stores.registry.versions(NAME) == ["1"] == [champion(stores)]


def test_a_dry_run_publishes_and_promotes_nothing_over_the_champion(stores: Stores) -> None:
    load(stores, 91)
    run(stores)

    record = run(stores, "second", REQUEST.model_copy(update={"promote": "never"}), force=True)

    assert (record["outcome"], record["version"], champion(stores)) == ("never", "2", "1")


def test_training_as_of_a_day_sees_nothing_later(stores: Stores) -> None:
    load(stores, 91)
    day = START + timedelta(days=70)
    earlier = run(stores, "then", as_of=day)
    load(stores, 120, first=70, level=50_000.0)

    again = run(stores, "now", as_of=day)

    assert earlier["history"]["points"] == 70
    assert again["outcome"] == "unchanged"


def test_only_what_drifted_is_trained_where_that_is_asked_for(stores: Stores) -> None:
    load(stores, 91)
    run(stores)
    load(stores, 105, first=91)
    quiet = run(stores, "quiet", only="drifted")
    forced = would_train(stores, only="drifted", force=True)
    load(stores, 136, first=105, level=30_000.0)

    assert quiet["outcome"] == "not_drifted" and quiet["reason"] == quiet["drift"]["reason"]
    assert forced and would_train(stores, only="drifted")
    assert stores.monitoring.get("volume", NAME)["verdict"] == "drifted"  # type: ignore[index]


def test_a_champion_that_stays_is_not_tried_for_the_same_drift_every_day(stores: Stores) -> None:
    load(stores, 91)
    known = run(stores)
    load(stores, 136, first=91, level=30_000.0)
    monday = START + timedelta(days=136)
    stores.decisions.put(NAME, known | {"run_id": "monday", "outcome": "equal", "as_of": monday.isoformat(),
                                        "drift": {"verdict": "drifted", "reason": "another level"}})

    next_day = run(stores, "tuesday", only="drifted", as_of=monday + timedelta(days=1))

    assert next_day["outcome"] == "unchanged" and "trained for its drift" in next_day["reason"]
    assert would_train(stores, only="drifted", as_of=monday + timedelta(days=7))


def test_figures_as_of_an_earlier_day_replace_no_later_ones(stores: Stores) -> None:
    load(stores, 91)
    run(stores)
    kept = stores.monitoring.get("volume", NAME)

    run(stores, "then", as_of=START + timedelta(days=70))

    assert kept is not None and stores.monitoring.get("volume", NAME) == kept


def test_a_table_with_too_little_history_leaves_nothing_in_the_registry(stores: Stores) -> None:
    load(stores, 4)

    few, none = run(stores), run(stores, request=REQUEST.model_copy(update={"table_id": "nothing"}))

    assert few["outcome"] == "untrainable" and few["reason"]
    assert none["outcome"] == "too_little_history" and "no history" in none["reason"]
    assert list(stores.registry.names()) == []
    with pytest.raises(ModelNotFound):
        models.description(stores.registry, stores.decisions, NAME)


def test_what_goes_wrong_with_one_table_is_its_outcome_with_the_reason(stores: Stores) -> None:
    load(stores, 91)
    run(stores)
    stores.registry._blobs.put("models", f"{NAME}/champion.json", b"no pointer")

    record = run(stores, "second", force=True)

    assert record["outcome"] == "failed" and "champion.json" in record["reason"]


def test_a_champion_whose_file_is_broken_is_replaced_though_the_data_did_not_change(stores: Stores) -> None:
    load(stores, 91)
    run(stores)
    stores.registry._blobs.put("models", f"{NAME}/1/model.onnx", b"no model")

    record = run(stores, "second")

    assert (record["outcome"], champion(stores)) == ("refreshed", "2")


class Killed(BaseException):
    """The process ends here."""


class Dying(Registry):
    """Ends the process where the pointer would be moved."""

    def promote(self, *_: Any, **__: Any) -> Any:
        raise Killed


def dying(account: str) -> Stores:
    settings, alive = Settings(connection_string=account), opened(account)
    return Stores(alive.history, Dying(Blobs(settings), settings), alive.decisions, alive.monitoring)


def test_killed_between_export_and_pointer_the_champion_answers_and_a_second_start_promotes_what_was_published(
        storage: str) -> None:
    stores = opened(storage)
    load(stores, 91)
    run(stores)

    with pytest.raises(Killed):
        run(dying(storage), "second", ALWAYS)
    left = champion(stores)
    again = run(stores, "second", ALWAYS)
    twice = run(stores, "second", ALWAYS)

    assert left == "1" and stores.registry.versions(NAME) == ["1", "2"]
    assert (again["outcome"], again["version"], champion(stores)) == ("forced", "2", "2")
    assert twice == again
    assert [p.version for p in stores.registry.champion(NAME).previous] == ["1"]  # type: ignore[union-attr]


def test_a_model_handed_out_twice_at_the_same_time_is_promoted_once(storage: str) -> None:
    stores = opened(storage)
    load(stores, 91)
    run(stores)
    with pytest.raises(Killed):
        run(dying(storage), "second", ALWAYS)
    twin = stores.registry.publish(NAME, stores.registry.fetch(NAME, "2"), stores.registry.manifest(NAME, "2").card)
    stores.registry.promote(NAME, twin.version, reason="the other one was quicker")

    record = run(stores, "second", ALWAYS)

    assert (record["outcome"], record["version"], champion(stores)) == ("forced", "3", "3")


def test_a_champion_moved_by_a_person_meanwhile_stays(storage: str) -> None:
    stores = opened(storage)
    load(stores, 91)
    for number in ("1", "2"):
        run(stores, f"run {number}", ALWAYS, force=True)
    with pytest.raises(Killed):
        run(dying(storage), "third", ALWAYS, force=True)
    stores.registry.rollback(NAME)

    record = run(stores, "third", ALWAYS, force=True)

    assert record["outcome"] == "failed" and "not promoted" in record["reason"]
    assert champion(stores) == "1"


def test_a_run_that_was_cancelled_trains_no_further_and_writes_nothing(stores: Stores) -> None:
    load(stores, 91)

    assert retrain("volume", REQUEST, stores, Order("first", goes_on=lambda: False)) is None
    assert list(stores.registry.names()) == []


@contextmanager
def refused(account: str, number: int, after: bool) -> Iterator[tuple[Stores, Refusing]]:
    """Storage that refuses request `number` and all after it; write `number`, `after` it has carried it out."""
    with Refusing(account, number, after) as proxy:
        yield opened(proxy.connection_string), proxy


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_storage_that_fails_at_each_call_in_turn_leaves_a_champion_and_a_second_start_ends_the_same(
        storage: str, after: bool) -> None:
    stores = opened(storage)
    load(stores, 91)
    run(stores, "start", ALWAYS)
    reigned, number, failures = champion(stores), 0, 0

    while True:
        number += 1
        run_id = f"run {number}"
        with refused(storage, number, after) as (failing, proxy):
            try:
                run(failing, run_id, ALWAYS, force=True)
            except StorageUnavailable:
                failures += 1
            broke = proxy.refused
        assert champion(stores) in (reigned, versions(stores, run_id))
        record = run(stores, run_id, ALWAYS, force=True)
        published = [v for v in stores.registry.versions(NAME) if run_of(stores, v) == run_id]
        assert (record["outcome"], [record["version"]]) == ("forced", published)
        assert champion(stores) == record["version"]
        reigned = record["version"]
        if not broke:
            break

    assert failures >= (5 if after else 15)
    assert [p.version for p in stores.registry.champion(NAME).previous] == sorted(  # type: ignore[union-attr]
        set(stores.registry.versions(NAME)) - {reigned}, key=int, reverse=True)


def run_of(stores: Stores, version: str) -> str:
    return str(stores.registry.manifest(NAME, version).card["decision"]["run_id"])


def versions(stores: Stores, run_id: str) -> str | None:
    """The version that a run published."""
    return next((v for v in stores.registry.versions(NAME) if run_of(stores, v) == run_id), None)


def test_a_decision_that_cannot_be_read_is_replaced_by_the_next(stores: Stores) -> None:
    load(stores, 91)
    run(stores)
    stores.decisions._blobs.put("models", f"{NAME}/decisions.json", b"{")

    record = run(stores, "second")

    assert record["outcome"] == "equal"
    assert json.loads(stores.decisions._blobs.get("models", f"{NAME}/decisions.json").data)["last"] == record  # type: ignore[union-attr]
