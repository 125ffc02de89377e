"""docs/monitoring.md against the code: its table of metrics, of resources and of alerts."""

import re
from pathlib import Path

import pytest

from resolver.observe.catalogue import HISTOGRAMS, METRICS, PREFIX, Metric
from resolver.observe.labels import RESULTS

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[4]
PAGE = (ROOT / "docs" / "monitoring.md").read_text()
UNITS = {"_timestamp_seconds": "seconds since 1970", "_seconds": "seconds", "_bytes": "bytes"}


def row_of(metric: Metric, kind: str) -> str:
    labels = ", ".join(f"`{label}`" for label in [*(["transport"] if metric.transport else []), *metric.labels])
    bare = metric.name.removesuffix("_total")
    unit = next((unit for ending, unit in UNITS.items() if bare.endswith(ending)), "count")
    return f"| `{PREFIX}{metric.name}` | {kind} | {labels} | {unit} | {metric.help} |"


def test_the_table_has_every_metric_as_it_is() -> None:
    wanted = {row_of(metric, "counter" if metric.is_counter else "gauge")
              for group in METRICS.values() for metric in group.values()}
    wanted |= {row_of(metric, "histogram") for metric in HISTOGRAMS.values()}
    found = [line for line in PAGE.splitlines() if line.startswith(f"| `{PREFIX}")]
    assert set(found) == wanted
    assert len(found) == len(wanted), "twice"


def test_results_and_alerts_are_explained() -> None:
    rows = re.findall(r"(?m)^\| `([A-Za-z]+)` \|", PAGE)
    alerts = re.findall(r"- alert: (\w+)", (ROOT / "docs" / "deploy" / "prometheus-alerts.yml").read_text())
    assert [row for row in rows if row.startswith("Resolver")] == alerts
    assert set(RESULTS) <= set(rows)
