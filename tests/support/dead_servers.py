"""Servers that back off after timeouts, or are dead for a zone, without the queries that would show it."""

from collections.abc import Hashable

from resolver.cache import InfraCache


def note_timeouts(servers: InfraCache, address: Hashable, zone: bytes, now: float, count: int) -> None:
    """`count` queries for `zone` to `address`, one after the other, timed out."""
    for _ in range(count):
        servers.note_timeout(address, zone, now, now)


def make_dead(servers: InfraCache, address: Hashable, zone: bytes, now: float) -> None:
    """So many queries timed out that the server gets only probes."""
    while not is_dead(servers, address, zone, now):
        servers.note_timeout(address, zone, now, now)


def is_dead(servers: InfraCache, address: Hashable, zone: bytes, now: float) -> bool:
    """Whether the server gets only probes for `zone`."""
    entry = servers.zone_at(address, zone, now)
    return entry is not None and entry.dead
