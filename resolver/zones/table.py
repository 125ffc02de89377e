"""The zones that a worker serves, and what they answer at the moment.

The table is the only mutable object here: `put` replaces the content of a zone at once, so each question is answered by
one version. A zone without content, or whose content has expired (RFC 1035 section 3.3.13), is not used: its names get
SERVFAIL, or are resolved as usual when its `fallback` is set.

Modes of a zone:

* authoritative: questions of clients are answered from it, with AA. What it delegates is resolved from its delegations.
* delegations: only the iterator uses it, in place of the servers of the zone (RFC 8806). Replies are validated as
  theirs would be.
* policy: a response policy zone. Its content is here for transfers alone; no question belongs to it, so its names are
  resolved as usual.
"""

from collections.abc import Callable, Iterable, Iterator
from enum import Enum

from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import Builder
from resolver.wire.consts import MESSAGE_MAX
from resolver.wire.rrset import RRset
from resolver.zones.answer import Answer, Answerer
from resolver.zones.zone import Zone

__all__ = ["Mode", "ServedZone", "ZoneTable"]


class Mode(Enum):
    """What a zone is used for."""

    AUTHORITATIVE = "authoritative"
    DELEGATIONS = "delegations"
    POLICY = "policy"


class ServedZone:
    """One configured zone. `expires` is the second of the real-time clock at which its content must not be used any
    more; 0: never, because it is a primary zone."""

    __slots__ = ("_answerer", "expires", "fallback", "mode", "origin")

    def __init__(self, origin: bytes, mode: Mode, *, fallback: bool = False) -> None:
        self.origin = names.lower(origin)
        self.mode = mode
        self.fallback = fallback
        self.expires = 0
        self._answerer: Answerer | None = None

    @property
    def zone(self) -> Zone | None:
        """The content; None before the first load."""
        return None if self._answerer is None else self._answerer.zone

    def usable(self, now: int) -> Answerer | None:
        """What answers from the content, unless there is none or it has expired."""
        return None if self.expires and now >= self.expires else self._answerer

    def set_content(self, zone: Zone, expires: int) -> None:
        """Use `zone` from now on, until the second `expires` (0: always)."""
        self._answerer = Answerer(zone)
        self.expires = expires


class ZoneTable:
    """The zones of one configuration, by name. `now` returns the second of the real-time clock."""

    __slots__ = ("_answering", "_now", "_zones")

    def __init__(self, zones: Iterable[ServedZone] = (), now: Callable[[], int] = lambda: 0) -> None:
        self._zones = {zone.origin: zone for zone in zones}
        self._answering = {origin: zone for origin, zone in self._zones.items() if zone.mode is not Mode.POLICY}
        self._now = now

    def __iter__(self) -> Iterator[ServedZone]:
        return iter(self._zones.values())

    def __bool__(self) -> bool:
        """Whether a question can belong to one of the zones."""
        return bool(self._answering)

    def get(self, origin: bytes) -> ServedZone | None:
        """The zone of this name (lower case)."""
        return self._zones.get(origin)

    def put(self, origin: bytes, zone: Zone, expires: int) -> None:
        """Serve `zone` from now on, until the second `expires` (0: always).

        Raises:
            KeyError: no zone of this name is configured.
        """
        self._zones[origin].set_content(zone, expires)

    def carry_over(self, older: "ZoneTable") -> None:
        """Take the content of zones that an older table has, for those that have none here. Not what was a policy zone:
        it has no chain of proofs."""
        for served in self:
            before = older.get(served.origin)
            if before is not None and before.mode is Mode.POLICY and served.mode is not Mode.POLICY:
                continue
            if served.zone is None and before is not None and before.zone is not None:
                served.set_content(before.zone, before.expires)

    def closest(self, qname: bytes, qtype: int) -> ServedZone | None:
        """The zone that a question belongs to: the deepest one above the name; for DS the one of the parent."""
        if not self._answering:
            return None
        origin = names.closest_in(names.zone_lookup_name(names.lower(qname), qtype), self._answering)
        return None if origin is None else self._answering[origin]

    def answer(self, qname: bytes, qtype: int) -> Answer | None:
        """The authoritative answer of this server; None when it has none and the question is to be resolved.

        A zone that cannot be used answers SERVFAIL, unless its fallback is set.
        """
        served = self.closest(qname, qtype)
        if served is None or served.mode is not Mode.AUTHORITATIVE:
            return None
        answerer = served.usable(self._now())
        if answerer is None:
            return None if served.fallback else Answer(c.SERVFAIL, [], [], [], False)
        return answerer.answer(qname, qtype)

    # --- for the iterator -----------------------------------------------------------------------------------------

    def delegation(self, name: bytes) -> RRset | None:
        """The NS set of the deepest usable zone at or above `name` (lower case)."""
        served = self.closest(name, c.A)
        answerer = None if served is None else served.usable(self._now())
        return None if answerer is None else answerer.zone.rrset(answerer.zone.origin, c.NS)

    def addresses(self, ns: RRset) -> list[RRset]:
        """The addresses that the zone `ns` belongs to has for its name servers."""
        served = self._answering[names.lower(ns.name)]
        return [] if served.zone is None else served.zone.addresses(ns.targets())

    def reply(self, origin: bytes, qname: bytes, qtype: int) -> bytes | None:
        """The message that a server of the zone `origin` (lower case) would send, from the copy here; None without."""
        served = self._answering.get(origin)
        answerer = None if served is None else served.usable(self._now())
        if answerer is None or not names.is_subdomain(qname, origin):
            return None
        return message(answerer.answer(qname, qtype), qname, qtype)


def message(
    found: Answer, qname: bytes, qtype: int, *, query_id: int = 0, limit: int = MESSAGE_MAX, sigs: bool = True
) -> bytes:
    """A reply with all records of an answer, and with `sigs` their signatures; truncated when it does not fit into
    `limit` octets."""
    aa = 0 if found.referral and not found.answer else c.AA
    builder = Builder(limit)
    builder.start(query_id, c.QR | aa | found.rcode, qname, qtype)
    builder.fill(found.answer, found.authority, found.additional, sigs=sigs)
    return builder.finish()
