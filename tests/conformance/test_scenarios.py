"""Other people's resolver scenarios, played against the daemon: which fail is written down, and nothing else may.

The scenarios are no part of the project (see scenarios/run.py for where they are looked for). A scenario that fails and
is not listed in known.toml is played once more by itself, because a loaded machine can miss a deadline of the runner;
failing twice it is a failure. A listed one that passes must leave the list.
"""

import csv
import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent / "scenarios"
spec = importlib.util.spec_from_file_location("scenarios_run", HERE / "run.py")
assert spec is not None
assert spec.loader is not None
scenarios = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scenarios)

SUITE = scenarios.find_suite()
KNOWN = tomllib.loads((HERE / "known.toml").read_text(encoding="utf-8"))
FLOORS = {"deckard": 124, "unbound": 164}
"""How many pass with the limits of service, an NSEC3 iteration limit of 50 among them; below that something was skipped
or lost."""
SECONDS = 600
"""For one suite; a quiet machine takes one to two minutes."""

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(SUITE is None, reason="no scenarios found; DNS_SCENARIOS may name their folder"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the scenarios need root, for network namespaces"),
]


def play(folder: Path, out: Path, *only: str) -> dict[str, str]:
    """Verdict by name."""
    patterns = [word for name in only for word in ("-k", name)]
    command = [sys.executable, str(HERE / "run.py"), "--dir", str(folder), "--out", str(out), *patterns]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, timeout=SECONDS)
    with out.open(encoding="utf-8", errors="replace") as file:
        return {row["name"]: row["verdict"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}


@pytest.mark.limit(2 * SECONDS)
@pytest.mark.parametrize("name", sorted(KNOWN))
def test_scenarios(name: str, tmp_path: Path) -> None:
    assert SUITE is not None
    verdicts = play(SUITE / name, tmp_path / "all.tsv")
    known = set(KNOWN[name])
    surprising = [n for n, verdict in verdicts.items() if verdict == "fail" and n not in known]
    if surprising:
        verdicts.update(play(SUITE / name, tmp_path / "again.tsv", *surprising))
    failed = {n for n, verdict in verdicts.items() if verdict == "fail"}
    assert failed == known
    assert sum(verdict == "pass" for verdict in verdicts.values()) >= FLOORS[name]
