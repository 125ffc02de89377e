"""The table of "Sizing": the script prints the rows that the document shows. No time is asserted."""

import re
from pathlib import Path

import pytest
import sizing
from cold_world import missing_requirement

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| ([a-zA-Z][^|]*) \| ([\d.]+) \| ([\d,]+) \| (\d*) ?\|$", re.MULTILINE)
MISSING = missing_requirement()


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=MISSING or "port 53 can be used")
def test_it_prints_the_rows_of_the_document(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "ROUNDS", 1)
    assert sizing.main(["--scale", "0.002"]) == 0
    printed = ROW.findall(capsys.readouterr().out)
    shown = ROW.findall((ROOT / "docs" / "operating.md").read_text(encoding="utf-8").partition("## Sizing")[2])
    assert [title for title, *_ in printed] == [title for title, *_ in shown]
    for title, cost, rate, octets in printed + shown:
        # The rate is printed from the cost before it is rounded.
        assert float(rate.replace(",", "")) == pytest.approx(1e6 / float(cost), rel=0.1), title
        assert bool(octets) is not title.startswith(("cached", "TLS")), title
