"""The load test itself: no call fails while a batch runs beside, and the batch is not starved."""

import re
import subprocess
import sys

from tests.conftest import ROOT


def test_nothing_fails_while_a_batch_runs_beside_detect_calls() -> None:
    said = subprocess.run([sys.executable, "-m", "tools.load", "--seconds", "2", "--items", "300"], cwd=ROOT, text=True,
                          capture_output=True, timeout=150, check=True).stdout.splitlines()

    *phases, batch = said
    assert len(phases) == 3 and all(re.search(r"[1-9]\d* calls, 0 errors", line) for line in phases), said
    assert "succeeded: 300 of 300 items, 0 failed" in batch, said
