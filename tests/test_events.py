"""CloudEvents, their signature, and their way to a webhook that does not always take them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from shared import events
from shared.events import Publisher, cloud_event, deliver, post, signature
from shared.queues import Queues
from shared.settings import InvalidSetting, Settings
from tests.webhook import SECRET, Receiver, receiving, verified

NIGHT = datetime(2026, 9, 21, 2, tzinfo=UTC)


def event(subject: str = "orders", **data: Any) -> dict[str, Any]:
    return cloud_event(events.ANOMALY, "volume", subject, NIGHT, {"message": "412 rows", **data}, (None, "2026-09-21"))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


def test_an_event_has_what_cloudevents_asks_for():
    told = event()

    assert {"specversion": "1.0", "type": "com.claritydq.anomaly.v1", "source": "/claritydq/volume", "subject": "orders",
            "time": "2026-09-21T02:00:00Z", "datacontenttype": "application/json"}.items() <= told.items()
    assert told["id"] and told["data"] == {"message": "412 rows"}


def test_the_same_event_has_the_same_id_and_another_has_another():
    assert event()["id"] == event(value=5)["id"]
    assert len({event()["id"], event("stock")["id"],
                cloud_event(events.RECOVERED, "volume", "orders", NIGHT, {}, (None, "2026-09-21"))["id"],
                cloud_event(events.ANOMALY, "volume", "orders", NIGHT, {}, (None, "2026-09-22"))["id"],
                cloud_event(events.ANOMALY, "volume", "orders", NIGHT, {}, ("column", "2026-09-21"))["id"]}) == 5


def test_a_long_message_is_cut_so_that_the_event_fits_a_queue():
    assert len(event(message="x" * 100_000)["data"]["message"]) == 2000


def test_the_signature_is_that_of_the_published_example():
    # The example of the Standard Webhooks specification's own libraries.
    headers = signature("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek",
                        datetime.fromtimestamp(1614265330, UTC), b'{"test": 2432232314}')

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_may_be_plain_text_or_missing_and_is_refused_where_it_is_no_base64():
    headers = signature("plain text", "id", datetime.now(UTC), b"{}")
    assert verified("plain text", headers, b"{}") and not verified("another", headers, b"{}")
    assert "webhook-signature" not in signature(None, "id", NIGHT, b"")
    with pytest.raises(InvalidSetting):
        signature("whsec_???", "id", NIGHT, b"")


def test_what_is_posted_is_signed_and_structured(receiver):
    assert post(receiver.url, SECRET, event(), datetime.now(UTC)) is None

    ((headers, body),) = receiver.taken
    assert verified(SECRET, headers, body) and not verified(SECRET, headers, body + b" ")
    assert headers["content-type"].startswith("application/cloudevents+json")
    assert json.loads(body) == event() and headers["webhook-id"] == event()["id"]


def test_a_redirect_is_not_followed(receiver):
    receiver.statuses[:] = [302]

    assert post(receiver.url, SECRET, event(), NIGHT) == "status 302"
    assert len(receiver.taken) == 1


def test_nothing_is_sent_in_the_clear_to_another_machine():
    for url in ("http://example.org/hook", "file:///etc/passwd", "ftp://example.org"):
        with pytest.raises(InvalidSetting):
            post(url, SECRET, event(), NIGHT)


def test_nobody_there_is_a_problem_and_no_error():
    assert post("http://127.0.0.1:9/hook", SECRET, event(), NIGHT) == "no answer: URLError"


def test_without_a_webhook_events_go_to_the_queue_alone(storage):
    settings = Settings(connection_string=storage)
    queues = Queues(settings)

    Publisher(queues, settings).publish(event())

    assert [json.loads(text) for text in queues.peek("anomalies").values()] == [event()]
    assert queues.length("anomalies-webhook") == 0


def waiting(queues: Queues, seconds: float = 6) -> str:
    """The next message of the webhook's queue once it can be seen; it is taken."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for message in queues.take("anomalies-webhook"):
            message.delete()
            return message.text
        time.sleep(0.1)
    raise AssertionError("nothing came back")


def test_what_the_receiver_refuses_comes_back_later_with_the_same_id(storage, receiver):
    settings = Settings(connection_string=storage, webhook_url=receiver.url, webhook_secret=SECRET)
    queues = Queues(settings)
    receiver.statuses[:] = [500]
    Publisher(queues, settings).publish(event())

    deliver(waiting(queues).encode(), queues, settings)

    assert not queues.peek("anomalies-webhook")  # not at once
    again = waiting(queues)
    assert json.loads(again)["tries"] == 1
    deliver(again.encode(), queues, settings)
    assert queues.length("anomalies-webhook") == 0
    assert [headers["webhook-id"] for headers, _ in receiver.taken] == [event()["id"]] * 2


def test_after_the_last_try_an_event_lies_on_the_poison_queue_with_its_reason(storage, receiver):
    settings = Settings(connection_string=storage, webhook_url=receiver.url)
    queues = Queues(settings)
    receiver.statuses[:] = [410]

    deliver(json.dumps({"event": event(), "tries": events.TRIES - 1}).encode(), queues, settings)

    (text,) = queues.peek("anomalies-webhook-poison").values()
    assert json.loads(text) == {"reason": "status 410", "event": event(), "tries": events.TRIES}


def test_a_webhook_that_was_switched_off_takes_no_more(storage):
    settings = Settings(connection_string=storage)

    deliver(json.dumps({"event": event(), "tries": 0}).encode(), Queues(settings), settings)

    assert Queues(settings).length("anomalies-webhook") == 0
