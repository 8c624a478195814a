"""From a column that is known and a batch of its values to what is unusual in the batch."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from detectors import formats, shapes, tally
from detectors.artefact import Artefact
from detectors.formats import CORE_ROWS, NEW, SEQUENCE, Seen
from detectors.pattern_column import SHAPE, Column, Usual, kinds_of
from detectors.tally import Tally
from shared.contract_pattern import PatternRequest

ANY = "unusual"  # in whatever way: many kinds of damage, a few values each


@dataclass(frozen=True, slots=True)
class Group:
    """Unusual values of one kind and format: how many, how surprising one is (nats), and their shapes, commonest first."""

    kind: str
    key: str
    count: int
    nats: float
    shapes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """`count` values of the batch are unusual in the way `name`, or have the format `name` that was lost.

    Counts of at least `least` and at most `most` are usual.
    """

    name: str
    is_lost: bool
    count: int
    usual: Usual
    score: float
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Report:
    """All that is found in a batch of `rows` values; findings by falling score."""

    rows: int
    findings: tuple[Finding, ...] = ()
    groups: tuple[Group, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)  # by known format
    error: float | None = None

    @property
    def unusual(self) -> int:
        """Values that are unusual in one way or another."""
        return sum(group.count for group in self.groups)


def report(batch: Tally, column: Column, artefact: Artefact | None, threshold: float) -> Report:
    """Every shape is judged once, by the model where there is one; then the numbers of unusual and of usual ones are."""
    some = list(batch.counts)
    seen = column.formats.look(some)
    if artefact is None:
        return report_of(batch, column, seen, formats.judge(np, seen.x, column.formats.rules), threshold)
    out = run(artefact, seen, some)
    found = report_of(batch, column, seen, out["contribution"], threshold)
    if "error" not in out:
        return found
    weights = np.fromiter(batch.counts.values(), np.float64, len(some))
    return replace(found, error=float(np.average(out["error"], weights=weights)))


def run(artefact: Artefact, seen: Seen, some: Sequence[str]) -> dict[str, Any]:
    """What a model's file says of shapes, of which it knows what they show: `contribution` (n, f) nats and all else."""
    wide = len(artefact.card["features"]) > len(formats.FEATURES)
    return artefact.run({"x": with_shape(seen.x, some) if wide else seen.x})


def report_of(batch: Tally, column: Column, seen: Seen, nats: formats.FloatArray, threshold: float) -> Report:
    """From the nats (n, f) of the batch's shapes, whoever told them."""
    kinds = kinds_of(nats, seen.damage)
    groups, counts = _grouped(batch, seen.keys, kinds, nats.max(axis=1, initial=0.0))
    found = _unusual(groups, column, batch.rows, threshold) + _lost(counts, column, batch.rows, threshold)
    ranked = sorted(found, key=lambda finding: (-finding.score, finding.name == ANY, -finding.count))
    return Report(batch.rows, tuple(ranked), groups, counts)


def with_shape(x: formats.FloatArray, some: Sequence[str]) -> formats.FloatArray:
    """(n, 3) features of detectors.formats -> (n, 3 + f) the same with those of the shapes themselves."""
    return np.concatenate([x, shapes.features([tally.plain(shape) for shape in some])], axis=1)


def alarms(finding: Finding, request: PatternRequest, threshold: float, rows: int) -> bool:
    """Is the finding unusual enough, and one that the user wants to hear of?"""
    policy, share = request.new_pattern_policy, finding.count / rows
    if finding.is_lost:
        wanted, held = request.direction != "spike", finding.usual.share
    else:
        natural = finding.name in (NEW, SEQUENCE, SHAPE, ANY)
        wanted = request.direction != "drop" and policy != "ignore" and not (policy == "learn" and natural)
        held = share
    change = abs(share - finding.usual.share)
    least = request.min_change
    return (finding.score >= threshold and wanted and held >= request.min_share
            and 100 * change >= least.percent and rows * change >= least.absolute)


def _grouped(batch: Tally, keys: list[str], kinds: list[str],
             nats: formats.FloatArray) -> tuple[tuple[Group, ...], dict[str, int]]:
    """-> the unusual values by kind and format, most of them first; how many have each format otherwise."""
    members: dict[tuple[str, str], list[tuple[int, str, float]]] = defaultdict(list)
    known: dict[str, int] = {}
    for key, kind, count in zip(keys, kinds, batch.counts.values(), strict=True):
        if not kind:
            known[key] = known.get(key, 0) + count
    for i, (shape, count) in enumerate(batch.counts.items()):
        if kinds[i]:
            members[kinds[i], keys[i]].append((count, shape, float(nats[i])))
    groups = []
    for (kind, key), some in members.items():
        some.sort(reverse=True)
        groups.append(Group(kind, key, sum(count for count, *_ in some), max(s for *_, s in some),
                            tuple(shape for _, shape, _ in some)))
    return tuple(sorted(groups, key=lambda group: (-group.count, -group.nats, group.key))), known


def _unusual(groups: tuple[Group, ...], column: Column, rows: int, threshold: float) -> list[Finding]:
    by_kind: Counter[str] = Counter()
    for group in groups:
        by_kind[group.kind] += group.count
    cases = [(kind, count, column.usually(kind)) for kind, count in by_kind.items()]
    if len(cases) > 1:
        every = [usual for *_, usual in cases]
        cases.append((ANY, by_kind.total(), Usual(
            sum(usual.count for usual in every), column.rows, min(usual.concentration for usual in every),
            all(usual.never for usual in every))))
    return [Finding(kind, False, count, usual, usual.score(count, rows) if count > rows * usual.share else 0.0,
                    0, usual.most(rows, threshold)) for kind, count, usual in cases]


def _lost(counts: Mapping[str, int], column: Column, rows: int, threshold: float) -> list[Finding]:
    """Core formats that did not come, of those that so many rows should have. All of these may be lost: each has its part
    of the threshold."""
    due = {key: usual for key, usual in column.shares.items() if rows * usual.share >= CORE_ROWS}
    part = 1.0 - (1.0 - threshold) / max(len(due), 1)
    return [Finding(key, True, 0, usual, max(1.0 - len(due) * (1.0 - usual.score(0, rows)), 0.0),
                    usual.least(rows, part), rows)
            for key, usual in due.items() if not counts.get(key)]


def score_of(nats: float) -> float:
    return 1.0 - math.exp(-nats)
