"""The infrastructure cache: round-trip time, EDNS and cookie support, and reachability of each upstream address.

The numbers follow RFC 6298 (smoothed round-trip time, variance, doubled timeouts); `iterate` selects servers by them.
The table is limited and evicts the least recently noted address, because an attacker can name any number of addresses.
A dead address gets one query per interval, so that a network that comes back is noticed without a restart. The part of
its quota of outstanding queries that an address may use falls while many of them time out (`note_fetch`). All data
expires, because servers get repaired. Times are seconds of a clock that is never set back, such as the monotonic one.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from resolver import limits
from resolver.cache.bounded import BoundedDict
from resolver.wire import name as wire_name

__all__ = ["InfraCache", "InfraEntry", "ServerStatistics"]

FIRST = limits.SERVER_TIMEOUT_FIRST / 1000
LOWEST = limits.SERVER_TIMEOUT_MINIMUM / 1000
HIGHEST = limits.SERVER_TIMEOUT_MAXIMUM / 1000
DEAD = HIGHEST / 2
PROBE_INTERVAL = limits.SERVER_PROBE_INTERVAL
AGE = limits.INFRA_TTL
LAME = limits.SERVER_LAME
LAME_ZONES = limits.SERVER_LAME_ZONES
TCP_ONLY = limits.SERVER_TCP_ONLY
COOKIELESS = limits.SERVER_COOKIELESS
SUBNETLESS = limits.SERVER_SUBNETLESS
FACTS = limits.SERVER_OCTETS
LAME_COST = limits.LAME_OVERHEAD
SAMPLE = limits.FETCH_SAMPLE
FEW_TIMEOUTS = limits.FETCH_TIMEOUTS_LOW / 100
MANY_TIMEOUTS = limits.FETCH_TIMEOUTS_HIGH / 100
NEW_WEIGHT = limits.FETCH_NEW_WEIGHT / 100
QUOTA_STEP = limits.FETCH_QUOTA_STEP / 100
LEAST_QUOTA = limits.FETCH_QUOTA_LEAST / 100


class InfraEntry:
    """Data about one address. `srtt`, `rttvar` and `timeout` are seconds; `srtt` is None before the first reply."""

    __slots__ = (
        "cookie",
        "edns_seen",
        "fetch_timeouts",
        "fetches",
        "lame",
        "no_cookie_until",
        "no_subnet_until",
        "probe_after",
        "quota_share",
        "rttvar",
        "srtt",
        "tcp_until",
        "timeout",
        "timeout_ratio",
        "timeouts",
        "updated_at",
    )

    def __init__(self) -> None:
        self.srtt: float | None = None
        self.rttvar = 0.0
        self.timeout = FIRST
        self.timeouts = 0
        """Timeouts in a row."""
        self.probe_after = 0.0
        """A dead address gets no query before this time."""
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
        self.lame: dict[bytes, float] | None = None
        """Lame zones (lower case) with the time until which they count as lame; None while there is none."""
        self.updated_at = 0.0

    @property
    def dead(self) -> bool:
        """Whether the timeout has doubled so often that the address only gets probes."""
        return self.timeouts > 0 and self.timeout >= DEAD

    def rtt_estimate(self) -> float:
        """The expected time of a query (seconds), by which addresses are ordered: the timeout after timeouts, else
        `srtt`."""
        if self.timeouts or self.srtt is None:
            return self.timeout
        return self.srtt

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

    def __init__(self, capacity: int = limits.CACHE_SERVERS.default) -> None:
        self._capacity = limits.CACHE_SERVERS.check(capacity, "servers")
        self._known: dict[Hashable, InfraEntry] = {}
        self._lame = BoundedDict("lame", limit=limits.LAME_OCTETS, most=limits.LAME_OCTETS)
        self.name = "servers"
        self.limit = self._capacity * FACTS + self._lame.limit
        self._evicted = 0

    def __len__(self) -> int:
        return len(self._known)

    @property
    def octets(self) -> int:
        """Estimated memory of the data."""
        return len(self._known) * FACTS + self._lame.octets

    def find(self, address: Hashable) -> InfraEntry | None:
        """The data about `address`, or None when there is none."""
        return self._known.get(address)

    def timeout(self, address: Hashable) -> float:
        """Seconds to wait for a reply of this address before another one is tried."""
        info = self._known.get(address)
        return FIRST if info is None else info.timeout

    def is_usable(self, address: Hashable, now: float) -> bool:
        """Whether this address may be queried. For a dead one, True is returned once per interval: the caller then
        sends the probe."""
        info = self._known.get(address)
        if info is None or not info.dead:
            return True
        if now < info.probe_after:
            return False
        info.probe_after = now + PROBE_INTERVAL
        return True

    # --- results of queries ---------------------------------------------------------------------------------------

    def note_reply(self, address: Hashable, rtt: float, now: float, *, edns: bool = False) -> None:
        """A reply came after `rtt` seconds, with an OPT record if `edns` (RFC 6298 section 2)."""
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
        info.probe_after = 0.0
        if edns:
            info.edns_seen = True

    def is_dead_between_probes(self, address: Hashable, now: float) -> bool:
        """Whether the server is dead, and a query at `now` is not the probe that `is_usable` has permitted."""
        info = self._known.get(address)
        return info is not None and info.dead and info.probe_after != now + PROBE_INTERVAL

    def note_timeout(self, address: Hashable, now: float, timeout: float | None = None) -> None:
        """No reply came in time: double the timeout (RFC 6298 section 5.5); at half the maximum the address is dead.

        `timeout` is the value of `timeout()` when the query was sent. Queries that were in flight together count as one
        timeout, like the single timer of RFC 6298 section 5. A query with a shorter timeout than the current one gives
        no new information; for one with a longer timeout a reply has come since. Otherwise one pause of a busy machine
        would make a server dead for which a hundred queries wait.
        """
        info = self._note(address, now)
        if timeout is not None and timeout != info.timeout:
            return
        info.timeouts += 1
        info.timeout = min(info.timeout * 2, HIGHEST)
        if info.dead:
            info.probe_after = now + PROBE_INTERVAL

    def quota_share(self, address: Hashable) -> float:
        """The part of the quota of outstanding queries that `address` may use, from 0 to 1."""
        info = self._known.get(address)
        return 1.0 if info is None else info.quota_share

    def note_fetch(self, address: Hashable, *, timed_out: bool) -> int:
        """Count a query that ended. After each sample the quota falls (-1), rises (1) or stays (0), as BIND does it."""
        info = self._known.get(address)
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
        info = self._note(address, now)
        if info.lame is None:
            info.lame = {}
        zone = wire_name.lower(zone)
        info.lame.pop(zone, None)
        info.lame[zone] = now + LAME
        if len(info.lame) > LAME_ZONES:
            self._forget_lame(address, info.lame, next(iter(info.lame)))
        lame = self._lame
        cost = len(zone) + LAME_COST
        while lame.entries and lame.octets + cost > lame.limit:  # the oldest of all servers
            other, old = next(iter(lame.entries))
            self._forget_lame(other, self._known[other].lame or {}, old)
        lame.put((address, zone), None, cost)

    def _forget_lame(self, address: Hashable, zones: dict[bytes, float], zone: bytes) -> None:
        zones.pop(zone, None)
        self._lame.pop((address, zone))

    def _drop_facts(self, address: Hashable, info: InfraEntry) -> None:
        for zone in info.lame or ():
            self._lame.pop((address, zone))

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
        self._lame.clear()

    def statistics(self) -> ServerStatistics:
        """Counts. Visits every address."""
        return ServerStatistics(len(self._known), sum(info.dead for info in self._known.values()), self._evicted)

    def _note(self, address: Hashable, now: float) -> InfraEntry:
        """Make `address` the most recently noted, with its entry. Data that is too old is discarded."""
        known = self._known
        info = known.pop(address, None)
        if info is None:
            info = InfraEntry()
            if len(known) >= self._capacity:
                oldest = next(iter(known))
                self._drop_facts(oldest, known.pop(oldest))
                self._evicted += 1
        elif now - info.updated_at > AGE:
            self._drop_facts(address, info)
            info = InfraEntry()
        info.updated_at = now
        known[address] = info
        return info
