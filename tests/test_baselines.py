"""A new normal: told, or found where a model keeps flagging what the structural filter has accepted."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pytest

from detectors import baselines, volume, volume_batch
from detectors.artefact import Artefact
from detectors.context import Context
from detectors.lags import accepted_from
from detectors.replays import Replays
from shared.catalogue import Catalogue, Loaded
from shared.contract import TrainRequest, VolumeAnswer, VolumeRequest, parse
from shared.contract_tables import Table, with_defaults
from shared.history import ANOMALY, EXPECTED, OK, Point, Series
from shared.settings import Settings
from tests import columns, feeds, profiles, sequences
from tests.counts import MONDAY, daily
from tests.test_service_detectors import load
from training import backtest, volume_anomaly
from training.calibration import Calibration

DAYS, SHIFT = 200, 140
NOW = datetime(2026, 9, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BASELINE = EPOCH + timedelta(days=MONDAY + SHIFT)
FACTORS = [1.6, 0.6, 3.0]


def shifted(factor: float) -> Any:
    """(DAYS,) counts that are another level from day SHIFT on."""
    values = daily(DAYS).values.copy()
    values[SHIFT:] = np.round(values[SHIFT:] * factor)
    return values


def known(values: Any, status: Any = None) -> Context:
    status = np.zeros(len(values), np.uint8) if status is None else status
    return Context(MONDAY, values, status, int(np.isfinite(values).sum()))


def rebased(values: Any, first: int = SHIFT, holiday: Any = None) -> tuple[Any, int]:
    classes = np.zeros(len(values), np.int64) if holiday is None else holiday
    context, points = baselines.rebased(known(values), MONDAY + first, classes, "daily")
    return context.values, points


def ask(values: Any, day: int, count: float | None = None, model: Loaded | None = None, status: Any = None,
        baseline: datetime | None = None, table_id: str | None = None) -> VolumeAnswer:
    """The verdict on a day, by the days before it and, where there is one, the table's model."""
    count = float(values[day]) if count is None else count
    moment = EPOCH + timedelta(days=MONDAY + day)
    request = VolumeRequest.model_validate({"table_id": table_id, "row_count": count, "timestamp": moment.isoformat(),
                                            "baseline": baseline and baseline.isoformat()}, strict=False)
    codes = np.zeros(day, np.uint8) if status is None else status[:day]
    stored = Series((MONDAY + np.arange(day)) * 86_400, values[:day], codes)
    case = volume.place(request, volume.Known(model, stored), moment + timedelta(days=1))
    judgement = volume.judge_with_own_model(case)
    return volume.conclude_by_model(case, judgement) if judgement else volume.conclude(case, volume.judge_with_filter(case))


@pytest.fixture(scope="module")
def model() -> Loaded:
    """Trained on the days before the shift. It keeps its level, and takes what is flagged for no news."""
    past = daily(DAYS).until(MONDAY + SHIFT - 1)
    calibration = Calibration.fit(np.abs(np.random.default_rng(0).normal(size=80)))
    fitted = backtest.fit("seasonal_decomposition", past)
    payload = backtest.export("seasonal_decomposition", fitted, calibration, past, {"timezone": "UTC", "holidays": {}})
    return Loaded("volume-anomaly.t", "1", "sha", Artefact.load(payload))


def trained_with(baseline: datetime | None) -> TrainRequest:
    told = baseline and baseline.isoformat()
    return TrainRequest.model_validate({"table_id": "t", "baseline": told, "training_days": 400})


def replayed(values: Any, model: Loaded | None, table_id: str) -> list[VolumeAnswer]:
    """The verdicts from the shift on, each kept with its status as serving keeps it."""
    status, answers = np.zeros(DAYS, np.uint8), []
    for day in range(SHIFT, DAYS):
        answers.append(ask(values, day, model=model, status=status, table_id=table_id))
        status[day] = ANOMALY if answers[-1].is_anomaly else OK
    return answers


@pytest.mark.parametrize("factor", FACTORS)
def test_history_moves_to_the_new_level_with_its_season(factor: float) -> None:
    values = shifted(factor)

    moved, points = rebased(values)

    assert points == 28
    assert np.median(moved[:SHIFT] / values[:SHIFT]) == pytest.approx(factor, rel=0.03)
    assert np.ptp(np.log(moved[:SHIFT] / values[:SHIFT])) < 1e-3
    assert np.array_equal(moved[SHIFT:], values[SHIFT:])


def test_the_level_is_known_from_one_point_and_better_from_more() -> None:
    values = shifted(3.0)

    errors = {n: abs(np.log(np.median(rebased(values[: SHIFT + n])[0][:SHIFT] / values[:SHIFT]) / 3.0)) for n in (1, 28)}

    assert errors[1] < 0.15 and errors[28] < 0.03


def test_a_fault_among_the_first_points_and_a_holiday_bend_no_level() -> None:
    values, holiday = shifted(1.6), np.zeros(DAYS, np.int64)
    values[SHIFT + 3], values[SHIFT + 5], holiday[SHIFT + 8] = 20.0, 0.0, 2
    values[SHIFT + 8] = 100.0

    moved, _ = rebased(values, holiday=holiday)

    assert np.median(moved[:SHIFT] / values[:SHIFT]) == pytest.approx(1.6, rel=0.04)


def test_empty_loads_stay_empty_and_unknown_ones_unknown() -> None:
    values = shifted(1.6)
    values[[30, 31]] = 0.0, np.nan

    moved, _ = rebased(values)

    assert moved[30] == 0.0 and np.isnan(moved[31])


@pytest.mark.parametrize("first", [DAYS, DAYS + 50, -3])
def test_without_points_on_both_sides_nothing_moves(first: int) -> None:
    values = shifted(1.6)

    moved, _ = rebased(values, first)

    assert np.array_equal(moved, values)


@pytest.mark.parametrize("factor", FACTORS)
def test_a_told_shift_is_no_alarm_from_its_second_day_on(factor: float) -> None:
    values = shifted(factor)

    untold = [ask(values, day).is_anomaly for day in range(SHIFT + 1, SHIFT + 5)]
    told = [ask(values, day, baseline=BASELINE).is_anomaly for day in range(SHIFT + 1, DAYS)]

    assert all(untold) and sum(told) <= 1


@pytest.mark.parametrize("day", [SHIFT + 1, SHIFT + 4, SHIFT + 30])
@pytest.mark.parametrize("fault", [0.0, 0.3, 3.0])
def test_faults_of_the_new_normal_are_found_from_its_second_day_on(day: int, fault: float) -> None:
    values = shifted(1.6)

    verdict = ask(values, day, count=round(fault * values[day]), baseline=BASELINE)

    assert verdict.is_anomaly and verdict.expected_value == pytest.approx(values[day], rel=0.25)


def test_the_first_count_of_a_new_normal_sets_the_level() -> None:
    verdict = ask(shifted(3.0), SHIFT, baseline=BASELINE)

    assert (verdict.status, verdict.is_anomaly) == ("learning", False)
    assert "count after its first" in (verdict.reason or "")


def test_what_was_before_the_new_normal_is_judged_as_ever() -> None:
    values = shifted(3.0)

    assert ask(values, SHIFT - 5, count=10.0, baseline=BASELINE) == ask(values, SHIFT - 5, count=10.0)


def test_a_model_that_was_trained_without_the_new_normal_is_not_asked(model: Loaded) -> None:
    values = shifted(3.0)

    verdict = ask(values, SHIFT + 3, model=model, baseline=BASELINE)

    assert not verdict.is_anomaly and verdict.model.algorithm == "structural"
    assert [w for w in verdict.warnings if "trained without it" in w]


def test_a_model_that_was_trained_with_the_new_normal_answers_again() -> None:
    values = shifted(3.0)
    request = trained_with(BASELINE)
    data = volume_anomaly.prepared(request, Series((MONDAY + np.arange(SHIFT + 21)) * 86_400, values[: SHIFT + 21],
                                                   np.zeros(SHIFT + 21, np.uint8)))
    candidate = volume_anomaly.fit_candidate(data, "seasonal_decomposition")
    trained = Loaded("volume-anomaly.t", "2", "sha", Artefact.load(candidate.payload or b""))

    verdict = ask(values, SHIFT + 22, model=trained, baseline=BASELINE)
    drop = ask(values, SHIFT + 22, count=float(values[SHIFT + 22] / 3), model=trained, baseline=BASELINE)

    assert candidate.card and candidate.card["baseline"] == baselines.stamp(BASELINE)
    assert verdict.model.algorithm == "seasonal_decomposition" and not verdict.is_anomaly and drop.is_anomaly
    assert np.median(data.series.values[:SHIFT] / values[:SHIFT]) == pytest.approx(3.0, rel=0.05)


def test_training_data_survive_their_journey_and_differ_by_their_baseline() -> None:
    stored = Series((MONDAY + np.arange(DAYS)) * 86_400, shifted(3.0), np.zeros(DAYS, np.uint8))

    plain, moved = (volume_anomaly.prepared(trained_with(b), stored) for b in (None, BASELINE))

    assert volume_anomaly.Prepared.from_json(moved.to_json()).baseline == moved.baseline == baselines.stamp(BASELINE)
    assert plain.fingerprint() != moved.fingerprint()


@pytest.mark.parametrize("factor", FACTORS)
def test_a_lasting_shift_that_nobody_told_is_flagged_for_a_week_and_not_for_ever(model: Loaded, factor: float) -> None:
    answers = replayed(shifted(factor), model, f"shift{factor}")

    flagged = [answer.is_anomaly for answer in answers]
    calmed = [w for answer in answers for w in answer.warnings if w.startswith("A new level")]
    assert all(flagged[:5]) and sum(flagged[:30]) <= 10 and sum(flagged[30:]) <= 1
    assert calmed and {w[:34] for w in calmed[:9]} <= {f"A new level since about 2022-05-{d}" for d in (29, 30, 31)}


def test_a_table_that_stopped_stays_an_anomaly(model: Loaded) -> None:
    values = daily(DAYS).values.copy()
    values[SHIFT : SHIFT + 14] = 0

    flagged = [answer.is_anomaly for answer in replayed(values, model, "stopped")]

    assert all(flagged[:14]) and sum(flagged[14:]) <= 1


def test_a_single_drop_that_only_the_model_flags_is_not_overruled(model: Loaded) -> None:
    values = daily(DAYS).values.copy()
    status = np.zeros(DAYS, np.uint8)
    usual = ask(values, SHIFT + 20, model=model, status=status)
    edge = (usual.expected_range[0] or 0.0) - 1

    verdict = ask(values, SHIFT + 20, count=edge, model=model, status=status)

    assert verdict.is_anomaly and verdict.model.algorithm == "seasonal_decomposition"


def test_a_state_of_the_level_before_answers_no_question_about_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values = shifted(1.6)
    ask(values, SHIFT + 9, table_id="kept")  # leaves its state behind
    warm = ask(values, SHIFT + 10, table_id="kept", baseline=BASELINE)

    monkeypatch.setattr(volume, "replays", Replays())

    assert warm == ask(values, SHIFT + 10, table_id="kept", baseline=BASELINE) and not warm.is_anomaly


def test_batches_answer_as_single_calls_do(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = Catalogue(Settings(connection_string=storage, recheck_seconds=3600))
    names = [f"t{i}" for i in range(3)]
    values = shifted(1.6)
    points = [Point(EPOCH + timedelta(days=MONDAY + i), float(values[i])) for i in range(SHIFT + 6)]
    catalogue.history.record_many("volume", dict.fromkeys(names, points))
    asked = [VolumeRequest.model_validate({"table_id": name, "row_count": float(values[SHIFT + 6]), "baseline": told,
                                           "timestamp": (BASELINE + timedelta(days=6)).isoformat()}, strict=False)
             for name, told in zip(names, [None, BASELINE.isoformat(), None], strict=True)]

    with ThreadPoolExecutor(2) as pool:
        many = volume_batch.detect_many(asked, catalogue, NOW, pool)
    monkeypatch.setattr(volume, "replays", Replays())
    alone = [volume.detect(request, catalogue, NOW) for request in asked]

    plain = [answer.model_copy(update={"latency_ms": 0.0}) for answer in alone]
    assert [answer.model_copy(update={"latency_ms": 0.0}) for answer in many] == plain  # type: ignore[union-attr]
    assert [answer.is_anomaly for answer in alone] == [True, False, True]


def test_lags_move_by_the_difference_of_the_usual_ones() -> None:
    lags = np.random.default_rng(1).normal(5, 3, 80)
    lags[60:] += 90

    moved = baselines.rebased_lags(lags, 60)

    assert np.median(moved[:60]) == pytest.approx(np.median(lags[60:]), abs=2)
    assert np.std(moved[:60]) == pytest.approx(np.std(lags[:60]))
    assert accepted_from(moved) == 0


def test_a_feed_that_was_moved_by_two_hours_is_not_late_once_that_was_told() -> None:
    came = feeds.feed(feeds.DAILY, "2026-01-01T00:00", "2026-03-20T00:00")
    came[-4:] += 7200
    moved = datetime.fromtimestamp(int(came[-4]) - 600, UTC).isoformat()
    body: dict[str, Any] = {"schedule": {"cron": "30 2 * * *"}, "last_arrival": feeds.iso(came[-1])}

    untold, told = (feeds.ask(came[:-1], came[-1], **body, **more) for more in ({}, {"baseline": moved}))
    much_later = feeds.ask(came[:-1], came[-1] + 7200, **body | {"last_arrival": feeds.iso(came[-1] + 7200)}, baseline=moved)

    assert untold.state == "late" and told.state == "on_time" and much_later.state == "late"


@pytest.mark.parametrize(("batches", "is_anomaly"), [(2, True), (6, False)])
def test_a_new_format_is_normal_once_enough_batches_of_the_new_normal_are_known(batches: int, is_anomaly: bool) -> None:
    old = [{"timestamp": columns.day(i).isoformat(), "values": columns.orders(100, seed=i)} for i in range(20)]
    new = [{"timestamp": columns.day(20 + i).isoformat(), "values": [f"X{n:06d}" for n in range(100 * i, 100 * i + 100)]}
           for i in range(batches)]
    asked: dict[str, Any] = {"values": [f"X{n:06d}" for n in range(9000, 9100)],
                             "timestamp": columns.day(20 + batches).isoformat()}

    told = columns.ask(**asked, historical_data=old + new, baseline=columns.day(20).isoformat())

    assert told.is_anomaly == is_anomaly


def test_profiles_of_before_count_no_more_once_eight_are_known_since() -> None:
    history = [profiles.batch(i, rows=1000) for i in range(30)] + [profiles.batch(30 + i, rows=5000) for i in range(9)]

    told = profiles.ask(profiles.batch(39, rows=5000), history, baseline=profiles.day(30))

    assert told.status == "evaluated" and not told.is_anomaly
    assert told.history.points == 9


@pytest.mark.parametrize("change", [lambda values: 3 * values, lambda values: values - 1000])
def test_a_series_at_another_level_is_normal_the_day_after_it_was_told(change: Any) -> None:
    values = sequences.metrics(32, m=2, seed=1)
    values[30 * 24 :, 1] = change(values[30 * 24 :, 1])
    told = (sequences.START + timedelta(days=30)).isoformat()

    before, after = sequences.ask(values), sequences.ask(values, baseline=told)

    assert before.is_anomaly and not after.is_anomaly
    assert after.status == "evaluated" and after.history == before.history


def test_a_table_s_baseline_reaches_requests_that_tell_none() -> None:
    table = Table.model_validate_json(json.dumps({"settings": {"baselines": {"volume": BASELINE.isoformat()}}}))
    plain = parse(VolumeRequest, b'{"row_count": 1}')
    own = parse(VolumeRequest, b'{"row_count": 1, "baseline": "2026-01-01T00:00:00Z"}')

    assert with_defaults(plain, table, "volume").baseline == BASELINE
    assert with_defaults(own, table, "volume").baseline == datetime(2026, 1, 1, tzinfo=UTC)
    assert with_defaults(plain, table, "distribution").baseline is None


def test_points_that_a_person_called_expected_tell_the_level_though_they_were_flagged() -> None:
    values, status = shifted(3.0)[: SHIFT + 10], np.zeros(SHIFT + 10, np.uint8)
    status[SHIFT:] = ANOMALY
    classes = np.zeros(SHIFT + 10, np.int64)

    flagged, _ = baselines.rebased(known(values, status), MONDAY + SHIFT, classes, "daily")
    status[SHIFT:] = EXPECTED
    vouched, _ = baselines.rebased(known(values, status), MONDAY + SHIFT, classes, "daily")

    assert np.array_equal(flagged.values, vouched.values) and flagged.values[0] > 2 * values[0]


def test_a_new_normal_told_to_the_service_ends_the_alarm(service: httpx.Client) -> None:
    start, week = datetime(2026, 6, 1, 2, tzinfo=UTC), (5000, 5200, 5100, 5300, 4900, 2000, 1800)
    rows = [{"table_id": "moved", "timestamp": (start + timedelta(days=d)).isoformat(),
             "row_count": (week[d % 7] + (d * 37) % 97) * (3 if d >= 60 else 1)} for d in range(63)]
    load(service, rows[:62])
    asked = {"table_id": "moved", "timestamp": rows[62]["timestamp"], "current_row_count": rows[62]["row_count"],
             "record": False}

    before = service.post("/v1/detect/volume", json=asked).json()
    service.post("/v1/tables/moved", json={"settings": {"baselines": {"volume": rows[60]["timestamp"]}}}).raise_for_status()
    after = service.post("/v1/detect/volume", json=asked).json()
    past = service.post("/v1/backtest", json={"detector": "volume", "table_id": "moved", "points": 2}).json()

    assert before["is_anomaly"] and not after["is_anomaly"]
    assert after["expected_value"] == pytest.approx(rows[62]["row_count"], rel=0.2)
    assert past["judged"] == 1 and not past["flagged"]
