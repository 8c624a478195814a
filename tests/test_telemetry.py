"""What is counted while the app works, by OpenTelemetry's own reader; in a process of its own, where no provider was set."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import json
from datetime import UTC, datetime, timedelta
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from detectors.directory import detector
from shared import telemetry
from shared.catalogue import Catalogue
from shared.contract import parse
from shared.judging import judge
from shared.settings import Settings
from shared.tables import Tables

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
catalogue = Catalogue(Settings())
body = {"current_row_count": 10, "historical_data": [1000, 1010, 990, 1005, 998] * 6}
request = parse(detector("volume").request, json.dumps(body).encode())
for _ in range(3):
    judge("volume", request, catalogue, Tables(catalogue.history, "tables"), datetime.now(UTC))
telemetry.checked("pattern", "drifted")
telemetry.retrained("volume", "better")
data = json.loads(reader.get_metrics_data().to_json())
print(json.dumps([[m["name"], p["attributes"], p.get("value", p.get("count"))] for m in
                  data["resource_metrics"][0]["scope_metrics"][0]["metrics"] for p in m["data"]["data_points"]]))
"""


def test_without_opentelemetry_nothing_is_counted_and_nothing_fails() -> None:
    script = "import sys; sys.modules['opentelemetry'] = None\nfrom shared import telemetry\n" \
             "telemetry.judged('volume', 'none', 1.0); telemetry.checked('volume', 'stable'); print('done')"

    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.stdout == "done\n", done.stderr


def test_verdicts_checks_and_retrainings_are_counted_without_naming_a_table() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(done.stdout.splitlines()[-1]), key=str) == [
        ["claritydq.drift.checks", {"detector": "pattern", "verdict": "drifted"}, 1],
        ["claritydq.retrainings", {"detector": "volume", "outcome": "better"}, 1],
        ["claritydq.verdict.duration", {"detector": "volume", "severity": "critical"}, 3]]
