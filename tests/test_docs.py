"""The README says what is there, and nothing else."""

import re
from pathlib import Path

from shared.contract import DetectOptions, VolumeRequest
from tests.test_app import triggers

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_every_route_is_in_the_readme_and_every_route_of_the_readme_is_there() -> None:
    served = {f"{t['methods'][0]} /api/{t['route']}" for t in triggers().values() if t["type"] == "httpTrigger"}  # type: ignore[index]
    table = README[README.index("| route | |"):]
    told = set(re.findall(r"`((?:GET|POST) [^`]+)`", table[:table.index("\n\n")]))

    assert told == served


def test_every_field_of_a_detect_request_is_explained() -> None:
    table = README[README.index("| field | |"):]
    told = set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table[:table.index("\n\n")].splitlines()[2:])))

    assert told | {"request_id", "record"} == set(VolumeRequest.model_fields) | set(DetectOptions.model_fields)


def test_every_setting_that_is_read_is_in_the_readme() -> None:
    source = (ROOT / "shared" / "settings.py").read_text()
    read = set(re.findall(r'"([A-Z][A-Z_]{5,}|AzureWebJobsStorage)"', source))

    assert read and all(f"`{name}`" in README for name in read), read


def test_the_first_screen_shows_how_to_start_and_one_request() -> None:
    screen = "\n".join(README.splitlines()[:30])

    assert "make demo" in screen and "make run" in screen and "curl" in screen and '"is_anomaly": true' in screen


def test_every_make_target_of_the_readme_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))

    assert set(re.findall(r"(?:`|^    )make ([\w-]+)", README, re.M)) <= targets
