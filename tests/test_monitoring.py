"""How one model is doing, from what is stored of its table on a real storage emulator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from detectors.directory import DETECTORS
from shared import observations
from shared.catalogue import Catalogue
from shared.history import Point
from shared.monitoring import Monitoring, drifted
from shared.settings import Settings
from shared.verdicts import Months, month_of
from tests.onnx_models import model
from tools.made_up import START, Entry, arrivals, batches, counts, profiles
from training.monitoring import monitor

DAYS, RECENT = 120, 28
NAME = "volume-anomaly.orders"


@pytest.fixture
def catalogue(storage: str) -> Catalogue:
    return Catalogue(Settings(connection_string=storage))


def rows(detector: str) -> list[Entry]:
    """A history that is always the same, a point a day."""
    return {"volume": lambda: [{"value": e["row_count"], "timestamp": e["timestamp"]} for e in counts(1, DAYS)],
            "timeliness": lambda: arrivals(1, DAYS),
            "distribution": lambda: [{"timestamp": e["profiledAt"], "profile": e} for e in profiles(1, DAYS)],
            "pattern": lambda: batches(1, DAYS),
            "sequence": lambda: [{"timestamp": e["timestamp"], "values": {"load": e["row_count"]}} for e in counts(2, DAYS)],
            }[detector]()


def changed(detector: str, row: Entry) -> Entry:
    """What the point might be after a change that is no incident."""
    if detector == "volume":
        return row | {"value": row["value"] * 1.5}
    if detector == "timeliness":
        return row | {"timestamp": (datetime.fromisoformat(row["timestamp"]) + timedelta(minutes=9)).isoformat()}
    if detector == "pattern":
        return row | {"values": [text.replace("ORD-", "DE/") if i % 2 else text for i, text in enumerate(row["values"])]}
    if detector == "sequence":
        return row | {"values": {"load": row["values"]["load"] * 1.4}}
    columns = [c | {"nullPercentage": 9.0 + c["nullPercentage"]} for c in row["profile"]["columnProfiles"]]
    return row | {"profile": row["profile"] | {"columnProfiles": columns}}


def load(catalogue: Catalogue, detector: str, some: Sequence[Entry], table_id: str = "orders") -> None:
    body = "\n".join(json.dumps({"detector": detector, "table_id": table_id, **row}) for row in some)
    assert observations.load(body.encode(), catalogue)["rejected"] == 0


def monitored(catalogue: Catalogue, detector: str = "volume", days: int = DAYS, known: dict[str, Any] | None = None,
              table_id: str = "orders") -> dict[str, Any]:
    own = {"pattern": {"column": "value"}, "sequence": {"granularity": "daily"}}.get(detector, {})
    asked = {"table_id": table_id, "training_days": 365, **own}
    request = DETECTORS[detector].train_request.model_validate_json(json.dumps(asked))
    prepared = import_module(f"training.{detector}_anomaly").prepare(request, catalogue.history)
    return monitor(detector, prepared, catalogue.history, catalogue.registry, START + timedelta(days=days), known)


def promote(catalogue: Catalogue, trained_days: int, algorithm: str = "structural", **quality: Any) -> str:
    """A champion that has learnt from so many days."""
    last = START + timedelta(days=trained_days - 1)
    card = {"algorithm": algorithm, "training": {"to": last.isoformat()}, "quality": quality}
    version = catalogue.registry.publish(NAME, model(1.0), card).version
    catalogue.registry.promote(NAME, version, reason="test")
    return version


@pytest.mark.parametrize("detector", ["volume", "timeliness", "distribution", "pattern", "sequence"])
def test_a_table_that_is_what_it_was_is_stable_and_one_that_changed_has_drifted(catalogue: Catalogue, detector: str) -> None:
    usual = rows(detector)
    load(catalogue, detector, usual)
    load(catalogue, detector, [*usual[:-RECENT], *(changed(detector, row) for row in usual[-RECENT:])], "changed")

    before, after = (monitored(catalogue, detector, table_id=table_id) for table_id in ("orders", "changed"))

    assert (before["verdict"], before["drift"]["recent"]) == ("stable", RECENT), before["reason"]
    assert after["verdict"] == "drifted", after["reason"]
    assert after["drift"]["features"] == sorted(after["drift"]["features"], key=lambda f: -excess(f))


def excess(feature: dict[str, Any]) -> float:
    return max(feature[name]["value"] / feature[name]["threshold"] for name in ("psi", "js", "ks"))


def test_only_what_came_after_the_training_is_recent(catalogue: Catalogue) -> None:
    load(catalogue, "volume", rows("volume"))
    version = promote(catalogue, DAYS - 40)

    found = monitored(catalogue)

    assert (found["drift"]["recent"], found["drift"]["reference"]) == (40, DAYS - 40)
    assert (found["version"], found["algorithm"], found["name"]) == (version, "structural", NAME)
    assert "40 points since 2026-03-25" in found["reason"]


def test_a_model_that_was_just_trained_is_not_evaluated_and_says_why(catalogue: Catalogue) -> None:
    load(catalogue, "volume", rows("volume"))
    promote(catalogue, DAYS - 5)

    found = monitored(catalogue)

    assert found["verdict"] == "not_evaluated" and not drifted(found)
    assert found["reason"] == "5 points since the model was trained; 14 are needed."


def test_a_table_without_a_past_is_not_evaluated_and_says_why(catalogue: Catalogue) -> None:
    load(catalogue, "volume", rows("volume")[:30])

    found = monitored(catalogue, days=30)

    assert found["verdict"] == "not_evaluated" and "to compare" in found["reason"]


def test_scores_that_rise_are_drift_though_the_counts_are_as_ever(catalogue: Catalogue) -> None:
    load(catalogue, "volume", rows("volume"))
    scores = np.random.default_rng(1).uniform(size=DAYS)
    scores[-RECENT:] = 0.7 + 0.3 * scores[-RECENT:]
    points = [Point(datetime.fromisoformat(e["timestamp"]), e["value"], "ok", float(score))
              for e, score in zip(rows("volume"), scores, strict=True)]
    catalogue.history.record("volume", "orders", points)

    found = monitored(catalogue)

    assert found["verdict"] == "drifted" and found["drift"]["features"][0]["feature"] == "score"
    assert found["drift"]["features"][1]["level"] == "none"


def test_a_feed_whose_usual_lag_changed_since_its_model_has_drifted(catalogue: Catalogue) -> None:
    usual = rows("timeliness")
    load(catalogue, "timeliness", usual[:-40])
    load(catalogue, "timeliness", [changed("timeliness", changed("timeliness", row)) for row in usual[-40:]])
    card = {"algorithm": "lag_filter", "training": {"to": (START + timedelta(days=DAYS - 41)).isoformat()}}
    version = catalogue.registry.publish("timeliness-anomaly.orders", model(1.0), card).version
    catalogue.registry.promote("timeliness-anomaly.orders", version, reason="test")

    found = monitored(catalogue, "timeliness")

    assert found["verdict"] == "drifted", found["reason"]


def test_verdicts_are_counted_by_month_and_by_the_algorithm_that_gave_them(catalogue: Catalogue) -> None:
    version = promote(catalogue, 60, "prophet", recall=0.8, fpr=0.01, points=50, faults=200, f1=0.8, precision=0.7)
    statuses = ["ok"] * 50 + ["anomaly"] * 4 + ["expected"] * 3 + ["confirmed"] * 2 + ["excluded"]
    points = [Point(START + timedelta(days=d), 100.0 + d, status, 0.5, version if d >= 40 else None)
              for d, status in enumerate(statuses)]
    catalogue.history.record("volume", "orders", [*points, Point(START + timedelta(days=60), 5.0)])

    found = monitored(catalogue, days=61)

    counted = Months.from_json(found["counts"]).months
    assert sorted(counted) == ["2026-01", "2026-02", "2026-03"]
    structural = [own["structural"].judged for own in counted.values() if "structural" in own]
    prophet = [own["prophet"] for own in counted.values() if "prophet" in own]
    kinds = [(c.judged, c.flagged, c.expected, c.confirmed) for c in prophet]
    assert sum(structural) == 40
    assert tuple(map(sum, zip(*kinds, strict=True))) == (19, 4, 3, 2)
    assert (found["injected"]["faults"], found["spacing_seconds"]) == (200, 86_400)


def test_months_that_are_over_stay_as_they_were_counted(catalogue: Catalogue) -> None:
    load(catalogue, "volume", rows("volume"))
    catalogue.history.record("volume", "orders", [Point(START + timedelta(days=DAYS - 1), 7.0, "anomaly", 0.999)])
    told = {"2020-01": {"structural": [9, 0, 0, 0]}, "2025-12": {"structural": [31, 2, 1, 0, 66, 31]},
            "2026-05": {"structural": [99, 0, 0, 0]}}

    found = monitored(catalogue, known={"counts": told})

    assert found["counts"]["2025-12"] == told["2025-12"]
    assert "2020-01" not in found["counts"]
    assert found["counts"][month_of(START + timedelta(days=DAYS - 1))]["structural"][:2] == [1, 1]


def test_what_was_put_is_found_by_name_by_table_and_by_verdict(storage: str, catalogue: Catalogue) -> None:
    known = Monitoring(catalogue.history, "monitoring")
    load(catalogue, "volume", rows("volume"))

    assert list(known.scan()) == [] and known.get("volume", NAME) is None
    known.put(figures := monitored(catalogue))

    assert known.get("volume", NAME) == figures
    assert [one["name"] for one in known.scan("volume", "orders", "stable")] == [NAME]
    assert list(known.scan("pattern")) == list(known.scan(verdict="drifted")) == []
    assert not drifted(known.get("volume", NAME)) and not drifted(None)
    assert datetime.fromisoformat(figures["checked_at"]).tzinfo == UTC
