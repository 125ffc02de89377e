"""Serves secondaries and primaries of own zones: outgoing AXFR and IXFR, SOA queries of secondaries, and NOTIFY.

These messages are handled before the access lists of clients, because name servers are not clients. Each zone has its
own lists and keys; without them a transfer is refused and a NOTIFY is ignored, except from the addresses of the zone's
primaries. A client that an access list drops gets no refusal. All other messages are left to `Service`.

`Service` has checked the signature of a message (`SignedQuery`). Every reply to one that a known key has signed is
signed with this key, also a refusal (RFC 8945 section 5.3). A zone with a key accepts no other; one without accepts
unsigned messages and every known key.
"""

from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple, Protocol

from resolver import limits
from resolver.cache.bounded import Held
from resolver.effects import Outcome, Question
from resolver.net.tsig import SignedQuery, SigningSink, keys_of
from resolver.policy import ALLOW, DECISION, DROP, VIEW_SHIFT, OwnZones
from resolver.query import client_address
from resolver.settings import Settings, ZoneSettings
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.consts import HEADER_SIZE, MESSAGE_MAX, PAYLOAD_MIN
from resolver.wire.errors import WireError
from resolver.wire.records import parse_records
from resolver.zones import Zone, ZoneTable
from resolver.zones.outgoing import History, transfer_messages
from resolver.zones.schedule import is_newer
from resolver.zones.table import message
from resolver.zones.tsig import Key, split
from resolver.zones.zone import soa_fields

__all__ = ["ZoneServer"]

LABEL_MAX, NAME_MAX = 63, 255  # RFC 1035 section 2.3.4
RECORD_COUNTS = (6, 8, 10)  # where the header has the numbers of records (RFC 1035 section 4.1.1)
SOA_SIZE = 22  # two root names and five numbers
ASKED_BY_SECONDARIES = frozenset({c.SOA, c.AXFR, c.IXFR})


class _Rules:
    """Who may do what with one zone."""

    def __init__(self, zone: ZoneSettings, keys: dict[bytes, Key]) -> None:
        def key(name: str) -> Key | None:
            return keys[names.lower(names.from_text(name))] if name else None

        self.primaries = {str(ip_address(found.address)) for found in zone.primary_addresses}
        self.notifiers = [ip_network(text, strict=False) for text in zone.allow_notify]
        self.transfers = [ip_network(text, strict=False) for text in zone.allow_transfer]
        self.key = key(zone.key)
        self.transfer_key = key(zone.transfer_key)

    def permits(self, host: str, *, notify: bool) -> bool:
        """Whether an address may send NOTIFY, or transfer the zone."""
        if not notify:
            return _within(host, self.transfers)
        return host in self.primaries or _within(host, self.notifiers)


class Replies(Protocol):
    """Where replies go: `Service`, which applies the limits of replies and counts them."""

    def emit(self, query: bytes, packet: bytes, peer: tuple[Any, ...], sink: Any, view: int = 0) -> None:
        """Send one reply to the message `query`."""

    def takes_many(self, sink: Any) -> bool:
        """Whether `emit_many` would send a transfer now."""
        ...

    def emit_many(self, packets: Iterator[bytes], peer: tuple[Any, ...], sink: Any) -> bool:
        """Send the messages of a transfer; False when the transport cannot do that now."""
        ...


class _Request(NamedTuple):
    """A message that a zone has permitted, or is to be refused. `signed` is what `SignedQueries` has found; None: it
    has no signature."""

    data: bytes
    qname: bytes
    qtype: int
    rules: _Rules
    peer: tuple[Any, ...]
    sink: Any
    view: int
    signed: SignedQuery | None


class ZoneServer:
    """Answers transfers and NOTIFY for the zones of one configuration.

    `notified` is called with the name of a zone when its primary reports a change. `history_of` returns the differences
    of a zone for IXFR. `now` is the second of the real-time clock. All replies go through `replies`.
    """

    def __init__(
        self, settings: Settings, table: ZoneTable, history_of: Callable[[bytes], History | None],
        now: Callable[[], int], notified: Callable[[bytes], None], replies: Replies,
    ) -> None:
        keys = keys_of(settings)
        self._rules = {names.lower(names.from_text(zone.name)): _Rules(zone, keys) for zone in settings.own_zones}
        self._table = table
        self._own = OwnZones(table)
        self._history_of = history_of
        self._now = now
        self._notified = notified
        self._replies = replies
        self._sending: dict[object, tuple[str, Zone]] = {}
        """Transfers in progress: address and version."""
        self.transfers = self.refused = self.notifies = self.ignored = 0

    def answer(self, question: Question) -> Outcome | None:
        """The answer to a query without RD, referrals included; None when the name is in no own zone."""
        return self._own.answer(question, referrals=True)

    def statistics(self) -> dict[str, int]:
        """Counters since the start, by name."""
        return {"transfers_out": self.transfers, "transfers_refused": self.refused,
                "notifies_received": self.notifies, "notifies_ignored": self.ignored}

    def handle(
        self, data: bytes, peer: tuple[Any, ...], sink: Any, found: int = ALLOW, signed: SignedQuery | None = None
    ) -> bool:
        """Answer a NOTIFY or a transfer query; False for other messages, which are not touched, and for those that a
        zone does not permit of a client that is dropped.

        Only the question is read before the zone has permitted the request, because anybody may send it: a message can
        have thousands of records. `found` is the access and view of the client, as `AccessTable.find` gives them, and
        `signed` the signature of the message. A SOA query without signature is one of a client, if it has access as a
        client; else it is one of a secondary, if the zone permits it."""
        question = _question(data)
        if question is None:
            return False
        opcode, qname, qtype = question
        rules = self._rules.get(names.lower(qname))
        if rules is None or (opcode != c.NOTIFY and (opcode != c.QUERY or qtype not in ASKED_BY_SECONDARIES)):
            return False
        access = found & DECISION
        request = _Request(data, qname, qtype, rules, peer, sink, found >> VIEW_SHIFT, signed)
        if not rules.permits(_host(peer), notify=opcode == c.NOTIFY) or (opcode == c.NOTIFY and qtype != c.SOA):
            if access == DROP or (opcode == c.QUERY and qtype == c.SOA):
                return False
            if signed is not None and signed.refusal is not None:
                request = request._replace(signed=None)  # who is not permitted is not told about keys
            if opcode == c.NOTIFY:
                self.ignored += 1
                self._send(request, _reply(request, c.REFUSED))
            else:
                self._refuse(request, c.REFUSED)
            return True
        if sum(int.from_bytes(data[at : at + 2], "big") for at in RECORD_COUNTS) > limits.ZONE_REQUEST_RECORDS:
            return False
        try:
            if signed is None and split(data) is not None:
                return False  # a signature that `SignedQueries` does not read is a format error
            _, records = parse_records(data if signed is None else signed.message)
        except WireError:
            return False
        if opcode == c.NOTIFY:
            self._take_notify(request)
            return True
        if qtype == c.SOA and signed is None and (access == ALLOW or rules.transfer_key is not None):
            return False  # a query as any other
        serial = next((soa_fields(rdata).serial for _, _, _, rtype, _, _, rdata in records
                       if rtype == c.SOA and len(rdata) >= SOA_SIZE), None)
        if qtype == c.IXFR and serial is None:
            return False
        self._transfer(request, serial if qtype == c.IXFR else None)
        return True

    def _send(self, request: _Request, packet: bytes) -> None:
        """Send one reply, signed if the message was; a signature that was not accepted has its own reply."""
        sink, signed = request.sink, request.signed
        limit = MESSAGE_MAX if sink.stream else PAYLOAD_MIN
        if signed is not None:
            if signed.refusal is not None:
                packet = signed.bounded_refusal(len(request.data), limit, stream=sink.stream)
            else:
                sink = SigningSink(sink, signed, self._now, limit)
        self._replies.emit(request.data, packet, request.peer, sink, request.view)

    def _take_notify(self, request: _Request) -> None:
        """RFC 1996 section 3.10: start a refresh, unless the message is not signed as it must be."""
        if not _is_signed_as(request, request.rules.key):
            self.ignored += 1
            self._send(request, _reply(request, c.REFUSED))
            return
        self.notifies += 1
        self._notified(names.lower(request.qname))
        self._send(request, _reply(request, c.NOERROR, flags=c.AA))

    def _transfer(self, request: _Request, serial: int | None) -> None:
        data, qname, qtype, sink, signed = request.data, request.qname, request.qtype, request.sink, request.signed
        served = self._table.get(names.lower(qname))
        if served is None or not _is_signed_as(request, request.rules.transfer_key):
            self._refuse(request, c.REFUSED)
            return
        answerer = served.usable(self._now())
        if answerer is None:
            self._refuse(request, c.SERVFAIL)
            return
        query_id = int.from_bytes(data[:2], "big")
        if qtype == c.SOA:
            reply = message(answerer.answer(qname, qtype), qname, qtype, query_id=query_id, limit=PAYLOAD_MIN,
                            sigs=False)
            self._send(request, reply)
            return
        if qtype == c.AXFR and not sink.stream:
            self._refuse(request, c.FORMERR)  # RFC 5936 section 4.2
            return
        # A client that is up to date gets the SOA record alone, which keeps nothing.
        has_newer = serial is None or is_newer(answerer.zone.serial, serial)
        if sink.stream and not (self._replies.takes_many(sink) and (not has_newer or self._may_send(request.peer[0]))):
            self._refuse(request, c.SERVFAIL)  # before the differences are looked up
            return
        # RFC 1995 section 2: over UDP a reply with only the SOA makes the client use TCP.
        packets = transfer_messages(
            answerer.zone, qname, qtype, query_id, client_serial=serial if sink.stream else answerer.zone.serial,
            history=self._history_of(served.origin), key=None if signed is None or not sink.stream else signed.key,
            mac=b"" if signed is None else signed.mac, now=self._now,
        )
        if sink.stream and has_newer:
            packets = self._counted(request.peer[0], answerer.zone, packets)
        if not sink.stream:
            self._send(request, next(packets))
        elif self._replies.emit_many(packets, request.peer, sink):
            self.transfers += 1
        else:
            self._refuse(request, c.SERVFAIL)

    def _may_send(self, host: str) -> bool:
        """Whether one more transfer to this address may begin."""
        of_host = sum(other == host for other, _ in self._sending.values())
        return len(self._sending) < limits.ZONE_TRANSFERS_OUT and of_host < limits.ZONE_TRANSFERS_OUT_EACH

    def _counted(self, host: str, zone: Zone, packets: Iterator[bytes]) -> Iterator[bytes]:
        """`packets`; the transfer counts as in progress from the first one until it has ended or was dropped."""
        transfer = object()
        self._sending[transfer] = host, zone
        try:
            yield from packets
        finally:
            del self._sending[transfer]

    def memory(self) -> Iterator[Held]:
        """The versions of zones that are only kept because they are being sent."""
        old: dict[int, int] = {}
        for _, zone in self._sending.values():
            served = self._table.get(zone.origin)
            if served is None or served.zone is not zone:
                old[id(zone)] = zone.memory
        most = limits.ZONE_OCTETS + limits.ZONE_RECORDS * limits.ZONE_RECORD_OVERHEAD
        yield Held("zone_versions", sum(old.values()), limits.ZONE_TRANSFERS_OUT * most)

    def _refuse(self, request: _Request, rcode: int) -> None:
        self.refused += 1
        self._send(request, _reply(request, rcode))


def _is_signed_as(request: _Request, key: Key | None) -> bool:
    """Whether a zone that asks for signatures with `key`, or for none, accepts the message."""
    signed = request.signed
    if signed is None:
        return key is None
    return signed.refusal is None and signed.key is not None and key in (None, signed.key)


def _question(data: bytes) -> tuple[int, bytes, int] | None:
    """Opcode, name and type of a request with one question of class IN, without a look at the records; None for other
    messages."""
    if len(data) < HEADER_SIZE or data[2] & 0x80 or data[4:6] != b"\0\1":
        return None
    at = HEADER_SIZE
    while at < len(data) and 0 < data[at] <= LABEL_MAX:
        at += 1 + data[at]
    qname, fields = data[HEADER_SIZE : at + 1], data[at + 1 : at + 5]
    if len(fields) < 4 or data[at] or len(qname) > NAME_MAX or fields[2:] != b"\0\1":
        return None
    return (data[2] & 0x78) >> 3, qname, int.from_bytes(fields[:2], "big")


def _reply(request: _Request, rcode: int, *, flags: int = 0) -> bytes:
    """Header and question of a reply."""
    data = request.data
    word = c.QR | flags | (int.from_bytes(data[2:4], "big") & 0x7800) | rcode
    return b"%b%b\0\1\0\0\0\0\0\0%b" % (
        data[:2], word.to_bytes(2, "big"), data[HEADER_SIZE : HEADER_SIZE + len(request.qname) + 4]
    )


def _host(peer: tuple[Any, ...]) -> str:
    return str(ip_address(client_address(peer[0]).partition("%")[0]))


def _within(host: str, networks: list[Any]) -> bool:
    address = ip_address(host)
    return any(address.version == network.version and address in network for network in networks)
