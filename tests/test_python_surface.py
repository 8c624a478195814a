"""Training and predicting from Python, without HTTP."""

from collections.abc import Callable

import pandas as pd
import pytest

from detectors import AnomalyDetector
from shared.blobs import Blobs
from shared.errors import InvalidRequest, ModelNotFound
from shared.registry import Registry
from shared.settings import Settings
from tests.test_service import counts
from tools.made_up import arrivals, batches, hours
from training.pattern_anomaly import PatternAnomalyTrainer
from training.sequence_anomaly import SequenceAnomalyTrainer
from training.timeliness_anomaly import TimelinessAnomalyTrainer
from training.trainer import TrainedModel, Trainer
from training.volume_anomaly import VolumeAnomalyTrainer


@pytest.fixture
def settings(storage: str) -> Settings:
    return Settings(connection_string=storage)


def frame(days: int) -> pd.DataFrame:
    rows = counts(days)
    times = pd.to_datetime([r["timestamp"] for r in rows])
    return pd.DataFrame({"timestamp": times, "row_count": [r["row_count"] for r in rows]})


def test_a_data_frame_becomes_a_registered_model_that_predicts(settings: Settings) -> None:
    trainer = VolumeAnomalyTrainer(Registry(Blobs(settings), settings))

    model = trainer.train(table_id="orders", historical_data=frame(91), algorithm="seasonal_decomposition")
    version = trainer.register_model(model, "volume-anomaly.orders")
    detector = AnomalyDetector.from_registry("volume-anomaly.orders", settings)
    verdict = detector.predict({"current_row_count": 300, "timestamp": pd.Timestamp("2026-08-31T02:00:00Z"),
                                "historical_data": counts(91)})

    assert model.algorithm == "seasonal_decomposition" and {c["algorithm"] for c in model.candidates} == {
        "structural", "seasonal_decomposition"}
    assert verdict["is_anomaly"] and verdict["model"]["version"] == version
    assert 900 < verdict["expected_value"] < 1100


def test_a_short_history_says_why_no_family_could_be_trained(settings: Settings) -> None:
    with pytest.raises(InvalidRequest, match="needs 42 usable points, has 10"):
        VolumeAnomalyTrainer().train(table_id="orders", historical_data=frame(10), algorithm="lof")


def test_a_model_that_is_not_there_or_is_no_volume_model_is_refused(settings: Settings) -> None:
    with pytest.raises(ModelNotFound):
        AnomalyDetector.from_registry("volume-anomaly.none", settings)
    with pytest.raises(InvalidRequest):
        AnomalyDetector.from_registry("orders", settings)


def test_a_wrong_field_is_named(settings: Settings) -> None:
    trainer = VolumeAnomalyTrainer(Registry(Blobs(settings), settings))
    trainer.register_model(trainer.train(table_id="orders", historical_data=frame(91), algorithm="structural"),
                           "volume-anomaly.orders")
    detector = AnomalyDetector.from_registry("volume-anomaly.orders", settings)

    with pytest.raises(InvalidRequest) as refused:
        detector.predict({"current_row_count": "many"})

    assert refused.value.target == "current_row_count"


def test_a_model_is_not_registered_under_a_name_that_nobody_would_look_for(storage: str) -> None:
    model = TrainedModel("orders", "structural", {}, [], b"", {"detector": "volume"})

    for name in ("foo", "distribution-anomaly.orders"):
        with pytest.raises(InvalidRequest, match="volume-anomaly"):
            VolumeAnomalyTrainer().register_model(model, name)


@pytest.mark.parametrize(("row", "told"), [
    ({"timestamp": "2026-01-01"}, "row_count or value"), ({"row_count": 5}, "timestamp"),
    ({"timestamp": "2026-01-01", "row_count": float("nan")}, "row_count or value")])
def test_a_row_that_lacks_something_is_named(row: dict[str, object], told: str) -> None:
    good = {"timestamp": "2026-01-01", "row_count": 5}

    with pytest.raises(InvalidRequest, match=rf"historical_data\[1\] has no {told}"):
        VolumeAnomalyTrainer().train("orders", [good, row])


def test_a_family_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="algorithm"):
        VolumeAnomalyTrainer().train("orders", [{"timestamp": "2026-01-01", "row_count": 5}], algorithm="svm")


def loads() -> TrainedModel:
    moments = pd.to_datetime([entry["timestamp"] for entry in arrivals(1, 90)], format="ISO8601")
    return TimelinessAnomalyTrainer().train("orders", moments, algorithm="lag_filter")


def ids() -> TrainedModel:
    return PatternAnomalyTrainer().train("orders", batches(1, 8), column="order_id", algorithm="formats")


def metrics() -> TrainedModel:
    rows = hours(1, 24 * 40)
    frame = pd.DataFrame({"timestamp": pd.to_datetime([row["timestamp"] for row in rows]),
                          "orders": [row["values"][0] for row in rows]})
    frame.loc[5, "orders"] = None
    return SequenceAnomalyTrainer().train("orders", frame, algorithm="hypothesis_filter")


@pytest.mark.parametrize(("train", "name"), [
    (loads, "timeliness-anomaly.orders"), (ids, "pattern-anomaly.orders.order_id"), (metrics, "sequence-anomaly.orders")],
    ids=["timeliness", "pattern", "sequence"])
def test_every_detector_is_trained_from_python(train: Callable[[], TrainedModel], name: str, settings: Settings) -> None:
    registry = Registry(Blobs(settings), settings)

    model = train()
    version = Trainer(registry).register_model(model, name)

    champion = registry.champion(name)
    assert champion is not None and champion.version == version
    assert 0 < model.quality["f1"] <= 1 and registry.promoted(name, champion.current) == model.payload


def test_a_field_that_no_training_request_takes_is_named() -> None:
    with pytest.raises(InvalidRequest, match="algorithm"):
        PatternAnomalyTrainer().train("orders", ["A1"], algorithm="lstm")
