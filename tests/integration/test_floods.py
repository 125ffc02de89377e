"""The benchmark of floods: two cheap rows for a second against both resolvers, and its figures. No time is asserted."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import flood_load
import floods
import pytest
from flood_kinds import KINDS
from flood_report import HEADINGS, Outcome, drops, line, missed, worse
from flood_world import missing_requirement
from support.servers import program

pytestmark = pytest.mark.integration

RATE = 50
MISSING = missing_requirement()


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=MISSING or "port 53 can be used")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (Debian package build-essential)")
def test_two_floods(tmp_path: Path) -> None:
    program("unbound")
    cores = sorted(os.sched_getaffinity(0))
    load = floods.Load(flood_load.compiled(tmp_path), seconds=1.0, cached_rate=100)
    kinds = [KINDS["dead-zone"], KINDS["tcp-connections"]]
    try:
        found = list(floods.rows(kinds, ["ours", "unbound"], load, tmp_path, (cores, cores), rate=RATE))
    finally:
        os.sched_setaffinity(0, cores)
    assert [list(outcomes) for outcomes in found] == [["ours", "unbound"]] * 2
    for kind, outcomes in zip(kinds, found, strict=True):
        for name, outcome in outcomes.items():
            assert (outcome.kind, outcome.server) == (kind.name, name)
            for phase in (outcome.quiet, outcome.flood):
                assert phase.asked and phase.cold_asked and phase.streams_asked
                assert 0 < phase.answered <= phase.asked, (name, phase)
                assert 0 < phase.cold_answered <= phase.cold_asked, (name, phase)
                assert 0 < phase.streams_answered <= phase.streams_asked, (name, phase)
                assert phase.core > 0 and 0 < phase.p50_us <= phase.p99_us
            assert outcome.rate > 0 and outcome.growth >= 0
            json.dumps(outcome.as_json())
            assert len(line(outcome)) >= len(HEADINGS)
    dead, streams = (outcomes["ours"] for outcomes in found)
    assert dead.upstream > 0 and dead.memory_limit > 0
    assert dead.uncounted == 0 and dead.drops and streams.uncounted is None
    assert found[0]["unbound"].upstream > 0 and found[0]["unbound"].drops == {}


def outcome(**changes: object) -> Outcome:
    """A flood that nobody noticed."""
    phase = flood_load.Phase(asked=100, answered=100, p50_us=10, p99_us=100, cold_asked=10, cold_answered=10,
                             streams_asked=10, streams_answered=10, core=0.1)
    made = Outcome("dead-zone", "ours", 50.0, phase, dataclasses.replace(phase), growth=0, unsent=0, upstream=1.0,
                   reflected=0.0, pulse=0.0, kernel_drops=0, drops={}, uncounted=0, memory_limit=1000)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def test_missed_goals_are_named() -> None:
    assert missed(outcome()) == []
    phase = dataclasses.replace(outcome().flood, answered=79, p99_us=301, cold_answered=4)
    said = missed(outcome(flood=phase, growth=1001, uncounted=3))
    assert [text.split()[0] for text in said] == ["cached", "p99", "new", "3", "memory"], said


def test_what_unbound_does_better_is_named() -> None:
    ours, theirs = outcome(), outcome()
    assert worse(ours, theirs) == []
    slower = outcome(flood=dataclasses.replace(ours.flood, p99_us=150), upstream=2.0)
    assert [text.split()[0] for text in worse(slower, theirs)] == ["p99", "packets"]
    assert worse(theirs, slower) == []
    lossy = outcome(flood=dataclasses.replace(ours.flood, answered=90, streams_answered=5))
    assert [text.split()[0] for text in worse(lossy, theirs)] == ["cached", "TCP"]
    assert worse(outcome(growth=3 << 20), theirs) == []
    assert [text.split()[0] for text in worse(outcome(growth=5 << 20), theirs)] == ["growth"]


def test_drops_are_counters_that_increased() -> None:
    before = {"fetch_limit.refused.zone": 1, "slow_path.queries": 1, "client_tcp.evicted": 0}
    after = {"fetch_limit.refused.zone": 3, "slow_path.queries": 9, "client_tcp.evicted": 2, "client_tcp.accepted": 7,
             "client_dot.handshake_failures.timeout": 1, "resolution.evicted": 0}
    assert drops(before, after) == {"fetch_limit.refused.zone": 2, "client_tcp.evicted": 2,
                                    "client_dot.handshake_failures.timeout": 1}
