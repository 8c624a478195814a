"""`python -m tools.local_host`: serves a Functions app on this machine, without Azure and without Core Tools."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tools.azurite import Azurite, AzuriteError, answers
from tools.local_host.process import DEFAULT_KEY
from tools.local_host.settings import DEVELOPMENT_STORAGE, HostConfig, SettingsError, is_disabled, load_local_settings

if TYPE_CHECKING:
    from tools.local_host.host import Host

USAGE_ERROR = 2
STANDARD_PORTS = (10000, 10001, 10002)
_LEVELS = {"trace": "DEBUG", "debug": "DEBUG", "information": "INFO", "warning": "WARNING", "error": "ERROR",
           "critical": "CRITICAL", "none": "CRITICAL"}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.local_host", formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Serves an Azure Functions app on this machine: HTTP, queues, blobs, timers and Durable Functions.",
        epilog="Ctrl-C ends it and everything it started.")
    parser.add_argument("--app", type=Path, default=Path(), metavar="DIR", help="where function_app.py and host.json are")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="the address to listen on")
    parser.add_argument("--port", type=int, default=7071, help="the port to listen on; 0 for a free one")
    parser.add_argument("--key", default=os.environ.get("LOCAL_HOST_KEY", DEFAULT_KEY),
                        help="function, admin and system key, in header x-functions-key or ?code= (setting LOCAL_HOST_KEY)")
    parser.add_argument("--azurite-folder", type=Path, default=Path(".azurite-data"), metavar="DIR",
                        help="where Azurite keeps what is stored")
    parser.add_argument("--azurite-ports", type=_three_ports, default=STANDARD_PORTS, metavar="BLOB,QUEUE,TABLE",
                        help="the ports of Azurite")
    parser.add_argument("--no-azurite", action="store_true",
                        help=f"never start Azurite; by default one is started when a setting says {DEVELOPMENT_STORAGE} "
                             "and nothing answers on its ports")
    parser.add_argument("--ready-file", type=Path, metavar="FILE",
                        help="write url, key and pid there, as JSON, once requests are answered")
    parser.add_argument("--verbose", action="store_true", help="log what the worker library and the SDKs say, too")
    options = parser.parse_args(arguments)
    if not options.key:
        parser.error("the key must not be empty")
    return options


def main() -> int:
    """The exit status: 0 stopped by Ctrl-C or SIGTERM, 1 the app cannot be served, 2 wrong use, a taken port, no Azurite."""
    options = parse()
    app = options.app.resolve()
    folder = options.azurite_folder.resolve()
    if options.ready_file is not None:
        options.ready_file = options.ready_file.resolve()  # the app's directory becomes the working directory
    try:
        load_local_settings(app, say)
        config = HostConfig.read(app)
        listening = listen(options.host, options.port)
    except SettingsError as error:
        return fail(str(error))
    except OSError as error:
        why = str(error.strerror).partition(" (")[0]
        return fail(f"Port {options.port} cannot be used ({why}): stop what listens there, or give --port.")
    azurite = azurite_to_start(options, folder)
    try:
        return asyncio.run(serve(options, app, config, listening, azurite))
    except KeyboardInterrupt:
        return 0
    finally:
        if azurite is not None:
            azurite.stop()


async def serve(options: argparse.Namespace, app: Path, config: HostConfig, listening: socket.socket,
                azurite: Azurite | None) -> int:
    """Starts Azurite and the app side by side, then serves until a signal."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    storage = asyncio.create_task(asyncio.to_thread(azurite.start)) if azurite is not None else None
    # Imported late: these take half a second in which Azurite can start, and Ctrl-C is already heard.
    from tools.local_host.host import Host
    from tools.local_host.worker import IndexingError, prepare_environment

    set_up_logging("Debug" if options.verbose else config.log_level, options.verbose)
    port = listening.getsockname()[1]
    url = f"http://{'localhost' if options.host in ('127.0.0.1', '0.0.0.0') else options.host}:{port}"
    prepare_environment(port)
    os.chdir(app)
    host = Host(app, config, listening, url, options.key)

    def started() -> None:
        announce(host, options.key)
        if options.ready_file is not None:
            content = json.dumps({"url": url, "key": options.key, "pid": os.getpid()})
            partial = options.ready_file.with_suffix(".partial")
            partial.write_text(content)
            partial.rename(options.ready_file)

    try:
        await host.prepare()
        if storage is not None:
            await storage
        await host.serve(started, stop)
    except (SettingsError, AzuriteError) as error:
        return fail(str(error))
    except IndexingError as error:
        return fail(f"The app cannot be served: {error}", status=1)
    finally:
        if storage is not None:
            await asyncio.wait([storage])
    return 0 if stop.is_set() else 1


def azurite_to_start(options: argparse.Namespace, folder: Path) -> Azurite | None:
    """The Azurite this host has to start, if any; settings then name its real ports where they are not the standard ones."""
    wanting = [name for name, value in os.environ.items() if value == DEVELOPMENT_STORAGE]
    azurite = Azurite(folder, options.azurite_ports)
    if options.azurite_ports != STANDARD_PORTS:
        os.environ.update(dict.fromkeys(wanting, azurite.connection_string()))
    if options.no_azurite or not wanting:
        return None
    if all(answers(port) for port in options.azurite_ports):
        say(f"Azurite is running already on ports {', '.join(map(str, options.azurite_ports))}: using it.")
        return None
    return azurite


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, before anything else is started. Raises OSError when the port is taken."""
    listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048)
    # asyncio does this only for sockets of its own making; without it every small answer waits 40 ms for an acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def announce(host: Host, key: str) -> None:
    """Prints what is served, as `func start` does: HTTP functions with their URL first, then the others."""
    worker = host.worker
    working = (f for f in worker.functions.values() if not f.name.startswith("BuiltIn__") and f.name not in worker.in_error)
    shown = sorted(working, key=lambda f: (f.trigger["type"] != "httpTrigger", f.name))
    print("\nFunctions:\n")
    for function in shown:
        if function.trigger["type"] == "httpTrigger":
            methods = ",".join(m.upper() for m in function.trigger.get("methods") or ()) or "any"
            path = "/".join(filter(None, (host.config.route_prefix, function.trigger["route"])))
            line = f"[{methods}] {host.base_url}/{path}"
        else:
            what = next((function.trigger[k] for k in ("queueName", "path", "schedule") if function.trigger.get(k)), "")
            line = f"{function.trigger['type']} {what}".rstrip()
        print(f"\t{function.name}: {line}{' (disabled)' if is_disabled(function.name) else ''}\n")
    for name, reason in worker.in_error.items():
        print(f"\tThe '{name}' function is in error: {reason}\n")
    print(f"Key: {key} (header x-functions-key or ?code=). Ctrl-C ends the host.\n", flush=True)


def set_up_logging(level: str, verbose: bool) -> None:
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(stream=sys.stderr, level=_LEVELS.get(level.lower(), "INFO"), force=True,
                        format="[%(asctime)s.%(msecs)03dZ] %(levelname)-7s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    for name in ("azure", "durabletask", "uvicorn", "urllib3", "asyncio"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.WARNING)


def say(line: str) -> None:
    print(line, flush=True)


def fail(reason: str, status: int = USAGE_ERROR) -> int:
    print(reason, file=sys.stderr, flush=True)
    return status


def _three_ports(text: str) -> tuple[int, int, int]:
    blob, queue, table = map(int, text.split(","))
    return blob, queue, table


if __name__ == "__main__":
    exit_status = main()
    logging.shutdown()
    sys.stdout.flush()
    # A function that still runs in a thread would keep the process alive until it is done.
    os._exit(exit_status)
