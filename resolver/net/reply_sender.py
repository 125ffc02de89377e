"""How replies get to clients: their options, size and limits, and the replies to what is no ordinary query.

Every reply goes through `ReplySender.emit`, which applies the limits of replies and counts. The transport and the EDNS
payload size of the client limit the size of a reply; what does not fit is truncated over UDP. Cookies (RFC 7873) verify
the addresses of clients here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from resolver.net.client_subnet import ClientSide
from resolver.net.clock_random import Clock
from resolver.net.fastpath import ClientQuery, FastPath, finish, read_query
from resolver.net.padding import padding_option
from resolver.net.pending_queries import Peer, Sink
from resolver.net.reply import error_reply, extended_errors
from resolver.observe import ClientCounters
from resolver.policy import DROP
from resolver.settings import Settings
from resolver.wire import consts as c
from resolver.wire.consts import HEADER_SIZE, MESSAGE_MAX, PAYLOAD_MIN
from resolver.wire.edns import encode_keepalive, opt_record, options_from_wire, options_to_wire
from resolver.wire.errors import WireError
from resolver.wire.message import MessageView

if TYPE_CHECKING:
    from resolver.net.tsig import SignedQuery
    from resolver.observe.samples import Samples

__all__ = ["ReplySender"]

# The section counts of a message with no question and one additional record.
ONLY_OPT = b"\0\0\0\0\0\0\0\1"
OPT_HEAD = 9  # owner, type, class and TTL of an OPT record
OPT_LENGTH = 2
OPT_EXTENDED_RCODE = HEADER_SIZE + 5  # in a message without a question whose only record is OPT


class ReplySender:
    """Sends replies to clients and counts them. `Service` decides what they say."""

    def __init__(self, settings: Settings, fast: FastPath, clock: Clock) -> None:
        server = settings.server
        self._fast = fast
        self._clock = clock
        self._payload = server.max_udp_size
        self._nsid = server.nsid_octets
        self._cookies = fast.cookies
        self._subnets = ClientSide(settings.client_subnet) if settings.client_subnet.active else None
        self._limits_replies = fast.rates is not None and fast.rates.limits_replies
        self.samples: Samples | None = None
        """What gets samples of the replies; None: no watchers."""
        self.observed = ClientCounters()
        self.replies = 0
        self.refused = 0
        self.denied = 0
        self.malformed = 0

    def emit(
        self, query: bytes, packet: bytes, peer: Peer, sink: Sink, view: int = 0, ext_rcode: int = 0
    ) -> None:
        """Send the reply `packet` to `query`, as far as the limits of replies permit it, and count it. All replies come
        here.

        Errors that are found before the view is known have the limits of view 0. `ext_rcode` has the upper bits of the
        rcode.
        """
        if self._limits_replies and not sink.stream:
            permitted = self._fast.limit_reply(query, packet, peer[0], self._clock.time(), view)
            if permitted is None:
                sink.skip()
                return
            packet = permitted
        self.replies += 1
        self.observed.note_reply(sink.origin[0], ext_rcode << 4 | packet[3] & 0xF)
        if self.samples is not None:
            self.samples.note(query, packet, peer[0], view)
        sink.send(packet, peer)

    def takes_many(self, sink: Sink) -> bool:
        """Whether `emit_many` would send a zone transfer to `sink` now."""
        return bool(getattr(sink, "takes_many", False))

    def emit_many(self, packets: Iterator[bytes], peer: Peer, sink: Sink) -> bool:
        """Send the messages of a zone transfer over a stream, and count them as one reply. False, and nothing is sent,
        when the transport has no transfers, or another one is in progress."""
        if not self.takes_many(sink) or not sink.send_many(packets, peer):  # type: ignore[attr-defined]
            return False
        self.replies += 1
        self.observed.note_reply(sink.origin[0], c.NOERROR)
        return True

    def _send(
        self, query: ClientQuery, packet: bytes, peer: Peer, sink: Sink, options: bytes, ext_rcode: int = 0,
        view: int = 0,
    ) -> None:
        if query.options:
            options = self._reply_options(query, peer, sink) + options
        limit = self._client_limit(query, sink)
        if sink.padding_block and query.padded:
            size = len(packet) + OPT_HEAD + OPT_LENGTH + len(options)
            options += padding_option(size, sink.padding_block, limit)
        reply = finish(query, packet, limit, self._payload, options, ext_rcode)
        self.emit(query.wire, reply, peer, sink, view, ext_rcode)

    def _client_limit(self, query: ClientQuery, sink: Sink) -> int:
        """The largest reply that the client accepts, in bytes (RFC 6891 section 6.2.3)."""
        if sink.stream:
            return MESSAGE_MAX
        if query.has_edns:
            return max(PAYLOAD_MIN, min(query.payload, self._payload))
        return PAYLOAD_MIN

    def _reply_options(self, query: ClientQuery, peer: Peer, sink: Sink) -> bytes:
        """Options in reply to those of the query: NSID (RFC 5001), TCP keepalive (RFC 7828), cookie (RFC 7873)."""
        found: dict[int, bytes] = {}
        for code, value in options_from_wire(query.options):
            if code == c.OPTION_NSID and self._nsid:
                found[code] = self._nsid
            elif code == c.OPTION_COOKIE and self._cookies is not None and code not in found:
                found[code] = self._cookies.answer(value, peer[0], self._clock.time())
            elif code == c.OPTION_KEEPALIVE and sink.stream and sink.idle_timeout:
                found[code] = encode_keepalive(sink.idle_timeout)
        return options_to_wire(found.items()) if found else b""

    def _is_verified(self, query: ClientQuery, peer: Peer, sink: Sink) -> bool:
        """Whether the client's address is verified. If not, reply with BADCOOKIE or TC (RFC 7873 section 5.2)."""
        assert self._cookies is not None
        if sink.stream or self._has_valid_cookie(query, peer):
            return True
        cookie = _cookie_of(query)
        self._cookies.refresh(self._clock.time())
        self._cookies.note_challenged()
        if cookie is not None:
            self._reply_empty(query, peer, sink, c.BADCOOKIE & 0xF, ext_rcode=c.BADCOOKIE >> 4)
        else:
            packet = bytearray(error_reply(query.wire, c.NOERROR, query.question_end))
            packet[2] |= c.TC >> 8
            self._send(query, bytes(packet), peer, sink, b"")
        return False

    def _has_valid_cookie(self, query: ClientQuery, peer: Peer) -> bool:
        """Whether a valid server cookie verifies the source address of the query (RFC 7873 section 5.2.5)."""
        if self._cookies is None or not query.options:
            return False
        cookie = _cookie_of(query)
        return cookie is not None and self._cookies.is_good(cookie, peer[0], self._clock.time())

    def _reply_empty(
        self, query: ClientQuery, peer: Peer, sink: Sink, rcode: int, *, options: bytes = b"",
        ext_rcode: int = 0, view: int = 0,
    ) -> None:
        packet = error_reply(query.wire, rcode, query.question_end)
        self._send(query, packet, peer, sink, options, ext_rcode, view)

    def _refuse_client(self, data: bytes, peer: Peer, sink: Sink, access: int) -> None:
        if access == DROP or len(data) < HEADER_SIZE or data[2] & 0x80:
            self.denied += 1
            sink.skip()
            return
        self.refused += 1
        query = read_query(data)
        if isinstance(query, ClientQuery):
            self.observed.note_query(sink.origin[0], query.qtype)
            packet = error_reply(data, c.REFUSED, query.question_end, recursion_available=False)
            self._send(query, packet, peer, sink, extended_errors([(c.EDE_PROHIBITED, "")]))
        else:
            self.observed.note_message(sink.origin[0])
            self.emit(data, error_reply(data, c.REFUSED, recursion_available=False), peer, sink)

    def _signed_limit(self, query: ClientQuery | int, sink: Sink) -> int:
        """The largest signed reply that the client accepts, in bytes."""
        if isinstance(query, ClientQuery):
            return self._client_limit(query, sink)
        return MESSAGE_MAX if sink.stream else PAYLOAD_MIN

    def _refuse_signature(self, data: bytes, signed: SignedQuery, peer: Peer, sink: Sink) -> None:
        """Refuse a message whose signature is not accepted."""
        limit = self._signed_limit(read_query(signed.message), sink)
        reply = signed.bounded_refusal(len(data), limit, stream=sink.stream)
        self.observed.note_message(sink.origin[0])
        self.refused += 1
        self.emit(data, reply, peer, sink)

    def _answer_non_plain(self, data: bytes, peer: Peer, sink: Sink, code: int) -> None:
        """Answer a message that `read_query` rejected with an error, or a cookie query; drop one without a header."""
        if len(data) < HEADER_SIZE or data[2] & 0x80:
            self.malformed += 1
            sink.skip()
            return
        self.observed.note_message(sink.origin[0])
        rcode = c.FORMERR
        question_end = HEADER_SIZE
        if code > 0:
            if data[2] & 0x78:
                rcode = c.NOTIMP
            elif data[4:HEADER_SIZE] == ONLY_OPT:
                reply = self._answer_cookie_query(data, peer)
                if reply is not None:
                    self.emit(data, reply, peer, sink, ext_rcode=reply[OPT_EXTENDED_RCODE])
                    return
            else:
                try:
                    view = MessageView.parse(data)
                except WireError:
                    pass
                else:
                    if view.question_count == 1 and view.qname is not None:
                        question_end = HEADER_SIZE + len(view.qname) + 4
                        # IXFR is well-formed with an SOA in its authority section (RFC 1995 section 3).
                        if view.qtype in (c.AXFR, c.IXFR):
                            rcode = c.REFUSED
        if rcode == c.FORMERR:
            self.malformed += 1
        elif rcode == c.REFUSED:
            self.refused += 1
        self.emit(data, error_reply(data, rcode, question_end), peer, sink)

    def _answer_cookie_query(self, data: bytes, peer: Peer) -> bytes | None:
        """The reply to a query with a COOKIE option and no question (RFC 7873 section 5.4); None for other messages."""
        if self._cookies is None:
            return None
        try:
            edns = MessageView.parse(data).edns
            cookie = None if edns is None or edns.version else edns.get(c.OPTION_COOKIE)
        except WireError:
            return None
        if edns is None or cookie is None or not _is_cookie(cookie):
            return None
        now = self._clock.time()
        fine = len(cookie) == c.COOKIE_CLIENT_SIZE or self._cookies.is_good(cookie, peer[0], now)
        rcode = c.NOERROR if fine else c.BADCOOKIE
        option = options_to_wire([(c.OPTION_COOKIE, self._cookies.answer(cookie, peer[0], now))])
        opt = opt_record(self._payload, ext_rcode=rcode >> 4, do=edns.do, options=option)
        return error_reply(data, rcode & 0xF)[:-1] + b"\1" + opt


def _is_cookie(value: bytes) -> bool:
    """Whether `value` has the size of a COOKIE option: a client cookie, with or without a server cookie."""
    return len(value) == c.COOKIE_CLIENT_SIZE or c.COOKIE_MIN <= len(value) <= c.COOKIE_MAX


def _cookie_of(query: ClientQuery) -> bytes | None:
    """The content of the first COOKIE option, or None. The parser has checked its size."""
    return next((value for code, value in options_from_wire(query.options) if code == c.OPTION_COOKIE), None)
