"""One way to run a function, whatever triggered it: input bindings in, output bindings out, one line in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from azure.core.exceptions import AzureError

from tools.local_host import bindings
from tools.local_host.messages import Message
from tools.local_host.settings import SettingsError
from tools.local_host.storage import Storage, first_line
from tools.local_host.worker import Function, InvocationError, Result, Worker

Execute = Callable[[Function, Message, Mapping[str, Message]], Awaitable[Result]]
_STEPS = ("orchestrationTrigger", "activityTrigger", "entityTrigger")
log = logging.getLogger("tools.local_host")


class Execution:
    """`await execution(function, trigger_value, trigger_metadata)` is one invocation with all its bindings."""

    def __init__(self, worker: Worker, storage: Storage, durable_client: str) -> None:
        self._worker, self._storage, self._durable_client = worker, storage, durable_client

    async def __call__(self, function: Function, value: Message, metadata: Mapping[str, Message]) -> Result:
        """Raises InvocationError when the function raises or one of its bindings fails; both are logged here."""
        started = time.perf_counter()
        outcome = "Failed"
        try:
            data = bindings.binding_data(function, value, metadata)
            given = await bindings.inputs(function, data, self._storage, self._durable_client)
            result = await self._worker.invoke(function.name, {function.trigger["name"]: value, **given}, metadata)
            await bindings.deliver(function, result, data, self._storage)
            outcome = "Succeeded"
        except InvocationError as error:
            log.error("Function '%s' raised %s\n%s", function.name, error, error.stack.rstrip())
            raise
        except (AzureError, SettingsError) as error:
            log.error("A binding of function '%s' failed: %s", function.name, first_line(error))
            raise InvocationError(function.name, type(error).__name__, str(error), "") from error
        finally:
            # An orchestration of a hundred steps would fill the screen.
            level = logging.DEBUG if function.trigger["type"] in _STEPS else logging.INFO
            took = 1000 * (time.perf_counter() - started)
            log.log(level, "Executed '%s' (%s, Duration=%.0fms)", function.name, outcome, took)
        return result
