"""The stored points that people speak of: where they are, why they were flagged, and which others were like them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from detectors import calendar
from detectors.context import utc
from detectors.directory import DETECTORS
from detectors.pattern_history import series_name
from detectors.reasons import reasons
from shared.catalogue import Catalogue
from shared.contract import DetectOptions
from shared.contract_feedback import Bound
from shared.documents import Documents
from shared.errors import NotFound, ServiceError
from shared.history import ANOMALY, EXCLUDED, EXPECTED, OK, REPAIRED, Series
from shared.verdicts import DOCUMENTS, verdicts

# As far as a point is looked for, where there is none at the time that was given.
AROUND: Final = timedelta(days=400)
# A point is held against as many seasons before and after it, each bucket with the same of other weeks.
NEIGHBOURS: Final = 5
_SEASONS: Final = {"hourly": 24 * 7, "daily": 7, "weekly": 1, "monthly": 1}

type FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spoken:
    """One stored point with its verdict, or a person's word in its place.

    `about` is the time that its verdict is about: of an arrival when it was due. `value` is None of a document.
    """

    timestamp: datetime
    about: datetime
    status: str
    judged: bool
    value: float | None = None
    score: float | None = None
    model: str | None = None
    observed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SpokenOf:
    """The points of one table (and column) as one detector judges them; `request` has the table's settings, but no rules.

    Raises StorageUnavailable, InvalidRequest.
    """

    detector: str
    table_id: str
    column: str | None
    request: DetectOptions
    catalogue: Catalogue

    @property
    def zone(self) -> str:
        """The table's time zone: as it is set, else its model's."""
        return self.request.timezone or str(self._card().get("timezone") or "UTC")

    @property
    def granularity(self) -> str:
        """As it is set, else the model's; feeds are spoken of by day."""
        if self.detector == "timeliness":
            return "daily"
        known = self._card().get("granularity") if "granularity" not in self.request.model_fields_set else None
        return str(known or self.request.granularity)

    @property
    def name(self) -> str:
        """What the series is called in the history."""
        return series_name(self.column) if self.column is not None else self.detector

    def find(self, given: datetime) -> Spoken:
        """The point at this time, else the one that counts in its bucket. Raises NotFound, telling the nearest there are."""
        moment = utc(given, ZoneInfo(self.zone))
        bucket = self._bucket(moment)
        start, end = (datetime.fromtimestamp(calendar.bucket_start(bucket + n, self.zone, self.granularity), UTC)
                      for n in (0, 1))
        known = self.between(start, end)
        if self.detector == "timeliness":  # what was due on a day may come on another
            near = self.between(start - timedelta(days=7), end + timedelta(days=7))
            known = sorted((one for one in near if self._bucket(one.about) == bucket or one in known),
                           key=lambda one: min(abs(one.timestamp - moment), abs(one.about - moment)), reverse=True)
        exact = [one for one in known if one.timestamp == moment]
        if exact or known:
            return (exact or known)[-1]
        raise NotFound(self._nearest(moment), "timestamp")

    def between(self, start: datetime, end: datetime | None) -> list[Spoken]:
        """The points from `start` on and before `end`, oldest first."""
        lag = timedelta(minutes=1) if self.detector == "timeliness" else timedelta()
        return [Spoken(one.timestamp, one.timestamp - lag * (one.value or 0.0), one.status,
                       one.judged or one.status == "anomaly", one.value, one.score, one.model, one.observed_at)
                for one in verdicts(self.catalogue.history, self.detector, self.table_id, self.column, start, end)]

    def mark(self, moments: Sequence[datetime], status: str) -> None:
        """Sets the status of points that are there; the next verdict of this worker knows of it."""
        for moment in moments if self.detector in DOCUMENTS else ():
            Documents(self.catalogue.history).set_status(self.name, self.table_id, moment, status)
        if moments and self.detector not in DOCUMENTS:
            self.catalogue.history.mark(self.detector, self.table_id, moments, status)
        DETECTORS[self.detector].forget(self.table_id, self.column, self.catalogue)

    def reasons(self, point: Spoken, now: datetime) -> list[Bound]:
        """How far the point was from what was expected of it, and in what; nothing where that cannot be told."""
        if self.detector in DOCUMENTS:
            after = point.timestamp + timedelta(microseconds=1)
            found = Documents(self.catalogue.history).read(self.name, self.table_id, point.timestamp, after)
            return [Bound.model_validate(reason) for _, document, _ in found for reason in document.get("reasons") or ()]
        again: dict[str, Any] = {"timestamp": point.timestamp, "current_row_count": point.value, "record": False}
        if self.detector == "timeliness":
            again = {"as_of": point.timestamp, "last_arrival": point.timestamp, "record": False}
        return reasons(DETECTORS[self.detector].detect(self.request.model_copy(update=again), self.catalogue, now))

    def others(self, point: Spoken) -> list[tuple[datetime, bool]]:
        """The other points, each with whether it was unlike itself in the same way.

        A number was, where it lies to the same side of its usual value and at least half as far; of documents those that
        were flagged. What was excluded or repaired tells nothing.
        """
        if self.detector in DOCUMENTS:
            documents = Documents(self.catalogue.history)
            known = documents.statuses(self.name, self.table_id, point.timestamp - AROUND, point.timestamp + AROUND)
            return [(at, status != "ok") for at, status in known
                    if at != point.timestamp and status not in ("excluded", "repaired")]
        series = self.around(point)
        place = np.flatnonzero(series.seconds == int(point.timestamp.timestamp()))
        if not len(place):
            return []
        unlike, at = self._residuals(series), int(place[0])
        if not abs(unlike[at]) > 1e-9:
            return []
        alike = unlike * np.sign(unlike[at]) >= abs(unlike[at]) / 2
        told = np.isfinite(unlike) & ~np.isin(series.status, (EXCLUDED, REPAIRED))
        told[at] = False
        about = series.seconds - np.rint(60 * series.values).astype(np.int64) * (self.detector == "timeliness")
        return [(datetime.fromtimestamp(second, UTC), is_alike)
                for second, is_alike in zip(about[told].tolist(), alike[told].tolist(), strict=True)]

    def around(self, point: Spoken) -> Series:
        """The counts or lags of more than a year before and after it, as storage has them now."""
        start, end = point.timestamp - AROUND, point.timestamp + AROUND
        return self.catalogue.history.read(self.detector, self.table_id, start, end)

    def _residuals(self, series: Series) -> FloatArray:
        """(m,) how far every point is from the median of its neighbours: minutes of arrivals, else in logarithms."""
        normal = np.isin(series.status, (OK, EXPECTED, ANOMALY))
        if self.detector == "timeliness":
            at, season, x = np.arange(len(series.seconds)), 1, series.values
        else:
            at = calendar.buckets(series.seconds, self.zone, self.granularity)
            at, season, x = at - at.min(), _SEASONS[self.granularity], np.log1p(np.maximum(series.values, 0.0))
        edge = NEIGHBOURS * season
        dense = np.full(int(at.max()) + 1 + 2 * edge, np.nan)
        dense[at[normal] + edge] = x[normal]
        near = np.stack([dense[at + edge + n * season] for n in range(-NEIGHBOURS, NEIGHBOURS + 1) if n])
        usual, known = np.full(len(x), np.nan), np.isfinite(near).any(axis=0)
        usual[known] = np.nanmedian(near[:, known], axis=0)
        return np.asarray(x - usual)

    def _bucket(self, moment: datetime) -> int:
        seconds = np.array([int(moment.timestamp())], np.int64)
        return int(calendar.buckets(seconds, self.zone, self.granularity)[0])

    def _nearest(self, moment: datetime) -> str:
        if self.detector in DOCUMENTS:
            documents = Documents(self.catalogue.history)
            moments = [at for at, _ in documents.statuses(self.name, self.table_id, moment - AROUND, moment + AROUND)]
        else:
            series = self.catalogue.history.read(self.detector, self.table_id, moment - AROUND, moment + AROUND)
            moments = [datetime.fromtimestamp(second, UTC) for second in series.seconds.tolist()]
        before, after = [at for at in moments if at < moment][-1:], [at for at in moments if at >= moment][:1]
        near = " and ".join(at.isoformat().replace("+00:00", "Z") for at in chain(before, after))
        of = f"{self.table_id}, column {self.column}," if self.column is not None else self.table_id
        return (f"{of} has no stored point of {self.detector} at {moment.isoformat().replace('+00:00', 'Z')}, or in its "
                f"{'bucket' if self.granularity != 'daily' else 'day'}: " + (f"the nearest are at {near}." if near else
                                                                             "there is none near it. A verdict is stored "
                                                                             "seconds after it was given."))

    def _card(self) -> Any:
        try:
            model = self.catalogue.model(DETECTORS[self.detector].model_name(self.request))
        except ServiceError:
            return {}
        return model.artefact.card if model is not None else {}
