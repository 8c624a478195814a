"""Back-test figures: which faults count, and what it takes to beat the baseline."""

import numpy as np
import pytest

from training.evaluation import FAULTS, PREVALENCE, Scores, beats, faulty_values, quality, without_incidents

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
