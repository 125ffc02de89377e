"""A short run of the soak test (tests/soak.py), so that it stays correct and its conditions hold on every run.

The long run is ``make soak``. Its checks must detect failures, which is tested with fabricated runs.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SCRIPT = Path(__file__).resolve().parents[1] / "soak.py"
SECONDS = 12.0
spec = importlib.util.spec_from_file_location("soak_run", SCRIPT)
assert spec is not None
assert spec.loader is not None
soak_run = importlib.util.module_from_spec(spec)
sys.modules["soak_run"] = soak_run
spec.loader.exec_module(soak_run)


def test_a_short_soak(tmp_path: Path) -> None:
    assert soak_run.soak(SECONDS, tmp_path) == []


def counts(**changes: int):
    """What a good run counts, but for `changes` of the new names."""
    good = {"asked": 10, "answered": 10}
    return {kind: soak_run.Counts(**(good | changes if kind == "new" else good)) for kind in ("cached", "new", "sick")}


@pytest.mark.parametrize(
    ("met", "process", "left", "status", "log", "word"),
    [
        (counts(), soak_run.Process(1, 100, 20), 11, 0, "level=info", None),
        (counts(answered=9, failed=1), soak_run.Process(1, 100, 20), 11, 0, "", "healthy"),
        (counts(answered=9, silent=1), soak_run.Process(1, 100, 20), 11, 0, "", "healthy"),
        (counts(repeated=1), soak_run.Process(1, 100, 20), 11, 0, "", "queried again"),
        (counts(answered=0), soak_run.Process(1, 100, 20), 11, 0, "", "healthy"),
        (counts(), soak_run.Process(1, 1000, 20), 11, 0, "", "memory"),
        (counts(), soak_run.Process(1, 100, 2000), 12, 0, "", "descriptors"),
        (counts(), soak_run.Process(1, 100, 20), 11, 1, "", "SIGTERM"),
        (counts(), soak_run.Process(1, 100, 20), 11, None, "", "SIGTERM"),
        (counts(), soak_run.Process(1, 100, 20), 11, 0, "Traceback (most", "log"),
        (counts(), soak_run.Process(1, 100, 20), 11, 0, "level=error x", "log"),
    ],
)
def test_the_check_of_the_soak_run(met, process, left, status, log, word) -> None:
    wrong = soak_run.find_problems(met, process, 40.0, 11, left, status, log)
    assert bool(wrong) == (word is not None)
    if word is not None:
        assert word in wrong[0]
