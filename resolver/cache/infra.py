"""The infrastructure cache: what is known of each upstream address, and of zones at an address. Sans-IO.

Of an address: round-trip time, EDNS and cookie support, and the timeouts in a row. Of a zone at an address: back-off
after timeouts, and lameness. `iterate` selects servers by them.

Back-off is per address and zone, because anyone can delegate zones to a server that ignores queries for them. Those
timeouts must take no attempts from the zones that the server does serve. But the server may really be down, or slower
than it was, and then each zone would have to find that out. So timeouts in a row of an address, whatever the zone,
change its place in the order of servers, and lengthen the timeouts of all zones there to `SERVER_TIMEOUT_SHARED`.

The numbers follow RFC 6298 (smoothed round-trip time, variance, doubled timeouts). A server that is dead for a zone
gets one query per interval, so that a network that comes back is noticed without a restart. The part of its quota of
outstanding queries that an address may use falls while many of them time out (`note_fetch`).

Invariants: the table evicts the least recently noted address, and the oldest zones of an address or of all addresses,
because an attacker can name any number of both. Each zone of an `InfraEntry` is counted in `_zones`, and nothing else
is. All data expires, because servers get repaired. Times are seconds of a clock that is never set back, such as the
monotonic one. Zones are in lower case.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from resolver import limits
from resolver.cache.bounded import BoundedDict

__all__ = ["InfraCache", "InfraEntry", "ServerStatistics", "ZoneEntry"]

FIRST = limits.SERVER_TIMEOUT_FIRST / 1000
LOWEST = limits.SERVER_TIMEOUT_MINIMUM / 1000
HIGHEST = limits.SERVER_TIMEOUT_MAXIMUM / 1000
DEAD = HIGHEST / 2
PROBE_INTERVAL = limits.SERVER_PROBE_INTERVAL
AGE = limits.INFRA_TTL
LAME = limits.SERVER_LAME
SHARED = limits.SERVER_TIMEOUT_SHARED / 1000
ZONES = limits.SERVER_ZONES
TCP_ONLY = limits.SERVER_TCP_ONLY
COOKIELESS = limits.SERVER_COOKIELESS
SUBNETLESS = limits.SERVER_SUBNETLESS
FACTS = limits.SERVER_OCTETS
ZONE_COST = limits.SERVER_ZONE_OVERHEAD
NEVER = float("-inf")
DOUBLINGS = 20
"""More doublings of the least timeout than reach the highest."""
SAMPLE = limits.FETCH_SAMPLE
FEW_TIMEOUTS = limits.FETCH_TIMEOUTS_LOW / 100
MANY_TIMEOUTS = limits.FETCH_TIMEOUTS_HIGH / 100
NEW_WEIGHT = limits.FETCH_NEW_WEIGHT / 100
QUOTA_STEP = limits.FETCH_QUOTA_STEP / 100
LEAST_QUOTA = limits.FETCH_QUOTA_LEAST / 100


class ZoneEntry:
    """Data about one zone at one address. Without timeouts or lameness there is none. Times are seconds.

    States: without timeouts; backed off, with a doubled `timeout`; dead, when the timeout has doubled so often that the
    address only gets probes. A reply for the zone ends back-off.
    """

    __slots__ = ("lame_until", "probe_after", "timed_out_at", "timeout", "timeouts", "until")

    def __init__(self) -> None:
        self.timeouts = 0
        """Timeouts in a row."""
        self.timeout = 0.0
        """How long a reply is waited for, while there are timeouts."""
        self.timed_out_at = NEVER
        """When the last of them was noted."""
        self.probe_after = 0.0
        """A dead server gets no query before this time."""
        self.lame_until = 0.0
        """The server does not serve the zone, though it should."""
        self.until = 0.0
        """When all this expires."""

    @property
    def dead(self) -> bool:
        """Whether the address only gets probes for the zone."""
        return self.timeouts > 0 and self.timeout >= DEAD

    def __repr__(self) -> str:
        return f"ZoneEntry(timeout={self.timeout * 1000:.0f} ms, timeouts={self.timeouts})"


class InfraEntry:
    """Data about one address. `srtt`, `rttvar` and `timeout` are seconds; `srtt` is None before the first reply."""

    __slots__ = (
        "cookie",
        "edns_seen",
        "fetch_timeouts",
        "fetches",
        "no_cookie_until",
        "no_subnet_until",
        "quota_share",
        "rttvar",
        "srtt",
        "tcp_until",
        "timed_out_at",
        "timeout",
        "timeout_ratio",
        "timeouts",
        "updated_at",
        "zones",
    )

    def __init__(self) -> None:
        self.srtt: float | None = None
        self.rttvar = 0.0
        self.timeout = FIRST
        """How long a reply is waited for, without timeouts."""
        self.timeouts = 0
        """Timeouts in a row, whatever the zone."""
        self.timed_out_at = NEVER
        """When the last of them was noted."""
        self.cookie = b""
        """Client and server cookie of the last reply with one; empty while there is none (RFC 7873 section 5.4)."""
        self.no_cookie_until = 0.0
        """It does not support cookies: queries have none before this time."""
        self.no_subnet_until = 0.0
        """It fails with the client subnet option: queries have none before this time."""
        self.edns_seen = False
        """A reply had an OPT record, so timeouts are no sign of broken EDNS."""
        self.tcp_until = 0.0
        self.quota_share = 1.0
        """The part of the quota of outstanding queries that is permitted."""
        self.fetches = 0
        self.fetch_timeouts = 0
        """Queries of the current sample, and how many of them timed out."""
        self.timeout_ratio = 0.0
        """Moving average of the part of queries that time out, over samples."""
        self.zones: dict[bytes, ZoneEntry] | None = None
        """By zone, with the oldest first; None while there is none. `zone_at` leaves out what has expired."""
        self.updated_at = 0.0

    @property
    def dead(self) -> bool:
        """Whether no reply has come, for any zone, while the timeout would have doubled to that of a dead server."""
        return self.timeouts > 0 and self.rtt_estimate() >= DEAD

    def rtt_estimate(self) -> float:
        """The expected time of a query (seconds), whatever the zone: after timeouts the doubled timeout, else `srtt`.
        """
        if self.timeouts or self.srtt is None:
            return min(self.timeout * (1 << min(self.timeouts, DOUBLINGS)), HIGHEST)
        return self.srtt

    def expected(self, entry: ZoneEntry | None) -> float:
        """The expected time of a query (seconds) for the zone of `entry`, by which servers are ordered."""
        expected = self.srtt if not self.timeouts and self.srtt is not None else self.rtt_estimate()
        return expected if entry is None or not entry.timeouts else max(expected, entry.timeout)

    def timeout_of(self, entry: ZoneEntry | None) -> float:
        """How long a reply for the zone of `entry` is waited for."""
        timeout = self.timeout if entry is None or not entry.timeouts else entry.timeout
        return max(timeout, min(self.rtt_estimate(), SHARED)) if self.timeouts else timeout

    def zone_at(self, zone: bytes, now: float) -> ZoneEntry | None:
        """What is known of `zone` at this address, or None."""
        if self.zones is None:
            return None
        entry: ZoneEntry | None = self.zones.get(zone)
        return None if entry is None or entry.until <= now else entry

    def __repr__(self) -> str:
        srtt = "unknown" if self.srtt is None else f"{self.srtt * 1000:.1f} ms"
        return f"InfraEntry(srtt={srtt}, timeout={self.timeout * 1000:.0f} ms, timeouts={self.timeouts})"


class ServerStatistics(NamedTuple):
    """The number of addresses, how many of them are dead, and how many were evicted."""

    addresses: int
    dead: int
    evicted: int


class InfraCache:
    """Data by address (any hashable, such as `(address, port)`), for at most `capacity` addresses.

    Raises:
        ValueError: the capacity is outside `limits.CACHE_SERVERS`.
    """

    __slots__ = ("_capacity", "_evicted", "_known", "_zones", "limit", "name")

    def __init__(self, capacity: int = limits.CACHE_SERVERS.default) -> None:
        self._capacity = limits.CACHE_SERVERS.check(capacity, "servers")
        self._known: dict[Hashable, InfraEntry] = {}
        self._zones = BoundedDict("zones", limit=limits.SERVER_ZONES_OCTETS, most=limits.SERVER_ZONES_OCTETS)
        self.name = "servers"
        self.limit = self._capacity * FACTS + self._zones.limit
        self._evicted = 0

    def __len__(self) -> int:
        return len(self._known)

    @property
    def octets(self) -> int:
        """Estimated memory of the data."""
        return len(self._known) * FACTS + self._zones.octets

    def find(self, address: Hashable) -> InfraEntry | None:
        """The data about `address`, or None when there is none."""
        return self._known.get(address)

    def zone_at(self, address: Hashable, zone: bytes, now: float) -> ZoneEntry | None:
        """What is known of `zone` at `address`, or None."""
        info: InfraEntry | None = self._known.get(address)
        return None if info is None else info.zone_at(zone, now)

    def timeout(self, address: Hashable, zone: bytes, now: float) -> float:
        """Seconds to wait for a reply of this address for `zone` before another one is tried."""
        info: InfraEntry | None = self._known.get(address)
        return FIRST if info is None else info.timeout_of(info.zone_at(zone, now))

    def may_answer(self, address: Hashable, zone: bytes, now: float) -> bool:
        """Whether a reply for `zone` may be expected: the server is neither lame for it, nor dead for it or at all."""
        info: InfraEntry | None = self._known.get(address)
        if info is None:
            return True
        entry = info.zone_at(zone, now)
        return not info.dead and (entry is None or not (entry.dead or entry.lame_until > now))

    def is_usable(self, address: Hashable, zone: bytes, now: float) -> bool:
        """Whether this address may be queried for `zone`. For a dead one, True is returned once per interval: the
        caller then sends the probe."""
        entry = self.zone_at(address, zone, now)
        if entry is None or not entry.dead:
            return True
        if now < entry.probe_after:
            return False
        entry.probe_after = now + PROBE_INTERVAL
        return True

    # --- results of queries ---------------------------------------------------------------------------------------

    def note_reply(self, address: Hashable, zone: bytes, rtt: float, now: float, edns: bool = False) -> None:
        """A reply to a query for `zone` came after `rtt` seconds, with an OPT record if `edns` (RFC 6298 section 2)."""
        info = self._note(address, now)
        rtt = max(0.0, rtt)
        if info.srtt is None:
            info.srtt = rtt
            info.rttvar = rtt / 2
        else:
            info.rttvar += (abs(info.srtt - rtt) - info.rttvar) / 4
            info.srtt += (rtt - info.srtt) / 8
        info.timeout = min(max(info.srtt + 4 * info.rttvar, LOWEST), HIGHEST)
        info.timeouts = 0
        if info.zones is not None:
            entry = info.zones.get(zone)
            if entry is not None:
                entry.timeouts = 0
        if edns:
            info.edns_seen = True

    def is_dead_between_probes(self, address: Hashable, zone: bytes, now: float) -> bool:
        """Whether the server is dead for `zone`, and a query at `now` is not the probe that `is_usable` has permitted.
        """
        entry = self.zone_at(address, zone, now)
        return entry is not None and entry.dead and entry.probe_after != now + PROBE_INTERVAL

    def note_timeout(self, address: Hashable, zone: bytes, sent: float, now: float) -> None:
        """No reply to a query for `zone` came in time: double the timeout (RFC 6298 section 5.5). At half the maximum
        the server is dead.

        `sent` is when the query was sent. Queries that were in flight together count as one timeout, like the single
        timer of RFC 6298 section 5: one that was sent before the last timeout gives no new information. Otherwise one
        pause of a busy machine would make a server dead for which a hundred queries wait.
        """
        info = self._note(address, now)
        waited = info.timeout_of(info.zone_at(zone, now))
        if sent >= info.timed_out_at:
            info.timed_out_at = now
            info.timeouts += 1
        entry = self._note_zone(address, info, zone, now + AGE, now)
        if sent < entry.timed_out_at:
            return
        entry.timed_out_at = now
        entry.timeout = min(waited * 2, HIGHEST)
        entry.timeouts += 1
        if entry.dead:
            entry.probe_after = now + PROBE_INTERVAL

    def quota_share(self, address: Hashable) -> float:
        """The part of the quota of outstanding queries that `address` may use, from 0 to 1."""
        info = self._known.get(address)
        return 1.0 if info is None else info.quota_share

    def note_fetch(self, address: Hashable, timed_out: bool) -> int:
        """Count a query that ended. After each sample the quota falls (-1), rises (1) or stays (0), as BIND does it."""
        info: InfraEntry | None = self._known.get(address)
        if info is None:
            return 0
        info.fetches += 1
        if timed_out:
            info.fetch_timeouts += 1
        if info.fetches < SAMPLE:
            return 0
        ratio = info.fetch_timeouts / info.fetches
        info.timeout_ratio += (ratio - info.timeout_ratio) * NEW_WEIGHT
        info.fetches = info.fetch_timeouts = 0
        before = info.quota_share
        if info.timeout_ratio > MANY_TIMEOUTS:
            info.quota_share = max(before * QUOTA_STEP, LEAST_QUOTA)
        elif info.timeout_ratio < FEW_TIMEOUTS:
            info.quota_share = min(before / QUOTA_STEP, 1.0)
        return (info.quota_share > before) - (info.quota_share < before)

    def note_lame(self, address: Hashable, zone: bytes, now: float) -> None:
        """The server is lame for `zone`: it does not serve it, though it should."""
        until = now + LAME
        self._note_zone(address, self._note(address, now), zone, until, now).lame_until = until

    def _note_zone(self, address: Hashable, info: InfraEntry, zone: bytes, until: float, now: float) -> ZoneEntry:
        """Make `zone` the most recently noted one of `address`, with its entry, which is kept until `until` at least.

        Raises:
            MemoryError: nothing is known of the zone any more.
        """
        if info.zones is None:
            info.zones = {}
        entry = info.zones.get(zone)
        if entry is None or entry.until <= now:
            entry = ZoneEntry()
        entry.until = max(entry.until, until)
        self._forget_zone(address, zone)
        if len(info.zones) >= ZONES:
            self._forget_zone(address, next(iter(info.zones)))
        zones = self._zones
        cost = len(zone) + ZONE_COST
        while zones.entries and zones.octets + cost > zones.limit:  # the oldest of all addresses
            self._forget_zone(*next(iter(zones.entries)))
        try:
            info.zones[zone] = entry
            zones.put((address, zone), None, cost)
        except MemoryError:
            self._forget_zone(address, zone)
            raise
        return entry

    def _forget_zone(self, address: Hashable, zone: bytes) -> None:
        self._zones.pop((address, zone))
        (self._known[address].zones or {}).pop(zone, None)

    def _forget_zones(self, address: Hashable, info: InfraEntry) -> None:
        for zone in info.zones or ():
            self._zones.pop((address, zone))

    def note_cookie(self, address: Hashable, cookie: bytes, now: float) -> None:
        """The server sent a cookie, which is returned until it sends another."""
        self._note(address, now).cookie = cookie

    def note_no_cookie(self, address: Hashable, now: float) -> None:
        """The server sends no cookie, or no longer one."""
        info = self._note(address, now)
        info.cookie = b""
        info.no_cookie_until = now + COOKIELESS

    def note_no_subnet(self, address: Hashable, now: float) -> None:
        """The server fails with the client subnet option: queries are sent without for a while."""
        self._note(address, now).no_subnet_until = now + SUBNETLESS

    def note_tcp_only(self, address: Hashable, now: float) -> None:
        """Replies from this address may be forged: queries are sent over TCP for a while."""
        self._note(address, now).tcp_until = now + TCP_ONLY

    # --- upkeep ---------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Remove all addresses."""
        self._known.clear()
        self._zones.clear()

    def statistics(self) -> ServerStatistics:
        """Counts. Visits every address."""
        return ServerStatistics(len(self._known), sum(info.dead for info in self._known.values()), self._evicted)

    def _note(self, address: Hashable, now: float) -> InfraEntry:
        """Make `address` the most recently noted, with its entry. Data that is too old is discarded.

        Raises:
            MemoryError: nothing is known of the address any more.
        """
        known = self._known
        info = known.get(address)
        if info is None:
            info = InfraEntry()
            if len(known) >= self._capacity:
                oldest = next(iter(known))
                self._forget_zones(oldest, known[oldest])
                del known[oldest]
                self._evicted += 1
        else:
            if now - info.updated_at > AGE:
                new = InfraEntry()
                self._forget_zones(address, info)
                info = new
            del known[address]
        info.updated_at = now
        try:
            known[address] = info
        except MemoryError:
            self._forget_zones(address, info)
            raise
        return info
