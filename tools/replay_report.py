"""What a replayed year was like: figures of every copy by month, each retraining's decision, and a page with plots."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from html import escape
from pathlib import Path
from typing import Any, Final

ARMS: Final = ("frozen", "weekly", "taught")
COLOURS: Final = {"frozen": "#8c8c8c", "weekly": "#1f77b4", "taught": "#2ca02c"}
TOLD: Final = {"frozen": "trained once", "weekly": "retrained every week", "taught": "retrained, with feedback"}
LINES: Final = {"better": ("#2ca02c", "-"), "first": ("#2ca02c", ":"), "refreshed": ("#98df8a", "-"),
                "forced": ("#d62728", "-"), "rollback": ("#9467bd", "-")}
STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .6rem 0 1.4rem } td, th { padding: .2rem .8rem; text-align: right }
td:first-child, th:first-child { text-align: left } tr { border-bottom: 1px solid #ddd } svg { width: 100%; height: auto }
td.words { text-align: left; font-size: .9em } .best { font-weight: 600 } h2 { margin-top: 2.2rem }
"""


@dataclass(frozen=True, slots=True)
class Load:
    """One day's load of one table: `fault` says what was done to it, None for nothing."""

    day: date
    table: str
    rows: int
    fault: str | None

    @property
    def timestamp(self) -> str:
        """The load is complete at noon: a day of every time zone."""
        return f"{self.day.isoformat()}T12:00:00Z"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one copy was told about one load."""

    arm: str
    load: Load
    is_anomaly: bool
    expected: float | None
    lower: float | None
    upper: float | None
    algorithm: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened besides loads: a decision of a retraining run, a word of the owner, a rollback."""

    day: date
    table: str
    arm: str
    kind: str
    text: str


@dataclass(slots=True)
class Year:
    """What the replay found."""

    verdicts: list[Verdict] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    shifts: dict[str, date] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Verdicts against the truth: faulty loads found and missed, normal ones flagged and passed."""

    found: int = 0
    missed: int = 0
    alarms: int = 0
    passed: int = 0

    @classmethod
    def of(cls, verdicts: Iterable[Verdict]) -> Figures:
        seen = Counter((v.load.fault is not None, v.is_anomaly) for v in verdicts)
        return cls(seen[True, True], seen[True, False], seen[False, True], seen[False, False])

    @property
    def precision(self) -> float:
        return self.found / max(self.found + self.alarms, 1)

    @property
    def recall(self) -> float:
        return self.found / max(self.found + self.missed, 1)

    @property
    def f1(self) -> float:
        return 2 * self.found / max(2 * self.found + self.missed + self.alarms, 1)

    @property
    def fpr(self) -> float:
        return self.alarms / max(self.alarms + self.passed, 1)


def counted(year: Year) -> list[Verdict]:
    """The verdicts that are right or wrong. The first day of a new level is neither: somebody has to be told of it, once."""
    return [verdict for verdict in year.verdicts if verdict.load.day != year.shifts.get(verdict.load.table)]


def figures(year: Year) -> dict[str, Figures]:
    """By copy, over the whole time."""
    verdicts = counted(year)
    return {arm: Figures.of(v for v in verdicts if v.arm == arm) for arm in ARMS}


def as_text(year: Year) -> str:
    """The figures and the decisions for a terminal."""
    rows = [f"  {TOLD[arm]:<26} F1 {one.f1:.3f}   precision {one.precision:.3f}   recall {one.recall:.3f}   "
            f"false alarms {one.alarms} of {one.alarms + one.passed} ({one.fpr:.2%})" for arm, one in figures(year).items()]
    decided = ", ".join(f"{count} {outcome}" for outcome, count in _outcomes(year).most_common())
    words = Counter(event.text for event in year.events if event.kind == "feedback")
    said = ", ".join(f"{count} {label}" for label, count in words.most_common()) or "nothing"
    days = len({verdict.load.day for verdict in year.verdicts})
    return "\n".join([f"\n{days} days, {len(year.verdicts):,} verdicts, {year.seconds:.0f} s", *rows,
                      f"  retraining decided: {decided}", f"  the owner said: {said}"])


def write(year: Year, folder: Path) -> Path:
    """The page, whole in one file."""
    tables = sorted({verdict.load.table for verdict in year.verdicts})
    parts = ["<!doctype html><html lang='en'><meta charset='utf-8'><title>A year replayed</title>",
             f"<style>{STYLE}</style>", "<h1>A year replayed</h1>", _summary(year), "<h2>Month by month</h2>", _months(year),
             "<h2>What retraining decided</h2>", _decisions(year), _decision_table(year)]
    for table in tables:
        parts += [f"<h2>{escape(table)}</h2>", _table(year, table)]
    parts += ["<h2>Everything that happened</h2>", _diary(year)]
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "index.html"
    page.write_text("\n".join(parts), encoding="utf-8")
    return page


def _summary(year: Year) -> str:
    found = figures(year)
    best = max(one.f1 for one in found.values())
    rows = [[TOLD[arm], f"{one.f1:.3f}", f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.fpr:.2%}", str(one.alarms),
             str(one.found), str(one.missed)] for arm, one in found.items()]
    head = ["copy", "F1", "precision", "recall", "false positive rate", "false alarms", "faults found", "missed"]
    tables = len({verdict.load.table for verdict in year.verdicts})
    told = (f"<p>{tables} tables, each in three copies that saw the same loads and the same faults. The day on which a "
            "level changed for good counts neither as right nor as wrong; alarms on its later days are false.</p>")
    return told + _html_table(head, rows, [one.f1 == best for one in found.values()])


def _months(year: Year) -> str:
    verdicts = counted(year)
    begun = {t: min(v.load.day for v in verdicts if v.load.table == t) for t in {v.load.table for v in verdicts}}
    of: dict[tuple[str, int], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        of[verdict.arm, (verdict.load.day - begun[verdict.load.table]).days // 30].append(verdict)
    months = sorted({month for _, month in of})
    figure, (left, right) = _plots(1, 2, 3.4)
    for arm in ARMS:
        several = [Figures.of(v for m in months[:n + 1] for v in of[arm, m]) for n in range(len(months))]
        left.plot([m + 1 for m in months], [one.f1 for one in several], "o-", ms=3, color=COLOURS[arm], label=TOLD[arm])
        alone = [Figures.of(of[arm, m]) for m in months]
        right.plot([m + 1 for m in months], [100 * one.fpr for one in alone], "o-", ms=3, color=COLOURS[arm])
    left.set(title="F1, all days until then", xlabel="month since the first verdict", ylim=(0, 1))
    right.set(title="false positive rate of the month, %", xlabel="month since the first verdict")
    right.set_ylim(bottom=0)
    left.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _outcomes(year: Year) -> Counter[str]:
    return Counter(decision["outcome"] for decision in year.decisions)


def _decisions(year: Year) -> str:
    of = Counter((decision["outcome"], decision["day"][:7]) for decision in year.decisions)
    months, outcomes = sorted({month for _, month in of}), [outcome for outcome, _ in _outcomes(year).most_common()]
    figure, axes = _plots(1, 1, 2.8)
    below = [0] * len(months)
    for outcome in outcomes:
        heights = [of[outcome, month] for month in months]
        axes.bar(months, heights, bottom=below, label=outcome, width=0.7)
        below = [b + h for b, h in zip(below, heights, strict=True)]
    axes.set(title="decisions a month")
    axes.tick_params(axis="x", rotation=45)
    axes.legend(frameon=False, fontsize=8, ncols=4)
    return _svg(figure)


def _decision_table(year: Year) -> str:
    first: dict[str, dict[str, Any]] = {}
    for decision in year.decisions:
        first.setdefault(decision["outcome"], decision)
    rows = [[outcome, str(count), f"{first[outcome]['day']}, {first[outcome]['table']}: {first[outcome]['reason']}"]
            for outcome, count in _outcomes(year).most_common()]
    return _html_table(["outcome", "times", "the first of them"], rows)


def _table(year: Year, table: str) -> str:
    figure, several = _plots(len(ARMS), 1, 2.1 * len(ARMS))
    for axes, arm in zip(several, ARMS, strict=True):
        verdicts = [v for v in year.verdicts if v.load.table == table and v.arm == arm]
        days = [v.load.day for v in verdicts]
        top = 1.5 * sorted(v.load.rows for v in verdicts)[int(0.98 * len(verdicts))]
        axes.fill_between(days, [v.lower or 0 for v in verdicts], [top if v.upper is None else v.upper for v in verdicts],
                          color=COLOURS[arm], alpha=0.2, lw=0)
        axes.plot(days, [v.load.rows for v in verdicts], color="0.2", lw=0.7)
        for marker, colour, some in (("o", "#d62728", [v for v in verdicts if v.is_anomaly and v.load.fault]),
                                     ("D", "#ff7f0e", [v for v in verdicts if v.is_anomaly and not v.load.fault]),
                                     ("x", "#d62728", [v for v in verdicts if not v.is_anomaly and v.load.fault])):
            axes.plot([v.load.day for v in some], [v.load.rows for v in some], marker, color=colour, ms=3.5, ls="")
        for event in _events(year, table, arm):
            colour, style = LINES[event.kind]
            axes.axvline(_day(event.day), color=colour, ls=style, lw=0.8, alpha=0.8)
        if table in year.shifts:
            axes.axvline(_day(year.shifts[table]), color="k", ls="--", lw=0.8)
        axes.set_ylim(0, top)
        own = Figures.of(v for v in counted(year) if (v.load.table, v.arm) == (table, arm))
        axes.set_title(f"{TOLD[arm]}: {_told(own)}", fontsize=9, loc="left")
    legend = ("Dots: faults found; crosses: faults missed; diamonds: false alarms; band: expected range. Vertical lines: a "
              "new champion in green (light: only refreshed), by force in red; purple a rollback; dashed a new level.")
    return _svg(figure) + f"<p>{legend}</p>"


def _events(year: Year, table: str, arm: str) -> list[Event]:
    return [event for event in year.events if (event.table, event.arm) == (table, arm) and event.kind in LINES]


def _diary(year: Year) -> str:
    rows = [[event.day.isoformat(), event.table, event.arm, event.kind, event.text] for event in year.events
            if event.kind not in ("equal", "unchanged", "refreshed")]
    return _html_table(["day", "table", "copy", "what", "in words"], rows)


def _told(one: Figures) -> str:
    return f"F1 {one.f1:.2f}, {one.alarms} false alarms, {one.found} faults found, {one.missed} missed"


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]], best: Sequence[bool] = ()) -> str:
    marked = [" class='best'" if n < len(best) and best[n] else "" for n in range(len(rows))]
    cells = ["".join(f"<td{' class=words' if len(cell) > 24 else ''}>{escape(cell)}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr{mark}>{row}</tr>" for mark, row in zip(marked, cells, strict=True))
    return f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>{body}</table>"


def _plots(rows: int, columns: int, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=(12, height), layout="constrained", sharex=rows > 1)
    for one in [axes] if rows * columns == 1 else axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib.pyplot as plt

    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg"):]


def _day(day: date) -> datetime:
    # Just before the day: a model that is new on a day answers that day.
    return datetime.combine(day, time()) - timedelta(hours=12)
