"""Azurite, Microsoft's storage emulator, started and stopped for a demo, a local run or a test."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent / ".azurite"
SCRIPT = HOME / "node_modules" / "azurite" / "dist" / "src" / "azurite.js"
# The account and key every storage emulator ships with; they protect nothing and are no secret.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class AzuriteError(RuntimeError):
    """Azurite is not installed, a port is taken, or it did not come up; the message says what to do."""


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def account_key(account: str) -> str:
    """The emulator's own key for its own account, a derived one for any other."""
    return KEY if account == ACCOUNT else base64.b64encode(account.ljust(32, "0").encode()).decode()


@dataclass
class Azurite:
    """Blob, queue and table storage on loopback. Use as a context manager, or call `start` and `stop`.

    `folder=None` keeps everything in memory; with a folder, what was stored survives `stop` and `start`.
    `accounts` are created besides the standard one, so that tests do not see each other's data.
    """

    folder: Path | None = None
    ports: tuple[int, int, int] = (10000, 10001, 10002)
    accounts: tuple[str, ...] = ()
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def connection_string(self, account: str = ACCOUNT) -> str:
        services = zip(("Blob", "Queue", "Table"), self.ports, strict=True)
        endpoints = ";".join(f"{name}Endpoint=http://127.0.0.1:{port}/{account}" for name, port in services)
        return f"DefaultEndpointsProtocol=http;AccountName={account};AccountKey={account_key(account)};{endpoints}"

    def start(self, wait_seconds: float = 30.0) -> Azurite:
        """Raises AzuriteError when it is not installed, a port is taken, or it does not answer in time."""
        if not SCRIPT.exists():
            raise AzuriteError("Azurite is not installed: run `make install` (it needs Node 18 or newer).")
        for port in self.ports:
            if answers(port):
                raise AzuriteError(f"Port {port} is taken: stop what listens there, or choose other ports.")
        blob, queue, table = map(str, self.ports)
        command = ["node", str(SCRIPT), "--silent", "--skipApiVersionCheck", "--disableTelemetry",
                   "--blobPort", blob, "--queuePort", queue, "--tablePort", table]
        if self.folder is None:
            command.append("--inMemoryPersistence")
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            command += ["--location", str(self.folder)]
        known = ";".join(f"{name}:{account_key(name)}" for name in (ACCOUNT, *self.accounts))
        try:
            # A session of its own: Ctrl-C reaches the host first, which then stops Azurite in order.
            self._process = subprocess.Popen(
                command, env={**os.environ, "AZURITE_ACCOUNTS": known}, start_new_session=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )
        except FileNotFoundError:
            raise AzuriteError("Node is missing: Azurite needs Node 18 or newer on the PATH.") from None
        deadline = time.monotonic() + wait_seconds
        while not all(answers(port) for port in self.ports):
            if self._process.poll() is not None:
                assert self._process.stderr is not None
                said = self._process.stderr.read().decode(errors="replace").strip()
                raise AzuriteError(f"Azurite ended with status {self._process.returncode}. {said}")
            if time.monotonic() > deadline:
                self.stop()
                raise AzuriteError(f"Azurite did not answer within {wait_seconds:.0f} seconds.")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """Ends the process; what a folder holds stays."""
        if self._process is None:
            return
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()
        self._process = None

    def __enter__(self) -> Azurite:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def answers(port: int) -> bool:
    """Whether something listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    sys.exit("Azurite is started by `python -m tools.local_host`.")
