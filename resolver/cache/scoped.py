"""Answers that are for some clients only: those whose subnet the server was told (RFC 7871 section 7.3.2).

They are in a table of their own, one for each worker, and never in the arena. So the fast path, snapshots, stale
answers and other resolvers, which know no subnets, cannot give one to a client that it is not for.

A scope says which clients an answer is for: an address prefix, and the shortest and longest source prefix of the
clients (RFC 7871 section 7.3.1). `ALL_CLIENTS` has no prefix, nor has `UNSENT`, for clients whose subnet was not sent,
because they have none, do not want it, or are the resolver itself. An outcome of `NOT_SHARED` is for no other client.

Limits: octets in total, where the least recently used entry is evicted first, and entries for one name and type, where
the oldest is evicted first. An entry larger than `SUBNET_ENTRY_OCTETS`, or an eighth of the size, is not stored. An
answer is found by the longest matching prefix. A name has at most as many prefix lengths as entries, and one look-up in
a dictionary for each.

Names whose answers had a scope are marked (`mark`). Queries for a marked name are shared out by subnet; others share
one job, because most names have the same answer for all.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from resolver import limits
from resolver.cache.bounded import BoundedDict
from resolver.wire.client_subnet import ADDRESS_BITS, Subnet, describe_subnet, truncate

if TYPE_CHECKING:
    from resolver.wire.edns import Edns

__all__ = ["ALL_CLIENTS", "NOT_SHARED", "NO_SUBNET", "UNSENT", "Scope", "SubnetCache", "SubnetRules", "covers",
           "describe_scope", "narrower", "scope_length"]

Scope = tuple[bytes, int, int]
"""Address prefix, its length, and the longest source prefix of a client that it is for."""

ALL_CLIENTS: Final[Scope] = (b"", 0, ADDRESS_BITS)
UNSENT: Final[Scope] = (b"", -1, -1)
NOT_SHARED: Final[Scope] = (b"", -2, -2)
"""Of an alias chain that was made for one client, in part with its subnet and in part without."""
NO_SUBNET: Final = -1
"""The slot (`SubnetRules.slot`) of jobs that send no subnet to any server."""

OVERHEAD: Final = limits.SUBNET_ENTRY_OVERHEAD

NameAndType = tuple[bytes, int]


def covers(scope: Scope | None, subnet: Subnet | None) -> bool:
    """Whether an answer with this scope is for a client of `subnet`; None as scope is an answer for all clients."""
    if scope is None or scope == ALL_CLIENTS:
        return True
    if subnet is None:
        return scope == UNSENT
    network, shortest, longest = scope
    address, length = subnet
    return shortest <= length <= longest and truncate(address, shortest) == network


def narrower(one: Scope | None, other: Scope | None) -> Scope | None:
    """The clients that both scopes have in common. Both are for the client that is asking, so one contains the other,
    unless its subnet was not sent to all servers.
    """
    if one is None or one == other:
        return other
    if other is None:
        return one
    if one[1] < 0 or other[1] < 0:
        return UNSENT if ALL_CLIENTS in (one, other) and NOT_SHARED not in (one, other) else NOT_SHARED
    return one[0] if one[1] > other[1] else other[0], max(one[1], other[1]), min(one[2], other[2])


def scope_length(scope: Scope | None) -> int:
    """The scope prefix length in the reply to a client: 0 for an answer that does not depend on a subnet."""
    return 0 if scope is None else max(scope[1], 0)


def describe_scope(scope: Scope) -> str:
    """For whom an answer is, for people."""
    if scope == ALL_CLIENTS:
        return "for all clients"
    if scope == UNSENT:
        return "for clients without a subnet"
    exact = " that send just this prefix" if scope[2] != ADDRESS_BITS else ""
    return f"for clients in {describe_subnet(scope[:2])}{exact}"


class Entry(NamedTuple):
    """What is known for one scope: any object, or None when the servers fail for these clients; when it was stored and
    when it expires, in seconds since 1970."""

    value: Any
    since: int
    until: int
    cost: int


class _Name:
    """The entries of one name and type. `shapes` are address size, shortest and longest source prefix of the scopes,
    in the order in which they are tried, with the number of entries of each."""

    __slots__ = ("entries", "shapes")

    def __init__(self) -> None:
        self.entries: dict[Scope, Entry] = {}
        self.shapes: dict[tuple[int, int, int], int] = {}

    def add(self, scope: Scope, entry: Entry) -> None:
        """Add an entry with a new scope."""
        self.entries[scope] = entry
        shape = (len(scope[0]), scope[1], scope[2])
        if shape in self.shapes:
            self.shapes[shape] += 1
            return
        self.shapes[shape] = 1
        # Of two scopes with the same prefix the one for fewer clients is first.
        self.shapes = dict(sorted(self.shapes.items(), key=lambda item: (-item[0][1], item[0][2])))

    def remove(self, scope: Scope) -> Entry:
        """Remove an entry."""
        shape = (len(scope[0]), scope[1], scope[2])
        self.shapes[shape] -= 1
        if not self.shapes[shape]:
            del self.shapes[shape]
        return self.entries.pop(scope)

    def fitting(self, subnet: Subnet | None) -> Iterator[Scope]:
        """The scopes that are for a client of `subnet`, the longest prefix first."""
        for size, shortest, longest in self.shapes:
            if not size:
                scope: Scope = (b"", shortest, longest)
                if covers(scope, subnet):
                    yield scope
            elif subnet is not None and size == len(subnet[0]) and shortest <= subnet[1] <= longest:
                scope = (truncate(subnet[0], shortest), shortest, longest)
                if scope in self.entries:
                    yield scope


class SubnetCache:
    """Entries by name (lower case), type and scope; see the head of the module. It is a `MemoryTable`."""

    __slots__ = (
        "_entry_limit",
        "_held",
        "_marks",
        "_names",
        "_octets_limit",
        "_order",
        "_per_name",
        "evicted",
        "found",
        "limit",
        "name",
        "stored",
    )

    def __init__(self, size: int, per_name: int) -> None:
        self.name = "subnets"
        self.limit = size + limits.SUBNET_MARK_OCTETS
        self.stored = 0
        self.found = 0
        self.evicted = 0
        self._octets_limit = size
        self._entry_limit = min(limits.SUBNET_ENTRY_OCTETS, size // 8)
        self._held = 0
        self._per_name = per_name
        self._names: dict[NameAndType, _Name] = {}
        self._order: dict[tuple[NameAndType, Scope], None] = {}  # that unused for longest is first
        self._marks = BoundedDict("subnet marks", limit=limits.SUBNET_MARK_OCTETS, most=limits.SUBNET_MARKS)

    def __len__(self) -> int:
        return len(self._order)

    @property
    def octets(self) -> int:
        """Estimated memory of entries and marks."""
        return self._held + self._marks.octets

    def find(self, name: bytes, rtype: int, subnet: Subnet | None, now: int) -> tuple[Scope, Entry] | None:
        """The entry with the longest prefix that fits `subnet`; None without one that has not expired."""
        key = (name, rtype)
        group = self._names.get(key)
        if group is None:
            return None
        for scope in list(group.fitting(subnet)):
            entry = group.entries[scope]
            if entry.since <= now < entry.until:
                self.found += 1
                del self._order[key, scope]
                self._order[key, scope] = None
                return scope, entry
            self._drop(key, scope)
        return None

    def has(self, name: bytes, rtype: int, now: int) -> bool:
        """Whether answers for some subnets only are held of this name and type. Those that have expired are removed."""
        key = (name, rtype)
        group = self._names.get(key)
        if group is None:
            return False
        for scope, entry in list(group.entries.items()):
            if not entry.since <= now < entry.until:
                self._drop(key, scope)
            elif scope[0] and entry.value is not None:
                return True
        return False

    def put(self, name: bytes, rtype: int, scope: Scope, value: object, octets: int, ttl: int, now: int) -> None:
        """Store `value` of `octets` for `ttl` seconds, in the place of an earlier one with this scope."""
        key = (name, rtype)
        cost = octets + len(name) + OVERHEAD
        if (key, scope) in self._order:
            self._drop(key, scope)
        if ttl <= 0 or cost > self._entry_limit:
            return
        group = self._names.setdefault(key, _Name())
        if len(group.entries) >= self._per_name:
            # The order in the dictionary is that of storing: what was stored first expires first, or is renewed.
            self._drop(key, next(iter(group.entries)))
            self.evicted += 1
            group = self._names.setdefault(key, group)
        group.add(scope, Entry(value, now, now + ttl, cost))
        self._order[key, scope] = None
        self._held += cost
        self.stored += 1
        while self._held > self._octets_limit:
            self._drop(*next(iter(self._order)))
            self.evicted += 1

    def _drop(self, key: NameAndType, scope: Scope) -> None:
        group = self._names[key]
        self._held -= group.remove(scope).cost
        del self._order[key, scope]
        if not group.entries:
            del self._names[key]

    def mark(self, name: bytes, rtype: int) -> None:
        """Note that an answer to this question had a scope."""
        self._marks.put((name, rtype), None, len(name) + OVERHEAD)

    def is_marked(self, name: bytes, rtype: int) -> bool:
        """Whether an answer to this question had a scope."""
        return (name, rtype) in self._marks.entries

    def clear(self) -> None:
        """Remove all entries."""
        self._names.clear()
        self._order.clear()
        self._marks.clear()
        self._held = 0


class SubnetRules(Protocol):
    """Which queries have a client subnet, and for whom the replies are: `ClientSubnets` of `resolver.iterate`."""

    @property
    def cache(self) -> SubnetCache: ...

    def applies(self, address: str, zone: bytes, qname: bytes, qtype: int, /) -> bool: ...

    def take(self, qname: bytes, qtype: int, subnet: Subnet, /) -> bool: ...

    def give(self, qname: bytes, qtype: int, subnet: Subnet, /) -> None: ...

    def problem(self, sent: Subnet, rcode: int, edns: "Edns | None", /) -> str: ...

    def scope_of(
        self, sent: Subnet, edns: "Edns | None", qname: bytes, qtype: int, now: int, /
    ) -> Scope | None: ...

    def slot(self, key: tuple[bytes, int, int], subnet: Subnet | None, /) -> int | None: ...

    def is_shared(self, name: bytes, qtype: int, now: int, /) -> bool: ...
