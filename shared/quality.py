"""How good the detectors are: from what people said of verdicts and, apart from it, from injected faults.

    words (shared.feedback)          precision, recall, F1; false alarms; incidents
    counts (shared.monitoring)       how many points were judged, and how long that took, by month and algorithm
    cards of champions (the same)    injected faults, found, and false alarms on held-out points

A family is the algorithm of the model version that judged, or that of the baseline where the table had no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Final

import numpy as np

from shared import monitoring, rates
from shared.contract import whole_number
from shared.errors import InvalidRequest, ModelNotFound, ModelUnavailable
from shared.feedback import Feedback, Said
from shared.history import History
from shared.ids import check_id
from shared.monitoring import Figures, Monitoring
from shared.registry import Registry
from shared.verdicts import BASELINES, Counts, Months, latency_seconds, month_of, verdicts

DAYS: Final = 90
PAGE: Final = 100
BY: Final = ("detector", "family", "table")
# An incident goes on where the next anomaly is no farther than this many usual distances between points.
APART: Final = 1.5
DAY: Final = 86_400
# Nobody asks beyond, and a calendar ends somewhere.
FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LAST: Final = datetime(9000, 1, 1, tzinfo=UTC)

type Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the figures are read."""

    feedback: Feedback
    monitoring: Monitoring
    history: History
    registry: Registry


@dataclass(frozen=True, slots=True)
class Asked:
    """Of which detector, table and family, None for all, and from when to when (aware, the end not included).

    Where no table is named these are whole months, as verdicts were counted.
    """

    start: datetime
    end: datetime
    detector: str | None = None
    table_id: str | None = None
    family: str | None = None
    by: str = "detector"

    @classmethod
    def of(cls, params: Mapping[str, str], now: datetime) -> Asked:
        """Raises InvalidRequest naming the parameter."""
        by, detector, table_id = params.get("by", "detector"), params.get("detector"), params.get("table_id")
        if by not in BY:
            raise InvalidRequest(f"by must be one of {', '.join(BY)}.", "by")
        if detector is not None and detector not in BASELINES:
            raise InvalidRequest(f"detector must be one of {', '.join(BASELINES)}.", "detector")
        if table_id is not None:
            check_id(table_id, "table_id")
        end = _moment(params, "to") or now
        if not FIRST <= end <= LAST:
            raise InvalidRequest(f"to must be between {FIRST:%Y-%m-%d} and {LAST:%Y-%m-%d}.", "to")
        start = _moment(params, "from") or end - timedelta(days=DAYS)
        if start >= end:
            raise InvalidRequest("from must be before to.", "from")
        if table_id is None:
            start, end = _month(start), min(_month(_month(end - timedelta.resolution) + timedelta(days=31)), max(end, now))
        return cls(start, end, detector, table_id, params.get("family"), by)

    def key(self, detector: str, family: str, table_id: str) -> Key:
        """The group that a figure belongs to."""
        return {"detector": (detector,), "family": (detector, family), "table": (detector, table_id)}[self.by]

    def named(self, key: Key) -> dict[str, str]:
        return dict(zip(("detector", {"table": "table_id"}.get(self.by, self.by)), key, strict=False))


@dataclass(slots=True)
class Group:
    """What is known of one group. `hits` were flagged and called anomalies, `false` flagged and called expected.

    `delays` are the points from the beginning of each incident that was found to its first alarm.
    """

    hits: int = 0
    false: int = 0
    misses: int = 0
    rightly_quiet: int = 0
    unjudged: int = 0
    counts: Counts = field(default_factory=Counts)
    models: int = 0
    faults: int = 0
    found: int = 0
    points: int = 0
    alarms: int = 0
    incidents: int = 0
    delays: list[int] = field(default_factory=list)

    def hear(self, said: Said) -> None:
        """A word about one point; `ignore` says nothing of the verdict."""
        if said.label == "ignore":
            return
        if said.flagged is None:
            self.unjudged += 1
        elif said.label == "anomaly":
            self.hits += said.flagged
            self.misses += not said.flagged
        else:
            self.false += said.flagged
            self.rightly_quiet += not said.flagged

    def inject(self, quality: Mapping[str, Any]) -> None:
        """The figures of a champion's back-test: its rates, as counts of the faults and points that they come from."""
        faults, points = quality.get("faults", 0), quality.get("points", 0)
        if faults and points:
            self.models += 1
            self.faults, self.points = self.faults + faults, self.points + points
            self.found += round(quality["recall"] * faults)
            self.alarms += round(quality["fpr"] * points)

    def add(self, other: Group) -> None:
        for name in ("hits", "false", "misses", "rightly_quiet", "unjudged", "models", "faults", "found", "points", "alarms",
                     "incidents"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.counts.merge(other.counts)
        self.delays += other.delays

    def to_json(self) -> dict[str, Any]:
        return {"feedback": self._feedback(), "injected": self._injected(), "latency": self._latency()}

    def _feedback(self) -> dict[str, Any]:
        counts, reasons = self.counts, {}
        quiet = counts.judged - counts.flagged - counts.expected - counts.confirmed
        negatives = self.false + self.rightly_quiet + quiet
        figures = {"precision": rates.share(self.hits, self.hits + self.false),
                   "recall": rates.share(self.hits, self.hits + self.misses),
                   "f1": rates.f1(self.hits, self.false, self.misses),
                   "false_positive_rate": rates.share(self.false, negatives) if counts.judged else None}
        if not self.hits + self.false:
            reasons["precision"] = "Nobody has called a flagged point an anomaly or expected."
        if not self.hits + self.misses:
            reasons["recall"] = "Nobody has called a judged point an anomaly."
        if not self.hits + self.false + self.misses:
            reasons["f1"] = "Nobody has said anything that bears on it."
        if not counts.judged:
            reasons["false_positive_rate"] = "No judged points were counted: the daily check counts them."
        return figures | {"reasons": reasons, "said": {
            "anomaly_flagged": self.hits, "anomaly_not_flagged": self.misses, "expected_flagged": self.false,
            "expected_not_flagged": self.rightly_quiet, "not_judged": self.unjudged},
            "judged": counts.judged, "flagged_without_a_word": counts.flagged}

    def _injected(self) -> dict[str, Any]:
        precision, f1 = rates.at_prevalence(self.found, self.faults, self.alarms, self.points)
        reasons = {} if self.models else {"all": "No champion of these was back-tested with injected faults."}
        return {"precision": precision, "recall": rates.share(self.found, self.faults), "f1": f1,
                "false_positive_rate": rates.share(self.alarms, self.points), "models": self.models, "reasons": reasons}

    def _latency(self) -> dict[str, Any]:
        classes, delays = self.counts.latency, np.array(self.delays)
        return {"median_seconds": latency_seconds(classes, 0.5), "p95_seconds": latency_seconds(classes, 0.95),
                "points": classes.total(), "incidents": self.incidents, "incidents_found": len(delays),
                "points_to_first_alarm": {"median": float(np.median(delays)), "p95": float(np.quantile(delays, 0.95))}
                if len(delays) else None}


def report(params: Mapping[str, str], sources: Sources, now: datetime) -> dict[str, Any]:
    """GET /api/v1/metrics/quality: `detector`, `table_id`, `family`, `from`, `to`, `by`, `after`, `limit` up to 1,000.

    `next` is what to give as `after` for more, null at the end. Raises InvalidRequest, StorageUnavailable.
    """
    asked, limit = Asked.of(params, now), whole_number(params, "limit", PAGE, 1, 1000)
    groups = gather(asked, sources)
    total = Group()
    for group in groups.values():
        total.add(group)
    keys = [key for key in sorted(groups) if "/".join(key) > params.get("after", "")]
    shown = [asked.named(key) | groups[key].to_json() for key in keys[:limit]]
    return {"from": _stamp(asked.start), "to": _stamp(asked.end), "by": asked.by, "groups": shown, "total": total.to_json(),
            "next": "/".join(keys[limit - 1]) if len(keys) > limit else None}


def gather(asked: Asked, sources: Sources) -> dict[Key, Group]:
    """Every group that something is known of."""
    groups: dict[Key, Group] = {}
    spacing: dict[tuple[str, str, str | None], float] = {}
    for model in sources.monitoring.scan(asked.detector, asked.table_id, fields=monitoring.COUNTS):
        detector, table_id = model["detector"], model["table_id"]
        spacing[detector, table_id, model["column"]] = model["spacing_seconds"] or DAY
        months = _live(model, asked, sources) if asked.table_id else Months.from_json(model["counts"])
        for family, counts in months.between(month_of(asked.start), month_of(asked.end - timedelta.resolution)).each():
            if asked.family in (None, family):
                groups.setdefault(asked.key(detector, family, table_id), Group()).counts.merge(counts)
        family = model["algorithm"] or BASELINES[detector]
        if asked.family in (None, family) and model["injected"]:
            groups.setdefault(asked.key(detector, family, table_id), Group()).inject(model["injected"])
    for (detector, table_id, column), words in _heard(asked, sources.feedback):
        for said in words:
            groups.setdefault(asked.key(detector, _family(said), table_id), Group()).hear(said)
        for run in incidents(words, spacing.get((detector, table_id, column), DAY)):
            group = groups[asked.key(detector, _family(run[0]), table_id)]
            group.incidents += 1
            group.delays += [next(i for i, said in enumerate(run) if said.flagged)] if any(s.flagged for s in run) else []
    return groups


def incidents(words: Sequence[Said], spacing: float) -> list[list[Said]]:
    """Words about one series, by time -> runs of points called anomalies, `spacing` seconds from one to the next.

    Only those that were judged count: of others nobody can say when they were found.
    """
    runs: list[list[Said]] = []
    for said in words:
        if said.label != "anomaly" or said.flagged is None:
            continue
        if runs and (said.timestamp - runs[-1][-1].timestamp).total_seconds() <= APART * spacing:
            runs[-1].append(said)
        else:
            runs.append([said])
    return runs


def _heard(asked: Asked, feedback: Feedback) -> Iterator[tuple[tuple[str, str, str | None], list[Said]]]:
    """The words that fit, by series; those of one table are in memory at a time."""
    if asked.table_id is not None:
        detectors = [asked.detector] if asked.detector else sorted(BASELINES)
        words: Iterable[Said] = (said for detector in detectors for said in feedback.of(detector, asked.table_id))
    else:
        words = feedback.scan(asked.detector)
    fitting = (said for said in words if asked.start <= said.timestamp < asked.end
               and asked.family in (None, _family(said)))
    for (detector, table_id), some in groupby(fitting, key=lambda said: (said.detector, said.table_id)):
        columns: dict[str | None, list[Said]] = {}
        for said in some:
            columns.setdefault(said.column, []).append(said)
        for column, own in columns.items():
            yield (detector, table_id, column), sorted(own, key=lambda said: said.timestamp)


def _live(model: Figures, asked: Asked, sources: Sources) -> Months:
    """What was judged of one series, from its history."""
    seen = list(verdicts(sources.history, model["detector"], model["table_id"], model["column"], asked.start, asked.end))
    algorithms: dict[str | None, str] = {None: BASELINES[model["detector"]]}
    for version in {one.model for one in seen if one.judged and one.model is not None}:
        algorithms[version] = "unknown"
        try:
            algorithms[version] = sources.registry.manifest(model["name"], version).card.get("algorithm", "unknown")
        except (ModelNotFound, ModelUnavailable):
            continue
    return Months.of(seen, algorithms)


def _family(said: Said) -> str:
    return said.algorithm or (BASELINES[said.detector] if said.model is None else "unknown")


def _moment(params: Mapping[str, str], name: str) -> datetime | None:
    """A day or a moment; without a time zone it is UTC. A plus sign that came as a space is read as one."""
    text = params.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{name} must be a day such as 2026-11-01 or a moment in ISO 8601.", name) from None


def _month(moment: datetime) -> datetime:
    """When its month began."""
    return moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
