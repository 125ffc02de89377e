"""What a worker uses of each thing that is bounded, and the bound: for metrics, so that a full table is seen.

Remote parties can fill tables, queues and slots up to their limits, and nothing fails when they do; service only gets
worse. Each bounded thing has a name here, `resource`, and a pair of values: in items, in octets, or both. What others
than the operator can fill has octets, which are estimates and no less than what it takes: the number of entries times a
size of `limits`, or with connections what each of them has received and not sent. `memory` is the sum of these octets
except the cache, and `memory_limit` that of their limits.

The values of all workers are added up, and so are the limits. What workers share is reported by the first one only.
A configuration that was replaced is not asked: its queries end within their timeout.
"""

import os
import resource as system
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resolver import limits
from resolver.cache.bounded import Held, MemoryTable
from resolver.daemon import log
from resolver.daemon.runtime_config import Listeners, RuntimeConfig

if TYPE_CHECKING:
    from resolver.daemon.management import ManagementServer

__all__ = ["ALLOCATED", "CACHE", "usage"]

CACHE = "cache"
"""The resource that `memory` leaves out, because its size is a setting."""

ALLOCATED = frozenset({"lane_buffers", "rate_limits"})
"""Resources that are allocated whole when the daemon starts, so that what is used is always the limit."""

KINDS = {"dns": "tcp", "tls": "tls", "https": "https", "quic": "quic"}
"""Transport of connections by the protocol of their listener."""


def usage(
    runtime: RuntimeConfig, listeners: Sequence[Listeners], servers: "Mapping[str, ManagementServer]", *, shared: bool,
    others: Iterable[Held] = (),
) -> dict[str, dict[str, Any]]:
    """The group ``usage`` of statistics. `servers` are the management listeners by name; `shared` adds what all workers
    share; `others` belong to the worker, not to its configuration."""
    found = _Pairs()
    mesh, upstream, service = runtime.resolver.mesh, runtime.resolver.upstream, runtime.service
    tables: list[MemoryTable | Held] = [*mesh.memory_tables(), *upstream.memory(), *service.memory(), *others]
    if runtime.resolver.second_level is not None:
        tables.extend(runtime.resolver.second_level.memory())
    if runtime.lists is not None:
        tables.append(runtime.lists.memory())
    if runtime.certificates is not None:
        tables.append(runtime.certificates.memory())
    for table in tables:
        found.octets(table.name, table.octets, table.limit)
    counts = mesh.statistics()
    found.items("jobs", counts["running"], limits.JOBS)
    found.octets("jobs", counts["memory_jobs"], limits.JOBS * limits.JOB_OVERHEAD + limits.JOBS_OCTETS)
    for name, (used, most) in service.usage().items():
        found.items(name, used, most)
    if runtime.hook_modules is not None:
        used, size = len(runtime.hook_modules.tasks), limits.HOOK_TASK_OCTETS
        found.octets("hook_coroutines", used * size, limits.HOOK_TASKS * size)
    for one in listeners:
        for udp in one.udp:
            found.octets("lane_buffers", udp.lane_octets, udp.lane_octets)
        if one.tcp is not None:
            name = f"client_{KINDS[one.endpoint.protocol]}_connections"
            found.items(name, one.tcp.connections, one.tcp.max_connections)
            found.octets(name, one.tcp.octets, one.tcp.octets_limit)
    for kind, stream in upstream.streams.items():
        name = f"upstream_{kind}_connections"
        found.items(name, stream.connection_count, stream.max_connections)
        found.octets(name, stream.octets, stream.octets_limit)
    found.items("upstream_udp_sockets", upstream.udp.open_sockets, 2 * upstream.udp.max_sockets)
    for kind, server in servers.items():
        found.items(f"{kind}_connections", server.connections, server.max_connections)
        found.octets(f"{kind}_connections", server.octets, server.max_connections * limits.MANAGEMENT_OCTETS)
    found.items("log_lines", log.remembered(), limits.LOG_MEMORY)
    found.octets("log_lines", log.remembered() * limits.LOG_LINE_OCTETS, limits.LOG_MEMORY * limits.LOG_LINE_OCTETS)
    for output in runtime.observation.outputs:
        found.octets(output.group, output.pieces.octets, output.pieces.limit)
    rates = runtime.rates.buckets.entries * limits.RATE_ENTRY_OCTETS
    found.octets("rate_limits", rates, rates)
    descriptors = system.getrlimit(system.RLIMIT_NOFILE)[0]
    found.items(
        "descriptors", len(os.listdir("/proc/self/fd")),
        limits.DESCRIPTORS if descriptors == system.RLIM_INFINITY else descriptors,
    )
    found.sum_up()
    if shared:
        settings = runtime.settings
        found.items("lists", len(settings.list) + len(settings.rpz), limits.LISTS)
        found.items("zones", len(settings.own_zones), limits.ZONES)
        found.items("views", len(settings.view), limits.VIEWS)
        cache = runtime.resolver.store.statistics()
        found.octets(CACHE, cache["bytes_used"], cache["bytes_limit"])
    return found.groups


class _Pairs:
    """Collects pairs of use and limit. Two things of one name are added up, as the listeners of one protocol."""

    def __init__(self) -> None:
        self.groups: dict[str, Any] = {"items": {}, "items_limit": {}, "octets": {}, "octets_limit": {}}

    def items(self, name: str, used: int, most: int) -> None:
        self._add("items", name, used, most)

    def octets(self, name: str, used: int, most: int) -> None:
        self._add("octets", name, used, most)

    def sum_up(self) -> None:
        """Add the sums of all octets so far."""
        self.groups["memory"] = sum(self.groups["octets"].values())
        self.groups["memory_limit"] = sum(self.groups["octets_limit"].values())

    def _add(self, unit: str, name: str, used: int, most: int) -> None:
        for group, value in ((unit, used), (f"{unit}_limit", most)):
            self.groups[group][name] = self.groups[group].get(name, 0) + value
