"""The metrics routes as they are asked, on a real storage emulator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import azure.functions as func
import pytest

from orchestrations import metrics
from shared import worker
from shared.feedback import Said
from shared.monitoring import Monitoring

HELD = ("catalogue", "monitoring", "feedback")


@pytest.fixture
def monitoring(storage: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Monitoring]:
    """What this process keeps of its models, in a storage account of the test's own."""
    monkeypatch.setenv("DATA_STORAGE", storage)
    forget()
    yield worker.monitoring()
    forget()


def forget() -> None:
    for name in HELD:
        getattr(worker, name).cache_clear()


def ask(route: str, **params: str) -> tuple[int, dict[str, Any]]:
    request = func.HttpRequest("GET", f"/api/v1/metrics/{route}", params=params, body=b"")
    function = {"quality": metrics.show_quality, "drift": metrics.show_drift}[route]
    answer = function._function.get_user_function()(request)
    return answer.status_code, json.loads(answer.get_body())


def figures(number: int, verdict: str = "stable", detector: str = "volume") -> dict[str, Any]:
    """What training.monitoring keeps of one model."""
    value, level = (0.9, "large") if verdict == "drifted" else (0.1, "none")
    psi = {"value": value, "moderate": 0.4, "threshold": 0.45}
    feature = {"feature": "row_count", "level": level, "psi": psi, "js": psi, "ks": psi, "bins": 5,
               "effective": {"recent": 28.0, "reference": 80.0}}
    month = datetime.now(UTC).strftime("%Y-%m")
    return {"detector": detector, "name": f"{detector}-anomaly.t{number}", "table_id": f"t{number}", "version": "2",
            "algorithm": "structural", "checked_at": "2026-11-20T04:30:00Z", "verdict": verdict, "reason": "So it is.",
            "drift": {"recent": 28, "reference": 80, "since": "2026-10-20T00:00:00Z", "compared": 1, "features": [feature]},
            "counts": {month: {"structural": [30, 2, 0, 0, 66, 30]}}, "spacing_seconds": 86_400,
            "injected": {"recall": 0.75, "fpr": 0.02, "faults": 80, "points": 50}}


def test_before_the_first_check_there_is_nothing_and_nothing_fails(monitoring: Monitoring) -> None:
    assert ask("drift") == (200, {"models": [], "next": None, "totals": {
        "models": 0, "drifted": 0, "moderate": 0, "stable": 0, "not_evaluated": 0}})
    status, body = ask("quality")
    assert status == 200 and body["groups"] == [] and body["total"]["feedback"]["precision"] is None


def test_drift_tells_figures_thresholds_samples_and_the_verdict_in_words(monitoring: Monitoring) -> None:
    monitoring.put(figures(1, "drifted"))

    model = ask("drift")[1]["models"][0]

    assert (model["table_id"], model["verdict"], model["reason"]) == ("t1", "drifted", "So it is.")
    assert model["samples"] == {"recent": 28, "reference": 80, "since": "2026-10-20T00:00:00Z", "compared": 1}
    assert model["features"][0]["psi"] == {"value": 0.9, "moderate": 0.4, "threshold": 0.45}
    assert model["checked_at"] == "2026-11-20T04:30:00Z"


def test_drift_is_narrowed_and_paged_and_totals_come_with_the_first_page(monitoring: Monitoring) -> None:
    monitoring.put_many([figures(n, "drifted" if n % 2 else "stable") for n in range(5)])
    monitoring.put(figures(9, "moderate", "pattern"))

    first = ask("drift", limit="4")[1]
    rest = ask("drift", limit="4", after=first["next"])[1]

    assert [model["name"] for model in first["models"] + rest["models"]] == [
        "pattern-anomaly.t9", *(f"volume-anomaly.t{n}" for n in range(5))]
    assert first["totals"] == {"models": 6, "drifted": 2, "moderate": 1, "stable": 3, "not_evaluated": 0}
    assert rest["totals"] is None and rest["next"] is None
    assert [m["table_id"] for m in ask("drift", drifted="true")[1]["models"]] == ["t1", "t3"]
    assert [m["detector"] for m in ask("drift", detector="pattern")[1]["models"]] == ["pattern"]
    assert [m["table_id"] for m in ask("drift", table_id="t2")[1]["models"]] == ["t2"]


def test_quality_tells_words_faults_and_latency_apart(monitoring: Monitoring) -> None:
    monitoring.put_many([figures(n) for n in range(3)])
    now = datetime.now(UTC)
    at = now - timedelta(minutes=1)
    worker.feedback().put(Said("volume", "t1", at, "anomaly", "once", "", now, flagged=True, algorithm="structural"))

    status, body = ask("quality", by="family")

    assert status == 200
    (group,) = body["groups"]
    assert (group["detector"], group["family"]) == ("volume", "structural")
    assert group["feedback"]["precision"] == {"value": 1.0, "low": 0.2065, "high": 1.0, "hits": 1, "of": 1}
    assert group["injected"]["recall"]["of"] == 240 and group["injected"]["models"] == 3
    assert group["latency"]["points"] == 90
    assert group["latency"]["points_to_first_alarm"] == {"median": 0.0, "p95": 0.0}


@pytest.mark.parametrize(("route", "name", "value"), [
    ("drift", "drifted", "perhaps"), ("drift", "detector", "weather"), ("drift", "limit", "0"), ("drift", "after", "../.."),
    ("quality", "by", "colour"), ("quality", "from", "soon")])
def test_a_wrong_parameter_is_refused_by_name(monitoring: Monitoring, route: str, name: str, value: str) -> None:
    status, body = ask(route, **{name: value})

    assert (status, body["error"]["target"]) == (422, name)
