"""The answer to a request about one batch, from what was made of its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Literal

import numpy as np

from detectors import distribution_words as words
from detectors.conditional import FEWEST_BATCHES, Judged
from detectors.decision import confidence_of, severity_of
from detectors.distribution_history import Known
from detectors.distribution_verdict import METHOD, Verdict, changed, shared_out, verdict
from detectors.metrics import FloatArray
from detectors.profiles import FEWEST_VALUES, Batch, ById, Layout, columns_of
from detectors.schema import Finding
from detectors.tails import Tail
from shared.contract import HistoryUse, ModelUse
from shared.contract_distribution import ColumnVerdict, Distance, DistributionAnswer, DistributionRequest


@dataclass(frozen=True, slots=True)
class Answering:
    """A request with all that is the same for every answer to it."""

    request: DistributionRequest
    batch: Batch
    moment: datetime | None
    known: Known
    findings: Sequence[Finding]
    threshold: float

    def judged(self, features: tuple[tuple[str, str], ...], raw: FloatArray, judged: Judged, tail: Tail,
               distance: Mapping[str, tuple[float, float]], model: ModelUse, used: int) -> DistributionAnswer:
        """The verdict on (p,) metrics, and what the schema adds to it; `distance` is (psi, js) by column."""
        said = verdict(features, raw, judged, tail, self.findings, self.request, self.threshold)
        told = {finding.column for finding in self.findings}
        columns = [c for c in said.columns if c.column not in told and (c.is_anomaly or c.column not in self.batch.few)]
        columns += [changed(f, self.threshold) for f in self.findings]
        if self.findings:
            shared_out(columns, tail)
        columns += self._unjudged({c.column for c in columns}, columns_of(ById(features)))
        answer = self._answer("evaluated", self._message(said, features, raw, judged), model, used)
        answer.is_anomaly, answer.confidence = said.is_anomaly, confidence_of(said.score, said.is_anomaly)
        answer.severity = severity_of(said.score, said.is_anomaly)  # type: ignore[assignment]
        answer.table_score, answer.threshold = float(f"{said.score:.9f}"), round(self.threshold, 6)
        answer.columns, answer.tests_performed, answer.multiple_testing = columns, said.tests, METHOD
        answer.distance = self._distances(distance)
        self._point_at_worst(answer, features, said)
        return answer

    def silent(self, status: Literal["learning", "not_evaluated"], reason: str, model: ModelUse) -> DistributionAnswer:
        """No verdict, and why: never an anomaly, never certain."""
        answer = self._answer(status, f"{self.batch.rows:,.0f} rows. {reason}", model, len(self.known.usual))
        answer.reason = reason
        return answer

    def _answer(self, status: Literal["evaluated", "learning", "not_evaluated"], message: str, model: ModelUse,
                used: int) -> DistributionAnswer:
        points = self.known.points
        return DistributionAnswer(
            is_anomaly=False, severity="none", confidence=0.0, expected_range=(None, None), message=message, status=status,
            table_id=self.request.table_id, request_id=self.request.request_id,
            timestamp=self.moment.isoformat().replace("+00:00", "Z") if self.moment else None,
            history=HistoryUse(points=points, used=min(used, points), excluded=points - len(self.known.usual), missing=0),
            model=model, columns=[], distance={})

    def _point_at_worst(self, answer: DistributionAnswer, features: tuple[tuple[str, str], ...], said: Verdict) -> None:
        """Column, metric and range of the answer itself: what the message is about."""
        finding = self._worst_finding(said)
        if finding is not None:
            answer.column, answer.metric = finding.column, finding.change
        elif said.place is not None:
            name, metric = features[said.place]
            worst = next((c for c in answer.columns if (c.column or "") == name), None)
            answer.column, answer.metric = name or None, metric
            if worst is not None and worst.metric == metric:
                answer.value, answer.expected_value = worst.value, worst.expected_value
                answer.expected_range = worst.expected_range

    def _worst_finding(self, said: Verdict) -> Finding | None:
        """The change that is more surprising than any metric."""
        top = max(self.findings, key=lambda f: f.score, default=None)
        return top if top is not None and top.score >= max(said.score, self.threshold) else None

    def _message(self, said: Verdict, features: tuple[tuple[str, str], ...], raw: FloatArray, judged: Judged) -> str:
        odd = [f for f in self.findings if f.score >= self.threshold]
        text = words.of_changes(odd) if odd else ""
        columns = len(columns_of(ById(features)))
        j = said.place
        if said.is_anomaly and j is not None and not self._worst_finding(said):
            numbers = (float(a) for a in (raw[j], judged.expected[0, j], judged.lower[0, j], judged.upper[0, j]))
            # A model of all metrics at once may find odd what no metric alone is.
            text = f"{'' if said.borne_out else words.TOGETHER}{words.of_metric(*features[j], *numbers)} {text}".strip()
            text += words.of_rest(sum(c.is_anomaly and c.column is not None for c in said.columns), columns)
        return text or f"{self.batch.rows:,.0f} rows in {columns} columns. As expected."

    def _unjudged(self, judged: set[str | None], fitted: frozenset[str]) -> list[ColumnVerdict]:
        """The batch's columns that have no verdict, with the reason."""
        silent = []
        for column in [name for name, _ in self.batch.layout.columns if name not in judged]:
            if column in self.batch.few:
                reason = f"{self.batch.few[column]} values; at least {FEWEST_VALUES} are needed."
                silent.append(ColumnVerdict(column=column, status="not_evaluated", reason=reason))
            elif column in fitted:
                reason = "None of the metrics that it usually has was measured."
                silent.append(ColumnVerdict(column=column, status="not_evaluated", reason=reason))
            else:
                reason = f"Known in fewer than {FEWEST_BATCHES} profiles."
                silent.append(ColumnVerdict(column=column, status="learning", reason=reason))
        return silent

    def _distances(self, distance: Mapping[str, tuple[float, float]]) -> dict[str, Distance]:
        rows, values = self.batch.rows, self.batch.values.tolist()
        nulls = {column: values[place] for column, place in _null_rates(self.batch.layout).items()}
        shown = np.round(np.array([*distance.values()]).reshape(-1, 2), 4).tolist()
        return {column: Distance(psi, js, round(rows * (1 - nulls.get(column, 0.0))))
                for column, (psi, js) in zip(distance, shown, strict=True)}


@lru_cache(64)
def _null_rates(layout: Layout) -> dict[str, int]:
    """Where the share of nulls of every column stands."""
    return {column: place for place, (column, metric) in enumerate(layout.features) if metric == "null_rate"}
