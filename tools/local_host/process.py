"""The local host in a process of its own, for tests and demos: the worker library serves one app per process."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tools.azurite import Azurite, free_ports
from tools.local_host.settings import DEVELOPMENT_STORAGE

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_KEY = "local-key"


class HostError(RuntimeError):
    """The host did not come up; the message holds what it said."""


@dataclass
class LocalHost:
    """`python -m tools.local_host` as a context manager; `start` again after `stop` or `kill` serves the same app anew.

    `settings` are app settings and win over local.settings.json. Unless they, or the environment, give AzureWebJobsStorage
    a real connection string, an Azurite on free ports is started too, and every setting that asks for development storage
    gets that: in memory, or in `azurite_folder`. A free port is chosen for `port=0` and kept.
    """

    app: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    key: str = DEFAULT_KEY
    azurite_folder: Path | None = None
    url: str = field(default="", init=False)
    _azurite: Azurite | None = field(default=None, init=False, repr=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _folder: tempfile.TemporaryDirectory[str] = field(init=False, repr=False, default_factory=lambda: (
        tempfile.TemporaryDirectory(prefix="local-host-")))

    def start(self, wait_seconds: float = 30.0) -> LocalHost:
        """Returns once requests are answered. Raises HostError when it ends before or takes longer, AzuriteError."""
        environment = {**os.environ, **self.settings}
        if self._azurite is None and environment.get("AzureWebJobsStorage", DEVELOPMENT_STORAGE) == DEVELOPMENT_STORAGE:
            blob, queue, table = free_ports(3)
            self._azurite = Azurite(self.azurite_folder, (blob, queue, table)).start()
            atexit.register(self.stop)  # a caller that fails before `stop` leaves nothing running
        ready = Path(self._folder.name) / "ready.json"
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tools.local_host", "--app", str(self.app.resolve()), "--port", str(self.port),
                   "--key", self.key, "--ready-file", str(ready), "--no-azurite"]
        if self._azurite is not None:
            environment["AzureWebJobsStorage"] = self._azurite.connection_string()
            command += ["--azurite-ports", ",".join(map(str, self._azurite.ports))]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT,
                                             stdin=subprocess.DEVNULL, env=environment)
        deadline = time.monotonic() + wait_seconds
        while not ready.exists():
            status = self._process.poll()
            if status is not None or time.monotonic() > deadline:
                self._end(signal.SIGKILL)
                self.stop()
                why = "did not answer in time" if status is None else f"ended with status {status}"
                raise HostError(f"The local host {why}:\n{self.logs}")
            time.sleep(0.02)
        self.url = json.loads(ready.read_text())["url"]
        self.port = int(self.url.rpartition(":")[2])
        return self

    def stop(self) -> int:
        """Ends it as Ctrl-C does, and its Azurite with it; its exit status. What does not end in ten seconds is killed."""
        status = self._end(signal.SIGINT)
        if self._azurite is not None:
            self._azurite.stop()
            self._azurite = None
        return status

    def restart(self) -> LocalHost:
        """Ends it as Ctrl-C does and starts it again over the same storage."""
        self._end(signal.SIGINT)
        return self.start()

    def kill(self) -> None:
        """Ends it as a crash does, with no chance to tidy up. What is stored stays until `stop`."""
        self._end(signal.SIGKILL)

    @property
    def logs(self) -> str:
        """All it has written so far, over all its starts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def _log(self) -> Path:
        return Path(self._folder.name) / "host.log"

    def _end(self, by: signal.Signals) -> int:
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(by)
        try:
            status = self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._process = None
        return status

    def __enter__(self) -> LocalHost:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
