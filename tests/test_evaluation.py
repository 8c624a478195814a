"""Back-test figures: which faults count, and what it takes to beat the baseline."""

import numpy as np
import pytest

from training.evaluation import FAULTS, PREVALENCE, Scores, beats, difference, faulty_values, quality, without_incidents

NAMES = list(FAULTS)


def scores(normal: float, faulty: float, days: int = 60) -> Scores:
    return Scores(np.full(days, normal), np.full((days, len(FAULTS)), faulty))


def test_each_fault_changes_the_day_as_its_name_says() -> None:
    changed = dict(zip(NAMES, faulty_values(np.array([1000.0]), np.array([1200.0]), np.array([400.0]))[0], strict=True))

    assert changed == {"zero": 0, "outage": 50, "half": 500, "partial": 700, "dip": 800, "surge": 1300, "duplicate": 2000,
                       "spike": 4000, "stuck": 1200, "wrong_weekday": 400}


def test_a_fault_that_would_hardly_change_the_day_is_not_counted() -> None:
    changed = faulty_values(np.array([1000.0]), np.array([1000.0]), np.array([950.0]))[0]

    assert np.isnan(changed[NAMES.index("stuck")]) and np.isnan(changed[NAMES.index("wrong_weekday")])


def test_a_day_without_rows_carries_no_fault() -> None:
    assert np.isnan(faulty_values(np.array([0.0]), np.array([5.0]), np.array([5.0]))).all()


def test_precision_is_stated_for_the_prevalence_of_incidents() -> None:
    half = Scores(np.repeat([0.5, 0.995], [98, 2]), np.full((100, len(FAULTS)), 0.999))

    figures = quality(half)

    assert figures["fpr"] == 0.02 and figures["recall"] == 1.0
    assert figures["precision"] == pytest.approx(PREVALENCE / (PREVALENCE + (1 - PREVALENCE) * 0.02), abs=1e-3)


def test_a_detector_without_verdicts_has_no_recall_and_does_not_divide_by_zero() -> None:
    nothing = Scores(np.full(10, np.nan), np.full((10, len(FAULTS)), np.nan))

    assert quality(nothing)["f1"] == 0


def test_a_clear_winner_beats_and_an_equal_does_not() -> None:
    assert beats(scores(0.5, 0.999), scores(0.5, 0.5))
    assert not beats(scores(0.5, 0.999), scores(0.5, 0.999))


def test_a_sure_lead_that_is_too_small_to_matter_is_none() -> None:
    champion, challenger = scores(0.5, 0.999, days=3000), scores(0.5, 0.999, days=3000)
    champion.faulty[::25, 0] = 0.5

    assert not beats(challenger, champion)


def test_a_lead_of_one_day_in_sixty_is_noise() -> None:
    champion, challenger = scores(0.5, 0.999), scores(0.5, 0.999)
    champion.normal[0] = 0.999

    assert not beats(challenger, champion)


@pytest.mark.parametrize("points", [5, 8, 9, 20])
def test_one_false_alarm_among_few_points_is_noise(points: int) -> None:
    champion, challenger = scores(0.5, 0.999, points), scores(0.5, 0.999, points)
    champion.normal[0] = 0.999

    ahead = difference(challenger, champion)

    assert ahead.f1 > 0 and ahead.f1_interval[0] == 0 == ahead.fpr_interval[1]


def test_what_unlike_detectors_agree_on_is_no_false_alarm_of_anyone() -> None:
    found, missed = scores(0.5, 0.999), scores(0.5, 0.999)
    for one in (found, missed):
        one.normal[3] = 0.9999
    found.normal[7] = 0.9999

    together = without_incidents([found, scores(0.5, 0.999), missed])

    assert all(np.isnan(one.normal[3]) for one in together)
    assert together[0].normal[7] == 0.9999


def test_one_detector_alone_cannot_excuse_itself() -> None:
    alone = scores(0.5, 0.999)
    alone.normal[3] = 0.9999

    assert without_incidents([alone])[0].normal[3] == 0.9999


def test_what_most_flag_for_longer_than_a_week_is_a_level_that_they_do_not_know() -> None:
    used, one, other = scores(0.5, 0.999), scores(0.5, 0.999), scores(0.5, 0.999)
    for stale in (one, other):
        stale.normal[10:17], stale.normal[30:38] = 0.9999, 0.9999

    together = without_incidents([used, one, other])

    assert np.isnan(together[1].normal[10:17]).all() and (together[1].normal[30:38] == 0.9999).all()


def test_what_all_flag_is_an_incident_however_long_it_lasts() -> None:
    stopped = [scores(0.5, 0.999) for _ in range(3)]
    for each in stopped:
        each.normal[20:50] = 0.9999

    assert all(np.isnan(each.normal[20:50]).all() for each in without_incidents(stopped))


def test_a_point_that_a_person_spoke_of_is_no_incident() -> None:
    said = np.zeros(60, np.int8)
    said[3], said[4] = -1, 1
    normal = np.repeat([0.9999, 0.5], [5, 55])
    flagging = [Scores(normal, np.full((60, len(FAULTS)), 0.999), said) for _ in range(2)]

    together = without_incidents(flagging)

    assert np.isnan(together[0].normal[:3]).all() and (together[0].normal[3:5] == 0.9999).all()
    assert quality(together[0])["labels"] == {"anomalies": 1, "found": 1, "expected": 1, "flagged": 1}
    assert quality(together[0])["fpr"] == pytest.approx(1 / 56, abs=1e-4)


def test_a_confirmed_anomaly_counts_in_no_injected_figure() -> None:
    plain, with_word = scores(0.5, 0.999), scores(0.5, 0.999)
    with_word.normal[7], with_word.faulty[7], with_word.said[7] = 0.9999, 0.1, 1

    figures = quality(with_word)

    assert figures["labels"] == {"anomalies": 1, "found": 1, "expected": 0, "flagged": 0}
    assert figures["points"] == 59 and {name: figures[name] for name in ("f1", "recall", "fpr")} == {
        name: quality(plain)[name] for name in ("f1", "recall", "fpr")}


def test_the_difference_of_two_is_the_opposite_of_that_of_the_two_exchanged() -> None:
    one, other = scores(0.5, 0.999, days=90), scores(0.5, 0.999, days=90)
    one.faulty[::3, 2], other.normal[::20] = 0.5, 0.999

    ahead, behind = difference(one, other), difference(other, one)

    assert (behind.f1, behind.fpr) == (-ahead.f1, -ahead.fpr)
    assert behind.f1_interval == pytest.approx([-end for end in ahead.f1_interval[::-1]])
    assert ahead.f1_interval[0] < ahead.f1 < ahead.f1_interval[1] and ahead.fpr == pytest.approx(-5 / 90)


def test_only_what_both_judged_is_compared() -> None:
    whole, half = scores(0.5, 0.999), scores(0.5, 0.999)
    whole.normal[30:], whole.faulty[30:] = 0.999, 0.5
    half.normal[30:], half.faulty[30:] = np.nan, np.nan

    assert difference(whole, half).f1_interval == (0.0, 0.0)
    assert difference(whole, Scores(np.full(60, np.nan), np.full((60, len(FAULTS)), np.nan))).f1_interval == (0.0, 0.0)


def test_alarms_in_a_row_are_less_evidence_than_as_many_apart() -> None:
    quiet, row, apart = (scores(0.5, 0.999, days=120) for _ in range(3))
    row.normal[50:58], apart.normal[::15] = 0.999, 0.999

    together, scattered = (difference(quiet, alarming) for alarming in (row, apart))
    wide, narrow = (each.fpr_interval[1] - each.fpr_interval[0] for each in (together, scattered))

    assert together.fpr == scattered.fpr
    assert wide > 1.5 * narrow


def test_scores_whose_points_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in d"):
        Scores(np.zeros(3), np.zeros((4, 2)))
