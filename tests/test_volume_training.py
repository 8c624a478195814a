"""What the volume families learn from, up to when, and how a model's file is judged on the days since its training."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from detectors.artefact import Artefact
from shared.contract import TrainRequest, parse
from shared.history import ANOMALY, CONFIRMED, EXCLUDED, EXPECTED, OK, REPAIRED, History, Point, Series
from shared.settings import Settings
from tools.made_up import START, counts
from training import backtest, volume_anomaly
from training.volume_anomaly import Prepared

DAYS = 200
ROWS = np.array([point["row_count"] for point in counts(0, DAYS)], np.float64)
SECONDS = [int((START + timedelta(days=day)).timestamp()) for day in range(DAYS)]


def asked(**options: Any) -> TrainRequest:
    return parse(TrainRequest, json.dumps({"table_id": "orders", "training_days": 400, **options}).encode(), 2**26)


def prepared(rows: Any = ROWS, status: dict[int, int] | None = None) -> Prepared:
    codes = np.array([(status or {}).get(day, OK) for day in range(len(rows))])
    return volume_anomaly.prepared(asked(), Series.of(SECONDS[:len(rows)], rows.tolist(), codes.tolist()))


def test_a_level_that_the_serving_model_flags_for_weeks_is_learnt_once_the_filter_has_accepted_it() -> None:
    rows = ROWS.copy()
    rows[160:] *= 1.6

    learnt = prepared(rows, dict.fromkeys(range(160, DAYS), ANOMALY)).series.values

    assert np.isnan(learnt[160:165]).all() and np.isfinite(learnt[175:]).all()


def test_a_single_day_that_was_flagged_is_learnt_where_the_filter_finds_nothing_wrong_with_it() -> None:
    assert np.isfinite(prepared(status={120: ANOMALY}).series.values[120])


def test_what_the_filter_flags_is_left_out_unless_a_person_said_that_it_was_expected() -> None:
    rows = ROWS.copy()
    rows[120], rows[140] = 400, 400

    data = prepared(rows, {140: EXPECTED})

    assert np.isnan(data.series.values[120]) and data.series.values[140] == 400
    assert data.said[140] == -1 and data.said[120] == 0


def test_a_confirmed_anomaly_teaches_nobody_and_is_judged_by_everybody() -> None:
    data = prepared(status={150: CONFIRMED, 151: EXCLUDED, 152: REPAIRED})
    held = data.held_out()

    row = int(np.flatnonzero(held.days == 150).item())

    assert np.isnan([data.observed[150], data.series.values[150]]).all() and data.judged[150] == ROWS[150]
    assert held.values[row] == ROWS[150] and held.said[row] == 1 and np.isnan(held.faulty[row]).all()
    assert np.isnan(data.observed[151:153]).all() and not {151, 152} & set(held.days.tolist())
    assert data.facts()["excluded"] == 1 and data.facts()["missing"] == 2


@pytest.mark.parametrize("algorithm", ["structural", "seasonal_decomposition"])
def test_scores_say_of_which_days_people_spoke(algorithm: str) -> None:
    data = prepared(status={150: CONFIRMED, 160: EXPECTED})

    scores, _ = backtest.held_out(algorithm, data.series, data.observed, data.held_out())

    days = data.held_out().days
    assert (days[scores.said == 1].tolist(), days[scores.said == -1].tolist()) == ([150], [160])
    assert np.isfinite(scores.normal[scores.said != 0]).all()


def test_training_as_of_a_moment_knows_nothing_of_what_came_later(storage: str) -> None:
    history = History(Settings(connection_string=storage))
    points = [Point(START + timedelta(days=day), float(rows)) for day, rows in enumerate(ROWS[:60])]
    history.record("volume", "orders", points)
    sent = [{"timestamp": (START + timedelta(days=day)).isoformat(), "row_count": 5} for day in (58, 61)]

    then = volume_anomaly.prepare(asked(historical_data=sent), history, until=START + timedelta(days=50))
    now = volume_anomaly.prepare(asked(historical_data=sent), history)

    assert then.facts()["to"] == "2026-02-23T00:00:00Z" and then.facts()["points"] == 50
    assert now.facts()["to"] == "2026-03-07T00:00:00Z" and now.judged[58] == 5
    assert volume_anomaly.prepare(asked(), history, datetime(2026, 3, 6, 3, tzinfo=UTC)).facts() == (
        volume_anomaly.prepare(asked(), history).facts())


def test_the_fingerprint_is_that_of_what_is_learnt() -> None:
    same, labelled = prepared().fingerprint(), prepared(status={150: EXPECTED}).fingerprint()
    shorter = prepared(ROWS[:-1]).fingerprint()

    assert same == prepared().fingerprint() == Prepared.from_json(prepared().to_json()).fingerprint()
    assert len({same, labelled, shorter}) == 3 and len(same) == 64


@pytest.mark.parametrize("algorithm", ["structural", "seasonal_decomposition"])
def test_a_file_judges_the_days_since_its_training_and_no_others(algorithm: str) -> None:
    data, then = prepared(), prepared(ROWS[:180])
    made = volume_anomaly.fit_candidate(then, algorithm)
    artefact = Artefact.load(made.payload or b"")

    judged = volume_anomaly.judged_by(data, artefact)

    held = data.held_out()
    new = held.days >= 180
    assert np.isnan(judged.normal[~new]).all() and np.isfinite(judged.normal[new]).all()
    assert (np.isfinite(judged.faulty) == (np.isfinite(held.faulty) & new[:, None])).all()
    if algorithm == "structural":  # counted on from its training, the file is where the filter would be
        walked, _ = backtest.held_out(algorithm, data.series, data.observed, held)
        assert judged.normal[new] == pytest.approx(walked.normal[new], abs=1e-9)
        assert judged.faulty[new] == pytest.approx(walked.faulty[new], abs=1e-9, nan_ok=True)


def test_a_file_of_other_buckets_or_that_has_expired_says_nothing() -> None:
    data = prepared()
    artefact = Artefact.load(volume_anomaly.fit_candidate(prepared(ROWS[:180]), "seasonal_decomposition").payload or b"")

    hourly, expired = (replace(artefact, card={**artefact.card, **card})
                       for card in ({"granularity": "hourly"}, {"valid_until": data.series.start + 189}))

    assert np.isnan(volume_anomaly.judged_by(data, hourly).normal).all()
    assert np.isfinite(volume_anomaly.judged_by(data, expired).normal).sum() == 10
    assert volume_anomaly.unfit(data, hourly) == "counts hourly buckets and is not asked any more"
    assert volume_anomaly.unfit(data, expired) == "has expired" and volume_anomaly.unfit(data, artefact) is None
