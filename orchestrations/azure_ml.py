"""Azure ML follows the registry: after a training job, and after a rollback, whose route waits for nobody.

    follow_champion
      mirror_model    registers a version, and tags it with the stage that it has in the registry
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import azure.durable_functions as df

from shared.worker import jobs, registry
from shared.workspace import outcome, outlook

blueprint = df.Blueprint()
RETRY = df.RetryPolicy(first_retry_interval=timedelta(seconds=5), max_number_of_attempts=3, backoff_coefficient=2.0)
log = logging.getLogger(__name__)


async def follow(client: df.DurableOrchestrationClient, name: str) -> dict[str, Any]:
    """Has Azure ML show which version of `name` is the champion now, seconds later; tells what is expected. Never raises."""
    told = outlook()
    if told["status"] == "pending":
        try:
            await client.start_new("follow_champion", client_input={"name": name})
        except Exception:  # the champion has been moved, and that is what the caller asked for
            log.exception("Azure ML was not told of the champion of %s.", name)
            return outcome("failed", "The next training of this model tells Azure ML.")
    return told


@blueprint.orchestration_trigger(context_name="context")  # type: ignore[arg-type]  # it types two-argument functions only
def follow_champion(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
    return (yield context.call_activity_with_retry("mirror_model", RETRY, context.get_input()))


@blueprint.activity_trigger(input_name="model")
def mirror_model(model: dict) -> dict[str, Any]:  # type: ignore[type-arg]  # the worker takes plain types alone
    from training import azure_ml

    done = azure_ml.mirror(model["name"], registry(), model.get("version"))
    if job_id := model.get("job_id"):
        jobs().update(job_id, result={**jobs().record(job_id)["result"], "registration": done})
    return done
