"""What is known of a series from one call to the next, and while storage does not answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from detectors import sequence
from shared.catalogue import Catalogue
from shared.contract_sequence import SequenceObservation
from shared.documents import Documents
from shared.errors import StorageUnavailable
from shared.settings import Settings
from tests.catalogues import RECHECK, Clock
from tests.sequences import HOURLY, NOW, START, USUAL, ask, metrics, points, request
from tools.azurite import Azurite, free_ports


@pytest.fixture
def catalogue(storage: str) -> Catalogue:
    return Catalogue(Settings(connection_string=storage), Clock())


def judge(catalogue: Catalogue, values: Any, judged: int, **body: Any) -> tuple[Any, str | None]:
    """What a route does: a verdict, and the message that keeps the points."""
    asked = request(values, judged, **{"table_id": "orders", **body})
    answer = sequence.detect(asked, catalogue, NOW)
    return answer, sequence.observation(asked, answer, catalogue, NOW)


def loaded(catalogue: Catalogue, values: Any) -> None:
    rows = [{"detector": "sequence", "table_id": "orders", "timestamp": point["timestamp"],
             "values": dict(zip([f"metric{j}" for j in range(values.shape[1])], point["values"], strict=True))}
            for point in points(values)]
    sequence.load([SequenceObservation.model_validate_json(json.dumps(row)) for row in rows], catalogue)


def test_judged_points_become_the_history_of_the_next_call(catalogue: Catalogue) -> None:
    loaded(catalogue, USUAL[:-2])

    first, message = judge(catalogue, USUAL[:-1], 1, historical_data=[])
    assert message is not None
    sequence.observe(message.encode(), catalogue.history)
    sequence.observe(message.encode(), catalogue.history)
    second, _ = judge(Catalogue(catalogue.settings, Clock()), USUAL, 1, historical_data=[])

    assert (first.history.points, second.history.points) == (len(USUAL) - 2, len(USUAL) - 1)
    told = ask(USUAL, 1)
    assert second.deviation == told.deviation and second.expected_range == told.expected_range
    kept = Documents(catalogue.history).read("sequence", "orders")
    assert len(kept) == len(USUAL) - 1 and kept[-1][1]["values"] == {"metric0": float(USUAL[-2, 0])}


def test_the_next_call_of_the_same_worker_knows_points_that_storage_does_not_yet_have(catalogue: Catalogue) -> None:
    loaded(catalogue, USUAL[:-3])
    judge(catalogue, USUAL[:-2], 1, historical_data=[])
    judge(catalogue, USUAL[:-1], 1, historical_data=[])

    answer, _ = judge(catalogue, USUAL, 1, historical_data=[])

    assert answer.history.points == len(USUAL) - 1 and answer.deviation == ask(USUAL, 1).deviation


def test_what_a_user_excludes_is_not_learnt_from(catalogue: Catalogue) -> None:
    loaded(catalogue, USUAL[:-1])
    Documents(catalogue.history).set_status("sequence", "orders", START + timedelta(hours=50), "excluded")

    answer, _ = judge(catalogue, USUAL, 1, historical_data=[])

    assert (answer.history.points, answer.history.excluded, answer.history.used) == (len(USUAL) - 1, 1, len(USUAL) - 2)


def test_a_call_that_asks_to_leave_no_trace_leaves_none(catalogue: Catalogue) -> None:
    _, message = judge(catalogue, USUAL, 1, record=False)

    assert message is None and Documents(catalogue.history).read("sequence", "orders") == []


def test_more_points_than_a_message_can_carry_are_kept_at_once(catalogue: Catalogue) -> None:
    _, message = judge(catalogue, metrics(20, 60), 120)

    assert message is None and len(Documents(catalogue.history).read("sequence", "orders")) == 120


def test_a_message_that_cannot_be_read_is_an_error(catalogue: Catalogue) -> None:
    with pytest.raises(ValidationError):
        sequence.observe(b'{"detector":"sequence","table_id":"x"}', catalogue.history)


@pytest.fixture
def failing() -> Iterator[tuple[Catalogue, Clock, Azurite]]:
    """A catalogue on storage that the test may stop."""
    blob, queue, table = free_ports(3)
    with Azurite(ports=(blob, queue, table), accounts=("stopping",)) as azurite:
        clock = Clock()
        yield Catalogue(Settings(connection_string=azurite.connection_string("stopping")), clock), clock, azurite


def test_when_storage_stops_the_history_in_memory_or_of_the_request_answers(
    failing: tuple[Catalogue, Clock, Azurite]
) -> None:
    catalogue, clock, azurite = failing
    loaded(catalogue, USUAL[: HOURLY.setup + 20])
    judge(catalogue, USUAL[: HOURLY.setup + 21], 1, historical_data=[])
    azurite.stop()
    clock.pass_(RECHECK + 1)

    warm, message = judge(catalogue, USUAL[: HOURLY.setup + 22], 1, historical_data=[])
    cold, _ = judge(Catalogue(catalogue.settings), USUAL, 1)

    assert warm.status == "evaluated" and any("in memory" in warning for warning in warm.warnings)
    assert message is None and any("not kept" in warning for warning in warm.warnings)
    assert cold.status == "evaluated" and any("Storage does not answer" in warning for warning in cold.warnings)
    with pytest.raises(StorageUnavailable):
        judge(Catalogue(catalogue.settings), USUAL, 1, historical_data=[])
