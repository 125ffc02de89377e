"""Metrics for Prometheus over HTTP: the counters of all workers, summed, on a listener of their own.

`resolver.observe.catalogue` gives each counter of `Statistics` its name, help text and labels; `families` makes the
families of prometheus-client of them, which writes the text format. It is imported when the listener is created.

The HTTP server answers only ``GET /metrics`` and ``HEAD /metrics``. It bounds size and time of a request and the number
of connections (CVE-2026-33256). There is no access control, so the listener belongs on an address that only monitoring
can reach.
"""

import asyncio
import importlib.util
import logging
import platform
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from resolver import limits
from resolver.daemon.management import ManagementServer
from resolver.observe.catalogue import HISTOGRAMS, PREFIX, Statistics, find
from resolver.observe.counters import SEPARATOR
from resolver.observe.histogram import BUCKETS, SUM

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from resolver.observe.catalogue import Metric as Described

__all__ = ["MetricsServer", "check", "families", "render"]

MISSING = "metrics.listen: prometheus-client is not installed; run: pip install 'corenet-resolver[metrics]'"

logger = logging.getLogger(__name__)

REQUEST = limits.METRICS_REQUEST
TIMEOUT = limits.METRICS_TIMEOUT / 1000
CONNECTIONS = limits.METRICS_CONNECTIONS
VERSIONS = ("version", "python")


def families(statistics: Statistics, version: str) -> Iterable["Metric"]:
    """The metric families of `statistics`.

    Raises:
        KeyError: a counter is not in the catalogue.
    """
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    info = GaugeMetricFamily(f"{PREFIX}build_info", "Versions of the running resolverd; always 1.", labels=[*VERSIONS])
    info.add_metric([version, platform.python_version()], 1)
    yield info
    made: dict[str, Any] = {}
    for group, counters in statistics.items():
        if group in HISTOGRAMS:
            yield _histogram(group, counters)
            continue
        for counter, value in counters.items():
            metric, one = find(group, counter)
            family = made.get(metric.name)
            if family is None:
                kind = CounterMetricFamily if metric.is_counter else GaugeMetricFamily
                names = [*(["transport"] if metric.transport else []), *metric.labels]
                family = made[metric.name] = kind(f"{PREFIX}{metric.name}", metric.help, labels=names)
            values = value if isinstance(value, dict) else {one: value}
            for labels, count in _by_label(metric, values).items():
                family.add_metric([*([metric.transport] if metric.transport else []), *labels], count)
    yield from made.values()


def _by_label(metric: "Described", values: Mapping[object, float]) -> dict[tuple[str, ...], float]:
    """The values of a counter by its label values."""
    found: dict[tuple[str, ...], float] = {}
    for text, value in values.items():
        labels = split_labels(str(text), len(metric.labels))
        if labels:
            labels = (*labels[:-1], metric.label_of(labels[-1]))
        found[labels] = found.get(labels, 0) + value
    return found


def split_labels(text: str, count: int) -> tuple[str, ...]:
    """The values of `count` labels that `SEPARATOR` joins. With three, the one in the middle may have dots."""
    if count < 2:
        return (text,) * count
    first = text.split(SEPARATOR, count - 2)
    return (*first[:-1], *first[-1].rsplit(SEPARATOR, 1))


def _histogram(group: str, histograms: Mapping[str, Mapping[str, float]]) -> "Metric":
    from prometheus_client.core import HistogramMetricFamily

    metric = HISTOGRAMS[group]
    family = HistogramMetricFamily(f"{PREFIX}{metric.name}", metric.help, labels=metric.labels)
    for label, values in histograms.items():
        counts = accumulate(values.get(bucket, 0) for bucket in BUCKETS)
        family.add_metric([label], list(zip(BUCKETS, counts, strict=True)), sum_value=values.get(SUM, 0.0))
    return family


def render(statistics: Statistics, version: str) -> tuple[bytes, str]:
    """The response body in the text format, and its content type.

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
    """Check that prometheus-client is installed.

    Raises:
        ValueError: it is not installed.
    """
    if importlib.util.find_spec("prometheus_client") is None:
        raise ValueError(MISSING)


class MetricsServer(ManagementServer):
    """The HTTP listener. `gather` returns the merged statistics of all workers."""

    def __init__(self, gather: Callable[[], Awaitable[Statistics]], version: str) -> None:
        """Import prometheus-client.

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
            logger.debug("metrics: connection closed: the request was incomplete or timed out")

    async def _reply(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response("431 Request Header Fields Too Large", b"request header fields are too large\n")
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response("400 Bad Request", b"not an HTTP/1 request\n")
        if words[1].partition(b"?")[0] != b"/metrics":
            return _response("404 Not Found", b"not found; the only path is /metrics\n")
        if words[0] not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"only GET and HEAD are allowed\n", extra="Allow: GET, HEAD\r\n")
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
