"""The local host as a process: its command line, how it fails, and that nothing it started outlives it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tools.azurite import Azurite, answers, free_ports
from tools.local_host import HostError, LocalHost

ROOT = Path(__file__).parent.parent
HOST_APP = ROOT / "tests" / "host_app"
SMALL_APP = """
import azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
@app.route(route="storage")
def storage(req: func.HttpRequest) -> str:
    import os
    return os.environ["AzureWebJobsStorage"] + " " + os.getcwd()
@app.route(route="sleep")
def sleep(req: func.HttpRequest) -> str:
    import time
    time.sleep(60)
"""


def small_app(folder: Path, code: str = SMALL_APP) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "function_app.py").write_text(code)
    (folder / "host.json").write_text('{"version": "2.0"}')
    return folder


def host_command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "tools.local_host", *map(str, arguments)]


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The host run to its end, which must come within 30 seconds."""
    return subprocess.run(host_command(*arguments), cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
                          timeout=30)


@contextmanager
def served(app: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str, tuple[int, ...]]]:
    """A host with an Azurite of its own: the process, its URL, and every port that is open while it runs."""
    ports = free_ports(3)
    ready = folder / "ready.json"
    command = host_command("--app", app, "--port", "0", "--azurite-folder", folder / "data", "--ready-file", ready,
                           "--azurite-ports", ",".join(map(str, ports)))
    environment = os.environ | {"AzureWebJobsStorage": "UseDevelopmentStorage=true"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 30
        while not ready.exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate(timeout=1)
            time.sleep(0.05)
        url = json.loads(ready.read_text())["url"]
        yield process, url, (int(url.rpartition(":")[2]), *ports)
    finally:
        process.kill()


def command_lines() -> list[str]:
    """Those of all processes, where the system tells."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended in between
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return lines


def test_ctrl_c_ends_the_host_and_all_it_started_at_once_and_quietly(tmp_path: Path) -> None:
    with served(small_app(tmp_path / "app"), tmp_path) as (process, url, ports):
        assert httpx.get(f"{url}/api/storage").status_code == 200
        assert all(answers(port) for port in ports)
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{url}/api/sleep", timeout=0.3)  # a function that still runs must not hold the host up
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=10)

        assert process.returncode == 0
        assert time.monotonic() - began < 5
        assert not any(answers(port) for port in ports)
        assert not [line for line in command_lines() if str(tmp_path) in line]
        assert "Traceback" not in said
        assert "[any] http://localhost:" in said


def test_sigterm_does_the_same_and_development_storage_on_other_ports_became_a_connection_string(tmp_path: Path) -> None:
    app = small_app(tmp_path / "app")
    with served(app, tmp_path) as (process, url, ports):
        storage, folder = httpx.get(f"{url}/api/storage").text.split()
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=10)

        assert f"BlobEndpoint=http://127.0.0.1:{ports[1]}/devstoreaccount1" in storage
        assert folder == str(app.resolve())
        assert (process.returncode, "Traceback" in said) == (0, False)
        assert not any(answers(port) for port in ports)


def test_a_taken_port_is_one_clear_line_and_status_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("--app", small_app(tmp_path), "--port", str(port))

    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"Port {port} cannot be used (Address already in use)")


def test_a_taken_azurite_port_is_one_clear_line_and_status_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = ",".join(map(str, (port, *free_ports(2))))
        ended = run("--app", small_app(tmp_path), "--port", "0", "--azurite-ports", ports,
                    AzureWebJobsStorage="UseDevelopmentStorage=true")

    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert f"Port {port} is taken" in ended.stderr


def test_without_node_one_line_says_so(tmp_path: Path) -> None:
    ports = ",".join(map(str, free_ports(3)))
    ended = run("--app", small_app(tmp_path), "--port", "0", "--azurite-ports", ports,
                AzureWebJobsStorage="UseDevelopmentStorage=true", PATH=str(tmp_path))

    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "Node is missing" in ended.stderr


def test_a_directory_without_an_app_is_named(tmp_path: Path) -> None:
    assert run("--app", tmp_path, "--port", "0").stderr == f"There is no function_app.py in {tmp_path}.\n"
    (tmp_path / "function_app.py").touch()
    assert run("--app", tmp_path, "--port", "0").stderr == f"There is no host.json in {tmp_path}.\n"


def test_help_names_every_option() -> None:
    said = run("--help").stdout

    for option in ("--app", "--host", "--port", "--key", "--azurite-folder", "--azurite-ports", "--no-azurite", "--verbose"):
        assert option in said


def test_while_the_storage_is_away_functions_answer_and_when_it_is_back_triggers_go_on(tmp_path: Path) -> None:
    blob, queue, table = free_ports(3)
    azurite = Azurite(tmp_path, (blob, queue, table)).start()
    settings = {"AzureWebJobsStorage": azurite.connection_string(), "AzureWebJobs.tick.Disabled": "true"}
    try:
        with LocalHost(HOST_APP, settings) as host:
            azurite.stop()
            began = time.monotonic()
            assert httpx.get(f"{host.url}/api/hello/Ada").status_code == 200
            sending = {"url": f"{host.url}/api/send/jobs", "json": "plain", "headers": {"x-functions-key": host.key}}
            assert httpx.post(**sending).status_code == 500
            assert time.monotonic() - began < 3
            azurite.start()
            assert httpx.post(**sending).status_code == 202

            while "Executed 'on_job' (Succeeded" not in host.logs and time.monotonic() - began < 15:
                time.sleep(0.05)
            assert "Executed 'on_job' (Succeeded" in host.logs
    finally:
        azurite.stop()


def test_an_app_can_be_called_in_process_without_sockets() -> None:
    script = f"""
import asyncio, pathlib
from tools.local_host.messages import Message
from tools.local_host.worker import InvocationError, Worker
async def main():
    worker = await Worker.start(pathlib.Path({str(HOST_APP)!r}))
    answer = await worker.request("POST", "http://x/api/echo/a/7?q=1", {{"accept-language": "fr"}}, b"abc")
    print(answer.status, answer.json()["params"], answer.json()["bytes"], answer.header("Content-Type"))
    print((await worker.get("http://x/api/nothing")).status, (await worker.get("http://x/api/hello/Ada")).body)
    print((await worker.invoke("double", {{"number": Message(json="21")}})).return_value.json)
    try:
        await worker.get("http://x/api/fail")
    except InvocationError as error:
        print(error.error_type, error.message)
asyncio.run(main())
"""
    environment = os.environ | {"JOBS_QUEUE": "jobs", "TICK_SCHEDULE": "0 0 0 * * *"}
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30)

    assert ended.stdout.splitlines() == [
        "200 {'id': 'a', 'part': '7'} 3 application/json", "404 b'Hello Ada'", "42",
        "ValueError this function always fails"], ended.stderr


def test_local_host_without_storage_brings_its_own_and_takes_it_away() -> None:
    with LocalHost(HOST_APP, {"AzureWebJobs.tick.Disabled": "true"}) as host:
        sent = httpx.post(f"{host.url}/api/send/kept", json="x", headers={"x-functions-key": host.key})

        assert sent.status_code == 202
        assert "There is no local.settings.json: using local.settings.json.example." in host.logs
        assert host.stop() == 0
        assert "Traceback" not in host.logs


def test_an_app_that_cannot_be_imported_is_shown_with_its_stack(tmp_path: Path) -> None:
    app = small_app(tmp_path, "import no_such_package\n")

    with pytest.raises(HostError) as error:
        LocalHost(app, {"AzureWebJobsStorage": "none"}).start()

    assert "ended with status 1" in str(error.value)
    assert "The app cannot be served: ModuleNotFoundError: No module named 'no_such_package'" in str(error.value)
    assert 'function_app.py", line 1' in str(error.value)
