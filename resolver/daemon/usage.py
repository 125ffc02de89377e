"""What a worker uses of each thing that is bounded, and the bound: for metrics, so that a full table is seen.

Remote parties can fill tables, queues and slots up to their limits, and nothing fails when they do; service only gets
worse. Each bounded thing has a name here, `resource`, and a pair of values: in items, in octets, or both. The values of
all workers are added up, and so are the limits. What workers share is reported by the first one only.
"""

import os
import resource as system
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resolver import limits
from resolver.daemon import log
from resolver.daemon.runtime_config import Listeners, RuntimeConfig

if TYPE_CHECKING:
    from resolver.daemon.management import ManagementServer

__all__ = ["usage"]

KINDS = {"dns": "tcp", "tls": "tls", "https": "https", "quic": "quic"}
"""Transport of connections by the protocol of their listener."""


def usage(
    runtime: RuntimeConfig, listeners: Sequence[Listeners], servers: "Mapping[str, ManagementServer]", *, shared: bool
) -> dict[str, dict[str, Any]]:
    """The group ``usage`` of statistics. `servers` are the management listeners by name; `shared` adds what all workers
    share."""
    found = _Pairs()
    mesh, upstream, service = runtime.resolver.mesh, runtime.resolver.upstream, runtime.service
    for table in mesh.memory_tables():
        found.octets(table.name, table.octets, table.limit)
    counts = mesh.statistics()
    found.items("jobs", counts["running"], limits.JOBS)
    found.octets("jobs", counts["memory_jobs"], limits.JOBS * limits.JOB_OVERHEAD + limits.JOBS_OCTETS)
    for name, (used, most) in service.usage().items():
        found.items(name, used, most)
    for one in listeners:
        if one.tcp is not None:
            kind = KINDS[one.endpoint.protocol]
            found.items(f"client_{kind}_connections", one.tcp.connections, one.tcp.max_connections)
    streams = {"tcp": upstream.stream, **upstream.encrypted}
    if upstream.opportunistic is not None:
        streams["opportunistic"] = upstream.opportunistic.tls
    for name, stream in streams.items():
        found.items(f"upstream_{name}_connections", stream.connection_count, stream.max_connections)
    found.items("upstream_udp_sockets", upstream.udp.open_sockets, 2 * upstream.udp.max_sockets)
    for name, server in servers.items():
        found.items(f"{name}_connections", server.connections, server.max_connections)
    found.items("log_lines", log.remembered(), limits.LOG_MEMORY)
    descriptors = system.getrlimit(system.RLIMIT_NOFILE)[0]
    found.items(
        "descriptors", len(os.listdir("/proc/self/fd")),
        limits.DESCRIPTORS if descriptors == system.RLIM_INFINITY else descriptors,
    )
    if shared:
        settings = runtime.settings
        found.items("lists", len(settings.list) + len(settings.rpz), limits.LISTS)
        found.items("zones", len(settings.own_zones), limits.ZONES)
        found.items("views", len(settings.view), limits.VIEWS)
        cache = runtime.resolver.store.statistics()
        found.octets("cache", cache["bytes_used"], cache["bytes_limit"])
    return found.groups


class _Pairs:
    """Collects pairs of use and limit. Two things of one name are added up, as the listeners of one protocol."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, int]] = {"items": {}, "items_limit": {}, "octets": {}, "octets_limit": {}}

    def items(self, name: str, used: int, most: int) -> None:
        self._add("items", name, used, most)

    def octets(self, name: str, used: int, most: int) -> None:
        self._add("octets", name, used, most)

    def _add(self, unit: str, name: str, used: int, most: int) -> None:
        for group, value in ((unit, used), (f"{unit}_limit", most)):
            self.groups[group][name] = self.groups[group].get(name, 0) + value
