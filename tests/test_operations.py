"""docs/operations.md says what the files and the code say."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared import doors, drops

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "operations.md").read_text()
SCHEDULER = json.loads((ROOT / "host.dts.json").read_text())


def values(part: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """(path, value) of every value, as the page writes them."""
    for name, value in part.items():
        if isinstance(value, dict):
            yield from values(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value if isinstance(value, str) else json.dumps(value)


def told(heading: str) -> dict[str, str]:
    """The first two columns of the table below a heading."""
    section = TEXT[TEXT.index(heading) + len(heading):]
    table = section[section.index("| value |"):]
    return dict(re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| [^|]*\|$", table[:table.index("\n\n")], re.M))


def test_every_value_of_host_json_has_its_reason() -> None:
    host = dict(values(SCHEDULER))
    left_out = {"version", "extensionBundle.id"}

    general = {k: v for k, v in host.items() if k not in left_out and ".storageProvider." not in k}
    assert told("## host.json, value by value") == general


def test_both_storage_providers_are_described_as_they_are() -> None:
    assert told("in `host.dts.json`") == dict(values(SCHEDULER["extensions"]["durableTask"]["storageProvider"]))
    assert told("**Azure Storage**")["type"] == "AzureStorage"


def test_the_limits_of_the_doors_are_those_of_the_code() -> None:
    assert f"`DROP_MAX_BYTES` ({drops.Limits().file_bytes // 2**20} MiB)" in TEXT
    assert f"{drops.MAX_PROFILE_BYTES // 2**20} MiB for JSON; {drops.MAX_ROWS // 10**6} million rows" in TEXT
    assert f"From {drops.RATIO_FROM_BYTES // 2**20} MiB" in TEXT and f"more than {drops.MAX_RATIO} times its size" in TEXT
    assert SCHEDULER["extensions"]["queues"]["maxDequeueCount"] == doors.TRIES
    assert all(f"`.{kind}`" in TEXT for kind in drops.KINDS) and doors.BLOB_POISON in TEXT
