"""How many fetches of one zone, and queries to one server, may be outstanding. Sans-IO.

Random names below a zone whose servers are dead or slow would take the job slots, sockets and memory of all other
names. What exceeds a quota fails at once, with a reason for the client and a line in the log. The quota of a server is
adaptive: `InfraCache.note_fetch` lowers it while many queries to the server time out, so a server that is overloaded
gets fewer queries, and a dead one costs little.

A client query that would exceed a quota is refused before a job is made for it (`query_servers.without_room`), because
floods are what the quotas are for. Jobs that are under way take from the quotas at each zone, and may be refused there.

A zone counts names and types, a server packets: many jobs that wait for one reply, as of aliases to one name, leave the
zone its quota for other names. Views with forward zones, stub zones or negative trust anchors of their own count apart
from others: a zone of the same name may have other servers there, so that clients of one view cannot use up the quota
of another. The quota of a server is for all views.

The quota of a server is for all zones together, because many may share it. But anyone can delegate zones to a server
that does not serve them, and some servers ignore such queries. So when it is used up, a zone still has a small part of
it (`FETCHES_ZONE_SHARE`).

Invariants: `take_zone` and `take_server` are each followed by one `give_zone` or `give_server`. The tables hold only
what is outstanding, so they are not larger than the table of jobs.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from resolver import limits
from resolver.effects import Failure, FailureKind, Server
from resolver.log_limit import LineLimit
from resolver.wire import consts as c
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.cache.infra import InfraCache
    from resolver.settings import Settings

__all__ = ["FetchQuota"]

log = logging.getLogger(__name__)

LEAST_QUOTA = limits.FETCH_QUOTA_LEAST / 100
ZONE_SHARE = limits.FETCHES_ZONE_SHARE

Key = tuple[object, ...]
ZoneKey = tuple[int, bytes]
"""`DelegationCache.part` and the zone, in lower case."""


class ServerUse:
    """The outstanding queries at one server: `count`, and those for each zone."""

    __slots__ = ("count", "zones")

    def __init__(self) -> None:
        self.count = 0
        self.zones: dict[bytes, int] = {}


class FetchQuota:
    """The outstanding fetches of one mesh, and the limits of them."""

    __slots__ = (
        "_falls", "_least", "_lines", "_per_server", "_per_zone", "_refused", "_rises", "_servers", "_zone_share",
        "_zones", "infra", "smallest",
    )

    def __init__(self, settings: Settings, infra: InfraCache) -> None:
        self.infra = infra
        self._per_zone = settings.fetch_limit.per_zone
        self._per_server = settings.fetch_limit.per_server
        self._least = max(int(self._per_server * LEAST_QUOTA), 1) if self._per_server else 0
        """No quota of a server is smaller; 0: servers have none."""
        self.smallest = min(filter(None, (self._per_zone, self._least)), default=0)
        """No quota is smaller than this, so none is used up while fewer jobs run: what is outstanding belongs to jobs,
        and each has one fetch and one query outstanding at most. 0: there are no quotas."""
        self._zones: dict[ZoneKey, dict[tuple[bytes, int], int]] = {}
        """By zone, what is fetched, with the number of jobs."""
        self._servers: dict[Key, ServerUse] = {}
        """The servers with outstanding queries."""
        self._zone_share = max(self._per_server * ZONE_SHARE // 100, 1)
        self._refused = {"zone": 0, "server": 0}
        self._falls = self._rises = 0
        self._lines = LineLimit(settings.log.rate_limit_interval, limits.LOG_FAILURES)

    def take_zone(self, zone: ZoneKey, qname: bytes, qtype: int) -> bool:
        """Count one more fetch of `qname` (lower case) from `zone`; False, and not counted, when the zone has its
        quota of other names."""
        what = (qname, qtype)
        fetches = self._zones.get(zone)
        if fetches is None:
            self._zones[zone] = {what: 1}
            return True
        if not self.has_zone_room(zone, qname, qtype):
            return False
        fetches[what] = fetches.get(what, 0) + 1
        return True

    def has_zone_room(self, zone: ZoneKey, qname: bytes, qtype: int) -> bool:
        """Whether `take_zone` would be true now."""
        fetches = self._zones.get(zone)
        return fetches is None or not self._per_zone or len(fetches) < self._per_zone or (qname, qtype) in fetches

    def give_zone(self, zone: ZoneKey, qname: bytes, qtype: int) -> None:
        """A fetch for which `take_zone` was true has ended."""
        what, fetches = (qname, qtype), self._zones[zone]
        count = fetches[what] - 1
        if count:
            fetches[what] = count
        elif len(fetches) > 1:
            del fetches[what]
        else:
            del self._zones[zone]

    def is_full(self, key: Key, zone: bytes) -> bool:
        """Whether the server has as many outstanding queries as its quota permits, and `zone` (lower case) the part
        there that it has in any case."""
        use: ServerUse | None = self._servers.get(key)
        return use is not None and self._is_used_up(key, use) and use.zones.get(zone, 0) >= self._zone_share

    def _is_used_up(self, key: Key, use: ServerUse) -> bool:
        return use.count >= self._least > 0 and use.count >= self._quota(key)

    def _quota(self, key: Key) -> int:
        return max(int(self._per_server * self.infra.quota_share(key)), 1)

    def take_server(self, key: Key, zone: bytes) -> None:
        """Count one more query to the server for `zone`.

        Raises:
            MemoryError: it is not counted.
        """
        use: ServerUse | None = self._servers.get(key)
        if use is None:
            use = ServerUse()
            use.zones[zone] = 1
            self._servers[key] = use
        else:
            use.zones[zone] = use.zones.get(zone, 0) + 1
        use.count += 1  # last, when nothing can fail any more

    def give_server(self, key: Key, zone: bytes) -> None:
        """A query to the server for `zone` has ended."""
        use: ServerUse = self._servers[key]
        use.count -= 1
        left = use.zones[zone] - 1
        if not use.count:
            del self._servers[key]
        elif left:
            use.zones[zone] = left
        else:
            del use.zones[zone]

    def note_result(self, key: Key, timed_out: bool) -> None:
        """A query to the server was answered, or was not in time."""
        change = self.infra.note_fetch(key, timed_out)
        if change < 0:
            self._falls += 1
        elif change > 0:
            self._rises += 1

    def refuse_zone(self, zone: ZoneKey, now: float) -> Failure:
        """The failure of a fetch for which `take_zone` had no room. `now` is in monotonic seconds."""
        self._refused["zone"] += 1
        text = names.to_text(zone[1])
        left_out = self._lines.admit(zone, now)
        if left_out is not None:
            self._log(f"zone {text} has {len(self._zones.get(zone, ()))} outstanding fetches", left_out)
        return Failure(FailureKind.QUOTA, c.EDE_NO_REACHABLE_AUTHORITY, f"too many queries for {text} are outstanding")

    def refuse_server(self, zone: bytes, server: Server, now: float) -> Failure:
        """The failure of a fetch of `zone` whose servers all have their quota; `server` is the last of them."""
        self._refused["server"] += 1
        text = names.to_text(zone)
        key = server.key
        left_out = self._lines.admit(key, now)
        if left_out is not None:
            use = self._servers.get(key)
            self._log(f"server {server.address} of zone {text} has {0 if use is None else use.count} outstanding"
                      f" queries, of {self._quota(key)} permitted", left_out)
        return Failure(FailureKind.QUOTA, c.EDE_NO_REACHABLE_AUTHORITY,
                       f"too many queries to the servers of {text} are outstanding")

    def _log(self, text: str, left_out: int) -> None:
        more = f" ({left_out} more since the last line)" if left_out else ""
        log.warning("fetch limit: %s; further names fail at once%s", text, more)

    def statistics(self) -> dict[str, int | dict[str, int]]:
        """Counters since the start, by name, and the current state of zones and servers."""
        zones = [len(fetches) for fetches in self._zones.values()]
        full = sum(count >= self._per_zone for count in zones) if self._per_zone else 0
        return {
            "refused": dict(self._refused),
            "zones": len(self._zones),
            "zones_full": full,
            "largest_zone": max(zones, default=0),
            "servers": len(self._servers),
            "servers_full": sum(self._is_used_up(key, use) for key, use in self._servers.items()),
            "quota_falls": self._falls,
            "quota_rises": self._rises,
        }
