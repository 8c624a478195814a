"""Shapes, the formats of a column, the slips that damage them, and the runs of coarse columns."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest

from detectors import formats, shapes, slips, tally
from detectors.formats import UNUSUAL
from detectors.pattern_column import UNUSUAL_NATS, Batch, Column, Usual, concentration
from detectors.tally import DOUBLED, EMPTY, PLACEHOLDER, Tally, shapes_of
from detectors.transitions import Transitions
from tests.columns import day, orders
from tools import pattern_columns

ODD = ["", " ", "N-16.911/7x", "Zoë 文 ١٢", "e\u0301", "🙂👩‍👩‍👧", "\x1e\x1f\x00", "a" * 5000, "\u202e", "<empty>",
       "1,234.5", "𝔘𝟙", "ǅ"]


# Shapes


def test_a_mask_tells_classes_and_keeps_every_other_character() -> None:
    assert shapes.masks(["N16911", "Zoë", "2013-02-25T13:00Z", "50 %", "Łódź", "文a", "x🙂y", "e\u0301"]) == [
        "A99999", "Aaä", "9999-99-99A99:99A", "99 %", "Ääaä", "文a", "a☺a", "a◌"]


def test_the_mask_of_a_mask_is_itself() -> None:
    random = Random(0)
    some = [*ODD, *("".join(chr(random.choice((random.randrange(1, 0x250), random.randrange(0xE000, 0x1F700))))
                            for _ in range(random.randrange(1, 30))) for _ in range(500))]
    once = shapes.masks(some)

    assert shapes.masks(once) == once and len(once) == len(some)
    assert not [c for mask in once for c in mask if (c.isalnum() and c not in "Aa9Ää文²")]


def test_every_level_is_coarser_than_the_one_before() -> None:
    assert [shapes.formats(shapes.masks(["N-16.911/7x"]), level)[0] for level in range(len(shapes.LEVELS))] == [
        "A-99.999/9a", "A1-92.93/91a1", "A-9.9/9a", "x-xx.xxx/xx", "w-9/9w", "w-9/w", "-./9a"]


def test_many_masks_at_once_are_what_each_is_alone() -> None:
    masks = shapes.masks([*ODD, *orders(50), *pattern_columns.column("url", 50, 0), *pattern_columns.column("name", 50, 0)])

    for level in range(len(shapes.LEVELS)):
        assert shapes.formats(masks, level) == [shapes.formats([mask], level)[0] for mask in masks]
    assert shapes.features(masks) == pytest.approx(np.concatenate([shapes.features([mask]) for mask in masks]))
    assert np.isfinite(shapes.features(masks)).all() and shapes.features(masks).shape[1] == len(shapes.FEATURES)


def test_a_long_value_costs_no_more_than_others() -> None:
    [mask] = shapes.masks(["x" * 2_000_000 + "9"])

    assert len(mask) == shapes.LONGEST and mask.endswith("a9") and "…" in mask


def test_marks_stand_for_what_a_mask_cannot_tell() -> None:
    assert shapes_of(["", " \t", "N/A", " null ", "?", "N16911N16911", "abcabc", "00000000", "-", "None of it"]) == [
        EMPTY, EMPTY, PLACEHOLDER, PLACEHOLDER, PLACEHOLDER, DOUBLED + "A99999", "aaaaaa", "99999999", PLACEHOLDER,
        "Aaaa aa aa"]


# Slips


@pytest.mark.parametrize(("mask", "known", "slip"), [
    ("aaa-99", "AAA-99", slips.CASE), ("AAA_99", "AAA-99", slips.SWAPPED), ("AAA99", "AAA-99", slips.LOST),
    ("AAA-9A", "AAA-99", slips.LETTER), ("AAA-9", "AAA-99", slips.CUT), ("#AAA-99", "AAA-99", slips.PREFIX),
    ("AAA-99.", "AAA-99", slips.SUFFIX), ("AäA-99", "AAA-99", slips.FOREIGN), ("99/99", "AAA-99", ""),
])
def test_a_slip_is_undone_to_the_format_it_was(mask: str, known: str, slip: str) -> None:
    [(found, was)] = slips.explain([mask], 0, {known: 90}, slips.separators([known]))

    assert (found, was) == ((slip, known) if slip else ("", ""))


# Formats


def learn(values: list[str]) -> formats.Formats:
    learnt = formats.learn(Tally.of_values(values))
    assert learnt is not None
    return learnt


def flagged(learnt: formats.Formats, values: list[str]) -> list[bool]:
    nats = formats.judge(np, learnt.look(shapes_of(values)).x, learnt.rules).max(axis=1)
    return [bool(n) for n in nats >= UNUSUAL_NATS]


@pytest.mark.parametrize(("name", "level"), [
    ("two_dates", "mask"), ("phone", "mask"), ("ip", "runs"), ("uuid", "characters")])
def test_a_column_is_judged_at_the_finest_level_whose_formats_are_known(name: str, level: str) -> None:
    learnt = learn(pattern_columns.column(name, 1000, 0))

    assert learnt.level is not None and shapes.LEVELS[learnt.level] == level


def test_three_per_cent_of_damage_in_the_history_hide_nothing() -> None:
    dirty = pattern_columns.with_faults(orders(1000), 0.03, 0)[0]
    bad, kinds = pattern_columns.with_faults(orders(1000, seed=1), 1.0, 1)

    learnt = learn(dirty)

    found = [flag for flag, kind in zip(flagged(learnt, bad), kinds, strict=True) if kind]
    assert sum(found) / len(found) > 0.97 and not any(flagged(learnt, orders(1000, seed=2)))


def test_hard_columns_keep_their_false_alarms_and_find_their_damage() -> None:
    alarms, recall, abstains = [], [], []
    for name in pattern_columns.COLUMNS:
        learnt = learn(pattern_columns.with_faults(pattern_columns.column(name, 1000, 5), 0.03, 5)[0])
        if learnt.free_form:
            abstains.append(name)
            continue
        bad, kinds = pattern_columns.with_faults(pattern_columns.column(name, 500, 6), 1.0, 6)
        alarms.append(np.mean(flagged(learnt, pattern_columns.column(name, 500, 7))))
        recall.append(np.mean([flag for flag, kind in zip(flagged(learnt, bad), kinds, strict=True) if kind]))

    assert np.mean(alarms) <= 0.005 and np.mean(recall) >= 0.9
    assert "text" in abstains and len(abstains) <= 2


def test_a_habit_of_the_column_is_no_damage() -> None:
    padded = [f"{value} " if i % 10 == 0 else value for i, value in enumerate(orders(1000))]

    learnt = learn(padded)

    assert learnt.habits == {slips.PADDING} and not any(flagged(learnt, [f"{value} " for value in orders(20, seed=1)]))


def test_a_column_of_one_value_knows_one_format() -> None:
    learnt = learn(["EUR"] * 200)

    assert learnt.core == {"AAA": 200} and flagged(learnt, ["USD", "usd", "EU", "EUR "]) == [False, True, True, True]


def test_few_and_constant_and_empty_histories_are_survived() -> None:
    assert formats.learn(Tally.of_values(["x"] * 29)) is None and formats.learn(Tally({})) is None
    for values in (["x"] * 30, [""] * 100, ["N/A"] * 100, [" "] * 50 + ["a"] * 50, [str(n) for n in range(100)], ODD * 30):
        learnt = learn(values)
        assert np.isfinite(formats.judge(np, learnt.look(shapes_of([*ODD, *values])).x, learnt.rules)).all()


def test_the_rarer_a_format_was_the_more_surprising_it_is() -> None:
    learnt = learn([*orders(2000), "a", *["bb"] * 3, *["ccc"] * 6])
    nats = formats.judge(np, learnt.look(["aaaa", "a", "aa", "aaa", "AAA-99999"]).x, learnt.rules).max(axis=1).tolist()

    assert nats == sorted(nats, reverse=True) and nats[-1] == 0.0 and nats[0] >= -math.log(UNUSUAL)


# Runs


def test_a_run_in_the_wrong_place_surprises_and_a_usual_one_does_not() -> None:
    fitted = Transitions.fit(Tally.of_values(pattern_columns.column("name", 1000, 0)).counts)
    assert fitted is not None

    usual, odd, unseen = fitted.surprises(shapes.masks(["Anna Smith", "Anna ,,Smith", "⟦Anna⟧"]))

    assert usual < fitted.cut < odd and unseen > fitted.cut
    assert fitted.surprises([]).shape == (0,)


def test_thousands_of_odd_characters_keep_the_tables_small() -> None:
    random = Random(0)
    strange = {"".join(chr(random.randrange(0x2190, 0x2BFF)) for _ in range(12)): 1 for _ in range(4000)}

    fitted = Transitions.fit(dict.fromkeys(shapes.masks(list(strange)), 1))

    assert fitted is not None and fitted.size_bytes < 20_000_000
    assert np.isfinite(fitted.surprises(shapes.masks(list(strange)[:50]))).all()


# How much of a batch is unusual


def test_the_score_of_a_share_is_uniform_or_below_on_normal_batches() -> None:
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(2000):
        history, batch = rng.binomial(3000, 0.01), int(rng.binomial(400, 0.01))
        usual = Usual(int(history), 3000)
        scores.append(usual.score(batch, 400) if batch > 400 * usual.share else 0.0)

    for level in (0.9, 0.95, 0.99):
        share = float(np.mean(np.array(scores) >= level))
        assert share <= 1 - level + 3 * math.sqrt(level * (1 - level) / 2000)  # three standard errors


def test_a_share_that_jumps_from_batch_to_batch_allows_more() -> None:
    steady, unsteady = concentration([3] * 12, [300] * 12), concentration([0, 9, 1, 8, 0, 10, 2, 7, 0, 9, 1, 8], [300] * 12)

    assert math.isinf(steady) and unsteady < 1000
    assert Usual(36, 3600, unsteady).most(300, 0.99) > Usual(36, 3600, steady).most(300, 0.99)


def test_the_ends_of_the_usual_counts_are_where_the_threshold_is_reached() -> None:
    usual = Usual(200, 1000)
    least, most = usual.least(300, 0.99), usual.most(300, 0.99)

    assert usual.score(most, 300) < 0.99 <= usual.score(most + 1, 300)
    assert usual.score(least, 300) < 0.99 <= usual.score(least - 1, 300)


def test_one_bad_load_teaches_nothing_and_two_do() -> None:
    good = [Batch(day(n), Tally.of_values(orders(200, seed=n))) for n in range(8)]
    bad = [Batch(day(8 + n), Tally.of_values([*orders(150, seed=8 + n), *["ord_48213"] * 50])) for n in range(2)]

    once, twice = Column.of([*good, bad[0]]), Column.of([*good, *bad])

    assert once is not None and "aaa_99999" not in once.formats.core
    assert twice is not None and "aaa_99999" in twice.formats.core


def test_a_tally_counts_what_came() -> None:
    counted = Tally.of_values(["A1", "B2", None, "", "A1"])

    assert counted.counts == {"A9": 3, EMPTY: 1} and (counted.rows, counted.missing) == (4, 1)
    assert tally.plain(" A9 ") == "A9" and tally.plain(DOUBLED + "A9") == "A9A9" and tally.plain(EMPTY) == ""
