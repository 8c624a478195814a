"""Alert budgets: the threshold that keeps a table to so many alerts a month, by its own past."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pytest

from detectors import alert_budget
from detectors.alert_budget import FEWEST, LOUDEST, threshold_for
from detectors.decision import threshold_of
from detectors.pattern_history import slug
from orchestrations import retraining
from shared.catalogue import Catalogue
from shared.contract import VolumeRequest, parse
from shared.contract_pattern import PatternRequest
from shared.contract_retraining import RetrainRequest
from shared.contract_tables import Table, with_defaults
from shared.errors import InvalidRequest, NotFound, StorageUnavailable
from shared.history import Point
from shared.settings import Settings
from shared.tables import Tables
from tests.counts import MONDAY, daily
from tests.profiles import batch
from tests.test_service_detectors import load
from training.targets import Target

DAYS, A_MONTH = 300, 30.44
NOW = datetime(2026, 9, 1, tzinfo=UTC)
# The service looks at the last year; whole weeks, so that days keep their weekday.
LATER = timedelta(weeks=((datetime.now(UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days - MONDAY - 120) // 7)
CALIBRATED = {"max_alerts_per_month": 1, "threshold": 0.997, "calibrated_at": "2026-09-01T00:00:00Z", "points": 300}


def day(number: int) -> datetime:
    return datetime(1970, 1, 1, 2, tzinfo=UTC) + timedelta(days=MONDAY + number)


@pytest.fixture
def catalogue(storage: str) -> Catalogue:
    return Catalogue(Settings(connection_string=storage, recheck_seconds=3600, history_days=3000))


@pytest.fixture
def tables(catalogue: Catalogue) -> Tables:
    return Tables(catalogue.history, "tablesettings", 0)


def noisy(catalogue: Catalogue, table_id: str = "noisy", days: int = DAYS, said: str = "ok", faults: int = 0) -> None:
    """Counts with heavy tails, so that a nominal rate is exceeded, and collapses on `faults` days that people spoke of."""
    rng = np.random.default_rng(3)
    values = np.round(daily(DAYS).values[:days] * np.exp(0.1 * rng.standard_t(2, size=days)))
    wrong = 40 + np.arange(faults) * ((days - 50) // max(faults, 1))
    values[wrong] = np.round(0.05 * values[wrong])
    statuses = {int(d): said for d in wrong}
    points = [Point(day(d), float(values[d]), statuses.get(d, "ok")) for d in range(days)]
    catalogue.record_many("volume", {table_id: points})


def ask(catalogue: Catalogue, tables: Tables, budget: float, **more: Any) -> dict[str, Any]:
    body = {"detector": "volume", "max_alerts_per_month": budget, **more}
    return alert_budget.propose("noisy", json.dumps(body).encode(), catalogue, tables, NOW)


def kept(tables: Tables) -> dict[str, Any]:
    """The settings of the detector, as they are kept."""
    table = tables.current("noisy") or pytest.fail()
    return table.settings.detectors["volume"].model_dump(mode="json", exclude_none=True)


@pytest.mark.parametrize("budget", [0.5, 1.0, 3.0])
def test_what_comes_keeps_the_budget_whatever_the_scores_look_like(budget: float) -> None:
    rng, alerts = np.random.default_rng(0), []
    for _ in range(400):
        past, coming = np.split(1 - rng.beta(1.0, 3.0, size=2 * DAYS), 2)
        threshold = threshold_for(budget, past.tolist(), A_MONTH, least=0.0)
        assert threshold is not None
        alerts.append((coming >= threshold).mean() * A_MONTH)

    a_place = A_MONTH / (DAYS + 1)
    assert 0.9 * (budget - a_place) <= np.mean(alerts) <= 1.1 * budget


@pytest.mark.parametrize(("points", "budget"), [(FEWEST - 1, 30.0), (DAYS, 0.05)])
def test_with_too_little_past_there_is_no_calibrated_threshold(points: int, budget: float) -> None:
    assert threshold_for(budget, [0.5] * points, A_MONTH, 0.99) is None


def test_a_budget_never_lowers_the_threshold_nor_silences_what_is_critical() -> None:
    assert threshold_for(3.0, [0.2] * DAYS, A_MONTH, 0.99) == 0.99
    assert threshold_for(1.0, [0.999999] * DAYS, A_MONTH, 0.99) == LOUDEST
    assert threshold_for(1000.0, [0.999] * DAYS, A_MONTH, 0.99) == 0.99


def test_a_calibrated_threshold_holds_for_the_number_that_it_was_found_for() -> None:
    def threshold(**body: Any) -> float:
        return threshold_of(parse(VolumeRequest, json.dumps({"row_count": 1, "alert_budget": CALIBRATED} | body).encode()))

    assert threshold(max_alerts_per_month=1) == 0.997
    assert threshold(max_alerts_per_month=0.1) == pytest.approx(1 - 0.1 / A_MONTH)
    assert threshold() == 0.99
    assert threshold(max_alerts_per_month=1, sensitivity=45) == pytest.approx(0.999)


def test_a_column_s_budget_reaches_requests_about_this_column_alone() -> None:
    table = Table.model_validate_json(json.dumps({"settings": {"detectors": {"pattern": {
        "max_alerts_per_month": 1, "alert_budgets": {"iban": CALIBRATED}}}}}))

    iban, name = (with_defaults(parse(PatternRequest, json.dumps({"values": ["x"], "column": c}).encode()), table, "pattern")
                  for c in ("iban", "name"))

    assert iban.alert_budget is not None and iban.alert_budget.threshold == 0.997
    assert name.alert_budget is None and name.max_alerts_per_month == 1


def test_the_past_tells_what_a_budget_means(catalogue: Catalogue, tables: Tables) -> None:
    noisy(catalogue)

    answer = ask(catalogue, tables, 0.5)

    current, nominal, own = (answer[name] for name in ("current", "nominal", "calibrated"))
    assert current["alerts_per_month"] >= nominal["alerts_per_month"] > 0.5 >= own["alerts_per_month"]
    assert own["threshold"] > nominal["threshold"] >= current["threshold"]
    assert own["interval"][0] <= own["alerts_per_month"] <= own["interval"][1]
    assert len(answer["kept"]) == own["alerts"] and len(answer["lost"]) == current["alerts"] - own["alerts"]
    assert max((p["score"] for p in answer["lost"]), default=0) <= min(p["score"] for p in answer["kept"])
    assert f"{own['threshold']:g}" in answer["meaning"] and tables.get("noisy") is None


@pytest.mark.parametrize(("said", "counts"), [("confirmed", False), ("excluded", False), ("expected", True)])
def test_only_what_nobody_confirmed_or_ruled_out_counts(catalogue: Catalogue, tables: Tables, said: str,
                                                        counts: bool) -> None:
    noisy(catalogue, said=said, faults=12)

    answer = ask(catalogue, tables, 1.0)

    assert answer["normal"] == answer["judged"] - (0 if counts else 12)
    assert {p["said"] for p in answer["kept"] + answer["lost"]} == {None, said}
    assert answer["current"]["confirmed"] == (12 if said == "confirmed" else 0)


def test_confirmed_incidents_that_a_budget_would_lose_are_told(catalogue: Catalogue, tables: Tables) -> None:
    noisy(catalogue)
    lost = min(ask(catalogue, tables, 0.5)["lost"], key=lambda point: point["score"])
    catalogue.history.mark("volume", "noisy", [datetime.fromisoformat(lost["timestamp"]).replace(hour=2)], "confirmed")
    catalogue.forget("volume", "noisy")

    answer = ask(catalogue, tables, 0.5)

    assert [p["said"] for p in answer["lost"]].count("confirmed") == 1
    assert "1 of those lost was a confirmed incident." in answer["meaning"]


def test_what_is_applied_is_kept_with_its_date_and_points_and_used(catalogue: Catalogue, tables: Tables) -> None:
    noisy(catalogue)

    answer = ask(catalogue, tables, 0.5, apply=True)

    table = tables.get("noisy")
    own = table and table.settings.detectors["volume"]
    assert own and own.max_alerts_per_month == 0.5 and own.alert_budgets
    budget = own.alert_budgets[""]
    assert (budget.points, budget.calibrated_at) == (answer["normal"], NOW)
    assert budget.threshold == pytest.approx(answer["calibrated"]["threshold"], abs=1e-6)
    again = ask(catalogue, tables, 0.5)
    assert again["current"] == answer["calibrated"] == again["calibrated"] and not again["lost"]


@pytest.mark.parametrize("days", [1, 3])
def test_a_past_that_is_still_being_learnt_says_so(catalogue: Catalogue, tables: Tables, days: int) -> None:
    noisy(catalogue, days=days)

    answer = ask(catalogue, tables, 1.0)

    assert (answer["points"], answer["judged"], answer["calibrated"]) == (days, 0, None)
    assert answer["meaning"].count("too few") == 1


def test_a_short_past_says_so_and_the_nominal_rate_is_used(catalogue: Catalogue, tables: Tables) -> None:
    noisy(catalogue, days=45)

    answer = ask(catalogue, tables, 0.2, apply=True)

    table = tables.get("noisy")
    own = table and table.settings.detectors["volume"]
    assert answer["calibrated"] is None and "takes about 5 months: the nominal rate is used" in answer["meaning"]
    assert own and own.max_alerts_per_month == 0.2 and not own.alert_budgets


def test_a_retraining_renews_the_budgets_that_there_are(catalogue: Catalogue, tables: Tables) -> None:
    noisy(catalogue, days=200)
    first = ask(catalogue, tables, 1.0, apply=True)
    noisy(catalogue)

    [renewed] = alert_budget.renewed("volume", "noisy", None, catalogue, tables, NOW)

    assert renewed["applied"] and renewed["normal"] > first["normal"]
    assert kept(tables)["alert_budgets"][""]["points"] == renewed["normal"]
    assert alert_budget.renewed("timeliness", "noisy", None, catalogue, tables, NOW) == []


@pytest.mark.parametrize("said", [3.0, None])
def test_a_budget_that_a_person_replaced_or_removed_is_not_brought_back(catalogue: Catalogue, tables: Tables,
                                                                        said: float | None) -> None:
    noisy(catalogue)
    ask(catalogue, tables, 1.0, apply=True)
    tables.put("noisy", {"settings": {"detectors": {"volume": {"max_alerts_per_month": said}}}})

    assert alert_budget.renewed("volume", "noisy", None, catalogue, tables, NOW) == []
    assert kept(tables).get("max_alerts_per_month") == said


def test_a_budget_that_is_replaced_while_it_is_calibrated_again_stays_replaced(
        catalogue: Catalogue, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy(catalogue)
    ask(catalogue, tables, 1.0, apply=True)
    calibrate = alert_budget._calibrated

    def interrupted(*given: Any) -> Any:
        monkeypatch.setattr(alert_budget, "_calibrated", calibrate)
        ask(catalogue, tables, 3.0, apply=True)
        return calibrate(*given)

    monkeypatch.setattr(alert_budget, "_calibrated", interrupted)
    [renewed] = alert_budget.renewed("volume", "noisy", None, catalogue, tables, NOW)

    assert not renewed["applied"]
    assert kept(tables)["max_alerts_per_month"] == kept(tables)["alert_budgets"][""]["max_alerts_per_month"] == 3


def test_a_threshold_stays_where_the_past_has_become_too_short_to_find_another(catalogue: Catalogue, tables: Tables) -> None:
    noisy(catalogue, days=45)
    own = {"max_alerts_per_month": 0.2, "alert_budgets": {"": CALIBRATED | {"max_alerts_per_month": 0.2}}}
    tables.put("noisy", {"settings": {"detectors": {"volume": own}}})

    [renewed] = alert_budget.renewed("volume", "noisy", None, catalogue, tables, NOW)

    assert not renewed["applied"] and "the threshold of the last time stays" in renewed["meaning"]
    assert kept(tables)["alert_budgets"][""]["threshold"] == CALIBRATED["threshold"]


def test_with_a_column_s_model_its_own_budget_is_renewed_alone(catalogue: Catalogue, tables: Tables) -> None:
    budgets = {"ZIP code": CALIBRATED, "iban": CALIBRATED}
    tables.put("codes", {"settings": {"detectors": {"pattern": {"max_alerts_per_month": 1, "alert_budgets": budgets}}}})

    def renewed_with(column: str) -> list[str]:
        return list(alert_budget._in_force("pattern", "codes", column, tables))

    assert renewed_with("iban") == ["iban"]
    assert renewed_with(slug("ZIP code")) == renewed_with("ZIP code") == ["ZIP code"]


def test_a_budget_that_cannot_be_calibrated_again_does_not_end_the_run_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any) -> Any:
        raise failure

    for name, stand_in in (("renewed", broken), ("catalogue", lambda: None), ("tables", lambda: None)):
        monkeypatch.setattr(retraining, name, stand_in)

    failure: Exception = ValueError("a library's word about this table")
    assert retraining._budgets(Target("volume", "noisy"), RetrainRequest()) == {
        "alert_budgets": ["ValueError: a library's word about this table"]}
    failure = StorageUnavailable("later")
    with pytest.raises(StorageUnavailable):
        retraining._budgets(Target("volume", "noisy"), RetrainRequest())


def test_what_is_wrong_is_refused(catalogue: Catalogue, tables: Tables) -> None:
    with pytest.raises(NotFound):
        ask(catalogue, tables, 1.0, detector="weather")
    with pytest.raises(InvalidRequest, match="no history"):
        ask(catalogue, tables, 1.0)
    with pytest.raises(InvalidRequest, match="one verdict"):
        ask(catalogue, tables, 1.0, column="iban")
    with pytest.raises(InvalidRequest, match="of column value") as unnamed:
        ask(catalogue, tables, 1.0, detector="pattern")
    with pytest.raises(InvalidRequest) as outside:
        alert_budget.propose("../up", b'{"detector": "volume", "max_alerts_per_month": 1}', catalogue, tables, NOW)
    assert (unnamed.value.target, outside.value.target) == ("column", "table_id")
    with pytest.raises(InvalidRequest, match="max_alerts_per_month"):
        ask(catalogue, tables, 0.0)
    with pytest.raises(InvalidRequest, match="aply"):
        ask(catalogue, tables, 1.0, aply=True)


def test_a_column_s_budget_is_found_in_its_own_batches(service: httpx.Client) -> None:
    rng = np.random.default_rng(5)
    rows = []
    for number in range(60):
        odd = int(rng.integers(0, 9)) if rng.random() < 0.4 else 0
        values = [f"AB-{n:05d}" for n in rng.integers(0, 99_999, 200 - odd).tolist()] + [f"ab_{n}" for n in range(odd)]
        rows.append({"detector": "pattern", "table_id": "codes", "column": "code", "values": values,
                     "timestamp": (day(number) + LATER).isoformat()})
    load(service, rows)

    found = service.post("/v1/tables/codes/alert-budget", json={"detector": "pattern", "column": "code", "apply": True,
                                                                "max_alerts_per_month": 1})
    assert found.status_code == 200, found.text
    answer = found.json()
    kept = service.get("/v1/tables/codes").json()["settings"]["detectors"]["pattern"]

    assert answer["column"] == "code" and answer["calibrated"]["alerts"] <= answer["current"]["alerts"]
    assert kept["max_alerts_per_month"] == 1 and set(kept["alert_budgets"]) == {"code"}


def test_a_budget_told_to_the_service_holds_in_its_next_verdict(service: httpx.Client) -> None:
    rng = np.random.default_rng(3)
    days = 100
    values = np.round(daily(days).values * np.exp(0.1 * rng.standard_t(2, size=days)))
    load(service, [{"table_id": "busy", "timestamp": (day(d) + LATER).isoformat(), "row_count": values[d]}
                   for d in range(days)])

    found = service.post("/v1/tables/busy/alert-budget", json={"detector": "volume", "max_alerts_per_month": 0.7,
                                                               "apply": True})
    asked = {"table_id": "busy", "current_row_count": 10_000, "record": False,
             "timestamp": (day(days) + LATER).isoformat()}
    verdict = service.post("/v1/detect/volume", json=asked).json()

    assert found.status_code == 200
    assert verdict["deviation"]["threshold"] == found.json()["calibrated"]["threshold"] > 0.99


def rows_of(kind: str) -> list[dict[str, Any]]:
    """A quiet past of 60 points, up to a few weeks ago."""
    head = {"detector": kind, "table_id": f"quiet-{kind}"}
    moments = [day(number) + LATER for number in range(60)]
    if kind == "timeliness":
        return [head | {"timestamp": (m + timedelta(minutes=(i * 37) % 20)).isoformat()} for i, m in enumerate(moments)]
    if kind == "distribution":
        return [head | {"timestamp": m.isoformat(), "profile": {key: value for key, value in batch(i).items()
                                                                if key != "profiledAt"}} for i, m in enumerate(moments)]
    return [head | {"timestamp": m.isoformat(), "values": {"orders": 100.0 + 10 * (i % 7) + (i * 37) % 5}}
            for i, m in enumerate(moments)]


@pytest.mark.parametrize("kind", ["timeliness", "distribution", "sequence"])
def test_every_detector_tells_what_a_budget_means(service: httpx.Client, kind: str) -> None:
    more = {"settings": {"granularity": "daily"}} if kind == "sequence" else {"settings": {}}
    service.post(f"/v1/tables/quiet-{kind}", json=more).raise_for_status()
    assert load(service, rows_of(kind))["rejected"] == 0

    found = service.post(f"/v1/tables/quiet-{kind}/alert-budget", json={"detector": kind, "max_alerts_per_month": 2})

    assert found.status_code == 200, found.text
    answer = found.json()
    assert answer["judged"] >= FEWEST and answer["months"] == pytest.approx(answer["judged"] / A_MONTH, rel=0.2)
    assert answer["calibrated"]["alerts"] <= answer["current"]["alerts"] <= answer["judged"]
    assert not answer["applied"] and "expect" in answer["meaning"]
