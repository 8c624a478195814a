"""One model trained anew, end to end: prepared, fitted, judged against the champion, published and promoted where earned.

Every step may be the last one that is reached, and the whole may be started again. What is written, in this order:

    {name}/{version}/model.onnx       as the registry publishes
    {name}/{version}/manifest.json    its card tells the retraining's id and what it decided: from here on nothing is fitted
                                      again, and a second start goes on with this version
    {name}/champion.json              moved only from the champion that was judged, and before nothing that answers changes
    {name}/decisions.json             the decision, for people, and what it rests on

A challenger that is refused is not published; its figures are in the decision.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from importlib import import_module
from typing import Any

from detectors.directory import detector
from shared import telemetry
from shared.contract_retraining import Outcome
from shared.decisions import Decisions
from shared.errors import Conflict, InvalidRequest, StorageUnavailable
from shared.history import History
from shared.monitoring import Monitoring, drifted
from shared.registry import CorruptArtefact, Manifest, Registry
from training import azure_ml, promotion
from training.gates import leaving, p95_ms
from training.monitoring import monitor
from training.promotion import Decision, Reigning
from training.targets import Target

log = logging.getLogger(__name__)
AGAIN = timedelta(days=6)  # a drifted model is not tried again within its week
RECENT_VERSIONS = 3  # among which a version of this retraining is looked for
# Words about the data, not about a model: they stand in the run and replace no decision.
PASSING = ("unchanged", "not_drifted", "too_little_history")


@dataclass(frozen=True, slots=True)
class Stores:
    """Where everything lies that a retraining reads and writes."""

    history: History
    registry: Registry
    decisions: Decisions
    monitoring: Monitoring


@dataclass(frozen=True, slots=True)
class Order:
    """Under which id a model is trained anew, and when not. `as_of`: as if it were then. `goes_on` ends it between steps."""

    run_id: str
    as_of: datetime | None = None
    only: str = "changed"
    force: bool = False
    goes_on: Callable[[], bool] = lambda: True


class Ended(Exception):
    """The run was cancelled, or another one took over."""


def retrain(kind: str, request: Any, stores: Stores, order: Order) -> dict[str, Any] | None:
    """What became of one model of detector `kind` on its training request, as it is kept; None where the run has ended.

    Called again it goes on where it was: there is one publication, and one promotion also where it runs twice at the same
    time. What is wrong with the table or its training is an outcome; raises StorageUnavailable: call it again later.
    """
    began = time.perf_counter()
    name = detector(kind).model_name(request)
    last = stores.decisions.last(name)
    if last is not None and last["run_id"] == order.run_id:
        return last
    try:
        told = _told(kind, request, stores, order, name, last)
    except Ended:
        return None
    except StorageUnavailable:
        raise
    except Exception as error:  # whatever a library says of this table's data: the others are trained all the same
        log.warning("Retraining %s failed", name, exc_info=True)
        told = {"outcome": "failed", "reason": f"{type(error).__name__}: {error}"[:2000]}
    told["seconds"] = round(time.perf_counter() - began, 2)
    record: dict[str, Any] = _finite(_blank(Target(kind, request.table_id, getattr(request, "column", None)), order) | told)
    telemetry.retrained(kind, record["outcome"])
    if record["outcome"] not in PASSING and (record["reigned"] or record["challenger"]):
        stores.decisions.put(name, record)
    return record


def given_up(target: Target, order: Order, why: str) -> dict[str, Any]:
    """What is kept of a model that is not trained at all."""
    return _blank(target, order) | _outcome("failed", why) | {"seconds": 0.0}


def _blank(target: Target, order: Order) -> dict[str, Any]:
    return {"run_id": order.run_id, **target.to_json(), "name": target.name,
            "at": _now().isoformat(timespec="seconds"), "as_of": order.as_of and order.as_of.isoformat(), "version": None,
            "reigned": None, "promoted": False, "champion": None, "challenger": None, "registration": None, "drift": None}


def _told(kind: str, request: Any, stores: Stores, order: Order, name: str,
          last: Mapping[str, Any] | None) -> dict[str, Any]:
    """The outcome with what it rests on, after everything is written but the decision itself."""
    trainer, registry = import_module(f"training.{kind}_anomaly"), stores.registry
    manifest = _landed(name, order.run_id, registry)
    try:
        prepared = trainer.prepare(request, stores.history, until=order.as_of)
    except InvalidRequest as error:
        if manifest is None:
            return _outcome("too_little_history", error.message)
        raise
    drift = None
    if manifest is None:
        learnt, champion = _learnt(prepared, request), promotion.reigning(name, registry)
        if order.only == "drifted":
            drift = _monitored(kind, prepared, stores, order)
        spared = _spared(order, drift, last) or _unchanged(trainer, prepared, order, learnt, champion, last)
        if spared is not None:
            return spared | {"drift": drift or _monitored(kind, prepared, stores, order)}
        decision, candidates = _decided(trainer, request, prepared, champion, registry, order)
        told = decision.to_json() | {"reigned": champion and champion.version, "learnt": learnt, "history": prepared.facts(),
                                     "candidates": candidates}
        if decision.best is not None and (decision.promoted or decision.outcome == "never"):
            card = decision.best.card | {"decision": _finite({"run_id": order.run_id, **told})}
            manifest = registry.publish(name, decision.best.payload or b"", card)
    else:
        told = {key: value for key, value in manifest.card["decision"].items() if key != "run_id"}
    if manifest is not None:
        told["version"] = manifest.version
        if told["promoted"]:
            told |= _promoted(manifest, told, registry)
        told["registration"] = azure_ml.mirror(name, registry, told["version"])
    return told | {"drift": drift if drift and not told["promoted"] else _monitored(kind, prepared, stores, order)}


def _spared(order: Order, drift: Mapping[str, Any] | None, last: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Why only drifted models being asked for leaves this one out, None where it does not.

    A champion that no challenger beat goes on with the drift that it was tried for: once a week is enough.
    """
    if drift is None or order.force:
        return None
    if not drifted(drift):
        return _outcome("not_drifted", drift["reason"])
    if last is not None and drifted(last.get("drift") or {}):
        tried = datetime.fromisoformat(last["as_of"] or last["at"])
        if timedelta(0) <= (order.as_of or _now()) - tried < AGAIN:
            return _outcome("unchanged", f"It was trained for its drift on {tried:%Y-%m-%d}, and the outcome was "
                                         f"{last['outcome']}.")
    return None


def _unchanged(trainer: Any, prepared: Any, order: Order, learnt: str, champion: Reigning | None,
               last: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Why the same would come out as the last time, None where it might not: also where the champion cannot go on."""
    if order.force or order.only == "all" or last is None or last.get("learnt") != learnt:
        return None
    if champion is not None and (champion.artefact is None or leaving(trainer, prepared, champion.artefact, p95_ms)[0]):
        return None
    return _outcome("unchanged", f"Its data are those of {last['at'][:10]}, when the outcome was {last['outcome']}.")


def _decided(trainer: Any, request: Any, prepared: Any, champion: Reigning | None, registry: Registry,
             order: Order) -> tuple[Decision, list[dict[str, Any]]]:
    """The decision, and the figures of every family. Raises Ended."""
    candidates = []
    for algorithm in trainer.families(request, registry):
        if not order.goes_on():
            raise Ended
        candidates.append(trainer.fit_candidate(prepared, algorithm))
    decision = promotion.decide(trainer, prepared, candidates, champion, request)
    if not order.goes_on():
        raise Ended
    return decision, [candidate.figures for candidate in candidates]


def _landed(name: str, run_id: str, registry: Registry) -> Manifest | None:
    """The version that this retraining published before it was interrupted, the first of several."""
    for version in registry.versions(name)[-RECENT_VERSIONS:]:
        with suppress(CorruptArtefact):  # a damaged one is not of this run, and keeps nobody from training
            if _run_of(manifest := registry.manifest(name, version)) == run_id:
                return manifest
    return None


def _run_of(manifest: Manifest) -> str | None:
    """The retraining that a version is of."""
    run_id: str | None = manifest.card.get("decision", {}).get("run_id")
    return run_id


def _promoted(manifest: Manifest, told: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """Moves the pointer from the champion that was judged; another outcome where somebody else moved it meanwhile.

    Somebody else is not this very retraining, handed out twice at the same time: of its versions the first one reigns.
    """
    reigned = told["reigned"]
    now = registry.champion(manifest.name)
    try:
        if now is not None and now.version == reigned and now.current.promoted_at > manifest.created_at:
            raise Conflict(f"Somebody made version {reigned} the champion again.")
        registry.promote(manifest.name, manifest.version, reason=told["reason"], expected=reigned)
    except Conflict as error:
        now = registry.champion(manifest.name)
        if now is not None and _run_of(registry.manifest(manifest.name, now.version)) == _run_of(manifest):
            return {"version": now.version}
        return _outcome("failed", f"Published and not promoted: {error.message}") | {"promoted": False, "learnt": None}
    return {}


def _monitored(kind: str, prepared: Any, stores: Stores, order: Order) -> dict[str, Any]:
    """How the model's data are, as it is kept for the metrics routes unless they know of a later day."""
    known = stores.monitoring.get(kind, detector(kind).model_name(prepared))
    try:
        figures = monitor(kind, prepared, stores.history, stores.registry, order.as_of or _now(), known)
    except StorageUnavailable:
        raise
    except Exception as error:  # the decision stands, whatever cannot be told about the data
        log.warning("Monitoring %s failed", detector(kind).model_name(prepared), exc_info=True)
        return {"verdict": "not_evaluated", "reason": f"{type(error).__name__}: {error}"[:2000]}
    if known is None or known["checked_at"] <= figures["checked_at"]:
        stores.monitoring.put(figures)
    return {"verdict": figures["verdict"], "reason": figures["reason"]}


def _learnt(prepared: Any, request: Any) -> str:
    """What a model rests on: its data, and what was asked for."""
    return sha256(f"{prepared.fingerprint()} {request.algorithm} {request.promote}".encode()).hexdigest()


def _outcome(outcome: Outcome, reason: str) -> dict[str, Any]:
    return {"outcome": outcome, "reason": reason}


def _finite(value: Any) -> Any:
    """JSON has no NaN: what could not be measured is null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _now() -> datetime:
    return datetime.now(UTC)
