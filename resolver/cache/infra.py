"""What is known about each upstream address: how fast it answers, what it does not understand, whether it is alive.

The numbers follow RFC 6298 (smoothed time, variation, doubled timeouts); choosing among servers by them is the
iterator's job. Three rules stand here: the table is bounded and forgets the least recently noted address, since an
attacker can name any number of them; a dead address is asked again with one query per interval, so that a network
that comes back is noticed without a restart; and no fact lasts for ever, because servers get repaired.
Times are seconds of one clock of the caller's choice that does not jump, such as the monotonic one.
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
EDNS_BROKEN = limits.SERVER_EDNS_BROKEN
TCP_ONLY = limits.SERVER_TCP_ONLY
COOKIELESS = limits.SERVER_COOKIELESS
FACTS = limits.SERVER_OCTETS
LAME_COST = limits.LAME_OVERHEAD


class InfraEntry:
    """Facts about one address. `srtt`, `rttvar` and `timeout` are seconds; `srtt` is None before the first reply."""

    __slots__ = (
        "cookie",
        "edns_broken_until",
        "edns_seen",
        "lame",
        "no_cookie_until",
        "probe_after",
        "rttvar",
        "srtt",
        "tcp_until",
        "timeout",
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
        """A dead address is not asked before this time."""
        self.cookie = b""
        """Our cookie and the server's, as it sent them last; empty while it gave none (RFC 7873 section 5.4)."""
        self.no_cookie_until = 0.0
        """It gives no cookies, and is not asked for one before this time."""
        self.edns_seen = False
        """A reply with an OPT record came: timeouts are no sign of broken EDNS."""
        self.edns_broken_until = 0.0
        self.tcp_until = 0.0
        self.lame: dict[bytes, float] | None = None
        """Lame zones (lower case) and until when; None while there is none."""
        self.updated_at = 0.0

    @property
    def dead(self) -> bool:
        """Whether timeouts doubled so often that the address is only probed."""
        return self.timeouts > 0 and self.timeout >= DEAD

    def rtt_estimate(self) -> float:
        """Seconds a query is likely to take: what to order addresses by. Timeouts in a row count in full."""
        if self.timeouts or self.srtt is None:
            return self.timeout
        return self.srtt

    def __repr__(self) -> str:
        srtt = "unknown" if self.srtt is None else f"{self.srtt * 1000:.1f} ms"
        return f"ServerInfo(srtt={srtt}, timeout={self.timeout * 1000:.0f} ms, timeouts={self.timeouts})"


class ServerStatistics(NamedTuple):
    """How many addresses are known, how many of them count as dead, and how many were forgotten for room."""

    addresses: int
    dead: int
    evicted: int


class InfraCache:
    """Facts by address (any hashable, such as `(address, port)`), at most `capacity` of them.

    Raises:
        ValueError: the capacity lies outside `limits.CACHE_SERVERS`.
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
        """What the facts take, about."""
        return len(self._known) * FACTS + self._lame.octets

    def find(self, address: Hashable) -> InfraEntry | None:
        """The facts, or None about a stranger."""
        return self._known.get(address)

    def timeout(self, address: Hashable) -> float:
        """Seconds to wait for this address before asking another."""
        info = self._known.get(address)
        return FIRST if info is None else info.timeout

    def is_usable(self, address: Hashable, now: float) -> bool:
        """Whether to ask this address. One query per interval is let through to a dead one; asking this takes it."""
        info = self._known.get(address)
        if info is None or not info.dead:
            return True
        if now < info.probe_after:
            return False
        info.probe_after = now + PROBE_INTERVAL
        return True

    # --- what queries taught --------------------------------------------------------------------------------------

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
            info.edns_broken_until = 0.0

    def note_timeout(self, address: Hashable, now: float, timeout: float | None = None) -> None:
        """No reply came in time: double the timeout (RFC 6298 section 5.5); at half the maximum the address is dead.

        `timeout` is what `timeout` said when the query was sent. Queries that were under way together are one sign
        and not many, as the one timer of RFC 6298 section 5 has it: who was sent under a shorter timeout than today's
        tells nothing new, and who was sent under a longer one is refuted by a reply that came since. Without that, one
        pause of a busy machine would bury a server that a hundred queries wait for.
        """
        info = self._note(address, now)
        if timeout is not None and timeout != info.timeout:
            return
        info.timeouts += 1
        info.timeout = min(info.timeout * 2, HIGHEST)
        if info.dead:
            info.probe_after = now + PROBE_INTERVAL

    def note_lame(self, address: Hashable, zone: bytes, now: float) -> None:
        """The server does not serve `zone`, though it should."""
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

    def note_edns_broken(self, address: Hashable, now: float) -> None:
        """The server fails on EDNS; it is asked without for a while (RFC 6891 section 6.2.2)."""
        self._note(address, now).edns_broken_until = now + EDNS_BROKEN

    def note_cookie(self, address: Hashable, cookie: bytes, now: float) -> None:
        """The server gave a cookie, to be sent back until it gives another."""
        self._note(address, now).cookie = cookie

    def note_no_cookie(self, address: Hashable, now: float) -> None:
        """The server gives no cookie, or no longer one."""
        info = self._note(address, now)
        info.cookie = b""
        info.no_cookie_until = now + COOKIELESS

    def note_tcp_only(self, address: Hashable, now: float) -> None:
        """Replies that looked forged came from here; it is asked over TCP for a while."""
        self._note(address, now).tcp_until = now + TCP_ONLY

    # --- upkeep ---------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget all addresses."""
        self._known.clear()
        self._lame.clear()

    def statistics(self) -> ServerStatistics:
        """Counts; looks at every address."""
        return ServerStatistics(len(self._known), sum(info.dead for info in self._known.values()), self._evicted)

    def _note(self, address: Hashable, now: float) -> InfraEntry:
        """The address becomes the most recently noted; what was learned too long ago is forgotten."""
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
