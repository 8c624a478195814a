"""How a pattern verdict, and the formats in it, are told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from difflib import SequenceMatcher
from itertools import groupby

from detectors import shapes, slips, tally
from detectors.decision import confidence_of, severity_of
from detectors.formats import FEWEST, NEW, RUNS, SEQUENCE
from detectors.pattern_column import SHAPE, Column
from detectors.pattern_judge import ANY, Finding, Group, Report, alarms, score_of
from detectors.tally import Tally
from shared.contract import Deviation, HistoryUse, ModelUse
from shared.contract_pattern import KnownPattern, LostPattern, NewPattern, PatternAnswer, PatternRequest

BASELINE = ModelUse(name=None, version="1", algorithm="formats")
MOST_PATTERNS, MOST_EXAMPLES = 20, 3
MOST_EXPLAINED = 10  # of the patterns that are told, so many are compared with all known formats
_LENGTHS = ("", "", "{2}", "{3}", "{4}", "{5-8}", "{9-16}", "{17+}")
_CLASSES = "Aaä9²"
MOST_DIFFERENCES = 3
LONGEST, DETAILED = 100, 40  # characters of a mask that are told, and that are compared one by one
_CHANGES = {
    slips.PADDING: "white space at an end",
    slips.PLACEHOLDER: "a placeholder and no value",
    slips.EMPTY: "nothing",
    slips.DOUBLED: "the same text twice",
    slips.CONTROL: "a control character or one that cannot be read",
    slips.CASE: "letters of another case",
    slips.FOREIGN: "a character of another alphabet or encoding",
    slips.LETTER: "a letter where a digit belongs",
    slips.CUT: "the end is missing",
}


def answered(request: PatternRequest, batch: Tally, column: Column, report: Report, threshold: float,
             moment: datetime | None) -> PatternAnswer:
    """The verdict in all its parts. A free-form column is not evaluated, unless what is unusual is so in any column."""
    rows = report.rows
    raised = [finding for finding in report.findings if alarms(finding, request, threshold, rows)]
    first = raised[0] if raised else next(iter(report.findings), None)
    answer = _bare(request, batch, moment)
    answer.history = HistoryUse(points=column.batches, used=column.batches, excluded=0, missing=0)
    answer.is_anomaly = bool(raised)
    answer.unusual_count = report.unusual
    answer.new_patterns = _new(report, column, answer.timestamp)
    gone = (finding for finding in report.findings if finding.is_lost and finding.score >= threshold)
    answer.lost_patterns = [_lost(finding, column) for finding in gone]
    answer.known_patterns = [_known(key, report, column) for key in _common(column)]
    answer.reconstruction_error = None if report.error is None else round(report.error, 6)
    answer.level = None if column.formats.level is None else shapes.LEVELS[column.formats.level]
    if column.formats.free_form and not raised:
        answer.status = "not_evaluated"
        answer.reason = ("The column is free-form: no format can be told from its values. White space at the ends, copies, "
                         "placeholders and control characters are looked for all the same.")
        answer.message = f"{rows:,} values. {answer.reason}"
        return answer
    answer.status = "evaluated"
    score = first.score if first else 0.0
    if first and not raised:
        score = min(score, math.nextafter(threshold, 0))
    answer.severity = severity_of(score, answer.is_anomaly)  # type: ignore[assignment]
    answer.confidence = confidence_of(score, answer.is_anomaly)
    share, usual, low, high = _in_shares(first, rows, answer.is_anomaly)
    if first is not None and (answer.is_anomaly or not first.is_lost):
        answer.finding = _name(first, column)
    answer.value, answer.expected_value, answer.expected_range = share, usual, (low, high)
    answer.deviation = Deviation(absolute=round(share - usual, 6), percent=None, score=math.floor(score * 1e6) / 1e6,
                                 threshold=round(threshold, 6))
    answer.message = _message(answer, raised, column, high)
    return answer


def silent(request: PatternRequest, batch: Tally, column: Column | None, seen: int,
           moment: datetime | None) -> PatternAnswer:
    """No verdict: nothing came, or too little is known."""
    answer = _bare(request, batch, moment)
    if not batch.rows:
        reason = "No value came, only nulls." if batch.missing else "No value came."
        answer.status = "not_evaluated"
    else:
        reason = f"{seen:,} of {FEWEST} values known: verdicts begin after that."
        answer.status = "learning"
    answer.reason = answer.message = reason
    points = column.batches if column else 0
    answer.history = HistoryUse(points=points, used=points, excluded=0, missing=0)
    return answer


def _bare(request: PatternRequest, batch: Tally, moment: datetime | None) -> PatternAnswer:
    return PatternAnswer(
        is_anomaly=False, severity="none", confidence=0.0, expected_range=(0.0, 1.0), message="", status="learning",
        table_id=request.table_id, request_id=request.request_id, column=request.column,
        timestamp=moment.isoformat().replace("+00:00", "Z") if moment else None, rows=batch.rows, missing=batch.missing,
        history=HistoryUse(points=0, used=0, excluded=0, missing=0), model=BASELINE)


def _in_shares(finding: Finding | None, rows: int, anomaly: bool) -> tuple[float, float, float, float]:
    """-> share of the batch, the usual share, and the range that the share is outside of exactly when it is an anomaly."""
    if finding is None:
        return 0.0, 0.0, 0.0, 1.0
    least, most = finding.least, finding.most
    if anomaly:
        least = max(least, finding.count + 1) if finding.is_lost else least
        most = min(most, finding.count - 1) if not finding.is_lost else most
    else:
        least, most = min(least, finding.count), max(most, finding.count)
    return tuple(round(x, 6) for x in (finding.count / rows, finding.usual.share, least / rows, most / rows))  # type: ignore[return-value]


def _message(answer: PatternAnswer, raised: Sequence[Finding], column: Column, high: float | None) -> str:
    if not raised:
        return _normal_told(answer.rows, answer.missing, len(column.formats.core), answer.unusual_count)
    first, parts = raised[0], []
    if not first.is_lost:
        parts.append(_unusual_told(first.count, answer.rows, first.name, first.usual.share, high or 0.0))
        told = next((p for p in answer.new_patterns if first.name in (ANY, p.kind)), None)
        if told:
            parts.append(f"Such as {told.pattern}: {told.change}.")
    parts += [_lost_told(_rendered(finding.name, column), finding.usual.share, answer.rows)
              for finding in raised if finding.is_lost]
    return " ".join(parts[:4])


def _name(finding: Finding, column: Column) -> str:
    return f"lost {_rendered(finding.name, column)}" if finding.is_lost else finding.name


def _new(report: Report, column: Column, stamp: str | None) -> list[NewPattern]:
    known = column.formats.examples
    level, groups = column.formats.key_level, report.groups[:MOST_PATTERNS]
    between = slips.separators(known.values())
    first_masks = [tally.plain(group.shapes[0]) for group in groups[:MOST_EXPLAINED]]
    explained = slips.explain(first_masks, level, dict(column.formats.core), between) if column.formats.core else []
    told = []
    for i, group in enumerate(groups):
        mask = tally.plain(group.shapes[0])
        slip, was = explained[i] if i < len(explained) else ("", "")
        if group.kind in slips.UNIVERSAL and group.key in column.formats.core:
            slip, was = group.kind, group.key
        if not was and mask and i < MOST_EXPLAINED:
            was = _nearest(mask, column)
        seen = column.first_seen.get(group.kind if group.kind in slips.UNIVERSAL else group.key)
        told.append(NewPattern(
            pattern=_pattern(group, column), kind=group.kind, count=group.count, share=round(group.count / report.rows, 6),
            score=math.floor(score_of(group.nats) * 1e6) / 1e6, first_seen=seen or stamp,
            nearest_known=_rendered(was, column) if was else None,
            change=_change(group.kind, slip, mask, known.get(was, "")),
            examples_masked=[_shown(shape) for shape in group.shapes[:MOST_EXAMPLES]]))
    return told


def _nearest(mask: str, column: Column) -> str:
    """The known format that is most like a mask, "" where none is known."""
    matcher = SequenceMatcher(None, "", _parts(mask), autojunk=False)
    best, nearest = 0.0, ""
    for key, example in column.formats.examples.items():
        matcher.set_seq1(_parts(example))
        if matcher.real_quick_ratio() > best and matcher.quick_ratio() > best and (ratio := matcher.ratio()) > best:
            best, nearest = ratio, key
    return nearest


def _pattern(group: Group, column: Column) -> str:
    """The format, with the white space that it came with."""
    shape = group.shapes[0]
    if shape.startswith("<"):
        return shape
    if group.kind in (SEQUENCE, SHAPE, NEW) and column.formats.key_level > RUNS:
        return _shortened(_format_told(shapes.formats([shape.strip()], RUNS)[0], RUNS))
    text = _rendered(group.key, column)
    return " " * (shape[:1].isspace()) + text + " " * (shape[-1:].isspace())


def _shown(shape: str) -> str:
    return _shortened(2 * shape.removeprefix(tally.DOUBLED) if shape.startswith(tally.DOUBLED) else shape)


def _common(column: Column) -> list[str]:
    return sorted(column.formats.core, key=lambda key: -column.formats.core[key])[:MOST_PATTERNS]


def _known(key: str, report: Report, column: Column) -> KnownPattern:
    count = report.counts.get(key, 0)
    return KnownPattern(pattern=_rendered(key, column), example_masked=column.formats.examples.get(key, ""), count=count,
                        share=round(count / report.rows, 6), expected_share=round(column.shares[key].share, 6))


def _lost(finding: Finding, column: Column) -> LostPattern:
    return LostPattern(pattern=_rendered(finding.name, column), example_masked=column.formats.examples.get(finding.name, ""),
                       count=0, share=0.0, expected_share=round(finding.usual.share, 6),
                       score=math.floor(finding.score * 1e6) / 1e6)


def _rendered(key: str, column: Column) -> str:
    return _shortened(_format_told(key, column.formats.key_level))


def _format_told(format_: str, level: int) -> str:
    """A format for people: A99, or A9{2}, or A+9+, ... by its level of detectors.shapes."""
    if format_ in (tally.EMPTY, tally.PLACEHOLDER):
        return format_
    if level == 1:
        parts = (_LENGTHS[int(c)] if before in _CLASSES and c in "1234567" else c
                 for before, c in zip("\n" + format_, format_, strict=False))
        return "".join(parts)
    if level == RUNS:
        return "".join(f"{c}+" if c in _CLASSES else c for c in format_)
    if level in (4, 5):
        return format_.replace("w", "a+").replace("9", "9+")
    return "{" + format_ + "}" if level == 6 else format_


def _change(kind: str, slip: str, mask: str, nearest: str) -> str:
    """What sets a mask apart from the nearest known one, "" for none: in words where the slip is known, else as edits."""
    if text := _CHANGES.get(kind) or _CHANGES.get(slip):
        return text
    if not nearest:
        return "no known format is like it"
    if edits := _differences(nearest, mask):
        return ", ".join(edits)
    return "an unusual sequence of known parts" if kind in (SEQUENCE, SHAPE) else "another format"


def _differences(known: str, mask: str) -> list[str]:
    """How to make the mask from the known one; nothing where that takes more than a few steps."""
    before, after = _parts(known), _parts(mask)
    told: list[str] = []
    for kind, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        old, new = "".join(before[a:b]), "".join(after[c:d])
        if kind == "replace":
            told.append(f"'{new}' instead of '{old}'")
        elif kind == "delete":
            told.append(f"without '{old}'")
        elif kind == "insert":
            told.append(f"'{new}' added")
    distinct = list(dict.fromkeys(told))
    return distinct if len(distinct) <= MOST_DIFFERENCES else []


def _shortened(text: str) -> str:
    """At most LONGEST characters, cut in the middle."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST - 30]}…{text[-29:]}"


def _percent(share: float) -> str:
    """0.123 -> 12.3%; what is there is never told as 0%."""
    if 0 < share < 0.0005:
        return "under 0.1%"
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def _unusual_told(count: int, rows: int, kind: str, usual: float, upper: float) -> str:
    """`12 of 1,000 values (1.2%) are unusual: padding. At most 0.3% are as a rule.`"""
    be = "is" if count == 1 else "are"
    kinds = "" if kind == "unusual" else f" ({kind})"
    rule = "none" if not upper and usual < 0.001 else f"up to {_percent(upper)}" if upper else _percent(usual)
    return f"{count:,} of {rows:,} values ({_percent(count / rows)}) {be} unusual{kinds}; {rule} is usual."


def _lost_told(pattern: str, share: float, rows: int) -> str:
    return f"No value has the format {pattern} any more, which {_percent(share)} had; {rows:,} values came."


def _normal_told(rows: int, missing: int, formats: int, count: int) -> str:
    nulls = f" and {missing:,} nulls" if missing else ""
    rare = f", {count:,} of them unusual, which is usual here" if count else ""
    return f"{rows:,} values{nulls}{rare}: {formats} known format{'' if formats == 1 else 's'}, nothing new, nothing lost."


def _parts(mask: str) -> list[str]:
    """Characters; of a long mask its runs, which are fewer."""
    return list(mask) if len(mask) <= DETAILED else ["".join(run) for _, run in groupby(mask)]
