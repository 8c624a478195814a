"""A replayed year, cut short: everything happens over HTTP, and the page tells of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from tools import replay_report, replay_year
from tools.replay_report import ARMS, Figures, Load, Verdict, Year


def test_a_few_weeks_are_lived_through_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replay_year.main(["--tables", "1", "--days", "98", "--algorithm", "structural", "--out", str(tmp_path)])

    told, page = capsys.readouterr().out, (tmp_path / "index.html").read_text()
    assert "8 days, 24 verdicts" in told and "3 first" in told
    assert page.count("<svg") == 3 and "rollback" in page and "by force" in page


def test_only_the_first_day_of_a_new_level_counts_neither_way() -> None:
    days = [Load(date(2026, 9, day), "orders", 100, "zero" if day == 2 else None) for day in range(1, 6)]
    judged = [Verdict("weekly", load, load.day.day != 1, 100.0, 90.0, 110.0, "structural") for load in days]
    year = Year(verdicts=judged, shifts={"orders": date(2026, 9, 4)})

    figures = replay_report.figures(year)

    assert figures["weekly"] == Figures(found=1, missed=0, alarms=2, passed=1)
    assert figures["frozen"] == Figures() and figures["frozen"].f1 == 0.0
    assert (figures["weekly"].precision, figures["weekly"].recall, figures["weekly"].f1) == (1 / 3, 1.0, 0.5)


def test_copies_see_the_same_loads_and_a_level_changes_once_for_good() -> None:
    loads = [load for load in replay_year.read_samples() if load.table == "flights_UA"]

    moved, since = replay_year._with_a_shift(loads, shifts=True)

    changed = [(old, new) for old, new in zip(loads, moved, strict=True) if old != new]
    assert since is not None and {new.day >= since for _, new in changed} == {True}
    assert all(new == replace(old, rows=round(old.rows * replay_year.SHIFT)) for old, new in changed)
    assert len({replay_year._copy("flights_UA", arm) for arm in ARMS}) == len(ARMS)
