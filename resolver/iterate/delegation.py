"""Delegation points: the servers of a zone, their origin, and the search for the closest zone cut.

A `DelegationPoint` is a zone with the addresses of its servers. The `DelegationCache` of a worker holds root hints,
forward and stub zones, addresses that must not be queried, and delegation points made from the cache, so that a new
name in a known zone costs one dictionary look-up instead of a cache search for each name server.

Invariants: a delegation expires when the parent's NS set does, whatever the child adds (ghost domains, CVE-2012-1192);
glue is used for queries and never given to clients; unspecified, multicast and (unless permitted) loopback addresses
are never queried (CVE-2026-50251).

Behind a NAT64 (`iteration.nat64_prefix`) a server with an IPv4 address is known by the IPv6 address at which it is
reached, here and in the infrastructure cache, because what is learnt is about this path. Whether it may be queried is
decided by both addresses. An IPv6 address with the prefix counts as the IPv4 address in it also when a zone has it;
otherwise anyone could have servers queried that `iteration.do_not_query_addresses` protects.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

from resolver import limits
from resolver.cache.bounded import BoundedDict, SizedTable
from resolver.effects import Context, Server
from resolver.iterate.fetch_quota import FetchQuota
from resolver.nat64 import ServerNat64
from resolver.verdict import TRUST_GLUE
from resolver.wire.consts import AAAA, A
from resolver.wire.name import ROOT, closest_in, from_text, is_subdomain, label_count, lower, to_text
from resolver.wire.rrset import RRset

if TYPE_CHECKING:
    from resolver.cache import Store
    from resolver.settings import Settings
    from resolver.upstream_address import Encryption
    from resolver.zones import ZoneTable

__all__ = ["DelegationCache", "DelegationPoint", "delegations_of"]

NAME_SERVERS = limits.MAX_NAME_SERVERS
ADDRESSES = limits.MAX_ADDRESSES
FAMILY_PAUSE = limits.FAMILY_PAUSE
DELEGATIONS = limits.DELEGATIONS
OVERHEAD = limits.DELEGATION_OVERHEAD
REMEMBERED_ADDRESSES = limits.UPSTREAM_ADDRESSES
FOREVER = 1 << 62
NO_REFERRAL = -1


class DelegationPoint:
    """A zone and its servers.

    `zone` is lower case. `names` are the name servers (lower case), `missing` those without a known address, `servers`
    the addresses. `expires` is the real-time second at which the NS set of the parent expires, `until` the one at which
    the first of NS set and addresses does. `recursive`: the servers are recursive resolvers, queried with RD.
    `configured`: it is a forward or stub zone, and `first` permits iteration when its servers fail.
    `parent_confirmed_until` is the monotonic second until which the parent is not queried again when all servers fail,
    because it has just named the same ones. `referred_by` is the number of labels of the zone whose referral this is,
    `NO_REFERRAL` for one made from cached RRsets or of the configuration.
    """

    __slots__ = (
        "configured",
        "expires",
        "first",
        "labels",
        "missing",
        "names",
        "parent_confirmed_until",
        "recursive",
        "referred_by",
        "servers",
        "until",
        "zone",
    )

    def __init__(self, zone: bytes, expires: int) -> None:
        self.zone = zone
        self.labels = label_count(zone)
        self.names: list[bytes] = []
        self.missing: list[bytes] = []
        self.servers: list[Server] = []
        self.expires = expires
        self.until = expires
        self.recursive = False
        self.referred_by = NO_REFERRAL
        self.configured = False
        self.first = False
        self.parent_confirmed_until = 0.0

    def add_address(
        self, name: bytes | None, address: str, port: int, encryption: Encryption | None = None
    ) -> bool:
        """Add one address; False when it is present already or `ADDRESSES` are."""
        servers = self.servers
        if len(servers) >= ADDRESSES:
            return False
        for server in servers:
            if server.address == address and server.port == port and server.encryption == encryption:
                return False
        servers.append(Server(address, port, name, encryption))
        return True

    def same_servers(self, other: DelegationPoint) -> bool:
        """Whether `other` has no server that this one does not have."""
        mine = {server.address for server in self.servers}
        return all(server.address in mine for server in other.servers) and set(other.missing) <= set(self.names)

    def __repr__(self) -> str:
        return f"Cut({to_text(self.zone)}, servers={self.servers!r}, missing={len(self.missing)})"


class DelegationCache:
    """The delegations of a worker. `own` are the addresses of this resolver, which must not query itself."""

    __slots__ = (
        "_addresses", "_case_exempt", "_configured", "_family_down_until", "_forbidden", "_hints", "_loopback",
        "_nat64", "_own", "_rrsets", "addresses", "cookies", "delegations", "fetches", "harden_glue", "minimising",
        "part", "payload", "port", "priming", "randomise_case", "tcp_only", "types", "zones",
    )

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        own: Iterable[str] = (),
        configured: dict[bytes, DelegationPoint | None],
        zones: ZoneTable | None = None,
        fetches: FetchQuota | None = None,
        part: int = 0,
    ) -> None:
        """`fetches` are the quotas of the worker's other delegation cache, because those of servers are for all
        views; None: this is the first one. Zones are counted apart for each `part`, the number of the view."""
        self.zones = zones or None  # a table without zones is not asked
        self.fetches = FetchQuota(settings, store.servers) if fetches is None else fetches
        self.part = part
        share = 1 if fetches is None else limits.VIEW_PARTS
        iteration = settings.iteration
        # Copied here because they are read for each packet.
        self.minimising = iteration.qname_minimisation
        self.payload = iteration.edns_buffer_size
        self.randomise_case = iteration.case_randomisation
        self.cookies = iteration.send_cookies
        self._case_exempt = frozenset(
            lower(from_text(zone)) for zone in iteration.case_randomisation_exempt
        )
        self.tcp_only = iteration.tcp_only
        self.harden_glue = iteration.harden_glue
        self.priming = iteration.priming
        self._family_down_until = {4: 0.0, 6: 0.0}
        self._rrsets = store.rrsets
        self.port = iteration.upstream_port
        self._loopback = not iteration.do_not_query_localhost
        self._forbidden = [ip_network(text, strict=False) for text in iteration.do_not_query_addresses]
        self._own = {str(ip_address(text)) for text in own}
        self._addresses: dict[bytes, str | None] = {}
        self.addresses = SizedTable(
            "server_addresses", most=REMEMBERED_ADDRESSES, size=limits.UPSTREAM_ADDRESS_OCTETS,
            count=self._addresses.__len__, clear=self._addresses.clear,
        )
        self.delegations = BoundedDict(
            "delegations", limit=limits.DELEGATION_OCTETS // share, most=DELEGATIONS // share
        )
        self._configured = configured
        self._nat64 = ServerNat64.create(iteration.nat64_prefix)
        self.types: tuple[int, ...] = tuple(
            rtype for rtype, wanted in ((A, iteration.do_ip4 or self._nat64 is not None), (AAAA, iteration.do_ip6))
            if wanted
        )
        self._hints: dict[bytes, list[str]] = {}
        for hint in settings.root_hints:
            usable = [text for one in hint.addresses if (text := self.reach(one)) is not None]
            self._hints.setdefault(lower(from_text(hint.name)), []).extend(usable)

    # --- addresses ---

    def reach(self, text: str) -> str | None:
        """The address at which the server with the address `text` is queried: itself, or behind a NAT64 the one that
        stands for it. None when it may not be queried."""
        return self._reach(ip_address(text))

    def _reach(self, address: IPv4Address | IPv6Address) -> str | None:
        if not self._may_query(address):
            return None
        if self._nat64 is None:
            return str(address)
        embedded = self._nat64.extract(address.packed)
        if embedded is None:
            reached = self._nat64.reach(str(address))
        elif self._may_query(IPv4Address(embedded)):
            reached = self._nat64.embed(embedded)  # one server has one address, whatever fills its other bits
        else:
            return None
        return reached if self._may_query(ip_address(reached)) else None

    def _may_query(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether the family of `address` is enabled, and it is a usable unicast address."""
        if (A if address.version == 4 else AAAA) not in self.types:
            return False
        if address.is_unspecified or address.is_multicast or str(address) in self._own:
            return False
        if isinstance(address, IPv4Address) and (address.packed[0] == 0 or address.packed == b"\xff\xff\xff\xff"):
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            return False
        # RFC 4007 section 11: a link-local address is usable only together with its interface.
        if isinstance(address, IPv6Address) and address.is_link_local and not address.scope_id:
            return False
        if address.is_loopback and not self._loopback:
            return False
        return not any(address.version == network.version and address in network for network in self._forbidden)

    def address_of(self, rdata: bytes) -> str | None:
        """As `reach`, for an A or AAAA rdata; None also when it is not an address."""
        known = self._addresses
        if rdata in known:
            return known[rdata]
        if len(known) >= REMEMBERED_ADDRESSES:
            known.clear()
        text = known[rdata] = self._reach(ip_address(rdata)) if len(rdata) in (4, 16) else None
        return text

    def use_caps_for_id(self, name: bytes) -> bool:
        """Whether the letter case of `name` may be randomised (0x20)."""
        return self.randomise_case and (
            not self._case_exempt or closest_in(lower(name), self._case_exempt) is None
        )

    def note_no_family(self, address: str, now: float) -> None:
        """Note that the kernel has no route to the address family of `address`."""
        self._family_down_until[6 if ":" in address else 4] = now + FAMILY_PAUSE

    def note_reachable(self, address: str) -> None:
        """Note a reply from `address`: its address family works."""
        family = 6 if ":" in address else 4
        if self._family_down_until[family]:
            self._family_down_until[family] = 0.0

    def family_down(self, now: float) -> int:
        """4 or 6 when this host has no route for that family, 0 when both may work (`now`: monotonic seconds)."""
        for family, until in self._family_down_until.items():
            if until > now:
                return family
        return 0

    # --- finding cuts ---

    def forward_or_stub_for(self, name: bytes) -> DelegationPoint | None:
        """The forward or stub zone that `name` (lower case) belongs to; None when it is resolved by iteration."""
        table = self._configured
        if not table:
            return None
        zone = closest_in(name, table)
        return None if zone is None else table[zone]

    def closest(self, name: bytes, now: int, *, above: bytes | None = None) -> DelegationPoint | None:
        """The deepest known zone cut at or above `name` (lower case); None when the servers of the root are not known.

        With `above`, only cuts strictly above that zone count.
        """
        if above is not None:
            if len(above) == 1:
                return None
            name = above[above[0] + 1 :]
        delegations: dict[bytes, DelegationPoint] = self.delegations.entries
        suffix = name
        depth = 0
        found = None
        while True:
            cut = delegations.get(suffix)
            if cut is not None:
                if cut.until > now:
                    found = cut
                    break
                self.delegations.pop(suffix)
            if len(suffix) == 1:
                break
            suffix = suffix[suffix[0] + 1 :]
            depth += 1
        if found is not None and depth <= 1:
            return found
        # Another worker, or a query for another name, may have stored a deeper one in the shared cache.
        stored = self._rrsets.closest_cut(name, now)
        if stored is None or (found is not None and label_count(stored[0]) <= found.labels):
            return found
        return self.from_rrset(stored[1], now)

    def zone_of(self, name: bytes, now: int) -> bytes:
        """The deepest zone of `name` (lower case) that is known: an own, forward or stub zone, or one whose NS set is
        cached; else the root."""
        own = None if self.zones is None else self.zones.closest(name, A)
        configured = self.forward_or_stub_for(name)
        stored = self._rrsets.closest_cut(name, now)
        return max(
            ROOT,
            ROOT if own is None else own.origin,
            ROOT if configured is None else configured.zone,
            ROOT if stored is None else stored[0],
            key=len,
        )

    def from_rrset(
        self, ns: RRset, now: int, glue: dict[bytes, list[RRset]] | None = None, *, keep: bool = True, stale: int = 0
    ) -> DelegationPoint:
        """A delegation point from an NS set, with addresses from `glue` or else from the cache, `stale` as in
        `RRsetCache.find`; with `keep` it is added to the delegation cache."""
        cut = DelegationPoint(lower(ns.name), now + ns.ttl)
        rrsets = self._rrsets
        until = cut.expires
        for target in ns.targets()[:NAME_SERVERS]:
            name = lower(target)
            cut.names.append(name)
            sets = glue.get(name) if glue is not None else None
            if sets is None:
                sets = [rrset for rtype in self.types
                        if (rrset := rrsets.find(name, rtype, now, min_trust=TRUST_GLUE, stale=stale)) is not None]
            known = False
            for rrset in sets:
                for rdata in rrset.rdatas():
                    text = self.address_of(rdata)
                    if text is not None:
                        known = cut.add_address(name, text, self.port) or known
                until = min(until, now + rrset.ttl)
            if not known and len(cut.zone) == 1:
                # Without addresses of root servers nothing can be resolved, so those of the hints are used.
                for text in self._hints.get(name, ()):
                    known = cut.add_address(name, text, self.port) or known
            if not known:
                cut.missing.append(name)
        cut.until = until
        if keep and until > now:
            self._keep(cut)
        return cut

    def _keep(self, cut: DelegationPoint) -> None:
        # The maximum number of addresses is counted, because addresses are added later.
        cost = len(cut.zone) + sum(map(len, cut.names)) * 2 + (ADDRESSES + len(cut.names) + 2) * OVERHEAD
        self.delegations.put(cut.zone, cut, cost)

    def glue_of(self, name: bytes) -> list[str]:
        """Addresses of the name server `name` (lower case) in the known delegations of zones at or above it."""
        found: list[str] = []
        suffix = name
        while True:
            cut = self.delegations.entries.get(suffix)
            if cut is not None:
                found += [server.address for server in cut.servers if server.name == name]
            if len(suffix) == 1:
                return found
            suffix = suffix[suffix[0] + 1 :]

    def from_hints(self) -> DelegationPoint:
        """The root with the servers of the root hints."""
        cut = DelegationPoint(ROOT, FOREVER)
        for name, addresses in self._hints.items():
            cut.names.append(name)
            for text in addresses:
                cut.add_address(name, text, self.port)
        return cut

    # --- forgetting ---

    def forget(self, zone: bytes) -> None:
        """Remove the delegation of `zone` (lower case)."""
        self.delegations.pop(zone)

    def forget_below(self, name: bytes) -> None:
        """Remove every delegation at or below `name`."""
        for zone in [zone for zone in self.delegations.entries if is_subdomain(zone, name)]:
            self.delegations.pop(zone)

    def clear(self) -> None:
        """Remove all delegations."""
        self.delegations.clear()


def delegations_of(context: Context) -> DelegationCache:
    """The `DelegationCache` of `context`, which other packages know as the protocol `Delegations`."""
    found = context.delegations
    assert isinstance(found, DelegationCache)
    return found
