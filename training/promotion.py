"""Champion and challenger: which model of a table answers from now on, decided by figures and told in a sentence.

    Reigning     the champion, its file loaded as a worker would load it
    decide       gates, labels, then figures beyond noise -> Decision; touches no storage
    carry_out    publishes the challenger, and moves the pointer where it is promoted

Both are judged on the same held-out points. What the champion's file has learnt it would be flattered by: there its family,
trained anew and back-tested, stands in for it. `trainer` is the module training.{kind}_anomaly: FAMILIES, compare, choose,
quality, judged_by, and where it has them question, unfit and remark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from detectors.artefact import Artefact
from shared.errors import InvalidRequest, ModelUnavailable
from shared.registry import Manifest, Registry
from training import evaluation, gates
from training.candidates import Candidate, algorithm_of
from training.evaluation import LEAD, Difference, Scores
from training.gates import Measure

type Outcome = Literal["first", "better", "refreshed", "forced", "worse", "equal", "overfitted", "slow", "too_large",
                       "parity", "labels", "never", "untrainable"]

PROMOTED = ("first", "better", "refreshed", "forced")
LAST = 3  # one in so many of the held-out points, the latest, confirms what the others chose


@dataclass(frozen=True, slots=True)
class Reigning:
    """The champion of `name`. Its file, or None and the `reason` why no worker could use it."""

    name: str
    version: str
    sha256: str
    algorithm: str | None
    artefact: Artefact | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a challenger and why. Of `best`, the challenger, only its figures go into the record.

    `challenger` and `champion` hold the figures of both, `interval` those of the difference, `gates` what was measured.
    """

    outcome: Outcome
    reason: str
    best: Candidate | None = None
    challenger: dict[str, Any] | None = None
    champion: dict[str, Any] | None = None
    interval: dict[str, Any] | None = None
    gates: dict[str, Any] = field(default_factory=dict)

    @property
    def promoted(self) -> bool:
        return self.outcome in PROMOTED

    def to_json(self) -> dict[str, Any]:
        return {"outcome": self.outcome, "promoted": self.promoted, "reason": self.reason, "challenger": self.challenger,
                "champion": self.champion, "interval": self.interval, "gates": self.gates}


@dataclass(frozen=True, slots=True)
class _Against:
    """The champion as challengers meet it: its scores and figures, and why it can no longer stay, None where it can."""

    scores: Scores
    figures: dict[str, Any]
    leaving: str | None


def reigning(name: str, registry: Registry) -> Reigning | None:
    """The champion as it is now, None where there is none. Raises StorageUnavailable, CorruptArtefact (of the pointer)."""
    champion = registry.champion(name)
    if champion is None:
        return None
    version, sha256 = champion.version, champion.current.sha256
    try:
        artefact = Artefact.load(registry.promoted(name, champion.current))
    except ModelUnavailable as error:
        return Reigning(name, version, sha256, algorithm_of(name, version, registry), reason=error.message)
    return Reigning(name, version, sha256, artefact.algorithm, artefact)


def decide(trainer: Any, prepared: Any, candidates: Sequence[Candidate], champion: Reigning | None, request: Any,
           measure: Measure = gates.p95_ms) -> Decision:
    """What becomes of the candidates of one table, by the rule of docs/training.md. Nothing is published here.

    With the same figures it decides the same. `request.algorithm` and `request.promote` are those of the training request.
    """
    compared = trainer.compare(candidates)
    try:
        challengers = _challengers(trainer, compared, champion, request.algorithm)
    except InvalidRequest as error:
        failed = [c.algorithm for c in candidates if not gates.is_right(c.figures.get("parity"))]
        return Decision("parity" if failed else "untrainable", error.message, gates={"parity": {"failed": failed}})
    against = _against(trainer, prepared, candidates, champion, measure) if champion else None
    asked = challengers[:1] if request.promote == "always" else challengers
    decisions = []
    for challenger in asked:
        decisions.append(_judged(trainer, prepared, challenger, against, measure))
        if decisions[-1].promoted:
            break
    first, last = decisions[0], decisions[-1]
    decided = _as_asked(last if last.promoted else first, request.promote)
    if hasattr(trainer, "remark"):
        decided = replace(decided, reason=f"{decided.reason} {trainer.remark(compared)}")
    return decided


def carry_out(decision: Decision, name: str, registry: Registry, champion: Reigning | None) -> Manifest:
    """Publishes the challenger as a new version, and promotes it where that was decided.

    Raises InvalidRequest where there is no challenger whose file is right, Conflict where another champion reigns by now,
    StorageUnavailable.
    """
    best = decision.best
    if best is None or best.payload is None or decision.outcome == "parity":
        raise InvalidRequest(decision.reason, "table_id")
    manifest = registry.publish(name, best.payload, best.card)
    if decision.promoted:
        registry.promote(name, manifest.version, reason=decision.reason, expected=champion.version if champion else None)
    return manifest


def conclude(trainer: Any, prepared: Any, candidates: Sequence[Candidate], name: str, request: Any,
             registry: Registry) -> dict[str, Any]:
    """Decides, publishes and promotes: the result of a training job. Raises as `carry_out`."""
    champion = reigning(name, registry)
    decision = decide(trainer, prepared, candidates, champion, request)
    manifest = carry_out(decision, name, registry, champion)
    before = champion and champion.version
    return {
        "model_name": name, "decision": "promoted" if decision.promoted else "kept", "outcome": decision.outcome,
        "reason": decision.reason, "champion": manifest.version if decision.promoted else before,
        "previous_champion": before,
        "challenger": {"version": manifest.version, **(decision.challenger or {})},
        "compared_with": decision.champion, "interval": decision.interval, "gates": decision.gates,
        "artifact": {"uri": f"{registry.container}/{name}/{manifest.version}/model.onnx", "sha256": manifest.sha256,
                     "bytes": manifest.size, "opset": 21},
        "candidates": [c.figures for c in trainer.compare(candidates)],
    }


def _challengers(trainer: Any, compared: Sequence[Candidate], champion: Reigning | None, algorithm: str) -> list[Candidate]:
    """Who stands against the champion, one after the other: the best by the earlier points, and who needs no choosing.

    The champion's own family and the baseline are tried as well, since the earlier points cannot know what changed on the
    later ones. Without a champion the baseline stands where the best does not hold what it promised. Raises InvalidRequest.
    """
    able = {c.algorithm: c for c in compared if c.scores is not None}
    earlier = [_on(trainer, c, slice(None, _cut(c.scores))) if c.scores is not None else c for c in compared]
    chosen = able[trainer.choose(earlier, algorithm).algorithm]
    if algorithm != "auto":
        return [chosen]
    baseline = able.get(trainer.FAMILIES[0])
    if champion is not None:
        names = dict.fromkeys((chosen.algorithm, champion.algorithm, trainer.FAMILIES[0]))
        return [able[name] for name in names if name in able]
    if baseline is not None and chosen is not baseline and _late(chosen.scores, baseline.scores).f1 <= 0:
        return [baseline]
    return [chosen]


def _against(trainer: Any, prepared: Any, candidates: Sequence[Candidate], champion: Reigning, measure: Measure) -> _Against:
    """The champion's file on the points that it has not learnt, its family's back-test on the others."""
    able = {c.algorithm: c.scores for c in candidates if c.scores is not None}
    silent = _silent(next(iter(able.values())))
    family = able.get(champion.algorithm or "", silent)
    leaving: str | None
    p95: float | None
    own, leaving, p95 = silent, f"cannot be used ({champion.reason})", None
    if champion.artefact is not None:
        own = trainer.judged_by(prepared, champion.artefact)
        leaving, p95 = gates.leaving(trainer, prepared, champion.artefact, measure)
    judged = np.isfinite(own.normal)
    scores = replace(own, normal=np.where(judged, own.normal, family.normal),
                     faulty=np.where(judged[:, None], own.faulty, family.faulty))
    scores = evaluation.excused(scores, evaluation.incidents(list(able.values())))
    figures = {"version": champion.version, "algorithm": champion.algorithm, "quality": trainer.quality(scores),
               "points_judged_by_its_file": int(judged.sum()), "p95_ms": p95}
    return _Against(scores, figures, leaving)


def _silent(scores: Scores) -> Scores:
    """The same points without a verdict."""
    return replace(scores, normal=np.full_like(scores.normal, np.nan), faulty=np.full_like(scores.faulty, np.nan))


def _judged(trainer: Any, prepared: Any, challenger: Candidate, against: _Against | None, measure: Measure) -> Decision:
    """One challenger by the rule."""
    own = {"algorithm": challenger.algorithm, "quality": challenger.figures["quality"]}
    failed, reason, measured = gates.passed(trainer, prepared, challenger, measure)
    decision = Decision(failed or "first", reason or f"The first model: {_told(own)}.", challenger, own,
                        against.figures if against else None, gates=measured)
    return decision if failed or against is None else _met(challenger, against, decision)


def _met(challenger: Candidate, against: _Against, decision: Decision) -> Decision:
    """A challenger whose file passed the gates, against the champion."""
    scores, champion, leaving = challenger.scores, against.scores, against.leaving
    assert scores is not None
    cut = _cut(scores)
    ahead, earlier = (evaluation.difference(*pair) for pair in ((scores, champion), (scores[:cut], champion[:cut])))
    last = _late(scores, champion)
    overfitted = earlier.f1_interval[0] > 0 and last.f1 <= 0
    missed, more = _labels(scores, champion)
    low, high = ahead.f1_interval
    alarms = ahead.fpr_interval[0] > 0
    differs = f"F1 differs by {low:+.3f} to {high:+.3f}"
    outcome: Outcome
    if overfitted and not leaving:
        outcome, why = "overfitted", (f"On the points that it was chosen by, its F1 is ahead by {earlier.f1:.3f}; on the "
                                      f"later ones it is not better ({last.f1:+.3f}).")
    elif missed:
        outcome, why = "labels", f"It misses {missed} of the confirmed anomalies that the champion finds."
    elif more > 0:
        outcome, why = "labels", f"Of the points that people expected, it flags {more} more."
    elif low > 0 and not alarms and not overfitted:
        outcome, why = "better", f"Better beyond noise: {differs}."
    elif leaving and (low > -LEAD or not _comparable(scores, champion)):
        outcome, why = "refreshed", f"The champion {leaving}, and the challenger is no worse: {differs}."
    elif alarms:
        outcome, why = "worse", f"Its false positive rate is higher beyond noise, by {ahead.fpr:.4f}."
    elif high < 0:
        outcome, why = "worse", f"Worse beyond noise: {differs}."
    else:
        outcome, why = "equal", f"Not better beyond noise: {differs}."
    measured = decision.gates | {
        "overfitting": {"holds": not overfitted, "earlier": _interval(earlier), "last": _interval(last)},
        "labels": {"holds": not missed and more <= 0, "anomalies_missed": missed, "expected_flagged_more": max(more, 0)}}
    both = f"{_told(decision.challenger)}; the champion, version {against.figures['version']}, {_told(decision.champion)}"
    return replace(decision, outcome=outcome, reason=f"{both}. {why}", interval=_interval(ahead), gates=measured)


def _as_asked(decision: Decision, promote: str) -> Decision:
    """The decision of the rule as the request would have it. Nobody may ask for a file that is not right."""
    by_the_rule = f"By the rule it is {decision.outcome}: {decision.reason}"
    if promote == "if_better" or decision.outcome == "parity":
        return decision
    if promote == "never":
        return replace(decision, outcome="never", reason=f"promote is never: published, not promoted. {by_the_rule}")
    return decision if decision.outcome == "first" else replace(
        decision, outcome="forced", reason=f"promote is always. {by_the_rule}")


def _labels(challenger: Scores, champion: Scores, threshold: float = 0.99) -> tuple[int, int]:
    """How many confirmed anomalies the champion alone finds; how many more expected points the challenger flags."""
    own, other = (np.nan_to_num(s.normal) >= threshold for s in (challenger, champion))
    confirmed, expected = challenger.said > 0, challenger.said < 0
    return int((confirmed & other & ~own).sum()), int((expected & own).sum()) - int((expected & other).sum())


def _cut(scores: Scores) -> int:
    """Where the last of the held-out points begin, which have no say in the choice."""
    return len(scores.normal) - len(scores.normal) // LAST


def _late(challenger: Scores | None, champion: Scores | None) -> Difference:
    assert challenger is not None and champion is not None
    cut = _cut(challenger)
    return evaluation.difference(challenger[cut:], champion[cut:])


def _on(trainer: Any, candidate: Candidate, rows: slice) -> Candidate:
    assert candidate.scores is not None
    scores = candidate.scores[rows]
    return replace(candidate, scores=scores, figures=candidate.figures | {"quality": trainer.quality(scores)})


def _comparable(challenger: Scores, champion: Scores) -> bool:
    return bool((np.isfinite(challenger.normal) & np.isfinite(champion.normal)).any())


def _interval(ahead: Difference) -> dict[str, Any]:
    """For the record: differences with their 90 % intervals."""
    return {name: {"difference": round(value, 4), "interval": [round(end, 4) for end in ends]} for name, value, ends in (
        ("f1", ahead.f1, ahead.f1_interval), ("fpr", ahead.fpr, ahead.fpr_interval))}


def _told(figures: dict[str, Any] | None) -> str:
    assert figures is not None
    quality = figures["quality"]
    return (f"{figures['algorithm']} has F1 {quality['f1']} and false positive rate {quality['fpr']} on {quality['points']} "
            "held-out points")
