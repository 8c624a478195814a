"""What the contract accepts and how it refuses."""

import json

import pytest
from pydantic import ValidationError

from shared.contract import Observation, TrainRequest, VolumeRequest, parse, refusal
from shared.errors import InvalidJson, InvalidRequest, PayloadTooLarge
from shared.models import RollbackRequest


def volume(**fields: object) -> bytes:
    return json.dumps({"current_row_count": 412, **fields}).encode()


def test_history_takes_plain_counts_and_points_under_either_name() -> None:
    points = [7, 2.5, {"timestamp": "2026-01-01", "value": 3}, {"timestamp": "2026-01-01T00:00:00Z", "row_count": 4}]

    request = parse(VolumeRequest, volume(historical_data=points))

    assert [getattr(p, "value", p) for p in request.historical_data] == [7, 2.5, 3, 4]


def test_unknown_fields_are_ignored() -> None:
    assert parse(VolumeRequest, volume(colour="red")).current_row_count == 412


@pytest.mark.parametrize("value", ['"1.5"', "true", "null", "NaN", "1e400", "-1", "[1]", "{}", "9" * 400])
def test_what_is_no_count_is_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(VolumeRequest, f'{{"current_row_count": {value}}}'.encode())

    assert refused.value.target == "current_row_count"


@pytest.mark.parametrize(("entry", "path"), [
    ("1.5", "historical_data[1]"),
    (True, "historical_data[1]"),
    (None, "historical_data[1]"),
    ({"value": 3}, "historical_data[1].timestamp"),
    ({"timestamp": "yesterday", "value": 3}, "historical_data[1].timestamp"),
    ({"timestamp": 1790000000, "value": 3}, "historical_data[1].timestamp"),
    ({"timestamp": "2026-01-01", "row_count": "3"}, "historical_data[1].row_count"),
    ({"timestamp": "2026-01-01", "row_count": None}, "historical_data[1].row_count"),
])
def test_a_wrong_history_entry_is_named_with_its_place(entry: object, path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(VolumeRequest, volume(historical_data=[1, entry]))

    assert refused.value.target == path
    assert len(refused.value.details) == 1


@pytest.mark.parametrize("table", ["../orders", "a/b", "a..b", "%2e%2e", "a\\b", "", "a" * 64, "-a", "tä", 5])
def test_an_id_that_could_leave_its_folder_is_refused(table: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(VolumeRequest, volume(table_id=table))

    assert refused.value.target == "table_id"


@pytest.mark.parametrize(("field", "value"), [
    ("timezone", "Mars/Olympus"), ("timezone", "../../etc/passwd"), ("sensitivity", 100), ("sensitivity", -1),
    ("direction", "up"), ("granularity", "yearly"), ("timestamp", "soon"), ("timestamp", "0001-01-01"),
    ("max_alerts_per_month", 0), ("record", "yes"),
])
def test_a_wrong_option_is_named(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(VolumeRequest, volume(**{field: value}))

    assert refused.value.target == field


@pytest.mark.parametrize(("options", "target"), [
    ({"min_change": {"percent": 101}}, "min_change.percent"),
    ({"holidays": {"country": "germany"}}, "holidays.country"),
    ({"holidays": {"dates": ["2026-1-1"]}}, "holidays.dates[0]"),
])
def test_a_wrong_nested_option_is_named_by_its_path(options: dict[str, object], target: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(VolumeRequest, volume(**options))

    assert refused.value.target == target


@pytest.mark.parametrize("body", [b"", b"{", b'{"current_row_count": 4', b"\xff\xfe", b"nope"])
def test_what_is_not_json_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        parse(VolumeRequest, body)


def test_json_that_is_no_object_is_refused_as_such() -> None:
    with pytest.raises(InvalidRequest, match="object"):
        parse(VolumeRequest, b"[1, 2]")


def test_every_wrong_field_is_reported_at_once() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(VolumeRequest, b'{"table_id": "a/b", "sensitivity": "high"}')

    assert {detail["target"] for detail in refused.value.details} == {"table_id", "sensitivity", "current_row_count"}


def test_a_rollback_to_a_version_of_ones_own_choice_is_refused_and_not_another_one_taken() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(RollbackRequest, b'{"version": "1"}')

    assert refused.value.target == "version"


def test_a_body_over_the_limit_is_not_parsed() -> None:
    with pytest.raises(PayloadTooLarge):
        parse(VolumeRequest, b" " * (8 * 2**20))


def test_an_observation_needs_a_time_zone() -> None:
    with pytest.raises(ValidationError) as wrong:
        Observation.model_validate_json(b'{"table_id": "orders", "timestamp": "2026-01-01T02:00:00", "value": 1}')

    assert "time zone" in refusal(wrong.value.errors()).message


def test_a_training_request_survives_its_way_through_storage() -> None:
    body = {"table_id": "orders", "historical_data": [{"timestamp": "2026-01-01T00:00:00Z", "value": 3}],
            "holidays": {"country": "DE", "dates": ["2026-02-03"]}, "algorithm": "arima", "promote": "never"}
    request = parse(TrainRequest, json.dumps(body).encode())

    assert TrainRequest.model_validate_json(request.model_dump_json(by_alias=True)) == request
