"""The messages of an outgoing AXFR (RFC 5936) or IXFR (RFC 1995), made one at a time as the client reads them.

All messages are made from one version of the zone, even if the zone changes during the transfer. An IXFR is answered by
differences when the version of the client is in the history, else by the whole zone.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice

from resolver import limits
from resolver.wire import consts as c
from resolver.wire.build import Builder
from resolver.wire.consts import MESSAGE_MAX
from resolver.wire.rrset import RRset
from resolver.zones.schedule import is_newer
from resolver.zones.tsig import Key, sign
from resolver.zones.zone import Difference, Zone, soa_fields

__all__ = ["History", "transfer_messages"]

TSIG_ROOM = 512  # a TSIG record: two names, the longest MAC, and its numbers
LARGEST = MESSAGE_MAX - TSIG_ROOM


class History:
    """The last differences of a zone, oldest first, up to `limits.ZONE_HISTORY` records, and `ZONE_HISTORY_OCTETS` in
    memory.

    Differences have numbers in their order; the oldest one here has `_first`. `_numbers` has that of each serial from
    which one leads on: a secondary may name any serial, and that must not cost a look at all differences. `_sizes` has
    records and octets of each difference.

    To count and to free many records takes long. So the loop does neither: a thread makes the `following` history, the
    loop puts it in place of this one, and a thread frees what `retire` returns.
    """

    def __init__(self) -> None:
        self._differences: deque[Difference] = deque()
        self._sizes: deque[tuple[int, int]] = deque()
        self._first = 0
        self._numbers: dict[int, int] = {}
        self._records = 0
        self.octets = 0
        """Estimated memory."""

    def following(self, differences: Sequence[Difference], *, whole: bool) -> "History":
        """A history with `differences` behind those of this one, or in place of them when the `whole` zone was
        replaced. This one does not change."""
        made = History()
        made._first = self._first
        if whole:
            made._first += len(self._differences)
        else:
            made._differences, made._sizes = self._differences.copy(), self._sizes.copy()
            made._numbers, made._records, made.octets = self._numbers.copy(), self._records, self.octets
        made.extend(differences)
        return made

    def retire(self, successor: "History") -> Callable[[], None]:
        """Empty this history, in whose place `successor` is. Returns what frees the differences that are not there."""
        differences, self._differences = self._differences, deque()
        sizes, self._sizes = self._sizes, deque()
        numbers, self._numbers = self._numbers, {}
        dropped = min(successor._first - self._first, len(differences))
        self._records = self.octets = 0

        def free() -> None:
            with suppress(MemoryError):  # none for the short lists: what is left is freed in one step
                for _ in range(dropped):
                    sizes.popleft()
                    _free_first(differences)
            for rest in (differences, sizes, numbers):  # most of it is in the successor, too
                rest.clear()

        return free

    def extend(self, differences: Sequence[Difference]) -> None:
        """Append the differences that lead to the version now served, in their order. Of many, only the last ones are
        looked at, because the others would be dropped again."""
        first, records = len(differences), 0
        while first and records <= limits.ZONE_HISTORY:
            first -= 1
            records += _records_of(differences[first])
        if first:
            self.clear()
        for difference in differences[first:]:
            self.add(difference)

    def add(self, difference: Difference) -> None:
        """Append the difference that leads to the version now served."""
        size = _records_of(difference), _octets_of(difference)
        self._numbers[_base_of(difference)] = self._first + len(self._differences)
        self._differences.append(difference)
        self._sizes.append(size)
        self._records += size[0]
        self.octets += size[1]
        while self._differences and (self._records > limits.ZONE_HISTORY or self.octets > limits.ZONE_HISTORY_OCTETS):
            oldest = self._differences.popleft()
            if self._numbers[_base_of(oldest)] == self._first:  # a serial may come again (RFC 1982)
                del self._numbers[_base_of(oldest)]
            self._first += 1
            records, octets = self._sizes.popleft()
            self._records -= records
            self.octets -= octets

    def clear(self) -> None:
        """Drop all differences: the whole zone was replaced."""
        self._first += len(self._differences)
        self._differences.clear()
        self._sizes.clear()
        self._numbers.clear()
        self._records = self.octets = 0

    def since(self, serial: int) -> list[Difference]:
        """The differences from version `serial` on; empty when it is not known."""
        number = self._numbers.get(serial)
        return [] if number is None else list(islice(self._differences, number - self._first, None))


def _base_of(difference: Difference) -> int:
    """The serial of the version that a difference changes."""
    return soa_fields(difference.removed[0][3]).serial


def _records_of(difference: Difference) -> int:
    return len(difference.removed) + len(difference.added)


def _octets_of(difference: Difference) -> int:
    """Estimated memory of a difference."""
    return sum(
        len(owner) + len(rdata) + limits.ZONE_RECORD_OVERHEAD
        for records in difference for owner, _, _, rdata in records
    )


def _free_first(differences: deque[Difference]) -> None:
    """Give the memory of the first difference back in steps, between which the interpreter may run the loop. To free a
    list is one step. So its records are put into short ones first, which costs a fraction of it."""
    difference, size = differences.popleft(), limits.ZONE_FREED
    parts = [records[start:start + size] for records in difference for start in range(0, len(records), size)]
    del difference
    while parts:
        parts.pop()


def transfer_messages(
    zone: Zone, qname: bytes, qtype: int, query_id: int, *, client_serial: int | None = None,
    history: History | None = None, key: Key | None = None, mac: bytes = b"", now: Callable[[], int] = lambda: 0,
) -> Iterator[bytes]:
    """The messages of the reply to a transfer query. `client_serial` is that of an IXFR query. With `key` they are
    signed, each at the second `now` in which it is made: a transfer may take longer than clocks may differ. `mac` is
    that of the query.

    The differences are taken from `history` by this call and not when the first message is made: the history may have
    differences to a newer version by then."""
    newer = client_serial is None or is_newer(zone.serial, client_serial)
    differences = [] if client_serial is None or history is None or not newer else history.since(client_serial)
    return _signed(_messages(_sets(zone, differences, newer=newer), qname, qtype, query_id), key, mac, now)


def _signed(messages: Iterable[bytes], key: Key | None, mac: bytes, now: Callable[[], int]) -> Iterator[bytes]:
    """Messages with signatures, if there is a key."""
    first = True
    for message in messages:
        if key is None:
            yield message
            continue
        signed, mac = sign(message, key, now(), prior=mac, timers_only=not first)
        first = False
        yield signed


def _sets(zone: Zone, differences: list[Difference], *, newer: bool) -> Iterator[RRset]:
    """The SOA record alone unless the zone is `newer` than that of the client, else differences or the whole zone."""
    soa = zone.soa.without_sigs()
    yield soa
    if not newer:
        return
    if differences:
        for difference in differences:
            for records in difference:
                for owner, rtype, ttl, rdata in records:
                    yield RRset(owner, rtype, ttl, [rdata])
    else:
        yield from zone.sets()
    yield soa


def _messages(sets: Iterable[RRset], qname: bytes, qtype: int, query_id: int) -> Iterator[bytes]:
    """Messages with as many sets as fit; a set that does not fit into one is split into its records."""
    builder = Builder(LARGEST)
    builder.start(query_id, c.QR | c.AA, qname, qtype)
    written = False
    for rrset in sets:
        if builder.add(c.ANSWER, rrset):
            written = True
            continue
        if written:
            yield builder.finish()
        builder.start(query_id, c.QR | c.AA, qname, qtype)
        written = True
        if not builder.add(c.ANSWER, rrset):
            for rdata in rrset.rdatas():
                one = RRset(rrset.name, rrset.rtype, rrset.ttl, [rdata])
                if not builder.add(c.ANSWER, one):
                    yield builder.finish()
                    builder.start(query_id, c.QR | c.AA, qname, qtype)
                    if not builder.add(c.ANSWER, one):
                        raise ValueError("a record does not fit into a message")
    yield builder.finish()
