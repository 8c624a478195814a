"""What the monitoring found of the data of each model, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

from shared.contract import whole_number
from shared.errors import InvalidRequest
from shared.ids import check_id
from shared.monitoring import DRIFT, Monitoring, cursor
from shared.verdicts import BASELINES

PAGE: Final = 100
VERDICTS: Final = ("drifted", "moderate", "stable", "not_evaluated")


def listing(params: Mapping[str, str], monitoring: Monitoring) -> dict[str, Any]:
    """GET /api/v1/metrics/drift: `detector`, `table_id`, `drifted` (true), `after` and `limit` up to 1,000.

    `totals` by verdict come with the first page alone; `next` is what to give as `after` for more, null at the end. Raises
    InvalidRequest, StorageUnavailable.
    """
    limit, after = whole_number(params, "limit", PAGE, 1, 1000), params.get("after", "")
    detector, table_id = params.get("detector"), params.get("table_id")
    if detector is not None and detector not in BASELINES:
        raise InvalidRequest(f"detector must be one of {', '.join(BASELINES)}.", "detector")
    if table_id is not None:
        check_id(table_id, "table_id")
    if params.get("drifted", "false") not in ("true", "false"):
        raise InvalidRequest("drifted must be true or false.", "drifted")
    wanted = "drifted" if params.get("drifted") == "true" else None
    page = list(islice(monitoring.scan(detector, table_id, wanted, after, DRIFT), limit + 1))
    totals = None if after else _totals(monitoring, detector, table_id)
    return {"models": [_shown(figures) for figures in page[:limit]], "totals": totals,
            "next": cursor(page[limit - 1]) if len(page) > limit else None}


def _totals(monitoring: Monitoring, detector: str | None, table_id: str | None) -> dict[str, int]:
    counted = Counter(figures["verdict"] for figures in monitoring.scan(detector, table_id, fields=["verdict"]))
    return {"models": counted.total(), **{verdict: counted[verdict] for verdict in VERDICTS}}


def _shown(figures: Mapping[str, Any]) -> dict[str, Any]:
    drift = figures["drift"]
    return {name: figures[name] for name in ("detector", "table_id", "column", "name", "version", "algorithm", "verdict",
                                             "reason", "checked_at")} | {
        "samples": {name: drift.get(name) for name in ("recent", "reference", "since", "compared")},
        "features": drift.get("features", [])}
