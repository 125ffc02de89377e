"""Which queries have the client subnet option, and for whom the replies to them are (RFC 7871 section 7).

The option goes to configured servers, and with names in configured zones. Never with minimised queries, nor for types
that belong to the zone and not to a client (`UNTAILORED`), nor for a private or local address, which means nothing to
others (section 11.1). Then there is no option at all, rather than one with a source prefix of 0, and the answer is only
for clients without a subnet (`UNSENT`): servers choose it by the address of the resolver.

A reply without the option is for all clients (section 7.3). One with another subnet than was sent is not used
(section 11.2), and the server is queried again without the option, as Unbound does.
"""

from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from resolver import limits
from resolver.cache.bounded import SizedTable
from resolver.cache.scoped import ALL_CLIENTS, NO_SUBNET, NOT_SHARED, UNSENT, Scope, SubnetCache, covers
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.client_subnet import ADDRESS_BITS, PrefixSet, Subnet, parse_subnet, truncate
from resolver.wire.errors import WireError

if TYPE_CHECKING:
    from resolver.nat64 import ServerNat64
    from resolver.settings import SubnetSettings
    from resolver.wire.edns import Edns

__all__ = ["ClientSubnets"]

JOBS = limits.SUBNET_JOBS
RESTARTS = limits.SUBNET_RESTARTS
UNTAILORED = frozenset({c.NS, c.SOA, c.DS, c.DNSKEY, c.NSEC, c.NSEC3, c.NSEC3PARAM, c.RRSIG, c.ANY})
"""Types that say something about the zone. Delegations and the chain of trust must be the same for all clients."""


class Waiting(Protocol):
    """A request that waits for an answer: the subnet for which it asks, and how often it has started again."""

    subnet: Subnet | None
    restarts: int


T = TypeVar("T", bound=Waiting)


class ClientSubnets:
    """The rules of [client-subnet], and the answers that are for some clients only. One for each worker."""

    __slots__ = ("_is_listed", "_outstanding", "_zones", "cache", "counts", "listed")

    def __init__(self, settings: "SubnetSettings", nat64: "ServerNat64 | None" = None) -> None:
        """`nat64` is the translator between this host and servers with IPv4 addresses, whose prefixes in the settings
        are those of the servers."""
        self.cache = SubnetCache(settings.size, settings.subnets_per_name)
        self.counts = {"sent": 0, "tailored": 0, "for_all": 0, "without": 0, "rejected": 0, "restarted": 0}
        self._outstanding: dict[tuple[bytes, int], dict[Subnet, int]] = {}
        """By name and type, the subnets in queries that are outstanding, with the number of queries."""
        self._zones = frozenset(names.lower(names.from_text(zone)) for zone in settings.zones)
        servers = PrefixSet(settings.servers)

        def is_listed(address: str) -> bool:
            packed = ip_address(address.partition("%")[0]).packed
            embedded = None if nat64 is None else nat64.extract(packed)
            return packed in servers or (embedded is not None and embedded in servers)

        self._is_listed = known = lru_cache(maxsize=limits.UPSTREAM_ADDRESSES)(is_listed)
        self.listed = SizedTable(
            "subnet_servers", most=limits.UPSTREAM_ADDRESSES, size=limits.UPSTREAM_ADDRESS_OCTETS,
            count=lambda: known.cache_info().currsize, clear=known.cache_clear,
        )
        """The addresses for which is known whether they are among those of `settings.servers`."""

    def applies(self, address: str, zone: bytes, qname: bytes, qtype: int) -> bool:
        """Whether the server at `address`, which is queried as one of `zone` (lower case), gets the subnets of clients.

        A server of the zone above may serve a configured zone, too, and answer without a referral. Those of the root
        and of a top-level domain do not, so they get none unless their zone is configured itself.
        """
        if qtype in UNTAILORED:
            return False
        if self._is_listed(address):
            return True
        return self.is_in_zones(names.lower(qname)) and (self.is_in_zones(zone) or names.label_count(zone) > 1)

    def is_in_zones(self, name: bytes) -> bool:
        """Whether a configured zone is at or above `name` (lower case)."""
        return names.closest_in(name, self._zones) is not None

    def is_shared(self, name: bytes, qtype: int, now: int) -> bool:
        """Whether nothing shows that the answer depends on the client, so that it may be that of another resolver."""
        name = names.lower(name)
        return not (self.is_in_zones(name) or self.cache.has(name, qtype, now) or self.cache.is_marked(name, qtype))

    def slot(self, key: tuple[bytes, int, int], subnet: Subnet | None) -> int | None:
        """The part of the job's key that depends on the subnet of the client; None where one job serves all.

        Equal subnets have the same slot, so they share a job; there are `SUBNET_JOBS` slots, so a name has no more
        such parts than that and two, whatever subnets its clients have.
        """
        if not self.cache.is_marked(key[0], key[1]):
            return None
        if subnet is None:
            return NO_SUBNET
        # The last bits of a prefix differ most; a client that can choose them gains nothing from sharing a slot.
        return (int.from_bytes(subnet[0], "big") >> len(subnet[0]) * 8 - subnet[1]) % JOBS

    def take(self, qname: bytes, qtype: int, subnet: Subnet) -> bool:
        """Whether a query for `subnet` may be sent; if so, `give` follows when it has ended.

        Not while queries with `SUBNET_JOBS` other subnets are outstanding for the same name and type, whatever aliases
        lead there: queries with different options share no packet (CVE-2025-5994).
        """
        key = (names.lower(qname), qtype)
        subnets = self._outstanding.setdefault(key, {})
        count = subnets.get(subnet, 0)
        if not count and len(subnets) >= JOBS:
            return False
        subnets[subnet] = count + 1
        self.counts["sent"] += 1
        return True

    def give(self, qname: bytes, qtype: int, subnet: Subnet) -> None:
        """A query for which `take` was true has ended."""
        key = (names.lower(qname), qtype)
        subnets = self._outstanding[key]
        subnets[subnet] -= 1
        if not subnets[subnet]:
            del subnets[subnet]
        if not subnets:
            del self._outstanding[key]

    def problem(self, sent: Subnet, rcode: int, edns: "Edns | None") -> str:
        """Why the reply to a query with the subnet `sent` is not used; empty when it is."""
        found = "fails with client subnets" if rcode == c.FORMERR else _mismatch(sent, edns)
        self.counts["rejected"] += bool(found)
        return found

    def scope_of(self, sent: Subnet, edns: "Edns | None", qname: bytes, qtype: int, now: int) -> Scope | None:
        """For whom a reply without a `problem` is; None: for all, so that it belongs into the cache that all share.

        An answer for all is kept with those for subnets while there are any, because the longest prefix decides and
        the shared cache is searched first.
        """
        content = None if edns is None else edns.get(c.OPTION_ECS)
        length = 0 if content is None else parse_subnet(content).scope
        self.counts["without" if content is None else "tailored" if length else "for_all"] += 1
        if not length:
            return ALL_CLIENTS if self.cache.has(names.lower(qname), qtype, now) else None
        address, source = sent
        if length > source:
            # For clients with exactly this source prefix only (section 7.3.1): no longer one was sent.
            return address, source, source
        return truncate(address, length), length, ADDRESS_BITS

    def uncovered(
        self, key: tuple[bytes, int, int], scope: Scope, asked: Subnet | None, requests: list[T]
    ) -> list[T]:
        """Those of `requests`, which waited for one answer, that it is not for. They are to start again.

        After `SUBNET_RESTARTS` a request asks without a subnet, and all such requests share a job. So does one of the
        subnet `asked`, for which the job was, when it could not be sent.
        """
        self.cache.mark(key[0], key[1])
        others = [request for request in requests if not covers(scope, request.subnet)]
        self.counts["restarted"] += len(others)
        for request in others:
            request.restarts += 1
            if request.restarts >= RESTARTS or (scope in (UNSENT, NOT_SHARED) and request.subnet == asked):
                request.subnet = None
        return others

    def after_failure(self, requests: list[T]) -> list[T]:
        """Those of `requests` that start again, without a subnet, after a failure that may be that of one subnet."""
        again = [request for request in requests if request.restarts < RESTARTS]
        self.counts["restarted"] += len(again)
        for request in again:
            request.restarts += 1
            request.subnet = None
        return again

    def statistics(self) -> dict[str, Any]:
        """Counters since the start, and what is held."""
        cache = self.cache
        return {
            "sent": self.counts["sent"],
            "replies": {kind: self.counts[kind] for kind in ("tailored", "for_all", "without", "rejected")},
            "restarted": self.counts["restarted"],
            "entries": len(cache), "octets": cache.octets, "hits": cache.found, "stored": cache.stored,
            "evicted": cache.evicted,
        }


def _mismatch(sent: Subnet, edns: "Edns | None") -> str:
    """Why the option of a reply does not answer that of the query; empty when it does, or when there is none."""
    content = None if edns is None else edns.get(c.OPTION_ECS)
    if content is None:
        return ""
    try:
        found = parse_subnet(content)
    except WireError as error:
        return error.reason
    return "" if found.subnet == sent else "returns another client subnet than was sent"
