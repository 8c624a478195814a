"""When an anomaly is told, when its end is, and what repeated and swapped messages change: nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import telling
from shared.alerts import KEPT, Alerts, State, Told, Verdict, step, verdict_of
from shared.contract import HistoryUse, ModelUse, VolumeAnswer, VolumeRequest
from shared.contract_tables import AlertPolicy
from shared.contract_timeliness import TimelinessAnswer
from shared.events import ANOMALY, INCIDENT, RECOVERED, Publisher
from shared.history import History
from shared.queues import Queues
from shared.settings import Settings
from shared.tables import Tables

NIGHT = datetime(2026, 9, 21, 2, tzinfo=UTC)
AT_ONCE = AlertPolicy(cooldown_minutes=0)


def verdict(day: float, wrong: bool = True, table_id: str = "orders", observed: float | None = None, **more: Any) -> Verdict:
    """Of a day; observed as many days later, on that day where nothing else is said."""
    return Verdict(detector="volume", table_id=table_id, about=NIGHT + timedelta(days=day), is_anomaly=wrong,
                   observed_at=NIGHT + timedelta(days=day if observed is None else observed), confidence=0.9,
                   severity="high" if wrong else "none", message="412 rows", expected_range=(9000, 9900), **more)


def after(*verdicts: Verdict, policy: AlertPolicy = AT_ONCE) -> State:
    state = State()
    for one in verdicts:
        state = step(state, one, policy)
    return state


def told(state: State) -> list[str]:
    return [event["type"].split(".")[2] for event in state.outbox]


def test_an_outage_is_told_once_and_its_end_once():
    state = after(verdict(0, False), verdict(1), verdict(2), verdict(3), verdict(4, False), verdict(5, False))

    assert told(state) == ["anomaly", "recovered"]
    alert, end = state.outbox
    assert end["data"]["outage"] == alert["id"] and end["data"]["since"] == alert["data"]["since"]
    assert alert["subject"] == "orders" and alert["data"]["expected_range"] == [9000, 9900]


def test_anomalies_are_held_down_until_there_are_enough_in_a_row():
    three = AlertPolicy(consecutive=3, cooldown_minutes=0)

    assert told(after(verdict(1), verdict(2), verdict(3, False), verdict(4), verdict(5), policy=three)) == []
    assert told(after(verdict(1), verdict(2), verdict(3), policy=three)) == ["anomaly"]
    assert told(after(verdict(3), verdict(1), verdict(2), policy=three)) == ["anomaly"]


def test_within_the_cooldown_another_outage_is_not_told_until_it_outlasts_it():
    policy = AlertPolicy(cooldown_minutes=3 * 24 * 60)
    flapping = [verdict(0), verdict(1, False), verdict(2), verdict(2.5, False), verdict(2.7)]

    assert told(after(*flapping, policy=policy)) == ["anomaly", "recovered"]
    assert told(after(*flapping, verdict(3.1), policy=policy)) == ["anomaly", "recovered", "anomaly"]


def test_a_late_anomaly_joins_the_outage_it_belongs_to():
    assert told(after(verdict(1), verdict(3), verdict(2))) == ["anomaly"]
    assert told(after(verdict(1), verdict(3, False), verdict(2))) == ["anomaly", "recovered"]


def test_an_anomaly_that_arrives_after_the_good_news_is_told_with_its_end():
    state = after(verdict(0), verdict(1, False), verdict(5, False), verdict(3))

    assert told(state) == ["anomaly", "recovered", "anomaly", "recovered"]
    assert state.opened is None and len({event["id"] for event in state.outbox}) == 4


def test_a_later_word_on_the_same_load_takes_the_place_of_the_earlier():
    assert told(after(verdict(1, observed=1), verdict(1, False, observed=2))) == ["anomaly", "recovered"]
    assert told(after(verdict(1, False, observed=2), verdict(1, observed=1), policy=AlertPolicy(consecutive=2))) == []


def test_a_late_load_that_has_come_ends_the_outage_and_is_no_new_one():
    late = verdict(1, observed=1.1)
    came = verdict(1, observed=1.2, over=True)

    assert told(after(late, came)) == ["anomaly", "recovered"]
    assert told(after(late, came, came, verdict(2, False))) == ["anomaly", "recovered"]
    assert told(after(came)) == ["anomaly"]


def test_what_was_said_to_be_over_and_is_wrong_again_is_told_again():
    state = after(verdict(1), verdict(2, False, observed=2), verdict(2, observed=2.5), verdict(3), verdict(4, False))

    assert told(state) == ["anomaly", "recovered"] * 2
    assert len({event["id"] for event in state.outbox}) == 4


def test_good_news_alone_leaves_no_state():
    assert after(verdict(1, False), verdict(2, False)) == State()


days = st.lists(st.tuples(st.integers(0, KEPT - 1), st.booleans()), max_size=KEPT, unique_by=lambda pair: pair[0])


@given(days, st.data())
def test_order_and_repetition_change_neither_what_is_known_nor_that_each_outage_is_told(some, data):
    verdicts = [verdict(day, wrong) for day, wrong in some]
    mixed = data.draw(st.permutations(verdicts + data.draw(st.lists(st.sampled_from(verdicts or [verdict(0)]), max_size=5))))
    mixed = mixed if verdicts else []

    state = after(*mixed)

    known = {seen.about: seen.wrong for seen in state.seen}
    wrong = [about for about, _ in sorted(known.items()) if known[about]]
    assert wrong == sorted((NIGHT + timedelta(days=day)).isoformat(timespec="microseconds")[:26] + "Z"
                           for day, is_wrong in some if is_wrong)
    for is_wrong, run in groupby(state.seen, key=lambda seen: seen.wrong):
        assert not is_wrong or all(seen.told for seen in run)
    alerts = [event["id"] for event in state.outbox if event["type"] == ANOMALY]
    assert len(alerts) == len(set(alerts)) <= sum(is_wrong for _, is_wrong in some)
    # Good news is not kept while nothing is wrong: when it comes again it may be the end of what was told meanwhile.
    again = [event["id"] for event in after(*mixed, *mixed).outbox]
    assert again[: len(state.outbox)] == [event["id"] for event in state.outbox] and len(again) <= len(state.outbox) + 1


@given(st.lists(st.booleans(), max_size=KEPT), st.integers(1, 4))
def test_in_order_every_long_enough_run_is_told_exactly_once(wrongs, consecutive):
    state = after(*(verdict(day, wrong) for day, wrong in enumerate(wrongs)),
                  policy=AlertPolicy(consecutive=consecutive, cooldown_minutes=0))

    runs = [len(list(run)) for wrong, run in groupby(wrongs) if wrong]
    long_enough = sum(length >= consecutive for length in runs)
    still = bool(wrongs) and wrongs[-1] and runs[-1] >= consecutive
    assert told(state).count("anomaly") == long_enough
    assert told(state).count("recovered") == long_enough - still


def test_more_verdicts_than_are_kept_stay_one_outage():
    state = after(*(verdict(day) for day in range(3 * KEPT)), verdict(100, False))

    assert told(state) == ["anomaly", "recovered"] and len(state.seen) == KEPT
    assert step(state, verdict(0), AT_ONCE) is state


def answer(**more: Any) -> VolumeAnswer:
    return VolumeAnswer(**{"is_anomaly": True, "severity": "high", "confidence": 0.9, "expected_range": (1, 2),
                           "message": "m",
                           "status": "evaluated", "table_id": "orders", "timestamp": "2026-09-21T02:00:00Z", "value": 5,
                           "history": HistoryUse(points=1, used=1, excluded=0, missing=0),
                           "model": ModelUse(name=None, version="1", algorithm="a"), **more})


def test_an_answer_becomes_a_verdict_where_it_is_one():
    assert verdict_of(answer(status="learning"), NIGHT) is None
    assert verdict_of(answer(table_id=None), NIGHT) is None
    assert verdict_of(answer(timestamp=None), NIGHT).about == NIGHT
    assert verdict_of(answer(timestamp="2026-09-21T02:00:00"), NIGHT).about == NIGHT
    assert verdict_of(answer(), NIGHT).facts == {"status": "evaluated", "value": 5.0}


def test_a_late_feed_is_about_its_due_time_and_over_once_it_has_come():
    late = {**answer().model_dump(), "detector": "timeliness", "state": "late", "due_at": "2026-09-21T01:00:00Z"}
    out = verdict_of(TimelinessAnswer.model_validate({**late, "missing_loads": 1}), NIGHT)
    came = verdict_of(TimelinessAnswer.model_validate(late), NIGHT)

    assert out.about == came.about == datetime(2026, 9, 21, 1, tzinfo=UTC)
    assert (out.over, came.over) == (False, True)


def test_a_verdict_rides_on_the_message_that_keeps_what_was_seen():
    asked = VolumeRequest(current_row_count=5.0)

    both = json.loads(telling.with_verdict('{"detector": "volume", "value": 5}', asked, answer(), NIGHT, True))
    alone = json.loads(telling.with_verdict(None, asked, answer(message="x" * 9000), NIGHT, True))

    assert both["value"] == 5 and both["verdict"]["message"] == "m"
    assert alone["seen"] is False and alone["detector"] == "volume" and len(alone["verdict"]["message"]) == 500
    assert telling.with_verdict(None, asked, answer(), NIGHT, False) is None
    assert telling.with_verdict(None, asked.model_copy(update={"record": False}), answer(), NIGHT, True) is None
    assert telling.with_verdict("{}", asked, answer(status="learning"), NIGHT, True) == "{}"


class Desk:
    """Everything that alerts need, on an account of its own."""

    def __init__(self, storage: str) -> None:
        self.settings = Settings(connection_string=storage, webhook_url="https://example.org/hook")
        history = History(self.settings)
        self.queues, self.tables = Queues(self.settings), Tables(history, "described")
        self.alerts, self.publisher = Alerts(history, "alerts"), Publisher(self.queues, self.settings)

    def consider(self, one: Verdict) -> None:
        message = json.dumps({"detector": "volume", "verdict": one.model_dump(mode="json")})
        telling.consider(message.encode(), self.alerts, self.tables, self.publisher)

    def announce(self, labels: dict[str, dict[str, str]]) -> telling.Announced:
        return telling.announce("volume", self.alerts, self.publisher, lambda: labels)

    def published(self) -> list[dict[str, Any]]:
        events = []
        for message in self.queues.take("anomalies"):
            events.append(json.loads(message.text))
            message.delete()
        return events


@pytest.fixture
def desk(storage: str) -> Desk:
    return Desk(storage)


def test_events_are_published_once_under_the_policy_of_the_table(desk):
    desk.tables.put("orders", {"settings": {"alerts": {"consecutive": 2, "cooldown_minutes": 0}}})

    for day in (1, 1, 2, 3):
        desk.consider(verdict(day))
    desk.consider(verdict(4, False))

    assert [event["type"] for event in desk.published()] == [ANOMALY, RECOVERED]
    assert desk.queues.length("anomalies-webhook") == 2
    assert desk.alerts.read("volume", "orders").state.outbox == ()


def test_a_message_without_a_verdict_means_nothing(desk):
    telling.consider(b'{"detector": "volume", "value": 5}', desk.alerts, desk.tables, desk.publisher)

    assert desk.published() == []


def test_columns_of_one_table_have_outages_of_their_own(desk):
    desk.consider(verdict(1, part="a/b#c"))
    desk.consider(verdict(2, False, part="other"))

    assert [event["type"] for event in desk.published()] == [ANOMALY]
    assert [(one.table_id, one.part) for one in desk.alerts.open("volume")] == [("orders", "a/b#c")]


def test_what_a_worker_wrote_and_did_not_publish_is_published_by_the_next(desk):
    desk.alerts.consider(verdict(1), AT_ONCE)  # and dies

    desk.consider(verdict(1))

    assert [event["type"] for event in desk.published()] == [ANOMALY]
    assert desk.announce({}) == telling.Announced()


def test_two_workers_with_one_outage_tell_it_once(desk):
    read, raced = desk.alerts.read, []

    def race(*args: Any) -> Told:
        known = read(*args)
        if not raced:
            raced.append(True)
            Alerts(History(desk.settings), "alerts").consider(verdict(1), AT_ONCE)
        return known

    desk.alerts.read = race
    state = desk.alerts.consider(verdict(2), AT_ONCE).state

    assert told(state) == ["anomaly"] and [seen.told for seen in state.seen] == [True, True]


def test_many_outages_of_one_source_are_one_event_and_their_end_is_one(desk):
    fleet = {f"t{n:03d}": {"source": "sap" if n < 20 else f"s{n % 9}"} for n in range(400)}
    sick = [f"t{n:03d}" for n in range(20)]
    for table_id in [*sick[:15], "t399"]:
        desk.alerts.consider(verdict(1, table_id=table_id), AT_ONCE)

    assert desk.announce(fleet) == telling.Announced(anomalies=1, incidents=1)
    incident = next(event for event in desk.published() if event["type"] == INCIDENT)
    assert incident["data"]["factors"][0]["value"] == "sap" and incident["data"]["tables"] == 15
    assert desk.announce(fleet) == telling.Announced()

    for table_id in sick[15:]:
        desk.alerts.consider(verdict(1, table_id=table_id), AT_ONCE)
    assert desk.announce(fleet) == telling.Announced(incidents=1)
    grown, = desk.published()
    assert grown["subject"] == incident["subject"] and grown["data"]["tables"] == 20 and grown["id"] != incident["id"]

    for table_id in sick:
        desk.consider(verdict(2, False, table_id=table_id))
    assert desk.published() == []
    assert desk.announce(fleet) == telling.Announced(recovered=1)
    (end,) = desk.published()
    assert end["subject"] == incident["subject"] and end["data"]["tables"] == 20
    assert list(desk.alerts.open("volume")) == [next(desk.alerts.open("volume"))]  # t399 alone is still out


def test_of_many_verdicts_only_what_is_or_was_wrong_is_looked_at(desk):
    desk.tables.put("two", {"settings": {"alerts": {"consecutive": 2}}})
    read, asked = desk.alerts.read, []
    desk.alerts.read = lambda detector, table_id, part=None: (asked.append(table_id), read(detector, table_id, part))[1]

    for day, wrong in ((1, {"one", "two"}), (2, set()), (3, {"two"})):
        verdicts = [verdict(day, table_id in wrong, table_id) for table_id in ("one", "two", "a", "b", "c")]
        telling.consider_many("volume", verdicts, desk.alerts, desk.tables)

    assert set(asked) == {"one", "two"}
    assert desk.announce({}) == telling.Announced(anomalies=1, recovered=1)  # `two` was never wrong twice in a row


def test_a_quiet_table_is_not_looked_up_again_for_a_while_and_an_anomaly_is_told_all_the_same(storage: str) -> None:
    now = [0.0]
    settings = Settings(connection_string=storage)
    worker, other = Alerts(History(settings), "alerts", 60.0, lambda: now[0]), Alerts(History(settings), "alerts")
    assert worker.consider(verdict(1, wrong=False), AT_ONCE).etag is None

    other.consider(verdict(2), AT_ONCE)
    unseen, after = worker.consider(verdict(3, wrong=False), AT_ONCE), worker.consider(verdict(4), AT_ONCE)
    over = worker.consider(verdict(5, wrong=False), AT_ONCE)

    assert unseen.etag is None and after.state.opened is not None, "an anomaly is always looked at"
    assert over.state.opened is None, "and a good verdict after it is, too"
