"""History as a detector wants it: dense, in order, in the table's own calendar."""

import json
from typing import Any

import numpy as np

from detectors.context import Context, gather
from shared.contract import VolumeRequest, parse
from shared.history import ANOMALY, EXCLUDED, OK, Series

DAY = 86_400
MONDAY = 20_717  # 2026-09-21


def history(*entries: Any) -> list[Any]:
    return parse(VolumeRequest, json.dumps({"current_row_count": 1, "historical_data": entries}).encode()).historical_data


def stored(*points: tuple[int, float, int]) -> Series:
    return Series.of([day * DAY + 7200 for day, _, _ in points], [v for _, v, _ in points], [s for _, _, s in points])


def values(context: Context) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in context.values]


def test_unsorted_points_are_put_in_their_places_and_gaps_stay_gaps() -> None:
    points = history({"timestamp": "2026-09-20T02:00:00Z", "value": 3}, {"timestamp": "2026-09-17T02:00:00Z", "value": 1})

    context = gather(points, None, "UTC", "daily", MONDAY)

    assert values(context) == [1, None, None, 3]
    assert context.use().model_dump() == {"points": 2, "used": 2, "excluded": 0, "missing": 2}


def test_a_repeated_timestamp_keeps_the_last_and_says_so() -> None:
    points = history({"timestamp": "2026-09-20T02:00:00Z", "value": 3},
                     {"timestamp": "2026-09-20T02:00:00+00:00", "value": 4})

    context = gather(points, None, "UTC", "daily", MONDAY)

    assert values(context) == [4]
    assert "repeats a timestamp" in context.warnings[0]


def test_naive_and_mixed_time_zones_are_one_calendar() -> None:
    points = history({"timestamp": "2026-09-19T23:30:00", "value": 1}, {"timestamp": "2026-09-19T23:30:00Z", "value": 2})

    context = gather(points, None, "Europe/Berlin", "daily", MONDAY)

    assert values(context) == [1, 2]
    assert any("Europe/Berlin" in warning for warning in context.warnings)


def test_the_judged_bucket_and_later_ones_are_never_in_the_history() -> None:
    points = history({"timestamp": "2026-09-20", "value": 3}, {"timestamp": "2026-09-21", "value": 4},
                     {"timestamp": "2026-09-22", "value": 5})

    assert values(gather(points, None, "UTC", "daily", MONDAY)) == [3]


def test_plain_counts_are_the_days_just_before() -> None:
    context = gather(history(1, 2, 3), None, "UTC", "daily", MONDAY)

    assert (context.start, values(context)) == (MONDAY - 3, [1, 2, 3])


def test_the_body_is_merged_into_the_stored_history_and_wins() -> None:
    kept = stored((MONDAY - 3, 10, OK), (MONDAY - 2, 20, ANOMALY), (MONDAY - 1, 30, OK))

    context = gather(history({"timestamp": "2026-09-20T12:00:00Z", "value": 31}), kept, "UTC", "daily", MONDAY)

    assert values(context) == [10, 20, 31]


def test_of_several_loads_of_one_day_the_latest_counts() -> None:
    kept = Series.of([(MONDAY - 1) * DAY + 3600, (MONDAY - 1) * DAY + 7200], [5, 100], [ANOMALY, OK])

    context = gather([], kept, "UTC", "daily", MONDAY)

    assert values(context) == [100]
    assert context.status.tolist() == [OK]


def test_what_the_user_excluded_teaches_nobody_and_anomalies_teach_only_the_filter_that_judges_them_itself() -> None:
    kept = stored((MONDAY - 3, 10, EXCLUDED), (MONDAY - 2, 20, ANOMALY), (MONDAY - 1, 30, OK))

    context = gather([], kept, "UTC", "daily", MONDAY)

    assert np.isnan(context.learnable).tolist() == [True, False, False]
    assert np.isnan(context.normal).tolist() == [True, True, False]
    assert context.use().excluded == 2


def test_a_very_long_history_is_cut_at_its_old_end() -> None:
    kept = stored(*((MONDAY - 5000 + i, float(i), OK) for i in range(5000)))

    contexts = [gather([], kept, "UTC", "daily", day) for day in (MONDAY - 1, MONDAY)]

    assert all(400 <= len(context.values) < 428 for context in contexts)
    assert contexts[0].start == contexts[1].start


def test_hours_weeks_and_months_are_buckets_too() -> None:
    points = history({"timestamp": "2026-09-21T01:10:00Z", "value": 1}, {"timestamp": "2026-09-21T02:50:00Z", "value": 2})

    assert values(gather(points, None, "UTC", "hourly", MONDAY * 24 + 3)) == [1, 2]
    assert values(gather(points, None, "UTC", "weekly", (MONDAY + 3) // 7 + 1)) == [2]
