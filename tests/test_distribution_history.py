"""Batches that were judged are the history of the next one: kept on a real storage emulator, without any value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from detectors import distribution
from shared.catalogue import Catalogue
from shared.documents import Documents
from shared.errors import ModelNotFound, StorageUnavailable
from shared.settings import Settings
from tests.catalogues import RECHECK, Clock
from tests.profiles import batch, column, day, history, request
from tools.azurite import Azurite, free_ports

NOW = datetime(2026, 9, 1, tzinfo=UTC)
DETECTOR = distribution.DETECTOR


@pytest.fixture
def catalogue(storage: str) -> Catalogue:
    return Catalogue(Settings(connection_string=storage), Clock())


def judge(catalogue, profile, past=(), **body):
    """What a route does: a verdict, and the message that keeps the batch."""
    asked = request(profile, past, **({"table_id": "orders"} | body))
    answer = distribution.detect(asked, catalogue, NOW)
    return answer, distribution.observation(asked, answer, catalogue, NOW)


def keep(catalogue, profile, **body):
    answer, message = judge(catalogue, profile, **body)
    distribution.observe(message.encode(), catalogue.history)
    return answer


def stored(catalogue):
    return Documents(catalogue.history).read(DETECTOR, "orders")


def test_judged_batches_become_the_history_of_the_next_one(catalogue):
    answers = [keep(catalogue, batch(i)) for i in range(9)]

    assert [a.status for a in answers] == ["learning"] * 8 + ["evaluated"]
    assert [len(document["metrics"]) for _, document, _ in stored(catalogue)] == [9] * 9


def test_the_next_call_of_the_same_worker_knows_a_batch_that_storage_does_not_yet_have(catalogue):
    for i in range(8):
        judge(catalogue, batch(i))

    answer, _ = judge(catalogue, batch(8))

    assert stored(catalogue) == []
    assert (answer.status, answer.history.points) == ("evaluated", 8)


def test_another_worker_sees_what_was_kept(catalogue, storage):
    for i in range(8):
        keep(catalogue, batch(i))

    answer, _ = judge(Catalogue(Settings(connection_string=storage)), batch(8))

    assert (answer.status, answer.history.points) == ("evaluated", 8)


def test_the_history_that_was_kept_answers_as_the_one_in_the_request(catalogue):
    current = batch(20)
    column(current, "amounts000")["nullPercentage"] = 6.0
    for i in range(20):
        keep(catalogue, batch(i))
    fresh = Catalogue(catalogue.settings)

    kept, _ = judge(fresh, current)
    told, _ = judge(fresh, current, history(20), table_id=None)

    assert kept.table_score == pytest.approx(told.table_score, rel=1e-4)


def test_a_message_that_comes_twice_is_kept_once(catalogue):
    _, message = judge(catalogue, batch(0))

    for _ in range(2):
        distribution.observe(message.encode(), catalogue.history)

    assert len(stored(catalogue)) == 1


def test_no_text_of_the_table_is_kept_but_the_names_of_its_columns(catalogue):
    _, message = judge(catalogue, batch(0))

    assert "cities001" in message
    assert "Berlin" not in message and "Köln" not in message and "Aaaaaa" not in message


def test_a_flagged_batch_is_kept_and_teaches_nothing(catalogue):
    for i in range(10):
        keep(catalogue, batch(i))
    odd = batch(10)
    column(odd, "amounts000")["nullPercentage"] = 60.0
    assert keep(catalogue, odd).is_anomaly

    answer = keep(catalogue, batch(11))

    assert [status for *_, status in stored(catalogue)][-2:] == ["anomaly", "ok"]
    assert (answer.history.points, answer.history.used, answer.history.excluded) == (11, 10, 1)


def test_what_stays_different_is_accepted_after_three_batches(catalogue):
    for i in range(12):
        keep(catalogue, batch(i))
    flags = []
    for i in range(12, 26):
        late = batch(i)
        column(late, "amounts000")["nullPercentage"] += 20.0
        flags.append(keep(catalogue, late).is_anomaly)

    assert flags[:3] == [True] * 3
    assert not any(flags[4:])


def test_a_user_s_word_takes_a_batch_out_of_the_history(catalogue):
    for i in range(10):
        keep(catalogue, batch(i))
    Documents(catalogue.history).set_status(DETECTOR, "orders", datetime.fromisoformat(day(3)), "excluded")

    answer, _ = judge(Catalogue(catalogue.settings), batch(10))

    assert answer.history.excluded == 1


@pytest.mark.parametrize("body", [{"record": False}, {"table_id": None}], ids=["record is false", "no table"])
def test_what_should_leave_no_trace_leaves_none(catalogue, body):
    _, message = judge(catalogue, batch(0), **body)

    assert message is None
    assert stored(catalogue) == []


def test_a_batch_without_a_time_cannot_be_kept(catalogue):
    _, message = judge(catalogue, batch(0) | {"profiledAt": None})

    assert message is None


def test_the_time_of_the_request_stands_for_that_of_the_profile(catalogue):
    _, message = judge(catalogue, batch(0) | {"profiledAt": None}, timestamp="2026-03-02T07:00:00", timezone="Europe/Berlin")

    assert json.loads(message)["timestamp"] == "2026-03-02T06:00:00+00:00"
    assert "last_age" in json.loads(message)["document"]["metrics"]["dates002"]


def test_a_profile_too_long_for_a_message_is_kept_at_once(catalogue):
    _, message = judge(catalogue, batch(0, 1000))

    assert message is None
    assert len(stored(catalogue)) == 1


def test_a_message_that_is_none_is_refused():
    with pytest.raises(ValidationError):
        distribution.observe(b'{"detector": "distribution", "table_id": "orders"}', None)


def test_a_model_that_is_required_and_not_there_is_an_error(catalogue):
    with pytest.raises(ModelNotFound):
        judge(catalogue, batch(0), require_model=True)


# Without storage


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[tuple[Catalogue, Clock, Azurite]]:
    """A catalogue with ten batches on storage of its own, which a test may stop."""
    clock = Clock()
    blob, queue, table = free_ports(3)
    with Azurite(tmp_path, (blob, queue, table)) as azurite:
        catalogue = Catalogue(Settings(connection_string=azurite.connection_string()), clock)
        for i in range(10):
            keep(catalogue, batch(i))
        judge(catalogue, batch(10))
        yield catalogue, clock, azurite


def test_without_storage_the_history_in_memory_answers_and_nothing_is_kept(failing):
    catalogue, clock, azurite = failing
    azurite.stop()
    clock.pass_(RECHECK + 1)

    answer, message = judge(catalogue, batch(11))

    assert answer.status == "evaluated"
    assert any("in memory" in warning for warning in answer.warnings)
    assert any("not kept" in warning for warning in answer.warnings)
    assert message is None


def test_without_storage_and_memory_the_history_of_the_request_answers(failing):
    catalogue, _, azurite = failing
    azurite.stop()
    cold = Catalogue(catalogue.settings)

    answer, _ = judge(cold, batch(20), history(20))

    assert (answer.status, answer.history.points) == ("evaluated", 20)
    assert any("Storage does not answer" in warning for warning in answer.warnings)
    with pytest.raises(StorageUnavailable):
        judge(cold, batch(20))
