"""The orchestrators of a retraining as stories, what is planned for which tables, and what may be asked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from detectors.directory import DETECTORS
from detectors.pattern_history import series_name, slug
from orchestrations import retraining
from orchestrations.retraining import WIDTH, groups_of
from shared.blobs import Blobs
from shared.contract import parse
from shared.contract_retraining import RetrainRequest
from shared.errors import InvalidRequest
from shared.history import History
from shared.registry import Registry
from shared.retrainings import GROUP, Retrainings
from shared.settings import Settings
from shared.tables import Tables
from tests.test_batch_orchestration import Story as BatchStory
from training.targets import Target, planned, train_request

JOB = {"run_id": "a" * 32, "instance": "a-1"}


class Story(BatchStory):
    """The same of the orchestrators of this module."""

    def tell(self, name: str) -> Any:
        return self.told(getattr(retraining, name)._function.get_user_function().orchestrator_function)


@pytest.mark.parametrize("models", [1, 7, 8, 9, 200, 1601, 40_000, 100_000])
def test_each_model_is_trained_once_in_groups_that_are_small_enough(models: int) -> None:
    story = Story(JOB, plan_retraining={"models": models}, finish_retraining={"total": models})

    assert story.tell("retrain_models") == {"total": models}
    groups = [given for name, given in story.calls if name == "retrain_some"]
    shares = [range(g["first"], g["last"] + 1, g["step"]) for g in groups]
    assert sorted(n for share in shares for n in share) == list(range(1, models + 1))
    assert max(map(len, shares)) <= GROUP
    assert max(len(str(given)) for _, given in story.calls) < 200


@pytest.mark.parametrize(("models", "open_at_once"), [(5, 5), (100, 100), (200, 200), (1000, 200), (40_000, 1600)])
def test_as_many_models_are_open_as_the_plan_has_instances_for(models: int, open_at_once: int) -> None:
    assert min(models, groups_of(models) * retraining.AT_ONCE) == open_at_once
    assert open_at_once >= min(models, WIDTH)


def test_a_retraining_without_models_trains_nothing() -> None:
    story = Story(JOB, plan_retraining={"models": 0})

    story.tell("retrain_models")

    assert [name for name, _ in story.calls] == ["plan_retraining", "finish_retraining"]


def test_a_group_trains_its_own_models_and_the_others_go_on_where_one_fails_for_good() -> None:
    group = Story({**JOB, "first": 2, "step": 3, "last": 9})
    whole = Story(JOB, plan_retraining={"models": 20},
                  retrain_some=lambda job: OSError("gone") if job["first"] == 1 else None)

    group.tell("retrain_some")
    with pytest.raises(OSError):
        whole.tell("retrain_models")

    assert group.calls == [("retrain_model", {**JOB, "model": n}) for n in (2, 5, 8)]
    assert [name for name, _ in whole.calls] == ["plan_retraining", *["retrain_some"] * 3, "fail_retraining"]
    assert whole.calls[-1][1] == {**JOB, "reason": "gone"}


@pytest.mark.parametrize(("body", "target"), [
    ({"table": ["orders"]}, "table"),
    ({"detectors": ["volumes"]}, "detectors[0]"),
    ({"detectors": []}, "detectors"),
    ({"tables": ["../up"]}, "tables[0]"),
    ({"tables": "orders"}, "tables"),
    ({"as_of": "2026-09-21T02:00:00"}, "as_of"),
    ({"as_of": "soon"}, "as_of"),
    ({"as_of": "2190-09-21T02:00:00Z"}, "as_of"),
    ({"promote": "yes"}, "promote"),
    ({"force": 1}, "force"),
    ({"only": "new"}, "only"),
    ({"detectors": ["timeliness"], "algorithm": "structural"}, "algorithm"),
    ({"algorithm": "structural"}, "algorithm"),
    ({"idempotency_key": ""}, "idempotency_key"),
], ids=lambda value: json.dumps(value) if isinstance(value, dict) else None)
def test_a_wrong_request_is_refused_with_the_name_of_its_field(body: dict[str, Any], target: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(RetrainRequest, json.dumps(body).encode())

    assert refused.value.target == target


def test_nothing_said_means_all_that_changed() -> None:
    request = parse(RetrainRequest, b"{}")

    assert request.kinds == list(DETECTORS) and request.tables is None
    assert (request.only, request.promote, request.algorithm, request.force) == ("changed", "if_better", "auto", False)


@pytest.fixture
def settings(storage: str) -> Settings:
    return Settings(connection_string=storage)


@pytest.fixture
def registry(settings: Settings) -> Registry:
    return Registry(Blobs(settings), settings)


def publish(registry: Registry, name: str, **card: Any) -> None:
    registry.promote(name, registry.publish(name, b"model", card).version, reason="test")


def test_every_table_with_a_history_or_a_model_is_planned_once(settings: Settings, registry: Registry) -> None:
    history = History(settings)
    for detector, table in (("volume", "orders"), ("volume", "items"), ("timeliness", "orders"), ("sequence", "orders"),
                            (series_name("code"), "orders"), (series_name("Straße 1"), "items.eu")):
        history._list(detector, [table])
    publish(registry, "volume-anomaly.orders")
    publish(registry, "distribution-anomaly.sent")
    publish(registry, "pattern-anomaly.items.eu.code")

    whole = planned(RetrainRequest(), history, registry)
    some = planned(RetrainRequest(detectors=["volume", "pattern"], tables=["orders", "ghost"]), history, registry)

    assert [target.name for target in whole.targets] == [
        "distribution-anomaly.sent", f"pattern-anomaly.items.eu.{slug('Straße 1')}", "pattern-anomaly.items.eu.code",
        "pattern-anomaly.orders.code", "sequence-anomaly.orders", "timeliness-anomaly.orders", "volume-anomaly.items",
        "volume-anomaly.orders"]
    assert [target.name for target in some.targets] == ["pattern-anomaly.orders.code", "volume-anomaly.orders"]
    assert (whole.unknown, some.unknown) == ([], ["ghost"])


def test_a_table_s_settings_go_before_the_card_of_its_champion_and_that_before_nothing(
        settings: Settings, registry: Registry) -> None:
    publish(registry, "volume-anomaly.orders", timezone="Europe/Berlin", granularity="weekly", holidays={"country": "DE"})
    tables = Tables(History(settings), "tablesettings")
    tables.put("orders", {"settings": {"timezone": "Asia/Tokyo", "baselines": {"volume": "2026-05-01T00:00:00Z"}}})
    target, asked = Target("volume", "orders"), RetrainRequest(detectors=["volume"], algorithm="arima", promote="never")

    request: Any = train_request(target, asked, tables.get("orders"), registry, 400)

    assert (request.timezone, request.granularity, request.holidays.country) == ("Asia/Tokyo", "weekly", "DE")
    assert (request.algorithm, request.promote, request.training_days) == ("arima", "never", 400)
    assert request.baseline.isoformat() == "2026-05-01T00:00:00+00:00"
    bare: Any = train_request(Target("volume", "bare"), RetrainRequest(), None, registry, 9999)
    assert (bare.timezone, bare.granularity, bare.training_days) == ("UTC", "daily", 3660)


@pytest.mark.parametrize(("card", "cron"), [
    ({"kind": "cron", "text": "30 2 * * *"}, "30 2 * * *"), ({"kind": "weekly", "times": [[0, 150]]}, None), (None, None)],
    ids=["given", "learnt", "none"])
def test_a_schedule_that_was_given_stays_and_one_that_was_learnt_is_learnt_again(
        registry: Registry, card: dict[str, Any] | None, cron: str | None) -> None:
    publish(registry, "timeliness-anomaly.feed", schedule=card)

    request: Any = train_request(Target("timeliness", "feed"), RetrainRequest(), None, registry, 400)

    assert (request.schedule and request.schedule.cron) == cron


def test_a_card_that_says_what_nobody_may_ask_for_is_left_out(settings: Settings, registry: Registry) -> None:
    publish(registry, "sequence-anomaly.orders", timezone="Mars/Base", granularity="yearly")

    request: Any = train_request(Target("sequence", "orders"), RetrainRequest(), None, registry, 400)

    assert (request.timezone, request.granularity) == ("UTC", "hourly")


def test_a_column_is_spelt_as_its_model_spells_it(registry: Registry) -> None:
    column = "Straße 1"
    publish(registry, f"pattern-anomaly.orders.{slug(column)}", column_name=column)

    request: Any = train_request(Target("pattern", "orders", slug(column)), RetrainRequest(), None, registry, 400)

    assert request.column == column


def test_of_two_timers_at_the_same_time_one_gets_the_run(settings: Settings) -> None:
    runs = Retrainings(Blobs(settings), settings)
    _, etag = runs.scheduled("changed")

    keys = [runs.reserve("changed", etag), runs.reserve("changed", etag)]

    assert keys[0] is not None and keys[1] is None
    record, is_new = runs.accept(RetrainRequest(), keys[0])
    assert is_new and runs.scheduled("changed")[0] == record["run_id"]
