"""What the structural baseline does on tables whose truth is known."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors import filter_bank, structural, structural_verdict
from detectors.calendar import month_position
from detectors.filter_bank import Day, State
from detectors.season import SEASONS

type Floats = NDArray[np.float64]
type Table = Callable[[NDArray[np.int64], np.random.Generator], Floats]

FIRST = 18_262  # Wednesday, 1 January 2020


def flags(counts: Floats, time: NDArray[np.int64], holiday: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
    """(n, m) rows of n tables, their buckets and holiday classes -> which are flagged, all tables in one go."""
    n, m = counts.shape
    season = SEASONS["daily"]
    state = State(*(np.repeat(part, n, axis=0) for part in season.begin))
    seen = season.days(np, time, np.zeros_like(time) if holiday is None else holiday)
    flagged = np.zeros((n, m), np.bool_)
    for i in range(m):
        day, count = Day(*(part[:, i] for part in seen)), filter_bank.count(np, counts[:, i, None, None, None])
        state, _, flag = structural.advance(np, state, season.design, day, count)
        flagged[:, i] = flag[:, 0, 0, 0]
    return flagged


def tables(rate: Table, noise: float, n: int = 100, days: int = 60, seed: int = 0) -> tuple[Floats, NDArray[np.int64]]:
    """n noisy tables that begin on different weekdays."""
    rng = np.random.default_rng(seed)
    time = FIRST + rng.integers(0, 28, (n, 1)) + np.arange(days)
    return np.round(rate(time, rng) * np.exp(rng.normal(0, noise, time.shape))), time


def business(time: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Between 300 and 30,000 rows on working days, 40 % of it on weekends."""
    return 10 ** rng.uniform(2.5, 4.5, (len(time), 1)) * np.where((time + 3) % 7 >= 5, 0.4, 1.0)


def one(values: Floats, start: int = FIRST, granularity: str = "daily") -> NDArray[np.bool_]:
    time = start + np.arange(len(values))
    return np.array([step.flagged for step in structural.walk(values, time, np.zeros_like(time), granularity)])


def week(level: float, days: int, noise: float = 0.03, seed: int = 1) -> Floats:
    """One table from Wednesday on, quieter on weekends."""
    quiet = np.where((FIRST + np.arange(days) + 3) % 7 >= 5, 0.4, 1.0)
    return np.round(level * quiet * np.exp(np.random.default_rng(seed).normal(0, noise, days)))


def judge(values: Floats, value: float, threshold: float = 0.99) -> structural.Verdict:
    return judges(values)(value, threshold)


def judges(values: Floats) -> Callable[..., structural.Verdict]:
    """What the day after the values is judged by: a function of its count and the threshold."""
    time = FIRST + np.arange(len(values))
    state = structural.replay(values, time, np.zeros_like(time))
    return lambda value, threshold=0.99: structural.judge_next(state, FIRST + len(values), 0, value, threshold)


def test_it_is_learning_until_four_days_are_known() -> None:
    values = week(1000, 6)

    ready = [judge(values[:n], values[n]).ready for n in range(6)]
    assert ready == [False, False, False, False, True, True]


def test_a_total_outage_on_day_five_is_flagged() -> None:
    counts, time = tables(business, 0.05, days=5)
    counts[:, 4] = 0

    assert flags(counts, time)[:, 4].all()


def test_after_two_weeks_every_drop_by_a_third_on_a_working_day_is_found() -> None:
    counts, time = tables(business, 0.03, n=300, days=21)
    usual = flags(counts, time)[:, 14:]
    workday = np.argmax((time[:, 14:] + 3) % 7 < 5, axis=1)
    dropped = counts.copy()
    dropped[np.arange(300), 14 + workday] *= 0.7

    assert flags(np.round(dropped), time)[np.arange(300), 14 + workday].all()
    assert usual.mean() < 0.002


def test_seven_different_weekdays_need_no_configuration() -> None:
    def different(time: NDArray[np.int64], rng: np.random.Generator) -> Floats:
        return 5000 * np.exp(np.take_along_axis(rng.uniform(-0.5, 0.5, (len(time), 7)), time % 7, axis=1))

    counts, time = tables(different, 0.03)

    assert flags(counts, time)[:, 14:].mean() < 0.003


def test_a_friday_and_saturday_weekend_is_one_too() -> None:
    def friday_and_saturday(time: NDArray[np.int64], rng: np.random.Generator) -> Floats:
        return np.where(((time + 3) % 7 == 4) | ((time + 3) % 7 == 5), 400.0, 1000.0)

    counts, time = tables(friday_and_saturday, 0.03)

    assert flags(counts, time)[:, 14:].mean() < 0.003


def test_growth_of_one_percent_a_day_is_normal() -> None:
    def growing(time: NDArray[np.int64], rng: np.random.Generator) -> Floats:
        return business(time, rng) * 1.01 ** np.arange(time.shape[1])

    counts, time = tables(growing, 0.03, days=120)

    assert flags(counts, time).mean() < 0.002


@pytest.mark.parametrize("mean", [3, 10, 100])
def test_small_counts_do_not_alarm(mean: int) -> None:
    rng = np.random.default_rng(mean)
    time = FIRST + np.tile(np.arange(100), (100, 1))

    assert flags(rng.poisson(mean, time.shape).astype(float), time).mean() < 0.012


def test_no_rows_are_flagged_wherever_rows_are_beyond_doubt() -> None:
    counts, time = tables(business, 0.1, days=40)
    counts[:, 39] = 0

    assert flags(counts, time)[:, 39].all()


def test_a_table_that_stopped_stays_an_anomaly_until_rows_arrive() -> None:
    values = week(1000, 120)
    values[60:90] = 0

    flagged = one(values)
    assert flagged[60:90].all() and not flagged[90:].any()


def test_empty_weekends_are_normal_from_the_second_on() -> None:
    values = week(1000, 70)
    weekend = (FIRST + np.arange(70) + 3) % 7 >= 5
    values[weekend] = 0

    flagged = one(values)
    assert not flagged[7:].any()
    values[65] = 0  # a Friday
    assert one(values)[65]


def test_empty_days_before_the_first_rows_do_not_count() -> None:
    values = week(1000, 40)

    late = np.concatenate([np.zeros(30), values])
    assert (one(late)[30:] == one(values, FIRST + 30)).all() and not one(late)[:34].any()


def test_a_constant_table_flags_any_change_and_nothing_else() -> None:
    values = np.full(60, 500.0)

    assert not one(values).any()
    assert judge(values, 400).score > 0.99 and judge(values, 600).score > 0.99 and judge(values, 500).score < 0.9


def test_a_feed_that_is_stuck_is_flagged_when_it_repeats() -> None:
    values = week(12_345, 60)
    values[50:54] = values[49]

    assert one(values)[50:54].sum() >= 3


def test_a_new_level_is_accepted_after_a_week() -> None:
    values = week(1000, 120)
    values[60:] = np.round(values[60:] * 2)

    flagged = one(values)
    assert flagged[60:67].all() and flagged[67:].sum() == 0


def test_going_back_to_the_level_before_is_flagged_once() -> None:
    values = week(1000, 120)
    values[60:75] = np.round(values[60:75] * 2)

    flagged = one(values)
    assert flagged[60:67].all() and flagged[67:].sum() <= 1


def test_a_weekday_that_changed_for_good_is_learnt_in_the_third_week() -> None:
    values = week(1000, 120)
    thursdays = np.arange(57, 120, 7)
    values[thursdays] = np.round(values[thursdays] * 0.5)

    flagged = one(values)
    assert flagged[thursdays].tolist() == [True, True, *[False] * 7]
    assert np.delete(flagged, thursdays)[40:].sum() == 0


@pytest.mark.parametrize("position", range(4))
def test_ends_of_the_month_are_learnt_and_then_missed(position: int) -> None:
    def with_ends(time: NDArray[np.int64], rng: np.random.Generator) -> Floats:
        return business(time, rng) * np.where(month_position(np, time)[..., position] > 0, 1.8, 1.0)

    counts, time = tables(with_ends, 0.03, n=60, days=220)
    ends = month_position(np, time)[..., position] > 0
    month = np.cumsum(ends, axis=1)
    flagged = flags(counts, time)
    sixth = ends & (month == 6)
    missed = np.where(sixth, np.round(counts / 1.8), counts)

    assert flagged[ends & (month >= 3)].mean() < 0.06 and flagged[ends & (month >= 4)].mean() < 0.02
    assert flagged[~ends][:, None].mean() < 0.003
    assert flags(missed, time)[sixth].mean() > 0.9


def test_a_gap_only_lets_time_pass() -> None:
    values = week(1000, 60)
    gap = np.concatenate([values, np.full(14, np.nan)])

    before, after = judge(values, 1000), judge(gap, 1000)
    assert after.expected == pytest.approx(before.expected, rel=0.1)
    assert after.upper - after.lower > before.upper - before.lower
    assert judge(gap, 100).score > 0.99 and not one(gap)[60:].any()


@pytest.mark.parametrize(("kind", "factor"), [(2, 0.35), (1, 0.6)])
def test_a_holiday_may_look_like_a_quiet_day(kind: int, factor: float) -> None:
    values = week(1000, 57)
    time = FIRST + np.arange(58)  # the last a Thursday
    state = structural.replay(values, time[:-1], np.zeros_like(time[:-1]))

    quiet = 1000 * factor
    assert structural.judge_next(state, int(time[-1]), 0, quiet).score > 0.99
    assert structural.judge_next(state, int(time[-1]), kind, quiet).score < 0.99
    assert structural.judge_next(state, int(time[-1]), kind, 20).score > 0.99


def test_holidays_that_were_quiet_are_expected_to_be_quiet() -> None:
    values, holiday = week(1000, 110), np.zeros(110, np.int64)
    holiday[40:110:16], time = 2, FIRST + np.arange(111)
    values[40:110:16] = 400
    state = structural.replay(values, time[:-1], holiday)

    ordinary, away = (structural.judge_next(state, int(time[-1]), kind, 500) for kind in (0, 2))
    assert ordinary.expected == pytest.approx(1000, rel=0.1) and away.expected < 650
    assert away.effects["holiday"] == pytest.approx(away.expected - ordinary.expected)
    assert sum(away.effects.values()) < 0 and away.score < 0.99 < ordinary.score


def test_holidays_teach_nothing_about_ordinary_days() -> None:
    values, holiday = week(1000, 57), np.zeros(57, np.int64)
    time = FIRST + np.arange(57)
    without = structural.replay(np.where(time == FIRST + 50, np.nan, values), time, holiday)
    holiday[50], values[50] = 2, 300

    with_it = structural.replay(values, time, holiday)
    assert with_it.moments[..., :-1, -1] == pytest.approx(without.moments[..., :-1, -1], abs=1e-3)


@pytest.mark.parametrize("threshold", [0.9, 0.99, 0.999, 0.9999])
@pytest.mark.parametrize("level", [80, 1000, 3e9])
def test_the_score_reaches_the_threshold_exactly_outside_the_bounds(level: float, threshold: float) -> None:
    tuesday = judges(week(level, 62))
    verdict = tuesday(level, threshold)

    for bound, outward in ((verdict.lower, -1), (verdict.upper, 1)):
        if bound < 0:
            continue
        inside, outside = bound - outward * 1e-7 * bound, bound + outward * 1e-7 * bound
        assert tuesday(inside, threshold).score < threshold <= tuesday(outside, threshold).score
    assert verdict.lower < verdict.expected < verdict.upper


def test_a_higher_threshold_has_wider_bounds_and_the_same_score() -> None:
    tuesday = judges(week(1000, 62))
    verdicts = [tuesday(900, threshold) for threshold in (0.5, 0.9, 0.99, 0.999, 0.999999)]

    assert len({v.score for v in verdicts}) == 1
    assert all(a.lower > b.lower and a.upper < b.upper for a, b in pairwise(verdicts))


def test_the_score_rises_with_the_deviation_and_stays_below_one() -> None:
    tuesday = judges(week(1000, 62))

    for counts in (np.geomspace(1050, 1e6, 50), np.geomspace(950, 1, 50)):
        scores = np.array([tuesday(count).score for count in counts])
        assert (np.diff(scores) > 0)[scores[:-1] < 0.999999999].all() and (scores <= 1).all()


def test_score_and_required_evidence_are_inverse() -> None:
    scores = np.array([0.01, 0.5, 0.99, 0.999999])

    assert structural_verdict.score(np, structural_verdict.required(np, scores)) == pytest.approx(scores)


def test_normal_days_score_above_the_threshold_less_than_once_in_a_hundred() -> None:
    for noise in (0.01, 0.03, 0.1):
        counts, time = tables(business, noise, days=200, n=50)
        assert flags(counts, time)[:, 28:].mean() < 0.01


def test_effects_name_what_moved_the_expectation() -> None:
    values = week(1000, 60)
    sunday = judge(values, 400)  # the 61st day is a Sunday

    assert set(sunday.effects) == {"trend", "weekday", "month_end", "holiday"} and sunday.effects["holiday"] == 0
    assert sunday.effects["weekday"] == pytest.approx(-400, abs=80) and abs(sunday.effects["month_end"]) < 30
    growing = week(1000, 100) * 1.01 ** np.arange(100)
    assert judge(growing, 1000).effects["trend"] > 100


@pytest.mark.filterwarnings("error")
def test_no_history_breaks_it() -> None:
    rng = np.random.default_rng(3)
    for n, granularity in enumerate(["daily", "weekly", "monthly", "hourly"] * 5):
        days = int(rng.integers(1, 200))
        values = [
            rng.poisson(0.1, days).astype(float), 10 ** rng.uniform(0, 15, days), np.full(days, 7.0),
            np.where(rng.random(days) < 0.5, 0, 1e12), np.cumsum(rng.normal(0, 1, days)) ** 2,
        ][n % 5]
        values[rng.random(days) < rng.choice([0, 0.3, 0.9])] = np.nan
        time = FIRST + np.arange(days)
        state = structural.replay(values, time, rng.integers(0, 3, days), granularity)

        for count, threshold in ((0.0, 0.5), (0.5, 0.9), (1e3, 0.99), (1e15, 0.999999)):
            verdict = structural.judge_next(state, FIRST + days, 2, count, threshold, granularity)
            assert 0 <= verdict.score <= 1 and not np.isnan(list(verdict[:4])).any()
            if verdict.ready:
                assert verdict.lower <= verdict.expected + 1e-9 <= verdict.upper + 2e-9


def test_tables_are_independent_of_each_other() -> None:
    counts, time = tables(business, 0.2, n=8, days=60)
    order = np.random.default_rng(2).permutation(8)

    assert (flags(counts[order], time[order]) == flags(counts, time)[order]).all()
    assert (flags(counts[3:4], time[3:4]) == flags(counts, time)[3:4]).all()


def test_going_on_from_a_state_is_the_same_as_starting_over() -> None:
    values, season = week(1000, 60, noise=0.2), SEASONS["daily"]
    time = FIRST + np.arange(60)
    state = structural.replay(values[:40], time[:40], np.zeros(40, np.int64))
    for i in range(40, 60):
        day = season.days(np, time[i : i + 1], np.zeros(1, np.int64))
        seen = filter_bank.count(np, values[i].reshape(1, 1, 1, 1))
        state, _, _ = structural.advance(np, state, season.design, day, seen)

    whole = structural.replay(values, time, np.zeros(60, np.int64))
    assert all(np.array_equal(a, b) for a, b in zip(state, whole, strict=True))


def test_a_step_scores_other_counts_that_its_day_might_have_had() -> None:
    values = week(1000, 60)
    time = FIRST + np.arange(60)
    steps = list(structural.walk(values, time, np.zeros(60, np.int64)))

    counts = np.array([values[59], 0.0, 5000.0, np.nan])
    scores = steps[59].scores(counts)
    assert scores[0] == judge(values[:59], values[59]).score
    assert scores[1] > 0.99 and scores[2] > 0.99 and np.isnan(scores[3])
    assert np.isnan(steps[2].scores(counts)).all()


def test_after_four_weeks_one_filter_judges_like_the_bank_it_came_from() -> None:
    values = week(1000, 27)
    bank = structural.replay(values, FIRST + np.arange(27), np.zeros(27, np.int64))
    assert structural.replay(week(1000, 28), FIRST + np.arange(28), np.zeros(28, np.int64)).vote.size == 1

    for value in (300.0, 900.0, 1000.0, 1500.0):
        several, single = (structural.judge_next(s, FIRST + 27, 0, value) for s in (bank, filter_bank.settle(bank)))
        assert bank.vote.size > 1 and list(single[:4]) == pytest.approx(list(several[:4]), rel=1e-6)


@pytest.mark.parametrize(("granularity", "cycle"), [("hourly", 24), ("weekly", 1), ("monthly", 1)])
def test_other_granularities_learn_and_find_an_outage(granularity: str, cycle: int) -> None:
    n = 60 * cycle if cycle > 1 else 60
    bucket = np.arange(n)
    rate = 1000 * np.exp(np.sin(2 * np.pi * bucket / cycle)) if cycle > 1 else np.full(n, 1000.0)
    values = np.round(rate * np.exp(np.random.default_rng(0).normal(0, 0.05, n)))
    assert one(values, 24 * FIRST, granularity).mean() < 0.01

    values[-3:] = 0
    assert one(values, 24 * FIRST, granularity)[-3:].all()


def test_hours_outside_business_are_normal_when_empty() -> None:
    hours = np.arange(24 * 7 * 6)
    weekday, hour = (hours // 24) % 7, hours % 24
    open_now = (weekday < 5) & (hour >= 8) & (hour < 18)
    values = np.round(np.where(open_now, 500, 0) * np.exp(np.random.default_rng(0).normal(0, 0.05, len(hours))))
    monday = 24 * (FIRST + 5)

    assert not one(values, monday, "hourly")[24 * 14 :].any()
    values[24 * 35 + 10] = 0
    assert one(values, monday, "hourly")[24 * 35 + 10]
