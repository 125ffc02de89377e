"""What a resolver did in an interval: rates, ratios and percentiles from its statistics before and after.

Statistics only increase, except for gauges, and a histogram of an interval is the difference of two. A percentile is
found in the bucket that holds it, between the bounds as if its values were spread evenly; in the last bucket, which has
no upper bound, it is the lower one. No I/O and no clock: the caller says how long the interval was.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from resolver.observe.catalogue import Statistics
from resolver.observe.counters import SEPARATOR
from resolver.observe.histogram import BOUNDS, BUCKETS

__all__ = ["DROPS", "PERCENTILES", "activity", "rates_by_label"]

PERCENTILES: Final = (50, 90, 99)

DROPS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "access-list": (("fast_path", "access_dropped"), ("slow_path", "access_dropped")),
    "no-query": (("fast_path", "invalid_dropped"),),
    "query-rate": (("rate_limit", "queries_dropped"),),
    "reply-rate": (("rate_limit", "replies_dropped"),),
    "pending-limit": (("slow_path", "overloaded"),),
    "ended-for-others": (("slow_path", "ended"),),
    "too-late": (("slow_path", "discarded"),),
    "lane-overflow": (("client_udp", "lane_overflowed"),),
    "connection-limit": (
        ("client_tcp", "rejected"), ("client_dot", "rejected"), ("client_doh", "rejected"), ("client_doq", "rejected"),
    ),
}
"""Queries and connections that got no answer, or one that only says so, by reason: the counters of each."""

CACHED: Final = ("hit", "rrsets", "aggressive", "stale", "failure")
"""The results of answers that needed no server; those of "local" were not looked up in the cache."""


def activity(before: Statistics, after: Statistics, seconds: float) -> dict[str, Any]:
    """What was done in an interval of `seconds`, in a form for JSON. All rates are per second, times in seconds."""
    queries = _by_label(before, after, "clients", "queries", 0)
    rcodes = _by_label(before, after, "clients", "replies", 1)
    results = {
        result: sum(_histogram(before, after, "client_latency", (result,)))
        for result in after.get("client_latency", {})
    }
    cached = sum(results.get(result, 0) for result in CACHED)
    looked_up = cached + results.get("miss", 0)
    upstream = after.get("upstream", {})
    timeouts = [("upstream", name) for name in upstream if name.endswith("_timeouts")]
    return {
        "queries": {"rate": _rate(sum(queries.values()), seconds), "by_transport": _rates(queries, seconds)},
        "replies": {"rate": _rate(sum(rcodes.values()), seconds), "by_rcode": _rates(rcodes, seconds)},
        "answers": {
            "by_result": _rates(results, seconds), "cache_hit_ratio": cached / looked_up if looked_up else None,
        },
        "client_latency": _percentiles(_histogram(before, after, "client_latency", after.get("client_latency", ()))),
        "upstream": {
            "rate": _rate(_increase(before, after, (("resolution", "upstream_queries"),)), seconds),
            "timeouts": _rate(_increase(before, after, timeouts), seconds),
            "latency": _percentiles(
                _histogram(before, after, "upstream_latency", after.get("upstream_latency", ()))),
        },
        "outstanding": {
            "client_queries": after.get("slow_path", {}).get("pending", 0),
            "resolutions": after.get("resolution", {}).get("running", 0),
        },
        "memory": {
            "cache": after.get("cache", {}).get("bytes_used", 0),
            "cache_limit": after.get("cache", {}).get("bytes_limit", 0),
            "tables": after.get("resolution", {}).get("memory", 0),
            "other": after.get("usage", {}).get("memory", 0),
            "other_limit": after.get("usage", {}).get("memory_limit", 0),
        },
        "drops": {
            reason: rate for reason, counters in DROPS.items()
            if (rate := _rate(_increase(before, after, counters), seconds))
        },
    }


def rates_by_label(before: Statistics, after: Statistics, group: str, name: str, seconds: float) -> dict[str, float]:
    """How fast a labelled counter has grown, by all of its labels as they are in the statistics; 0 where it has not."""
    old = before.get(group, {}).get(name, {})
    counts = after.get(group, {}).get(name, {})
    return {labels: _rate(max(count - old.get(labels, 0), 0), seconds) for labels, count in counts.items()}


def _rate(count: float, seconds: float) -> float:
    return round(count / seconds, 3)


def _rates(counts: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Rates that are not 0."""
    return {name: _rate(count, seconds) for name, count in counts.items() if count}


def _increase(before: Statistics, after: Statistics, counters: Iterable[tuple[str, str]]) -> float:
    """By how much the sum of `counters` has grown. A daemon that was started again begins at 0."""
    total = 0.0
    for group, name in counters:
        new, old = after.get(group, {}).get(name, 0), before.get(group, {}).get(name, 0)
        total += max(_sum(new) - _sum(old), 0)
    return total


def _sum(value: float | Mapping[str, float]) -> float:
    return sum(value.values()) if isinstance(value, Mapping) else value


def _by_label(before: Statistics, after: Statistics, group: str, name: str, position: int) -> dict[str, float]:
    """The growth of a labelled counter by the label at `position`."""
    old = before.get(group, {}).get(name, {})
    found: dict[str, float] = {}
    for labels, count in after.get(group, {}).get(name, {}).items():
        label = labels.split(SEPARATOR)[position]
        found[label] = found.get(label, 0) + max(count - old.get(labels, 0), 0)
    return found


def _histogram(before: Statistics, after: Statistics, group: str, labels: Iterable[str]) -> list[float]:
    """The values of the interval by bucket, summed over `labels`."""
    counts = [0.0] * len(BUCKETS)
    for label in labels:
        new, old = after[group][label], before.get(group, {}).get(label, {})
        for place, bucket in enumerate(BUCKETS):
            counts[place] += max(new.get(bucket, 0) - old.get(bucket, 0), 0)
    return counts


def _percentiles(counts: list[float]) -> dict[str, float | None]:
    """The value below which each of `PERCENTILES` of the values lie; None when there are no values."""
    total = sum(counts)
    found: dict[str, float | None] = {}
    for percent in PERCENTILES:
        found[f"p{percent}"] = _value_at(counts, total * percent / 100) if total else None
    return found


def _value_at(counts: list[float], rank: float) -> float:
    below = 0.0
    for place, count in enumerate(counts):
        if count and below + count >= rank:
            if place == len(BOUNDS):
                break
            lower = BOUNDS[place - 1] if place else 0.0
            return round(lower + (BOUNDS[place] - lower) * (rank - below) / count, 6)
        below += count
    return BOUNDS[-1]
