"""Scoring many requests at once gives what asking one by one gives."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from detectors import many, volume, volume_batch
from detectors.directory import DETECTORS
from detectors.many import Outcome
from detectors.replays import Replays
from shared.catalogue import Catalogue
from shared.contract import Answer, VolumeRequest
from shared.contract_timeliness import TimelinessRequest
from shared.errors import InvalidRequest, ModelNotFound, ServiceError, StorageUnavailable
from shared.history import Point, Series
from shared.settings import Settings
from tests.catalogues import Clock, CountingRegistry, counting
from tests.counts import MONDAY, daily
from training import backtest
from training.calibration import Calibration

DAYS = 120
TRAINED = 100
FAMILIES = ("seasonal_decomposition", "structural", "isolation_forest")
UNTRAINED = ("steady", "gappy", "young", "stopped")
NOW = datetime(2026, 9, 1, tzinfo=UTC)
NEAR = 1e-9


def day(number: int) -> datetime:
    return datetime(1970, 1, 1, 2, tzinfo=UTC) + timedelta(days=MONDAY + number)


def stamp(number: int) -> str:
    return day(number).isoformat()


@pytest.fixture(scope="module")
def account(azurite: Any) -> Settings:
    """Tables with models of three families, and tables with nothing but a history."""
    settings = Settings(connection_string=azurite.connection_string("test399"), recheck_seconds=3600)
    catalogue = Catalogue(settings)
    series = daily(DAYS)
    calibration = Calibration.fit(np.abs(np.random.default_rng(0).normal(size=80)))
    for family in FAMILIES:
        past = series.until(MONDAY + TRAINED - 1)
        payload = backtest.export(family, backtest.fit(family, past), None if family == "structural" else calibration, past,
                                  {"timezone": "UTC", "holidays": {}})
        version = catalogue.registry.publish(volume.model_name(family), payload, {"algorithm": family}).version
        catalogue.registry.promote(volume.model_name(family), version, reason="test")
    for table in (*FAMILIES, *UNTRAINED):
        counts = series.values.copy()
        if table == "gappy":
            counts[::3] = np.nan
        if table == "stopped":
            counts[90:] = 0
        first = 115 if table == "young" else 0
        known = [i for i in range(first, DAYS) if np.isfinite(counts[i])]
        catalogue.history.record("volume", table, [Point(day(i), counts[i]) for i in known])
    return settings


def one_by_one(name: str, requests: list[Any], catalogue: Catalogue, now: datetime) -> list[Outcome]:
    outcomes = []
    for request in requests:
        try:
            answer: Answer = DETECTORS[name].detect(request, catalogue, now)
            outcomes.append(Outcome(answer, DETECTORS[name].observation(request, answer, catalogue, now)))
        except ServiceError as error:
            outcomes.append(Outcome(error=error))
    return outcomes


def told(outcome: Outcome) -> dict[str, Any]:
    """All of an outcome but the time it took."""
    answer = outcome.answer.model_dump(mode="json", exclude={"latency_ms"}) if outcome.answer else None
    error = (type(outcome.error), outcome.error.message, outcome.error.target) if outcome.error else None
    return {"answer": answer, "observation": outcome.observation and json.loads(outcome.observation), "error": error}


def both_ways(requests: list[Any], account: Settings, name: str = "volume") -> tuple[list[Any], list[Any]]:
    """What a fresh worker answers to all at once, and another to one after the other."""
    answers = []
    for score in (many.score, one_by_one):
        volume.replays = Replays()
        answers.append([told(outcome) for outcome in score(name, requests, Catalogue(account), NOW)])
    return answers[0], answers[1]


HISTORIES: st.SearchStrategy[Any] = st.one_of(
    st.just([]),
    st.lists(st.integers(0, 10_000).map(float), max_size=40),
    st.lists(st.tuples(st.integers(80, 130), st.integers(0, 10_000)), max_size=20).map(
        lambda points: [{"timestamp": stamp(i), "row_count": float(v)} for i, v in points]))
REQUESTS = st.fixed_dictionaries(
    {"current_row_count": st.sampled_from([0.0, 3.0, 9_000.0, 11_000.0, 60_000.0])},
    optional={
        "table_id": st.sampled_from((*FAMILIES, *UNTRAINED, "unknown")), "timestamp": st.integers(95, 125).map(stamp),
        "historical_data": HISTORIES, "granularity": st.sampled_from(["daily", "daily", "hourly", "weekly", "monthly"]),
        "record": st.booleans(), "sensitivity": st.sampled_from([0.0, 90.0, 99.0]), "require_model": st.booleans(),
        "holidays": st.sampled_from([{"country": "DE"}, {"country": "XX"}, {"dates": ["2022-05-01"]}]),
        "delay_minutes": st.sampled_from([0.0, 60.0, 100_000.0]),
        "timezone": st.sampled_from(["Europe/Berlin", "Asia/Kolkata"]),
    }).map(VolumeRequest.model_validate)  # fmt: skip


# Without shrinking: each example replays histories of a hundred days one by one.
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow],
          phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(requests=st.lists(REQUESTS, max_size=12))
def test_whatever_is_mixed_the_answers_are_those_of_asking_one_by_one(
    account: Settings, requests: list[VolumeRequest]
) -> None:
    together, apart = both_ways(requests, account)

    for ours, wanted in zip(together, apart, strict=True):
        assert close(ours, wanted), f"{ours}\n{wanted}"


def close(ours: Any, wanted: Any) -> bool:
    """Equal, but for the last digits of numbers."""
    if isinstance(wanted, float) and isinstance(ours, float):
        return ours == pytest.approx(wanted, rel=NEAR, abs=NEAR, nan_ok=True)
    if isinstance(wanted, dict):
        return isinstance(ours, dict) and ours.keys() == wanted.keys() and all(close(ours[k], wanted[k]) for k in wanted)
    if isinstance(wanted, list):
        return isinstance(ours, list) and len(ours) == len(wanted) and all(map(close, ours, wanted))
    return bool(ours == wanted)


def test_a_table_asked_about_twice_knows_of_the_first_count(account: Settings) -> None:
    high = {"table_id": "steady", "current_row_count": 50_000.0}
    requests = [VolumeRequest.model_validate(high | {"timestamp": stamp(120 + i)}) for i in range(3)]

    together, apart = both_ways(requests, account)

    assert [t["answer"]["history"]["points"] for t in together] == [120, 121, 122]
    assert all(map(close, together, apart))


def test_without_storage_each_item_says_what_it_would_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "PAUSE_SECONDS", 0.0)
    body = {"table_id": "steady", "current_row_count": 9_000.0, "timestamp": stamp(120)}
    requests = [VolumeRequest.model_validate(body | more) for more in
                ({"historical_data": [9_000.0] * 30}, {}, {"historical_data": [1.0], "fallback": False}, {"table_id": None})]

    together, apart = both_ways(requests, Settings())

    assert together == apart
    assert [t["error"] is None for t in together] == [True, False, False, True]


class Hiccup(Catalogue):
    """Storage that does not answer the first question about one table."""

    asked = 0

    def series(self, detector: str, table_id: str, until: datetime | None = None) -> Series:
        self.asked += table_id == "gappy"
        if table_id == "gappy" and self.asked == 1:
            raise StorageUnavailable("Storage does not answer.")
        return super().series(detector, table_id, until)


def test_what_storage_did_not_answer_is_asked_once_more(account: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "PAUSE_SECONDS", 0.0)
    body = {"current_row_count": 9_000.0, "timestamp": stamp(120), "record": False}
    requests = [VolumeRequest.model_validate(body | {"table_id": t}) for t in ("steady", "gappy", "young")]

    outcomes = many.score("volume", requests, Hiccup(account), NOW)

    assert [o.answer.table_id for o in outcomes if o.answer] == ["steady", "gappy", "young"]


def test_other_detectors_are_asked_several_at_a_time_and_answer_alike(account: Settings) -> None:
    body = {"as_of": stamp(121), "historical_data": [stamp(i) for i in range(60, 118)]}
    requests = [TimelinessRequest.model_validate(body | {"table_id": f"feed-{i % 4}", "last_arrival": stamp(118 + i % 3)})
                for i in range(8)]

    together, apart = both_ways(requests, account, "timeliness")

    assert together == apart
    assert "evaluated" in {t["answer"]["status"] for t in together}


def test_a_bad_item_fails_alone(account: Settings) -> None:
    good = {"table_id": "steady", "current_row_count": 9_000.0, "timestamp": stamp(120)}
    requests = [VolumeRequest.model_validate(good | more) for more in
                ({}, {"table_id": "unknown", "require_model": True}, {"holidays": {"country": "XX"}}, {"record": False})]

    outcomes = many.score("volume", requests, Catalogue(account), NOW)

    assert [type(o.error) for o in outcomes] == [type(None), ModelNotFound, InvalidRequest, type(None)]
    assert [o.answer is None for o in outcomes] == [False, True, True, False]


def test_a_fleet_without_models_asks_for_none_of_them(storage: str) -> None:
    catalogue = counting(Settings(connection_string=storage), Clock())
    registry = catalogue.registry
    assert isinstance(registry, CountingRegistry)
    registry.publish(volume.model_name("fleet-7"), b"never promoted", {})
    body = {"current_row_count": 5.0, "historical_data": [5.0, 5.0], "record": False}
    requests = [VolumeRequest.model_validate(body | {"table_id": f"fleet-{i}"}) for i in range(volume_batch.LISTED)]

    outcomes = many.score("volume", requests, catalogue, NOW)

    assert registry.looks == 1
    assert all(outcome.answer for outcome in outcomes)


def test_among_many_models_each_is_asked_for(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.catalogue.LISTED_FOR_ONE", 1)
    catalogue = counting(Settings(connection_string=storage), Clock())
    for i in range(3):
        catalogue.registry.publish(volume.model_name(f"other-{i}"), b"never promoted", {})

    catalogue.rule_out([volume.model_name("one"), volume.model_name("two")], volume.model_name(""))

    assert catalogue.model(volume.model_name("one")) is None
    assert isinstance(catalogue.registry, CountingRegistry) and catalogue.registry.looks == 1
