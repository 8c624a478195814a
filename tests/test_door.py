"""The look at the queue service before a message is handed over."""

import socket

import pytest

from shared.door import LOOK_SECONDS, Door
from shared.settings import Settings


def door(port: int, now: list[float]) -> Door:
    return Door(Settings(queue_uri=f"http://127.0.0.1:{port}/account"), clock=lambda: now[0])


def test_it_is_open_while_something_listens_and_seen_closed_soon_after() -> None:
    now = [0.0]
    with socket.create_server(("127.0.0.1", 0)) as server:
        queue = door(server.getsockname()[1], now)
        assert queue.is_open()
    assert queue.is_open()  # not looked at again yet

    now[0] += LOOK_SECONDS

    assert not queue.is_open()


def test_it_opens_again() -> None:
    now = [0.0]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    queue = door(port, now)
    assert not queue.is_open()

    with socket.create_server(("127.0.0.1", port)):
        now[0] += LOOK_SECONDS
        assert queue.is_open()


@pytest.mark.parametrize(("settings", "address"), [
    (Settings(connection_string="AccountName=a;QueueEndpoint=http://127.0.0.1:10001/a"), ("127.0.0.1", 10001)),
    (Settings(connection_string="AccountName=a;AccountKey=k=="), ("a.queue.core.windows.net", 443)),
    (Settings(queue_uri="https://a.queue.core.windows.net/"), ("a.queue.core.windows.net", 443)),
    (Settings(), None),
])
def test_the_address_comes_from_either_kind_of_setting(settings: Settings, address: tuple[str, int] | None) -> None:
    assert Door(settings)._address == address
