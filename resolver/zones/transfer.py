"""A zone transfer as it arrives: AXFR (RFC 5936) and IXFR (RFC 1995), message by message, without I/O.

`Transfer.feed` takes the messages of one TCP or TLS connection, or the one reply over UDP, and ends with a new zone,
with "nothing new", or with a `TransferError`. The zone that is served is never changed: a failed transfer has no
effect.

States of a transfer, by the record that comes next:

* FIRST: the SOA of the primary's version. The same serial as ours ends an IXFR: nothing is new.
* SECOND: a SOA makes it incremental, any other record a whole zone; an IXFR may be answered so (RFC 1995 section 4).
* WHOLE: records, until the first SOA comes again.
* REMOVED, ADDED: the two parts of a difference, each of which begins with a SOA. The difference that ends at the
  primary's version is followed by its SOA once more.
* DONE: nothing may follow.

What a primary may send is limited in records of all sections and in octets, both on the wire and expanded: a compressed
name of two octets takes 255 in memory.
"""

import enum
from typing import NamedTuple

from resolver import limits
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import Builder, make_query
from resolver.wire.errors import WireError
from resolver.wire.records import parse_records
from resolver.zones.schedule import is_newer
from resolver.zones.tsig import TsigError, Verifier
from resolver.zones.zone import Difference, Record, Zone, ZoneError, soa_fields

__all__ = ["SoaReply", "Transfer", "TransferError", "make_soa_query", "make_transfer_query", "read_soa_reply"]

ADDITIONAL_RECORDS = 2  # OPT and TSIG of a message, which do not count (RFC 5936 section 2.2.5)
FORGIVEN = frozenset({c.FORMERR, c.SERVFAIL, c.NOTIMP, c.REFUSED})
"""Replies to an IXFR query after which AXFR may succeed: servers without IXFR, or without the old version."""


class TransferError(Exception):
    """The transfer failed. `try_whole`: an AXFR of the same primary may succeed."""

    def __init__(self, text: str, *, try_whole: bool = False) -> None:
        super().__init__(text)
        self.try_whole = try_whole


class State(enum.Enum):
    """Which record is expected next; see the head of this file."""

    FIRST = "first"
    SECOND = "second"
    WHOLE = "whole"
    REMOVED = "removed"
    ADDED = "added"
    DONE = "done"


class SoaReply(NamedTuple):
    """A primary's version of the zone."""

    serial: int


def make_soa_query(origin: bytes, query_id: int) -> bytes:
    """The query for the primary's serial."""
    return make_query(query_id, origin, c.SOA, flags=0, edns_payload=None)


def make_transfer_query(origin: bytes, query_id: int, current: Zone | None) -> bytes:
    """An IXFR query from the version `current`, an AXFR query without one (RFC 1995 section 3)."""
    if current is None:
        return make_query(query_id, origin, c.AXFR, flags=0, edns_payload=None)
    builder = Builder()
    builder.start(query_id, 0, origin, c.IXFR)
    builder.add(c.AUTHORITY, current.soa.without_sigs())
    return builder.finish()


def read_soa_reply(message: bytes, origin: bytes, query_id: int, verifier: Verifier | None, now: int) -> SoaReply:
    """The serial in the reply to a SOA query.

    Raises:
        TransferError: the reply is malformed, an error, not signed as it must be, or not authoritative.
    """
    records, _ = _checked(message, query_id, verifier, now, (origin, c.SOA))
    if not message[2] & c.AA >> 8:
        raise TransferError("the reply is not authoritative; the primary does not serve the zone, or it has expired")
    for owner, rtype, _, rdata in records:
        if owner == origin and rtype == c.SOA:
            return SoaReply(soa_fields(rdata).serial)
    raise TransferError("the reply has no SOA record of the zone")


def _checked(
    message: bytes, query_id: int, verifier: Verifier | None, now: int, question: tuple[bytes, int] | None
) -> tuple[list[Record], int]:
    """The records of the answer section of a reply, after all checks of header, signature and question, and how many
    others it has.

    Raises:
        TransferError: a check fails.
    """
    try:
        plain = message if verifier is None else verifier.check(message, now)
        questions, records = parse_records(plain)
    except TsigError as error:
        raise TransferError(f"TSIG: {error}") from None
    except WireError as error:
        raise TransferError(f"a malformed message: {error}") from None
    flags = int.from_bytes(plain[2:4], "big")
    if int.from_bytes(plain[:2], "big") != query_id or not flags & c.QR or flags & 0x7800:
        raise TransferError("a message that is no reply to the query")
    rcode = flags & 0xF
    if rcode:
        raise TransferError(f"the primary answers {c.rcode_to_text(rcode)}", try_whole=rcode in FORGIVEN)
    if flags & c.TC:
        raise TransferError("the primary truncates its reply")
    if question is not None and questions:
        name, qtype, qclass = questions[0]
        if len(questions) > 1 or names.lower(name) != question[0] or (qtype, qclass) != (question[1], c.IN):
            raise TransferError("a reply to another question")
    found = []
    for section, _, owner, rtype, rclass, ttl, rdata in records:
        if section != c.ANSWER:
            continue
        if rclass != c.IN or c.LAST_DATA_TYPE < rtype < c.URI or rtype == c.OPT:
            raise TransferError(f"a record of class {rclass}, type {c.type_to_text(rtype)} in the zone")
        found.append((owner, rtype, ttl, rdata))
    return found, len(records) - len(found)


class Transfer:
    """One transfer of `origin`. `current` is the version here, from which an IXFR starts; None for AXFR."""

    def __init__(
        self, origin: bytes, query_id: int, current: Zone | None, verifier: Verifier | None = None,
        *, newer_than: int | None = None,
    ) -> None:
        """`newer_than` is the serial that the new version must exceed; None: any will do."""
        self._origin = origin
        self._id = query_id
        self._current = current
        self._verifier = verifier
        self._newer_than = newer_than
        self._state = State.FIRST
        self._soa: Record | None = None
        self._records: list[Record] = []
        self._removed: list[Record] = []
        self._added: list[Record] = []
        self.differences: list[Difference] = []
        """The differences of an IXFR that has ended; empty when the whole zone was sent."""
        self.zone: Zone | None = None
        """The new version when the transfer has ended; None when nothing is new."""
        self.messages = self.octets = self.count = self.expanded = self.empty = 0

    @property
    def held(self) -> int:
        """Estimated memory: of the records, and of the zone that is made of them."""
        return 2 * self.expanded + self.count * limits.ZONE_TRANSFER_RECORD

    @property
    def qtype(self) -> int:
        """AXFR or IXFR."""
        return c.AXFR if self._current is None else c.IXFR

    def feed(self, message: bytes, now: int) -> bool:
        """Take the next message; True when the transfer has ended. `now` is in seconds since 1970, for TSIG.

        Raises:
            TransferError: it has failed.
        """
        if self._state is State.DONE:
            raise TransferError("a message after the end of the transfer")
        self.messages += 1
        self.octets += len(message)
        if self.messages > limits.ZONE_MESSAGES or self.octets > limits.ZONE_OCTETS:
            raise TransferError(f"the transfer is larger than {limits.ZONE_MESSAGES} messages or"
                                f" {limits.ZONE_OCTETS} octets")
        question = (self._origin, self.qtype) if self.messages == 1 else None
        records, others = _checked(message, self._id, self._verifier, now, question)
        self.count += len(records) + max(others - ADDITIONAL_RECORDS, 0)
        if self.count > limits.ZONE_RECORDS:
            raise TransferError(f"the transfer has more than {limits.ZONE_RECORDS} records")
        self.empty += not records
        if self.empty > limits.ZONE_EMPTY_MESSAGES:
            raise TransferError(f"the transfer has more than {limits.ZONE_EMPTY_MESSAGES} messages without records")
        for owner, _, _, rdata in records:
            self.expanded += len(owner) + len(rdata)
        if self.expanded > limits.ZONE_OCTETS:
            raise TransferError(f"the transfer has more than {limits.ZONE_OCTETS} octets of names and data")
        if self.messages == 1 and not records:
            raise TransferError("the first message has no records", try_whole=self._current is not None)
        for record in records:
            self._take(record)
        if len(records) == 1 and self._state is State.SECOND and self._is_old():
            self._state = State.DONE  # RFC 1995 section 4: a single SOA that is not newer
        if self._state is not State.DONE:
            return False
        if self._verifier is not None and not self._verifier.complete:
            raise TransferError("TSIG: the last message is not signed")
        return True

    def _is_old(self) -> bool:
        assert self._soa is not None
        return self._current is not None and not is_newer(soa_fields(self._soa[3]).serial, self._current.serial)

    def _take(self, record: Record) -> None:
        """One record, in the state that the head of this file describes."""
        owner, rtype, _, rdata = record
        is_soa = rtype == c.SOA
        if is_soa and owner != self._origin:
            raise TransferError("a SOA record of another zone")
        if self._state is State.FIRST:
            if not is_soa:
                raise TransferError("the first record is not the SOA record")
            self._soa, self._state = record, State.SECOND
        elif self._state is State.SECOND:
            assert self._soa is not None
            if self._current is not None and is_soa and rdata != self._soa[3]:
                self._removed, self._state = [record], State.REMOVED
            elif is_soa:
                raise TransferError("the zone has no records but its SOA")
            else:
                self._records, self._state = [self._soa, record], State.WHOLE
        elif self._state is State.WHOLE:
            assert self._soa is not None
            if not is_soa:
                self._records.append(record)
            elif rdata == self._soa[3]:
                self._state = State.DONE
            else:
                raise TransferError("the zone changed during the transfer")
        elif self._state is State.REMOVED:
            if is_soa:
                self._added, self._state = [record], State.ADDED
            else:
                self._removed.append(record)
        elif self._state is State.ADDED:
            self._take_added(record, is_soa=is_soa)
        else:
            raise TransferError("records after the end of the transfer")

    def _take_added(self, record: Record, *, is_soa: bool) -> None:
        if not is_soa:
            self._added.append(record)
            return
        assert self._soa is not None
        self.differences.append(Difference(self._removed, self._added))
        if self._added[0][3] == self._soa[3]:
            if record[3] != self._soa[3]:
                raise TransferError("the incremental transfer has records after its last version", try_whole=True)
            self._state = State.DONE
        else:
            self._removed, self._state = [record], State.REMOVED

    def finish(self) -> None:
        """Make the new version, after `feed` has returned True. It may run in a thread.

        Raises:
            TransferError: the records are no valid zone, or do not fit to the version here.
        """
        assert self._soa is not None
        if not self.differences and not self._records:
            return
        serial = soa_fields(self._soa[3]).serial
        if self._newer_than is not None and not is_newer(serial, self._newer_than):
            if serial != self._newer_than:
                raise TransferError(f"the primary has serial {serial}, older than ours ({self._newer_than})")
            return
        try:
            if self.differences:
                assert self._current is not None
                self.zone = self._current.changed(self.differences)
            else:
                self.zone = Zone.from_records(self._origin, self._records)
        except ZoneError as error:
            raise TransferError(str(error), try_whole=bool(self.differences)) from None
        while self._records:
            self._records.pop()  # one by one and in this thread, as in `from_records`
