"""Row counts of many tables at once: the answers of `volume.detect`, at a fraction of its cost.

Storage is asked for several tables at a time, a model judges all of its counts in one call, and tables without a model go
through the structural filter together.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from datetime import datetime
from itertools import batched

from detectors import fleet, stacks, volume
from detectors.decision import Judgement
from detectors.replays import Told
from detectors.rules import applied
from detectors.volume import Case, Known
from detectors.volume_model import Inputs, model_judgements
from shared.catalogue import Catalogue
from shared.contract import VolumeAnswer, VolumeRequest
from shared.errors import ServiceError

# So many tables make a task for a thread, and so many tasks are ahead: what is looked up and not yet judged is in memory.
TABLES_A_TASK, TASKS_AHEAD = 8, 20
# From so many tables on, the models that exist are listed before any is asked for: most tables of a fleet have none.
LISTED = 256


def detect_many(requests: Sequence[VolumeRequest], catalogue: Catalogue, now: datetime,
                pool: Executor) -> list[VolumeAnswer | ServiceError]:
    """In the order of the requests; for a bad one, what `volume.detect` raises. They do not see each other's counts.

    The verdicts follow the rules of their tables.
    """
    began = time.perf_counter()
    tables: dict[Hashable, list[int]] = defaultdict(list)
    for i, request in enumerate(requests):
        tables[request.table_id or i].append(i)
    if len(tables) >= LISTED:
        named = {volume.model_name(request.table_id) for request in requests if request.table_id}
        catalogue.rule_out(named, volume.model_name(""))

    answers: dict[int, VolumeAnswer | ServiceError] = {}
    untold: dict[int, Case] = {}  # by no model
    for known in _looked_up(requests, list(tables.values()), catalogue, pool):
        cases = {i: _placed(requests[i], some, now) for i, some in known.items()}
        judgements = _by_models({i: case for i, case in cases.items() if isinstance(case, Case)})
        for i, case in cases.items():
            if isinstance(case, ServiceError):
                answers[i] = case
            elif judgements.get(i) is None and case.wants_baseline:
                untold[i] = case
            else:
                judgement = judgements.get(i)
                answers[i] = volume.conclude_by_model(case, judgement) if judgement else volume.conclude(case, None)
    for i, judgement in _by_the_baseline(untold, catalogue, pool).items():
        answers[i] = volume.conclude(untold[i], judgement)

    each = round((time.perf_counter() - began) * 1000 / max(len(requests), 1), 3)
    for i, answer in answers.items():
        if isinstance(answer, VolumeAnswer):
            answer.latency_ms = each
            applied(requests[i], answer, now)
    return [answers[i] for i in range(len(requests))]


def _looked_up(requests: Sequence[VolumeRequest], tables: Sequence[Sequence[int]], catalogue: Catalogue,
               pool: Executor) -> Iterator[dict[int, Known | ServiceError]]:
    """What storage knows, table by table, by the places of the requests; read somewhat ahead and not kept."""

    def look_up(i: int) -> Known | ServiceError:
        try:
            return volume.look_up(requests[i], catalogue)
        except ServiceError as error:
            return error

    pending: deque[Future[list[dict[int, Known | ServiceError]]]] = deque()
    for task in batched(tables, TABLES_A_TASK, strict=False):
        pending.append(pool.submit(lambda task: [{i: look_up(i) for i in table} for table in task], task))
        if len(pending) >= TASKS_AHEAD:
            yield from pending.popleft().result()
    while pending:
        yield from pending.popleft().result()


def _placed(request: VolumeRequest, known: Known | ServiceError, now: datetime) -> Case | ServiceError:
    try:
        return known if isinstance(known, ServiceError) else volume.place(request, known, now)
    except ServiceError as error:
        return error


def _by_models(cases: Mapping[int, Case]) -> dict[int, Judgement | None]:
    """What a table's model says of its counts, those of one shape in one call; no entry where it was not asked."""
    alike: dict[Hashable, dict[int, Inputs]] = defaultdict(dict)
    for i, case in cases.items():
        if (inputs := volume.own_model_inputs(case)) is not None:
            alike[_likeness(case, inputs)][i] = inputs
    judgements: dict[int, Judgement | None] = {}
    for rows in alike.values():
        model = cases[next(iter(rows))].known.model
        assert model is not None
        judgements |= zip(rows, model_judgements(model.artefact, list(rows.values())), strict=True)
    return judgements


def _likeness(case: Case, inputs: Inputs) -> Hashable:
    """Rows may share a call of a model where they have one shape; of one that counts on from its training, one bucket."""
    model = case.known.model
    assert model is not None
    counts_on = model.artefact.algorithm == "structural"
    return id(model.artefact), inputs["history"].shape, case.bucket if counts_on else None


def _by_the_baseline(cases: Mapping[int, Case], catalogue: Catalogue, pool: Executor) -> dict[int, Judgement | None]:
    """What the structural filter says of each case."""
    judgements: dict[int, Judgement | None] = {}
    for granularity in {case.request.granularity for case in cases.values()}:
        some = {i: case for i, case in cases.items() if case.request.granularity == granularity}
        told = [Told(c.request.table_id, c.context.start, c.context.learnable, c.holiday[:-1]) for c in some.values()]
        # A request that is to leave no trace leaves no state either.
        kept = [c.request.table_id for c in some.values() if c.request.table_id and c.request.record]
        with stacks.restored(volume.replays, kept, granularity, catalogue.blobs, pool):
            rows = volume.replays.rows(told, granularity)
        asked = [fleet.Asked(row, c.bucket, int(c.holiday[-1]), c.value, c.threshold)
                 for c, row in zip(some.values(), rows, strict=True)]
        judgements |= zip(some, map(volume.judgement_of, fleet.judge(asked, granularity)), strict=True)
    return judgements
