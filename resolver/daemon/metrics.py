"""Counters for Prometheus, over HTTP on an address of its own: the numbers of all workers as if they were one.

The library that writes the format is loaded when the first worker begins to serve, so nobody else needs it. What
speaks HTTP here knows one question, ``GET /metrics``, and bounds its size, its time and how many ask at once
(CVE-2026-33256); it says nothing that an attacker could use, but belongs on an address that only monitoring reaches.
Counters keep the names they have inside, ``resolver_GROUP_NAME_total``; what goes up and down is a gauge.
"""

import asyncio
import importlib.util
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from resolver import limits
from resolver.daemon.management import ManagementServer
from resolver.daemon.worker_commands import Statistics

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["MetricsServer", "check", "families", "render"]

MISSING = "metrics.listen: prometheus-client is not installed; pip install 'corenet-resolver[metrics]' brings it"

logger = logging.getLogger(__name__)

REQUEST = limits.METRICS_REQUEST
TIMEOUT = limits.METRICS_TIMEOUT / 1000
CONNECTIONS = limits.METRICS_CONNECTIONS

# Counters of the cache that are kept for each kind of entry; the kind becomes a label.
BY_KIND = {
    "entries": "entries held",
    "stored": "entries written",
    "evicted": "entries that gave way to others",
    "expired": "entries dropped after their time",
    "dropped": "entries flushed",
    "hits": "lookups that found something",
    "misses": "lookups that found nothing",
}
GAUGES = frozenset({
    ("cache", "entries"), ("cache", "bytes_used"), ("cache", "bytes_limit"), ("cache", "groups"), ("cache", "denials"),
    ("cache", "servers_addresses"), ("cache", "servers_dead"), ("mesh", "running"), ("service", "waiting"),
    ("mesh", "networks"), ("mesh", "largest_network"), ("mesh", "memory"), ("mesh", "memory_jobs"),
    ("cache", "memory_servers"),
    ("cache", "memory_denials"),
    ("tcp", "connections"), ("dot", "connections"), ("doh", "connections"), ("tls", "certificate_expiry"),
})
LABELS = {("tls", "certificate_expiry"): "file", ("doh", "refused"): "status"}
"""Names of the label of counters that are kept by something else than a reason."""
ABOUT = {
    ("fast", "hits"): "queries answered from finished answers",
    ("fast", "received"): "messages of clients",
    ("fast", "due"): "answers that were handed over to be renewed",
    ("mesh", "upstream"): "questions sent to name servers",
    ("mesh", "failures"): "questions that could not be answered",
    ("mesh", "stale"): "clients answered with expired data",
    ("mesh", "prefetched"): "answers renewed before their end",
    ("mesh", "running"): "questions being resolved",
    ("mesh", "memory"): "bytes beside the cache: tables of servers, denials, delegations and keys, questions under way",
    ("mesh", "memory_jobs"): "bytes held by questions being resolved",
    ("mesh", "relieved"): "client queries ended because those under way held too many bytes",
    ("service", "queries"): "queries that finished answers did not settle",
    ("service", "failed"): "clients answered SERVFAIL",
    ("service", "waiting"): "clients waiting for an answer",
    ("tcp", "accepted"): "connections of clients that were served",
    ("tcp", "rejected"): "connections beyond what one client, one network or all may have, or of clients not served",
    ("tcp", "evicted"): "connections that made room for others",
    ("tcp", "write_overrun"): "connections of clients that asked for more and more and did not read it",
    ("tcp", "timed_out"): "connections that were silent, slow or deaf for too long",
    ("tcp", "malformed"): "connections on which something else than queries came",
    ("tcp", "connections"): "connections open",
    ("tcp", "bad_proxy_headers"): "connections of proxies that began with something else than a PROXY header",
    ("dot", "handshakes"): "TLS handshakes completed",
    ("dot", "resumed"): "of these, sessions resumed",
    ("dot", "handshake_failures"): "TLS handshakes that failed",
    ("doh", "handshakes"): "TLS handshakes completed",
    ("doh", "resumed"): "of these, sessions resumed",
    ("doh", "handshake_failures"): "TLS handshakes that failed",
    ("doh", "requests"): "requests that carried a DNS message",
    ("doh", "refused"): "requests answered with another status than 200",
    ("tls", "certificate_expiry"): "when a certificate ceases to be valid, seconds since 1970",
    ("anchors", "succeeded"): "when the keys of the zone that waits longest were last seen, seconds since 1970",
    ("anchors", "looks_failed"): "looks at the keys of zones with trust anchors that came to nothing",
    ("cache", "bytes_used"): "bytes of the cache in use",
    ("cache", "bytes_limit"): "bytes the cache may use",
}


def families(statistics: Statistics, version: str) -> Iterable["Metric"]:
    """Each counter as a family of metrics."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    def family(group: str, name: str, labels: list[str]) -> Any:
        about = ABOUT.get((group, name), f"{group}: {BY_KIND.get(name, name.replace('_', ' '))}")
        kind = GaugeMetricFamily if (group, name) in GAUGES else CounterMetricFamily
        return kind(f"resolver_{group}_{name}", about, labels=labels)

    info = GaugeMetricFamily("resolver_info", "the version that runs", labels=["version"])
    info.add_metric([version], 1)
    yield info
    for group, counters in statistics.items():
        by_kind: dict[str, Any] = {}
        for name, value in counters.items():
            field, _, kind = name.partition("_")
            if group == "cache" and field in BY_KIND and kind:
                found = by_kind.setdefault(field, None) or family(group, field, ["kind"])
                by_kind[field] = found
                found.add_metric([kind], value)
            elif isinstance(value, dict):
                labelled = family(group, name, [LABELS.get((group, name), "reason")])
                for reason, count in value.items():
                    labelled.add_metric([str(reason)], count)
                yield labelled
            else:
                plain = family(group, name, [])
                plain.add_metric([], value)
                yield plain
        yield from by_kind.values()


def render(statistics: Statistics, version: str) -> tuple[bytes, str]:
    """The page in the text format, and its content type.

    Raises:
        ImportError: prometheus-client is not installed.
    """
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    class Collector:
        def collect(self) -> Iterable["Metric"]:
            return families(statistics, version)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    return generate_latest(registry), CONTENT_TYPE_LATEST


def check() -> None:
    """Look whether what writes the page is installed.

    Raises:
        ValueError: it is not.
    """
    if importlib.util.find_spec("prometheus_client") is None:
        raise ValueError(MISSING)


class MetricsServer(ManagementServer):
    """Serves the page; `gather` gives the statistics of all workers."""

    def __init__(self, gather: Callable[[], Awaitable[Statistics]], version: str) -> None:
        """Load the library.

        Raises:
            ValueError: it is not installed.
        """
        super().__init__(CONNECTIONS, REQUEST, TIMEOUT)
        self._gather = gather
        self._version = version
        try:
            render({}, version)
        except ImportError:
            raise ValueError(MISSING) from None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        try:
            async with asyncio.timeout(TIMEOUT):
                writer.write(await self._reply(reader))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            logger.debug("metrics: a connection ended without a complete request, or took too long")

    async def _reply(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response("431 Request Header Fields Too Large", b"the request is too long\n")
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response("400 Bad Request", b"this is not a request of HTTP/1\n")
        if words[1].partition(b"?")[0] != b"/metrics":
            return _response("404 Not Found", b"there is only /metrics\n")
        if words[0] not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"only GET\n", extra="Allow: GET, HEAD\r\n")
        try:
            page, kind = render(await self._gather(), self._version)
        except ValueError as error:
            return _response("503 Service Unavailable", f"{error}\n".encode())
        return _response("200 OK", page, kind, bare=words[0] == b"HEAD")


def _response(
    status: str, body: bytes, kind: str = "text/plain; charset=utf-8", *, extra: str = "", bare: bool = False
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nCache-Control: no-store\r\n"
        f"{extra}Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + (b"" if bare else body)
