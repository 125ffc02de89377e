"""Rates, ratios and percentiles of an interval, from statistics before and after."""

from typing import Any

import pytest

from resolver.observe.activity import DROPS, activity
from resolver.observe.catalogue import METRICS
from resolver.observe.histogram import Histogram
from resolver.observe.labels import RESULTS


def histogram(*seconds: float) -> dict[str, float]:
    made = Histogram()
    for value in seconds:
        made.add(value)
    return made.values()


BEFORE: dict[str, dict[str, Any]] = {
    "clients": {"queries": {"udp.A": 100, "tcp.A": 5}, "replies": {"udp.NOERROR": 100, "tcp.NOERROR": 5}},
    "client_latency": {"hit": histogram(0.0001), "miss": histogram(0.02)},
    "slow_path": {"pending": 9, "overloaded": 1},
    "rate_limit": {"queries_dropped": {"unverified": 3}},
    "resolution": {"upstream_queries": 50, "running": 2, "memory": 7},
    "upstream": {"udp_timeouts": 4, "tls_timeouts": 0},
    "cache": {"bytes_used": 1, "bytes_limit": 10},
}
AFTER: dict[str, dict[str, Any]] = {
    "clients": {
        "queries": {"udp.A": 120, "udp.MX": 20, "tcp.A": 5},
        "replies": {"udp.NOERROR": 130, "udp.SERVFAIL": 10, "tcp.NOERROR": 5},
    },
    "client_latency": {
        "hit": histogram(0.0001, *[0.00005] * 29), "miss": histogram(0.02, *[0.2] * 10), "local": histogram(0.3),
    },
    "slow_path": {"pending": 3, "overloaded": 5, "ended": 2},
    "rate_limit": {"queries_dropped": {"unverified": 3, "verified": 8}},
    "resolution": {"upstream_queries": 70, "running": 4, "memory": 8},
    "upstream": {"udp_timeouts": 6, "tls_timeouts": 2},
    "upstream_latency": {"udp": histogram(*[0.004] * 10), "tcp": histogram(11.0)},
    "cache": {"bytes_used": 2, "bytes_limit": 10},
    "usage": {"memory": 9, "memory_limit": 90},
}


def test_an_interval() -> None:
    found = activity(BEFORE, AFTER, 2.0)
    assert found["queries"] == {"rate": 20.0, "by_transport": {"udp": 20.0}}
    assert found["replies"] == {"rate": 20.0, "by_rcode": {"NOERROR": 15.0, "SERVFAIL": 5.0}}
    assert found["answers"]["by_result"] == {"hit": 14.5, "miss": 5.0, "local": 0.5}
    assert found["answers"]["cache_hit_ratio"] == pytest.approx(29 / 39)
    assert found["outstanding"] == {"client_queries": 3, "resolutions": 4}
    assert found["upstream"]["rate"] == 10.0 and found["upstream"]["timeouts"] == 2.0
    assert found["memory"] == {"cache": 2, "cache_limit": 10, "tables": 8, "other": 9, "other_limit": 90}
    assert found["drops"] == {"query-rate": 4.0, "pending-limit": 2.0, "ended-for-others": 1.0}


def test_percentiles_lie_in_the_buckets_of_their_values() -> None:
    found = activity(BEFORE, AFTER, 2.0)
    # 29 up to 0.1 ms, 10 between 100 and 250 ms, one between 250 and 500 ms.
    clients = found["client_latency"]
    assert 0 < clients["p50"] <= 0.0001 < 0.1 < clients["p90"] <= 0.25 < clients["p99"] <= 0.5
    servers = found["upstream"]["latency"]
    assert 0.0025 < servers["p50"] <= 0.005
    assert servers["p99"] == 10.0, "the last bucket has no upper bound"


def test_without_anything_done() -> None:
    found = activity(AFTER, AFTER, 1.0)
    assert found["queries"]["rate"] == 0 and found["drops"] == {} and found["answers"]["cache_hit_ratio"] is None
    assert found["client_latency"] == {"p50": None, "p90": None, "p99": None}
    assert activity({}, {}, 1.0)["upstream"]["rate"] == 0


def test_a_daemon_that_was_started_again_has_no_negative_rates() -> None:
    found = activity(AFTER, BEFORE, 1.0)
    assert found["queries"]["rate"] == 0 and found["upstream"]["timeouts"] == 0 and found["drops"] == {}


def test_the_counters_exist() -> None:
    for counters in DROPS.values():
        for group, name in counters:
            assert METRICS[group][name].is_counter, (group, name)
    assert {"hit", "rrsets", "aggressive", "stale", "failure", "miss", "local"} == set(RESULTS)
