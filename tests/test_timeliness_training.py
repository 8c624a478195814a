"""Timeliness models: trained from arrivals, exported, promoted, answering as the service does; arrivals kept as history."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from detectors import timeliness
from detectors.artefact import Artefact
from detectors.timeliness_verdict import judge_with_filter, judge_with_model
from shared.catalogue import Catalogue
from shared.contract import parse
from shared.contract_timeliness import TimelinessRequest, TimelinessTrainRequest
from shared.errors import InvalidRequest, ModelNotFound
from shared.history import Point
from shared.settings import Settings
from tests.feeds import BERLIN, WORKDAYS, at, detect, feed, iso
from tools.backtest_timeliness import replay_folder
from training import lag_backtest, promotion, timeliness_anomaly
from training.lag_families import LagSeries, Season
from training.timeliness_anomaly import FAMILIES, Candidate, Prepared

NOW = datetime(2026, 6, 12, 9, tzinfo=UTC)
LOADS = feed(WORKDAYS, "2026-01-05", "2026-06-12", lambda rng, n: rng.exponential(8, n))


def request(**body: Any) -> TimelinessTrainRequest:
    return parse(TimelinessTrainRequest, json.dumps({"table_id": "orders", "timezone": BERLIN, **body}).encode())


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return timeliness_anomaly.prepare(request(training_days=300, historical_data=[iso(s) for s in LOADS]), None)


@pytest.fixture(scope="module")
def candidates(prepared: Prepared) -> dict[str, Candidate]:
    return {family: timeliness_anomaly.fit_candidate(prepared, family) for family in FAMILIES}


@pytest.fixture
def catalogue(storage: str) -> Catalogue:
    return Catalogue(Settings(connection_string=storage, recheck_seconds=0))


def mondays_late(minutes: float) -> LagSeries:
    hours = 494_022 + 24 * np.arange(600)  # from Monday 2026-05-11 06:00 on
    noise = np.random.default_rng(0).gamma(4, 2, 600)
    return LagSeries(noise + minutes * ((hours // 24 + 3) % 7 == 0), hours)


# Preparing


def test_training_data_are_lags_against_the_learnt_schedule(prepared: Prepared) -> None:
    assert prepared.schedule is not None and len(prepared.schedule["times"]) == 5
    assert len(prepared.series) == len(LOADS) and abs(float(np.median(prepared.series.lags))) < 1
    assert set(prepared.series.hours % 24) == {6}
    assert prepared.facts() == {"from": "2026-01-05T06:00:00", "to": "2026-06-11T06:00:00", "points": len(LOADS),
                                "used": len(LOADS), "excluded": 0, "missing": 0}


def test_prepared_data_survive_the_job_folder(prepared: Prepared) -> None:
    again = Prepared.from_json(prepared.to_json())

    assert again.to_json() == prepared.to_json() and (again.series.lags == prepared.series.lags).all()


def test_a_feed_that_moved_is_learnt_from_its_new_hour_on() -> None:
    moved = np.concatenate([LOADS[:80], LOADS[80:] + 7200])

    series = timeliness_anomaly.prepare(request(training_days=300, historical_data=[iso(s) for s in moved]), None).series

    assert len(series) - (len(LOADS) - 80) in (0, 1)  # the load before may have been as late by chance


def test_without_arrivals_there_is_nothing_to_train() -> None:
    with pytest.raises(InvalidRequest, match="no history"):
        timeliness_anomaly.prepare(request(), None)
    with pytest.raises(InvalidRequest, match="no schedule"):
        timeliness_anomaly.prepare(request(historical_data=[iso(s) for s in LOADS[:3]]), None)


# Families


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_says_in_onnx_what_it_says_in_numpy(candidates: dict[str, Candidate], family: str) -> None:
    figures = candidates[family].figures

    assert figures["parity"]["label_differences"] == 0 and figures["parity"]["max_difference"] < 1e-9
    assert figures["parity"]["rows"] >= 50 and "error" not in figures


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_flags_exactly_what_is_outside_its_range(prepared: Prepared, candidates: dict[str, Candidate],
                                                         family: str) -> None:
    artefact = Artefact.load(candidates[family].payload or b"")
    inputs = lag_backtest.judged(prepared.series, np.arange(60, 110))
    inputs["value"] = np.linspace(-60, 120, 50)

    out = artefact.run(inputs)

    outside = (inputs["value"] < out["lower"]) | (inputs["value"] > out["upper"])
    assert (outside == (out["score"] >= 0.99)).all() and 10 < outside.sum() < 50
    assert artefact.card["schedule"] == prepared.schedule and artefact.card["quality"]["basis"] == "injected"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_candidate_survives_the_job_folder(candidates: dict[str, Candidate], family: str) -> None:
    again = Candidate.from_parts(family, dict(candidates[family].to_parts()))

    assert again.payload == candidates[family].payload and again.figures == candidates[family].figures
    assert again.scores is not None and again.scores.faulty.shape == candidates[family].scores.faulty.shape  # type: ignore[union-attr]


def test_the_lag_filter_is_kept_unless_it_is_beaten(candidates: dict[str, Candidate]) -> None:
    assert timeliness_anomaly.choose(timeliness_anomaly.compare(list(candidates.values()))).algorithm == "lag_filter"


def test_a_feed_with_slow_mondays_is_better_told_by_its_season() -> None:
    series = mondays_late(60)

    plain, seasonal = (lag_backtest.held_out(family, series)[0] for family in ("lag_filter", "seasonal_filter"))

    rivals = [Candidate(name, {"quality": timeliness_anomaly.quality(scores)}, b"", {}, scores)
              for name, scores in (("lag_filter", plain), ("seasonal_filter", seasonal))]
    assert timeliness_anomaly.choose(rivals).algorithm == "seasonal_filter"


def test_a_season_is_what_a_weekday_adds() -> None:
    season = Season.fit(mondays_late(60))

    monday, tuesday = season.at(np, np.array([[494_022, 494_046]]))[0]
    assert 40 < monday - tuesday < 70


def test_too_few_arrivals_are_told_and_not_raised() -> None:
    few = Prepared("orders", "UTC", {}, None, LagSeries(np.arange(10.0), np.arange(10) * 24), 10, 0)

    assert "needs 20" in timeliness_anomaly.fit_candidate(few, "lag_filter").figures["error"]
    with pytest.raises(InvalidRequest, match="No model could be trained"):
        timeliness_anomaly.choose([timeliness_anomaly.fit_candidate(few, family) for family in FAMILIES])


# Serving


def test_a_promoted_model_answers_as_the_filter_it_was_made_of(
    catalogue: Catalogue, prepared: Prepared, candidates: dict[str, Candidate]
) -> None:
    result = promotion.conclude(timeliness_anomaly, prepared, list(candidates.values()), "timeliness-anomaly.orders",
                                request(), catalogue.registry)
    moment = at("2026-06-12T09:00")

    verdict = detect(catalogue, table_id="orders", as_of=iso(moment), historical_data=[iso(s) for s in LOADS])

    assert result["decision"] == "promoted" and result["model_name"] == "timeliness-anomaly.orders"
    assert (verdict.model.algorithm, verdict.model.version) == ("lag_filter", "1")
    assert verdict.schedule is not None and (verdict.schedule.source, verdict.schedule.timezone) == ("model", BERLIN)
    assert verdict.state == "late" and verdict.due_at == "2026-06-12T04:37:00Z"
    plain = judge_with_filter(prepared.series.lags, 40.0, 0.99)
    place = type("Place", (), {"before": prepared.series.lags, "hours": np.append(prepared.series.hours, 494_838)})
    served = judge_with_model(Artefact.load(candidates["lag_filter"].payload or b""), place, 40.0, 0.99)  # type: ignore[arg-type]
    assert plain is not None and served is not None and served.upper == pytest.approx(plain.upper, rel=1e-9)


def test_a_model_that_is_required_and_not_there_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(ModelNotFound):
        detect(catalogue, table_id="unknown", require_model=True)


def test_every_arrival_becomes_history_once(catalogue: Catalogue) -> None:
    for second in LOADS[:8]:
        body = {"table_id": "kept", "timezone": BERLIN, "as_of": iso(second + 60), "last_arrival": iso(second),
                "last_event_time": iso(second - 600)}
        asked = parse(TimelinessRequest, json.dumps(body).encode())
        for _ in range(2):
            verdict = timeliness.detect(asked, catalogue, NOW)
            message = timeliness.observation(asked, verdict, catalogue, NOW)
            if message is not None:
                timeliness.observe(message.encode(), catalogue.history)
                timeliness.observe(message.encode(), catalogue.history)

    stored, events = (catalogue.history.read(name, "kept") for name in (timeliness.DETECTOR, timeliness.EVENTS))
    assert stored.seconds.tolist() == LOADS[:8].tolist() and events.values.tolist() == [10.0] * 8
    assert abs(stored.values[-1]) < 60
    later = detect(catalogue, table_id="kept", timezone=BERLIN, as_of=iso(at("2026-01-15T12:00")))
    assert (later.state, later.history.points) == ("late", 8)


def test_a_call_that_asks_to_leave_no_trace_leaves_none(catalogue: Catalogue) -> None:
    asked = parse(TimelinessRequest, json.dumps({"table_id": "untraced", "last_arrival": iso(LOADS[0]), "record": False,
                                                 "as_of": iso(LOADS[0] + 60)}).encode())

    assert timeliness.observation(asked, timeliness.detect(asked, catalogue, NOW), catalogue, NOW) is None


def test_what_a_user_excludes_is_not_learnt_from(catalogue: Catalogue) -> None:
    points = [Point(datetime.fromtimestamp(int(s), UTC), 0.0) for s in LOADS[:30]]
    outlier = Point(points[-1].timestamp + timedelta(days=3, hours=5), 0.0, "excluded")
    catalogue.history.record(timeliness.DETECTOR, "excluded", [*points, outlier])

    verdict = detect(catalogue, table_id="excluded", timezone=BERLIN, as_of=iso(at("2026-02-17T12:00")))

    assert (verdict.history.points, verdict.history.excluded, verdict.history.used) == (31, 1, 30)


def test_a_message_that_cannot_be_read_is_an_error(catalogue: Catalogue) -> None:
    with pytest.raises(ValidationError):
        timeliness.observe(b'{"detector":"timeliness","table_id":"x"}', catalogue.history)


# Back-test


def test_the_back_test_writes_a_row_for_each_load_and_finds_what_is_late(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    days = [f"2026-{1 + day // 28:02d}-{1 + day % 28:02d}T02:30" for day in range(80)]
    rows: list[dict[str, Any]] = [{"feed": name, "expected_at": day, "lag_minutes": rng.exponential(10)}
                                  for day in days for name in ("a", "b")]
    rows[-1]["lag_minutes"], rows[-2]["lag_minutes"] = "", 200.0
    with (tmp_path / "in" / "feeds.csv").open("w", newline="") as lines:
        writer = csv.DictWriter(lines, ["feed", "expected_at", "lag_minutes"])
        writer.writeheader()
        writer.writerows(rows)

    told = list(replay_folder(tmp_path / "in", tmp_path / "out"))

    with (tmp_path / "out" / "feeds.csv").open(newline="") as lines:
        judged = list(csv.DictReader(lines))
    assert len(told) == 1 and "2 feeds, 160 loads" in told[0] and len(judged) == 160
    assert [row["score"] for row in judged[:10]] == [""] * 10 and all(row["score"] for row in judged[10:])
    assert judged[-1]["is_anomaly"] == judged[-2]["is_anomaly"] == "1"
    assert sum(row["is_anomaly"] == "1" for row in judged[:-2]) <= 5
