"""Route templates, schedules and settings, as the Functions host understands them."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tools.local_host.blobs import path_pattern
from tools.local_host.routes import Route, RouteError, RouteTable, decode_path
from tools.local_host.settings import HostConfig, SettingsError, connection_string, load_local_settings, resolve, seconds
from tools.local_host.storage import Storage
from tools.local_host.timers import next_occurrence

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)  # a Friday


@pytest.mark.parametrize(("template", "path", "params"), [
    ("api/models/{name}", "/api/models/orders", {"name": "orders"}),
    ("api/models/{name}", "/API/Models/orders/", {"name": "orders"}),
    ("api/models/{name}", "/api/models/a/b", None),
    ("api/models/{name}", "/api/models/", None),
    ("api/{id:int}", "/api/-12", {"id": "-12"}),
    ("api/{id:int}", "/api/12a", None),
    ("api/{name:alpha}", "/api/abc", {"name": "abc"}),
    ("api/{name:alpha}", "/api/a1", None),
    ("api/{id:guid}", "/api/6cecf4ce-0b30-46ad-9ec9-1140f6ca1716", {"id": "6cecf4ce-0b30-46ad-9ec9-1140f6ca1716"}),
    ("api/{code:length(2,3)}", "/api/abcd", None),
    ("api/{code:regex(^[a-c]+$)}", "/api/abc", {"code": "abc"}),
    ("api/a/{id?}", "/api/a", {}),
    ("api/a/{id=7}", "/api/a", {"id": "7"}),
    ("api/files/{*rest}", "/api/files/a/b.txt", {"rest": "a/b.txt"}),
    ("api/files/{*rest}", "/api/files", {}),
    ("api/{name}.{extension}", "/api/report.v2.csv", {"name": "report.v2", "extension": "csv"}),
])
def test_a_route_template_matches_as_in_asp_net(template: str, path: str, params: dict[str, str] | None) -> None:
    assert Route.parse("f", template, ()).match("GET", path) == params


@pytest.mark.parametrize("template", ["api/{", "api/{id:even}", "api/{a}}"])
def test_a_route_template_that_cannot_be_understood_is_refused(template: str) -> None:
    with pytest.raises(RouteError):
        Route.parse("f", template, ())


def test_the_most_specific_route_wins_whatever_the_order() -> None:
    templates = {"rest": "api/{*rest}", "any": "api/{name}", "number": "api/{id:int}", "literal": "api/health"}
    table = RouteTable(Route.parse(name, template, ()) for name, template in templates.items())

    assert [table.match("GET", path)[0] for path in ("/api/health", "/api/7", "/api/x", "/api/x/y")] == [
        "literal", "number", "any", "rest"]


def test_the_same_path_can_belong_to_two_functions_by_method() -> None:
    table = RouteTable([Route.parse("read", "api/x", ["GET"]), Route.parse("write", "api/x", ["post"])])

    assert table.match("POST", "/api/x") == ("write", {})
    assert table.match("DELETE", "/api/x") is None


@pytest.mark.parametrize(("raw", "path"), [
    ("/api/a%20b", "/api/a b"), ("/api/a%2Fb", "/api/a%2Fb"), ("/api/%2e%2e/admin", "/admin"), ("/api/../../x", "/x"),
    ("/api/./x", "/api/x"), ("/api/x/..", "/api/"), ("/api/%C3%BC", "/api/ü"),
])
def test_a_path_is_decoded_as_kestrel_does(raw: str, path: str) -> None:
    assert decode_path(raw) == path


@pytest.mark.parametrize("raw", ["/api/%ff", "/api/%00"])
def test_a_path_that_is_no_text_is_refused(raw: str) -> None:
    with pytest.raises(ValueError):
        decode_path(raw)


@pytest.mark.parametrize(("schedule", "expected"), [
    ("*/10 * * * * *", "2026-11-20T12:00:10+00:00"),
    ("0 */5 * * * *", "2026-11-20T12:05:00+00:00"),
    ("0 0 3 * * 1", "2026-11-23T03:00:00+00:00"),
    ("0 0 3 * * Sun", "2026-11-22T03:00:00+00:00"),
    ("30 0 0 1 1 *", "2027-01-01T00:00:30+00:00"),
    ("0 30 9 13 * 5", "2027-08-13T09:30:00+00:00"),  # day and weekday must both fit: a Friday the 13th
    ("5 4 * * *", "2026-11-21T04:05:00+00:00"),  # five fields: the seconds are zero
    ("00:30:00", "2026-11-20T12:30:00+00:00"),
])
def test_a_schedule_is_read_as_ncrontab(schedule: str, expected: str) -> None:
    assert next_occurrence(schedule, NOON).isoformat() == expected


def test_a_schedule_of_another_form_is_refused() -> None:
    with pytest.raises(SettingsError, match="every Monday"):
        next_occurrence("every Monday", NOON)


@pytest.mark.parametrize(("template", "name", "found"), [
    ("{name}", "a/b.csv", {"name": "a/b.csv"}),
    ("{table}/{name}", "orders/2026/01.csv", {"table": "orders", "name": "2026/01.csv"}),
    ("{name}.csv", "x.json", None),
    ("in/{name}.{kind}", "in/a.b.csv", {"name": "a.b", "kind": "csv"}),
])
def test_a_blob_path_is_taken_apart_by_its_pattern(template: str, name: str, found: dict[str, str] | None) -> None:
    match = path_pattern(template).fullmatch(name)

    assert (match and match.groupdict()) == found


@pytest.mark.parametrize(("text", "expected"), [
    ("00:00:30", 30), ("01:02:03", 3723), ("1.00:00:00", 86400), ("00:00:00.5", 0.5)])
def test_a_time_span_is_read_in_seconds(text: str, expected: float) -> None:
    assert seconds(text) == expected


def test_settings_are_filled_into_a_binding_and_a_missing_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBS", "jobs")

    assert resolve("%JOBS%-poison") == "jobs-poison"
    with pytest.raises(SettingsError, match="NO_SUCH"):
        resolve("%NO_SUCH%")


def test_what_is_in_the_environment_wins_over_the_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIVEN", "outside")
    monkeypatch.setenv("FROM_FILE", "")
    monkeypatch.delenv("FROM_FILE")
    (tmp_path / "local.settings.json").write_text('{"Values": {"GIVEN": "file", "FROM_FILE": "file"}}')

    load_local_settings(tmp_path, print)

    assert (resolve("%GIVEN%"), resolve("%FROM_FILE%")) == ("outside", "file")


def test_encrypted_settings_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "local.settings.json").write_text('{"IsEncrypted": true, "Values": {}}')

    with pytest.raises(SettingsError, match="func settings decrypt"):
        load_local_settings(tmp_path, print)


def test_host_json_has_the_hosts_own_defaults(tmp_path: Path) -> None:
    (tmp_path / "function_app.py").touch()
    (tmp_path / "host.json").write_text('{"version": "2.0"}')

    config = HostConfig.read(tmp_path)

    assert (config.route_prefix, config.queue_batch, config.queue_max_dequeue, config.queue_base64) == ("api", 16, 5, True)


@pytest.mark.parametrize("content", ["", "[]", "{version}"])
def test_a_broken_host_json_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "function_app.py").touch()
    (tmp_path / "host.json").write_text(content)

    with pytest.raises(SettingsError, match=r"host\.json"):
        HostConfig.read(tmp_path)


def test_queue_messages_are_base64_unless_host_json_says_none() -> None:
    assert Storage(queue_base64=True).encode(b"hi") == "aGk="
    assert Storage(queue_base64=True).decode("aGk=") == b"hi"
    assert Storage(queue_base64=False).encode(b"hi") == "hi"
    assert Storage(queue_base64=False).decode("hi") == b"hi"


def test_a_connection_that_is_not_set_says_what_to_set() -> None:
    with pytest.raises(SettingsError, match="OTHER_STORAGE=UseDevelopmentStorage=true"):
        connection_string("OTHER_STORAGE")
