"""What makes a daemon unhealthy: each problem alone is named with its place, and without any it is healthy."""

import pytest

from resolver.daemon.health import problems

WELL = {
    "workers": [{"worker": 0}, {"worker": 1}],
    "reload_problem": "",
    "clock": "",
    "certificates": {"/etc/a.pem": 2000},
    "anchors": {"file": "/a", "error": "", "zones": [{"zone": ".", "trusted": 2}]},
    "now": 1000,
}


def test_a_daemon_without_problems():
    assert problems(**WELL) == []
    assert problems(**{**WELL, "anchors": None}) == []


@pytest.mark.parametrize(("change", "told"), [
    ({"workers": [{"worker": 0}, {"worker": 1, "error": "worker 1 does not answer"}]}, "worker 1 does not answer"),
    ({"workers": [{"worker": 0, "query-log": "/q: No space left"}, {"worker": 1, "query-log": "/q: No space left"}]},
     "query log: /q: No space left"),
    ({"reload_problem": "r.toml:3: unknown key"}, "r.toml:3: unknown key"),
    ({"clock": "the clock is wrong"}, "the clock is wrong"),
    ({"changes_problem": "control.changes-file: /c: line 3: damaged"}, "/c: line 3: damaged"),
    ({"now": 2000}, "/etc/a.pem expired on 1970-01-01 00:33 UTC"),
    ({"anchors": {"file": "/a", "error": "disk full", "zones": []}}, "/a: disk full"),
    ({"anchors": {"file": "/a", "error": "", "zones": [{"zone": "x.", "trusted": 0}]}}, "all keys of x. are revoked"),
    ({"zones": ["zone e.test.: it is not served"]}, "zone e.test.: it is not served"),
])
def test_each_problem_is_named(change, told):
    [found] = problems(**{**WELL, **change})
    assert told in found
