"""Metrics for Prometheus over HTTP: the counters of all workers, summed, on a listener of their own.

`resolver.observe.catalogue` gives each counter of `Statistics` its name, help text and labels; `families` makes the
families of prometheus-client of them, which writes the text format. It is imported when the listener is created.

The only path is ``/metrics``. There is no access control, so the listener belongs on an address that only monitoring
can reach. `resolver.daemon.management_http` bounds requests and connections.
"""

import importlib.util
import platform
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from resolver import limits
from resolver.daemon.management_http import METHODS, HttpServer, Reply, Request, wrong_method
from resolver.observe.catalogue import HISTOGRAMS, PREFIX, Statistics, find
from resolver.observe.counters import SEPARATOR
from resolver.observe.histogram import BUCKETS, SUM

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from resolver.observe.catalogue import Metric as Described

__all__ = ["MetricsServer", "check", "families", "render"]

MISSING = "metrics.listen: prometheus-client is not installed; run: pip install 'corenet-resolver[metrics]'"

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


class MetricsServer(HttpServer):
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

    async def reply(self, request: Request) -> Reply:
        """The page, under its only path."""
        if request.path != "/metrics":
            return Reply("404 Not Found", b"not found; the only path is /metrics\n")
        if request.method not in METHODS:
            return wrong_method()
        try:
            page, kind = render(await self._gather(), self._version)
        except ValueError as error:
            return Reply("503 Service Unavailable", f"{error}\n".encode())
        return Reply("200 OK", page, kind)
