"""What is kept of a column's batches: shapes only, on a real Table storage emulator, known to the next call."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from detectors import pattern
from detectors.pattern_history import series_name, slug
from detectors.tally import Tally
from shared.catalogue import Catalogue
from shared.contract import parse
from shared.contract_pattern import PatternAnswer, PatternObservation
from shared.documents import Documents
from shared.errors import ModelUnavailable, StorageUnavailable
from shared.history import History
from shared.settings import Settings
from tests.columns import NOW, ask, day, orders, request

UNREACHABLE = ("DefaultEndpointsProtocol=http;AccountName=gone;AccountKey=Z29uZQ==;BlobEndpoint=http://127.0.0.1:9/gone;"
               "QueueEndpoint=http://127.0.0.1:9/gone;TableEndpoint=http://127.0.0.1:9/gone;")


@pytest.fixture
def catalogue(storage: str) -> Catalogue:
    return Catalogue(Settings(connection_string=storage))


@pytest.fixture
def another_worker(storage: str) -> Callable[[], Catalogue]:
    return lambda: Catalogue(Settings(connection_string=storage))


def judge(catalogue: Catalogue, **body: Any) -> tuple[PatternAnswer, str | None]:
    """A verdict and the message that keeps the batch."""
    asked = request(table_id="orders", **body)
    answer = pattern.detect(asked, catalogue, NOW)
    return answer, pattern.observation(asked, answer, catalogue, NOW)


def remember(catalogue: Catalogue, days: int, column: str = "id") -> list[str]:
    """Judges so many batches and delivers their messages."""
    messages = []
    for n in range(days):
        _, message = judge(catalogue, column=column, values=orders(100, seed=n), timestamp=day(n).isoformat())
        assert message is not None
        pattern.observe(message.encode(), catalogue.history)
        messages.append(message)
    return messages


def test_what_was_judged_is_history_for_another_worker(catalogue, another_worker) -> None:
    remember(catalogue, 6)

    values = [*orders(95, seed=9), *["ord_1"] * 5]
    verdict, _ = judge(another_worker(), column="id", values=values, timestamp=day(6).isoformat())

    assert verdict.status == "evaluated" and verdict.is_anomaly and verdict.history.points == 6
    assert [p.count for p in verdict.new_patterns] == [5]


def test_a_batch_just_judged_is_known_to_the_next_call_before_the_queue_delivers_it(catalogue) -> None:
    for n in range(3):
        judge(catalogue, column="id", values=orders(100, seed=n), timestamp=day(n).isoformat())

    verdict, _ = judge(catalogue, column="id", values=orders(100, seed=9), timestamp=day(3).isoformat())

    assert verdict.status == "evaluated" and verdict.history.points == 3


def test_the_judged_batch_and_later_ones_are_never_their_own_history(catalogue) -> None:
    remember(catalogue, 6)
    body: dict[str, Any] = {"column": "id", "values": ["ord_1"] * 100, "record": False}

    assert judge(catalogue, timestamp=day(3).isoformat(), **body)[0].history.points == 3
    assert judge(catalogue, timestamp=day(0).isoformat(), **body)[0].status == "learning"


def test_a_batch_twice_from_the_queue_is_one(catalogue, another_worker) -> None:
    for message in remember(catalogue, 4) * 2:
        pattern.observe(message.encode(), catalogue.history)

    assert judge(another_worker(), column="id", values=orders(50), timestamp=day(9).isoformat())[0].history.points == 4


def test_columns_of_a_table_know_nothing_of_each_other(catalogue) -> None:
    remember(catalogue, 4)

    verdict, _ = judge(catalogue, column="ID", values=orders(50), timestamp=day(9).isoformat())

    assert (verdict.status, verdict.history.points) == ("learning", 0)


@pytest.mark.parametrize("column", ["Größe in €", "a.b/c:d\\e", "..", "🙂", "x" * 256, "order id", "\u202eabc", "'; drop--"])
def test_a_column_may_be_called_anything(catalogue, another_worker, column: str) -> None:
    remember(catalogue, 3, column)

    verdict, _ = judge(another_worker(), column=column, values=orders(50), timestamp=day(9).isoformat())

    assert (verdict.status, verdict.column, verdict.history.points) == ("evaluated", column, 3)


def test_names_of_columns_that_differ_have_slugs_that_differ() -> None:
    names = ["order id", "order_id", "order/id", "Order id", "größe", "grösse", "", "x" * 40, "x" * 41, "x" * 42]

    assert len({slug(name) for name in names}) == len(names) and max(len(series_name(name)) for name in names) <= 63


def test_an_excluded_batch_teaches_nothing(catalogue, another_worker) -> None:
    remember(catalogue, 5)
    Documents(catalogue.history).set_status(series_name("id"), "orders", day(2), "excluded")

    verdict, _ = judge(another_worker(), column="id", values=orders(50), timestamp=day(9).isoformat())

    assert (verdict.history.points, verdict.history.excluded) == (4, 1)


def test_only_shapes_are_stored_and_sent(catalogue) -> None:
    secret = ["Zaphod.Beeblebrox@galaxy.example", "4111 1111 1111 1111", "Trillian", "Ωmega-Fjord", "ZaphodZaphod", " Ford "]

    _, message = judge(catalogue, column="id", values=[*orders(50), *secret * 3], timestamp=day(0).isoformat())
    assert message is not None
    pattern.observe(message.encode(), catalogue.history)
    [(_, document, _)] = Documents(catalogue.history).read(series_name("id"), "orders")

    assert document["rows"] == 68 and Tally.of_counts(document["patterns"]) == (Tally(document["patterns"]), 0)
    kept = message + json.dumps(document, ensure_ascii=False)
    assert not [text for text in ("Zaphod", "Beeble", "galaxy", "4111", "Trillian", "mega", "Fjord", "Ford") if text in kept]


def test_a_batch_too_long_for_the_queue_is_kept_at_once_in_part(catalogue, another_worker) -> None:
    random = Random(0)
    strange = ["".join(random.choices("aA9 -_./:;,+*~∑→€¢", k=random.randint(20, 60))) for _ in range(20_000)]

    _, message = judge(catalogue, column="id", values=strange, timestamp=day(0).isoformat())

    assert message is None
    verdict, _ = judge(another_worker(), column="id", values=strange[:100], timestamp=day(1).isoformat(), record=False)
    assert verdict.history.points == 1


def test_nothing_is_kept_without_a_time_or_a_table_or_where_no_trace_is_wanted(catalogue) -> None:
    asked = request(values=orders(50), timestamp=day(0).isoformat())

    assert judge(catalogue, values=orders(50))[1] is None
    assert judge(catalogue, values=orders(50), timestamp=day(0).isoformat(), record=False)[1] is None
    assert pattern.observation(asked, ask(values=orders(50)), catalogue, NOW) is None


def test_a_message_that_cannot_be_read_is_refused(catalogue) -> None:
    for message in (b"", b"{}", b'{"detector":"pattern","table_id":"orders"}', b'{"detector":"volume"}'):
        with pytest.raises(ValidationError):
            pattern.observe(message, catalogue.history)


def test_batches_loaded_in_bulk_are_history(catalogue) -> None:
    before, _ = judge(catalogue, column="id", values=orders(50), timestamp=day(9).isoformat(), record=False)
    rows = [parse(PatternObservation, json.dumps({
        "detector": "pattern", "table_id": "orders", "column": "id", "timestamp": day(n).isoformat(),
        "values": orders(100, seed=n)}).encode()) for n in range(5)]

    pattern.load(rows, catalogue)
    after, _ = judge(catalogue, column="id", values=orders(50), timestamp=day(9).isoformat())

    assert (before.status, after.status, after.history.points) == ("learning", "evaluated", 5)


def test_the_past_is_judged_again_batch_by_batch_with_nothing_but_what_was_before(catalogue) -> None:
    for n in range(12):
        bad = ["ord_48213"] * (20 if n == 9 else 0)
        _, message = judge(catalogue, column="id", values=[*orders(100, seed=n), *bad], timestamp=day(n).isoformat())
        assert message is not None

    told = [{"timestamp": day(12).isoformat(), "values": orders(100, seed=12)}]
    answers = list(pattern.replay(request(table_id="orders", column="id", values=[], historical_data=told), catalogue, 12))

    assert [a.timestamp for a in answers] == [day(n).isoformat().replace("+00:00", "Z") for n in range(1, 13)]
    assert [a.is_anomaly for a in answers] == [n == 9 for n in range(1, 13)]
    assert [a.history.points for a in answers] == list(range(1, 13))


def test_with_storage_down_the_request_s_own_history_answers_and_says_so() -> None:
    down = Catalogue(Settings(connection_string=UNREACHABLE))
    body: dict[str, Any] = {"column": "id", "values": orders(50), "timestamp": day(9).isoformat()}

    verdict, message = judge(down, historical_data=[orders(500)], **body)

    assert verdict.status == "evaluated" and message is None
    assert any("Storage does not answer" in warning for warning in verdict.warnings)
    assert any("was not kept" in warning for warning in verdict.warnings)
    with pytest.raises(StorageUnavailable):
        judge(down, **body)
    with pytest.raises(ModelUnavailable):
        judge(down, historical_data=[orders(500)], fallback=False, **body)


def test_a_tally_kept_in_part_keeps_the_shares() -> None:
    tally = Tally({"A" * n + "-9": 400 for n in range(1, 250)} | {"a" * (n // 99 + 1) + "9" * (n % 99): 1
                                                                   for n in range(9_900)})

    kept = Tally.from_document(tally.to_document())

    assert kept.rows < tally.rows
    common = sum(count for shape, count in kept.counts.items() if shape.endswith("-9")) / kept.rows
    assert common == pytest.approx(400 * 249 / tally.rows, abs=0.01)


def test_times_without_a_zone_are_those_of_the_table(catalogue) -> None:
    _, message = judge(catalogue, column="id", values=orders(50), timestamp="2026-05-01T02:00:00", timezone="Europe/Berlin")

    assert message is not None
    pattern.observe(message.encode(), History(catalogue.settings))
    assert Documents(catalogue.history).read(series_name("id"), "orders")[0][0] == datetime(2026, 5, 1, tzinfo=UTC)
