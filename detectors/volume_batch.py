"""Row counts of many tables at once: the answers of `volume.detect`, at a fraction of its cost.

Storage is asked for several tables at a time, a model judges all of its counts in one call, and tables without a model go
through the structural filter together.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Hashable, Sequence
from concurrent.futures import Executor
from datetime import datetime
from itertools import batched

from detectors import fleet, stacks, volume
from detectors.decision import Judgement
from detectors.replays import Told
from detectors.volume import Case, Inputs
from shared.catalogue import Catalogue
from shared.contract import VolumeAnswer, VolumeRequest
from shared.errors import ServiceError

# So many tables make a task for a thread: where everything is in memory, threads then cost little.
TABLES_A_TASK = 8
# From so many tables on, the models that exist are listed before any is asked for: most tables of a fleet have none.
LISTED = 256


def detect_many(requests: Sequence[VolumeRequest], catalogue: Catalogue, now: datetime,
                pool: Executor) -> list[VolumeAnswer | ServiceError]:
    """In the order of the requests; for a bad one, what `volume.detect` raises. They do not see each other's counts."""
    began = time.perf_counter()
    places: dict[Hashable, list[int]] = defaultdict(list)
    for i, request in enumerate(requests):
        places[request.table_id or i].append(i)
    order = [i for some in places.values() for i in some]
    if len(places) >= LISTED:
        named = {volume.model_name(request.table_id) for request in requests if request.table_id}
        catalogue.rule_out(named, volume.model_name(""))
    tables = [[requests[i] for i in some] for some in places.values()]
    tasks = pool.map(lambda some: [one for table in some for one in _by_models(table, catalogue, now)],
                     batched(tables, TABLES_A_TASK, strict=False))
    found = [one for task in tasks for one in task]

    baseline = _by_the_baseline([case for case, judgement in found
                                 if isinstance(case, Case) and judgement is None and case.wants_baseline], catalogue, pool)
    answers: dict[int, VolumeAnswer | ServiceError] = {}
    for i, (case, judgement) in zip(order, found, strict=True):
        if isinstance(case, ServiceError):
            answers[i] = case
        else:
            answers[i] = volume.conclude(case, judgement or baseline.get(id(case)), judgement is not None)
    each = round((time.perf_counter() - began) * 1000 / max(len(requests), 1), 3)
    for answer in answers.values():
        if isinstance(answer, VolumeAnswer):
            answer.latency_ms = each
    return [answers[i] for i in range(len(requests))]


def _by_models(requests: Sequence[VolumeRequest], catalogue: Catalogue,
               now: datetime) -> list[tuple[Case | ServiceError, Judgement | None]]:
    """Requests about one table: what its model says of all that look alike to it, in one call."""
    cases = [_placed(request, catalogue, now) for request in requests]
    alike: dict[Hashable, list[tuple[int, Inputs]]] = defaultdict(list)
    for i, case in enumerate(cases):
        if isinstance(case, Case) and (inputs := volume.own_model_inputs(case)) is not None:
            alike[_likeness(case, inputs)].append((i, inputs))
    judgements: dict[int, Judgement | None] = {}
    for some in alike.values():
        first = cases[some[0][0]]
        assert isinstance(first, Case) and first.known.model is not None
        rows = volume.model_judgements(first.known.model.artefact, [inputs for _, inputs in some])
        judgements |= zip((i for i, _ in some), rows, strict=True)
    return [(case, judgements.get(i)) for i, case in enumerate(cases)]


def _placed(request: VolumeRequest, catalogue: Catalogue, now: datetime) -> Case | ServiceError:
    try:
        return volume.place(request, volume.look_up(request, catalogue), now)
    except ServiceError as error:
        return error


def _likeness(case: Case, inputs: Inputs) -> Hashable:
    """Rows may share a call of a model where they have one shape; of one that counts on from its training, one bucket."""
    model = case.known.model
    assert model is not None
    counts_on = model.artefact.algorithm == "structural"
    return id(model.artefact), inputs["history"].shape, case.bucket if counts_on else None


def _by_the_baseline(cases: Sequence[Case], catalogue: Catalogue, pool: Executor) -> dict[int, Judgement | None]:
    """What the structural filter says of each case, by the case's `id`."""
    judgements: dict[int, Judgement | None] = {}
    for granularity in {case.request.granularity for case in cases}:
        some = [case for case in cases if case.request.granularity == granularity]
        told = [Told(c.request.table_id, c.context.start, c.context.learnable, c.holiday[:-1]) for c in some]
        # A request that is to leave no trace leaves no state either.
        kept = [c.request.table_id for c in some if c.request.table_id and c.request.record]
        with stacks.restored(volume.replays, kept, granularity, catalogue.blobs, pool):
            rows = volume.replays.rows(told, granularity)
        asked = [fleet.Asked(row, c.bucket, int(c.holiday[-1]), c.value, c.threshold)
                 for c, row in zip(some, rows, strict=True)]
        verdicts = fleet.judge(asked, granularity)
        judgements |= {id(c): volume.judgement_of(verdict) for c, verdict in zip(some, verdicts, strict=True)}
    return judgements
