"""The history of tables on a real Table storage emulator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import permutations
from threading import Thread

import numpy as np
import pytest
from azure.data.tables import TableServiceClient

from shared.errors import InvalidRequest, NotFound
from shared.history import ANOMALY, EXCLUDED, OK, SAID, STATUSES, History, Point, Series, row_key
from shared.settings import Settings
from tests.loopback import loopback

DAY = datetime(2026, 3, 1, 2, tzinfo=UTC)


def day(number: int) -> datetime:
    return DAY + timedelta(days=number)


@pytest.fixture
def history(storage: str) -> History:
    return History(Settings(connection_string=storage))


def test_points_come_back_sorted_by_time(history):
    history.record("volume", "orders", [Point(day(n), 100.5 + n) for n in (2, 0, 1)])

    series = history.read("volume", "orders")

    assert series.seconds.tolist() == [int(day(n).timestamp()) for n in range(3)]
    assert series.values.tolist() == [100.5, 101.5, 102.5]
    assert (series.seconds.dtype, series.values.dtype, series.status.dtype) == (np.int64, np.float64, np.uint8)
    assert series.stale is None


def test_an_unknown_table_has_an_empty_history(history):
    assert len(history.read("volume", "orders").seconds) == 0
    assert list(history.tables("volume")) == []

    history.record("volume", "orders", [])
    assert len(history.read("volume", "orders").seconds) == 0


def test_a_rerun_of_a_load_replaces_its_point(history):
    history.record("volume", "orders", [Point(day(0), 3.0, "anomaly", 0.999, "4")])

    history.record("volume", "orders", [Point(day(0), 9000.0)])

    series = history.read("volume", "orders")
    assert (series.values.tolist(), series.status.tolist()) == ([9000.0], [OK])


def test_the_last_of_several_points_at_one_time_is_kept(history):
    berlin = timezone(timedelta(hours=2))

    history.record("volume", "orders", [Point(day(0), 1.0), Point(day(1), 5.0), Point(day(0).astimezone(berlin), 2.0)])

    assert history.read("volume", "orders").values.tolist() == [2.0, 5.0]


def test_a_range_holds_its_start_and_not_its_end(history):
    history.record("volume", "orders", [Point(day(n), n) for n in range(10)])

    def between(start: int | None, end: int | None) -> list[float]:
        bounds = [None if n is None else day(n) for n in (start, end)]
        return history.read("volume", "orders", *bounds).values.tolist()

    assert between(3, 6) == [3, 4, 5]
    assert between(8, None) == [8, 9]
    assert between(None, 2) == [0, 1]


def test_loads_of_many_transactions_and_pages_lose_nothing(history):
    history.record("volume", "orders", [Point(DAY + timedelta(hours=n), n) for n in range(1250)])

    assert history.read("volume", "orders").values.tolist() == list(range(1250))


def test_many_tables_are_recorded_at_once_and_listed(history):
    history.record_many("volume", {f"t{n:03d}": [Point(day(0), n), Point(day(1), n)] for n in range(150)})

    assert list(history.tables("volume")) == [f"t{n:03d}" for n in range(150)]
    assert history.read("volume", "t149").values.tolist() == [149, 149]
    assert list(history.tables("pattern")) == []


def test_tables_and_detectors_do_not_mix(history):
    history.record("volume", "orders", [Point(day(0), 1.0)])
    history.record("volume", "orders-2", [Point(day(0), 2.0)])
    history.record("timeliness", "orders", [Point(day(0), 3.0)])

    assert history.read("volume", "orders").values.tolist() == [1.0]
    assert list(history.tables("volume")) == ["orders", "orders-2"]


@pytest.mark.parametrize("value", [0.0, -1.5, 5e-324, 1e15 + 1, 1e300, 0.1, 16_777_217.0])
def test_values_keep_every_bit(history, value):
    history.record("volume", "orders", [Point(day(0), value)])

    assert history.read("volume", "orders").values.tolist() == [value]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(InvalidRequest) as error:
        Point(day(0), value)

    assert error.value.target == "value"


def test_timestamps_without_a_zone_and_unknown_statuses_are_refused():
    with pytest.raises(InvalidRequest) as naive:
        Point(datetime(2026, 3, 1), 1.0)
    with pytest.raises(InvalidRequest) as status:
        Point(day(0), 1.0, "fine")

    assert (naive.value.target, status.value.target) == ("timestamp", "status")


def test_keys_sort_by_time_from_the_first_year_to_the_last(history):
    times = [datetime(1, 1, 1, tzinfo=UTC), datetime(999, 12, 31, tzinfo=UTC), day(0), day(0) + timedelta(microseconds=1),
             datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)]

    assert [row_key(t) for t in times] == sorted(row_key(t) for t in times)
    assert {len(row_key(t)) for t in times} == {27}
    with pytest.raises(InvalidRequest, match="years 1 to 9999"):
        row_key(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))))

    history.record("volume", "orders", [Point(t, 1.0) for t in times])
    assert history.read("volume", "orders").seconds[0] == -62135596800


def test_of_two_observations_the_later_one_stays_in_whatever_order_they_arrive(history):
    first, second, third = (day(0) + timedelta(minutes=n) for n in range(3))
    observed = {first: 10.0, second: 20.0, third: 30.0}

    for number, order in enumerate(permutations(observed)):
        for at in (*order, order[0]):  # the first message comes twice
            history.observe("volume", f"t{number}", Point(day(0), observed[at]), at)

        assert history.read("volume", f"t{number}").values.tolist() == [30.0]


def test_an_observation_that_came_before_changes_nothing_and_says_so(history):
    point = Point(day(0), 10.0, "anomaly", 0.99, "3")

    assert history.observe("volume", "orders", point, day(1)) is True
    history.set_status("volume", "orders", day(0), "expected")

    assert history.observe("volume", "orders", point, day(1)) is False
    assert history.read("volume", "orders").status.tolist() == [STATUSES.index("expected")]
    assert list(history.tables("volume")) == ["orders"]


def test_what_a_person_said_of_a_value_stays_until_the_value_changes(history):
    for status in SAID:
        history.observe("volume", status, Point(day(0), 10.0, "anomaly"), day(1))
        history.set_status("volume", status, day(0), status)

        history.observe("volume", status, Point(day(0), 10.0, "anomaly"), day(2))
        assert history.read("volume", status).status.tolist() == [STATUSES.index(status)]
        history.observe("volume", status, Point(day(0), 990.0, "ok"), day(3))
        assert history.read("volume", status).status.tolist() == [OK]


def test_observers_at_the_same_time_leave_the_latest(history):
    def observe(number: int) -> None:
        history.observe("volume", "orders", Point(day(0), number), day(0) + timedelta(seconds=number))

    threads = [Thread(target=observe, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert history.read("volume", "orders").values.tolist() == [7.0]


def test_a_status_is_changed_and_its_value_stays(history):
    history.record("volume", "orders", [Point(day(0), 1.0), Point(day(1), 2.0, "anomaly")])

    history.set_status("volume", "orders", day(0), "excluded")

    series = history.read("volume", "orders")
    assert (series.values.tolist(), series.status.tolist()) == ([1.0, 2.0], [EXCLUDED, ANOMALY])
    with pytest.raises(NotFound):
        history.set_status("volume", "orders", day(5), "excluded")
    with pytest.raises(InvalidRequest):
        history.set_status("volume", "orders", day(0), "fine")


def test_a_table_dropped_under_a_running_worker_is_created_again(history, storage):
    history.record("volume", "orders", [Point(day(0), 1.0)])
    TableServiceClient.from_connection_string(storage).delete_table("history")

    history.record("volume", "orders", [Point(day(1), 2.0)])
    history.observe("volume", "orders", Point(day(2), 3.0), day(2))

    assert history.read("volume", "orders").values.tolist() == [2.0, 3.0]


def test_a_connection_that_breaks_loses_no_write():
    with loopback(204, drops=True) as server:
        history = History(server.settings)

        history.record("volume", "orders", [Point(day(0), 1.0)])
        assert history.observe("volume", "orders", Point(day(1), 2.0), day(1)) is True
        history.set_status("volume", "orders", day(1), "expected")

    assert all(server.paths.count(path) > 1 for path in server.paths)


def test_a_point_is_spliced_into_a_series_by_its_time():
    series = Series.of([10, 20, 30], [1.0, 2.0, 3.0], [0, 0, 0])

    def point(seconds: int) -> Point:
        return Point(datetime.fromtimestamp(seconds, UTC), 9.0, "anomaly")

    assert series.with_point(point(5)).seconds.tolist() == [5, 10, 20, 30]
    assert series.with_point(point(25)).values.tolist() == [1.0, 2.0, 9.0, 3.0]
    assert series.with_point(point(40)).status.tolist() == [0, 0, 0, ANOMALY]
    assert series.with_point(point(20)).values.tolist() == [1.0, 9.0, 3.0]
    assert series.values.tolist() == [1.0, 2.0, 3.0]
