"""Timer triggers: six-field NCRONTAB schedules in UTC, with the past-due monitor the Functions host keeps in storage."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from datetime import UTC, datetime, timedelta

from azure.core.exceptions import AzureError
from croniter import CroniterError, croniter

from tools.local_host.blobs import HOST_CONNECTION, HOST_CONTAINER
from tools.local_host.execution import Execute
from tools.local_host.messages import Message
from tools.local_host.settings import SettingsError, seconds
from tools.local_host.storage import Storage, first_line
from tools.local_host.worker import Function, InvocationError

log = logging.getLogger("tools.local_host.timers")


def next_occurrence(schedule: str, after: datetime) -> datetime:
    """The first moment after `after` that the schedule names: `sec min hour day month weekday`, or an interval hh:mm:ss.

    Where day and weekday are both given, both must fit, as in NCRONTAB. Raises SettingsError for a schedule of another form.
    """
    if re.fullmatch(r"[\d.]*\d+:\d+:\d+", schedule):
        return after + timedelta(seconds=seconds(schedule))
    try:
        found: datetime = croniter(schedule, after, datetime, day_or=False, second_at_beginning=True).get_next()
    except (CroniterError, ValueError) as error:
        raise SettingsError(f"'{schedule}' is not a schedule: {error}") from None
    return found


class TimerListener:
    """Runs one function on its schedule until cancelled, never twice at a time.

    With `useMonitor` (the default) the next occurrence is kept in a blob; one that passed while no host ran is made up for
    at the start, once, with `past_due` set.
    """

    def __init__(self, function: Function, execute: Execute, storage: Storage) -> None:
        """Raises SettingsError for a bad schedule, or when there is no storage for the monitor."""
        trigger = function.trigger
        self.function, self.execute, self.storage = function, execute, storage
        self.schedule: str = trigger["schedule"]
        self.monitored = trigger.get("useMonitor") is not False
        self.run_on_startup = bool(trigger.get("runOnStartup"))
        self.status_path = f"{HOST_CONTAINER}/timers/{function.name}/status"
        self.last: datetime | None = None
        next_occurrence(self.schedule, datetime.now(UTC))
        if self.monitored:
            storage.container(HOST_CONNECTION, HOST_CONTAINER)

    async def run(self) -> None:
        now = datetime.now(UTC)
        missed = await self._missed(now) if self.monitored else None
        if missed or self.run_on_startup:
            await self.fire(missed or now, past_due=missed is not None)
        while True:
            due = next_occurrence(self.schedule, datetime.now(UTC))
            await self._remember(due)
            while (wait := (due - datetime.now(UTC)).total_seconds()) > 0:
                await asyncio.sleep(min(wait, 60))  # the wall clock decides, also after the machine slept
            await self.fire(due)

    async def fire(self, due: datetime, past_due: bool = False) -> None:
        status = {"Last": (self.last or due).isoformat(), "LastUpdated": (self.last or due).isoformat(),
                  "Next": next_occurrence(self.schedule, datetime.now(UTC)).isoformat()}
        info = {"Schedule": {"AdjustForDST": True}, "ScheduleStatus": status, "IsPastDue": past_due}
        with contextlib.suppress(InvocationError):  # logged; a failed timer waits for its next occurrence
            await self.execute(self.function, Message(json=json.dumps(info)), {})
        self.last = datetime.now(UTC)

    async def _missed(self, now: datetime) -> datetime | None:
        try:
            content = await self.storage.read(HOST_CONNECTION, self.status_path)
            status = json.loads(content) if content else {}
            self.last = datetime.fromisoformat(status["Last"]) if status.get("Last") else None
            due = datetime.fromisoformat(status["Next"]) if status.get("Schedule") == self.schedule else None
        except (AzureError, ValueError, KeyError) as error:
            log.warning("The status of timer '%s' cannot be read: %s", self.function.name, first_line(error))
            return None
        return due if due is not None and due < now else None

    async def _remember(self, due: datetime) -> None:
        if not self.monitored:
            return
        status = {"Schedule": self.schedule, "Last": self.last.isoformat() if self.last else None, "Next": due.isoformat(),
                  "LastUpdated": datetime.now(UTC).isoformat()}
        try:
            await self.storage.write(HOST_CONNECTION, self.status_path, json.dumps(status).encode())
        except AzureError as error:
            log.warning("The status of timer '%s' cannot be kept: %s", self.function.name, first_line(error))
