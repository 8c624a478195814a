"""The filter over many tables at once, against the filter over one table after the other."""

from __future__ import annotations

import numpy as np
import pytest

from detectors import filter_bank, fleet, structural
from detectors.calendar import GRANULARITIES
from detectors.filter_bank import State
from detectors.fleet import Asked, Past
from detectors.season import SEASONS


def pasts(tables: int, longest: int) -> list[Past]:
    """Histories of any length and begin, with gaps, empty days before the first rows and after the last, and holidays."""
    rng, found = np.random.default_rng(7), []
    for i in range(tables):
        m = int(rng.integers(1, longest))
        values = rng.poisson(rng.choice([3, 50, 5000]), m).astype(float)
        values[rng.random(m) < rng.choice([0, 0.1, 0.5])] = np.nan
        if i % 3 == 0:
            values[: rng.integers(0, m)] = 0
        if i % 4 == 0:
            values[-3:] *= 5
        found.append(Past(int(rng.integers(18_000, 20_000)), values, rng.choice([0, 0, 0, 0, 0, 1, 2], m)))
    return found


def alone(past: Past, granularity: str) -> State:
    time = np.arange(past.start, past.start + len(past.values))
    return structural.replay(past.values, time, past.holiday, granularity)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_every_state_and_verdict_is_that_of_the_table_alone_to_the_last_bit(granularity: str) -> None:
    histories = pasts(16, longest=70)

    rows = fleet.replay(histories, granularity)
    asked = [Asked(row, past.start + len(past.values), i % 3, [0.0, 40.0, 9e5][i % 3], 0.99)
             for i, (row, past) in enumerate(zip(rows, histories, strict=True))]
    verdicts = fleet.judge(asked, granularity)

    for row, past, ask, verdict in zip(rows, histories, asked, verdicts, strict=True):
        state = alone(past, granularity)
        assert np.array_equal(row, fleet.rows_of(state)[0], equal_nan=True)
        assert verdict == structural.judge_next(state, ask.time, ask.holiday, ask.value, 0.99, granularity)


def test_going_on_from_what_is_known_gives_what_a_whole_replay_gives() -> None:
    histories = [past for past in pasts(16, longest=70) if len(past.values) > 10]
    known = fleet.replay([Past(p.start, p.values[:-5], p.holiday[:-5]) for p in histories], "daily")
    rest = [Past(p.start + len(p.values) - 5, p.values[-5:], p.holiday[-5:], row)
            for p, row in zip(histories, known, strict=True)]

    rows = fleet.replay(rest, "daily")

    assert all(map(np.array_equal, rows, fleet.replay(histories, "daily")))


def test_a_table_about_which_nothing_is_new_stays_as_it_is() -> None:
    (row,) = fleet.replay(pasts(1, longest=30), "daily")

    (same,) = fleet.replay([Past(20_000, np.empty(0), np.empty(0, np.int64), row)], "daily")

    assert np.array_equal(same, row)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_state_comes_back_from_its_row(granularity: str) -> None:
    begin = SEASONS[granularity].begin

    for state in (begin, filter_bank.settle(begin)):
        assert all(map(np.array_equal, fleet.state_of(fleet.rows_of(state), granularity), state))
