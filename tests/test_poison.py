"""Poison messages read, sent again and deleted by hand."""

import json

import pytest

from shared import doors
from shared.catalogue import Catalogue
from shared.errors import InvalidJson, InvalidRequest
from shared.queues import Queues
from shared.settings import Settings
from tools import poison

LONG = b'{"' * 32_000


@pytest.fixture
def catalogue(storage: str) -> Catalogue:
    """With three messages that were refused, one of them long, and one that the host gave up."""
    catalogue = Catalogue(Settings(connection_string=storage))
    queues = Queues(catalogue.settings)
    doors.bury(b"first", "m-1", InvalidJson("The body is not JSON."), queues, catalogue)
    doors.bury(b"second", "m-2", InvalidRequest("table_id: is none.", "table_id"), queues, catalogue)
    doors.bury(LONG, "m-3", InvalidJson("The body is not JSON."), queues, catalogue)
    queues.put("detect-requests-poison", "given up")
    return catalogue


def requests(catalogue: Catalogue) -> list[str]:
    return sorted(Queues(catalogue.settings).peek("detect-requests").values())


def test_every_message_is_listed_with_its_reason(catalogue: Catalogue) -> None:
    listed = poison.waiting(Queues(catalogue.settings), "detect-requests")

    assert [p.id for p in listed[:3]] == ["m-1", "m-2", "m-3"] and listed[3].id
    assert [p.code for p in listed] == ["InvalidJson", "InvalidRequest", "InvalidJson", "HostGaveUp"]
    assert listed[1].reason == "table_id: is none." and all(p.reason for p in listed)


def test_all_messages_are_sent_again_as_they_were(catalogue: Catalogue) -> None:
    told = list(poison.replay(Queues(catalogue.settings), catalogue.blobs, "detect-requests"))

    assert requests(catalogue) == sorted(["first", "second", LONG.decode(), "given up"])
    assert len(told) == 4 and Queues(catalogue.settings).length("detect-requests-poison") == 0


def test_a_chosen_message_is_sent_again_and_the_others_stay(catalogue: Catalogue) -> None:
    told = list(poison.replay(Queues(catalogue.settings), catalogue.blobs, "detect-requests", frozenset({"m-2"})))

    assert told == ["m-2 is sent again."] and requests(catalogue) == ["second"]
    assert Queues(catalogue.settings).length("detect-requests-poison") == 3


def test_a_message_whose_text_is_gone_stays(catalogue: Catalogue) -> None:
    catalogue.blobs.delete("results", "detect-requests-poison/m-3")

    told = list(poison.replay(Queues(catalogue.settings), catalogue.blobs, "detect-requests", frozenset({"m-3"})))

    assert "m-3 stays" in told[0] and requests(catalogue) == []


def test_chosen_messages_are_deleted_from_the_command_line(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DATA_STORAGE", catalogue.settings.connection_string or "")

    poison.main(["drop", "m-1", "m-3"])
    poison.main([])
    poison.main(["--queue", "observations"])

    assert "m-1 is deleted.\nm-3 is deleted.\n" in (told := capsys.readouterr().out)
    assert "2 on detect-requests-poison" in told and "0 on observations-poison" in told
    with pytest.raises(SystemExit):
        poison.main(["drop"])
    assert json.dumps(requests(catalogue)) == "[]"
