"""States of the structural filter kept between calls."""

import numpy as np

from detectors import structural
from detectors.filter_bank import State
from detectors.replays import Replays

START = 20_000
COUNTS = np.random.default_rng(5).poisson(500, 60).astype(float)
NONE = np.zeros(60, np.int64)


def fresh(values: np.ndarray) -> State:
    return structural.replay(values, np.arange(START, START + len(values)), NONE[:len(values)])


def same(a: State, b: State) -> bool:
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True))


def test_going_on_from_a_kept_state_gives_what_a_full_replay_gives() -> None:
    gappy = np.where(np.arange(60) % 11 == 3, np.nan, COUNTS)
    replays = Replays()
    replays.state("orders", START, gappy[:40], NONE[:40], "daily")

    assert same(replays.state("orders", START, gappy, NONE, "daily"), fresh(gappy))


def test_empty_days_after_the_beginning_are_not_taken_for_days_before_it() -> None:
    stopped = np.concatenate([COUNTS[:40], np.zeros(5)])
    replays = Replays()
    replays.state("orders", START, stopped[:40], NONE[:40], "daily")

    assert same(replays.state("orders", START, stopped, NONE[:45], "daily"), fresh(stopped))


def test_a_history_that_was_changed_is_replayed_anew() -> None:
    repaired = COUNTS.copy()
    repaired[10] = 5000
    replays = Replays()
    replays.state("orders", START, COUNTS, NONE, "daily")

    assert same(replays.state("orders", START, repaired, NONE, "daily"), fresh(repaired))


def test_two_tables_under_one_key_never_get_each_others_state() -> None:
    replays = Replays()
    replays.state(None, START, COUNTS, NONE, "daily")

    assert same(replays.state(None, START, COUNTS[::-1].copy(), NONE, "daily"), fresh(COUNTS[::-1]))


def test_only_the_latest_tables_are_kept() -> None:
    replays = Replays(kept=2)
    for table in ("a", "b", "c"):
        replays.state(table, START, COUNTS[:5], NONE[:5], "daily")

    assert list(replays._kept) == [("b", "daily"), ("c", "daily")]
