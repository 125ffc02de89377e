"""Handles client queries that the fast path does not answer: access, policies, submission to the mesh, the reply.

Queries of all transports come here, and every composed reply is made by `reply.compose`, so that transports cannot
differ in what they permit. Pending queries are limited in total, per client address (DNSBomb, CVE-2024-33655) and per
network (CVE-2026-42534). Clients whose address is verified, by a valid cookie or by TCP, are counted apart from
unverified ones, so queries with forged addresses use up only the unverified quota (RFC 7873 section 1). A query that is
repeated while it is pending costs one dictionary lookup. A pending query is one object, without task, future or timer.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from resolver import limits
from resolver.effects import Outcome, Question
from resolver.log_limit import LimitedWarning
from resolver.net.clock_random import Clock
from resolver.net.fair_slots import network_of
from resolver.net.fastpath import ClientQuery, FastPath, finish, read_query
from resolver.net.padding import padding_option
from resolver.net.reply import any_record, compose, error_reply, extended_errors
from resolver.net.tsig import bad_key_reply
from resolver.policy import ALLOW, DROP, AccessTable, PolicyPipeline
from resolver.settings import Settings
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.consts import HEADER_SIZE, MESSAGE_MAX, PAYLOAD_MIN
from resolver.wire.edns import encode_keepalive, opt_record, options_from_wire, options_to_wire
from resolver.wire.errors import WireError
from resolver.wire.message import MessageView

if TYPE_CHECKING:
    from resolver.cache import Store
    from resolver.mesh import Mesh

__all__ = ["PendingQuery", "Service", "Sink", "decrement"]

logger = logging.getLogger(__name__)

# The section counts of a message with no question and one additional record.
ONLY_OPT = b"\0\0\0\0\0\0\0\1"
OPT_HEAD = 9  # owner, type, class and TTL of an OPT record
OPT_LENGTH = 2
STORED_QUERY_SIZE = limits.STORED_QUERY_OCTETS
# Options whose content in a query is ignored.
OPTIONS_WITHOUT_VALUE = frozenset({c.OPTION_NSID, c.OPTION_KEEPALIVE, c.OPTION_PADDING})

_MEANINGLESS_TYPES = frozenset({0, c.OPT})


class Sink(Protocol):
    """The destination of replies: a UDP socket, or one TCP connection."""

    @property
    def stream(self) -> bool:
        """Whether the transport is a stream: replies up to `MESSAGE_MAX`, and a verified client address."""
        ...

    @property
    def idle_timeout(self) -> float:
        """Seconds an idle connection is kept (streams)."""
        ...

    @property
    def padding_block(self) -> int:
        """Size of the blocks to which replies to padded queries are padded; 0: not encrypted, so they are not."""
        ...

    def send(self, packet: bytes, peer: tuple[Any, ...]) -> None: ...

    def skip(self) -> None:
        """A query gets no reply."""
        ...

    def forget(self, pending: "PendingQuery") -> None:
        """`pending` no longer waits for a reply (used by streams, which keep their pending queries)."""
        ...

    def abort(self) -> None:
        """A reply that is due cannot be made. A stream closes the connection, so that its client does not wait."""
        ...


class PendingLimit:
    """Counts pending queries in total, per network and per address, and enforces their limits.

    A network may hold at most `network_share` percent of the sum of its own and the free slots, so some slots stay
    free for other networks, however many networks use their whole share.
    """

    __slots__ = ("limit", "limit_per_client", "network_share", "per_client", "per_network", "waiting")

    def __init__(self, limit: int, limit_per_client: int, network_share: int) -> None:
        self.limit = limit
        self.limit_per_client = limit_per_client
        self.network_share = network_share
        self.per_client: dict[str, int] = {}
        self.per_network: dict[str | bytes, int] = {}
        self.waiting = 0

    def take(self, host: str, network: str | bytes) -> bool:
        """Count one more query of `host` in `network`; False, and not counted, when a limit is reached."""
        count = self.per_client.get(host, 0)
        near = self.per_network.get(network, 0)
        free, share = self.limit - self.waiting, self.network_share
        # When nothing is free, the second condition holds for every network.
        if count >= self.limit_per_client or near * (100 - share) >= share * free:
            return False
        self.per_client[host] = count + 1
        try:
            self.per_network[network] = near + 1
        except MemoryError:
            decrement(self.per_client, host)
            raise
        self.waiting += 1
        return True

    def give_back(self, host: str, network: str | bytes) -> None:
        """Count one query less of `host` in `network`."""
        self.waiting -= 1
        decrement(self.per_client, host)
        decrement(self.per_network, network)


def decrement(counts: dict[Any, int], key: str | bytes) -> None:
    """Decrement the count of `key`, and delete it at 0."""
    count = counts[key] - 1
    if count:
        counts[key] = count
    else:
        del counts[key]


class PendingQuery:
    """A client query that the mesh resolves."""

    __slots__ = ("account", "arrived", "host", "key", "network", "peer", "query", "service", "sink", "ticket")

    def __init__(
        self, service: "Service", query: ClientQuery, peer: tuple[Any, ...], sink: Sink, account: PendingLimit
    ) -> None:
        self.service = service
        self.account: PendingLimit | None = account  # None: no longer pending
        self.query = query
        self.peer = peer
        self.host: str = peer[0]
        self.network = network_of(self.host)
        self.sink = sink
        self.ticket: Any = None
        self.arrived = 0.0
        self.key: tuple[tuple[Any, ...], bytes] | None = None

    def done(self, outcome: Outcome) -> None:
        """The callback for `Mesh`."""
        try:
            self.service.finished(self, outcome)
        except BaseException:
            self.sink.abort()  # out of memory
            raise


class Service:
    """Answers client queries. `submitted` is called after each submission to the mesh."""

    def __init__(
        self,
        settings: Settings,
        *,
        mesh: "Mesh",
        store: "Store",
        plan: PolicyPipeline,
        fast: FastPath,
        clock: Clock,
        submitted: Callable[[], object] | None = None,
    ) -> None:
        server = settings.server
        self._mesh = mesh
        self._answers = store.answers
        self._plan = plan
        self._truncating = plan.local.has_truncate_zone
        self._fast = fast
        self._clock = clock
        self._submitted = submitted
        self._minimal = server.minimal_responses
        self._minimal_any = server.minimal_any
        self._payload = server.max_udp_size
        self._prefetch = settings.cache.prefetch
        self._cache_only = server.non_recursive_queries == "cache"
        self._drop_overflow = server.overload_action == "drop"
        self._discard = server.discard_timeout
        self._nsid = server.nsid_octets
        self._cookies = fast.cookies
        self._pending: dict[tuple[tuple[Any, ...], bytes], PendingQuery] = {}
        self._unverified = PendingLimit(
            server.pending_queries, server.pending_queries_per_client, server.pending_queries_network_percent
        )
        self._verified = PendingLimit(
            server.pending_queries, server.pending_queries_per_verified_client, server.pending_queries_network_percent
        )
        self._failures = LimitedWarning(logger, settings.log.rate_limit_interval, limits.LOG_FAILURES)
        self.queries = 0
        self.replies = 0
        self.joined = 0
        self.refused = 0
        self.denied = 0
        self.overflowed = 0
        self.discarded = 0
        self.failed = 0
        self.malformed = 0

    # --- a query comes in ----------------------------------------------------------------------------------------

    def handle(
        self, data: bytes, peer: tuple[Any, ...], sink: Sink, table: AccessTable | None = None
    ) -> PendingQuery | None:
        """Answer the message `data` of `peer` through `sink`. A pending query is returned; `forget` cancels it.

        `table` is the access list of the listener; None: that of the policy.
        """
        self.queries += 1
        access = self._fast.access_of(peer[0]) if table is None else table.lookup(peer[0])
        if access != ALLOW:
            self._refuse_client(data, peer, sink, access)
            return None
        query = read_query(data)
        if not isinstance(query, ClientQuery):
            self._answer_non_plain(data, peer, sink, query)
            return None
        if query.edns_version:
            self._reply_empty(query, peer, sink, c.NOERROR, ext_rcode=c.BADVERS >> 4)
            return None
        if self._cookies is not None and self._cookies.required and not self._is_verified(query, peer, sink):
            return None
        qtype = query.qtype
        if query.qclass != c.IN or qtype > c.LAST_DATA_TYPE or qtype in _MEANINGLESS_TYPES:
            return self._answer_meta_query(query, peer, sink)
        if not query.flags & c.RD:
            self._without_recursion(query, peer, sink)
            return None
        if self._truncating and not sink.stream and self._plan.local.is_truncated(query.qname):
            self._send(query, error_reply(query.wire, c.NOERROR, query.question_end, truncated=True), peer, sink, b"")
            return None
        if query.options and not self._is_claimed(query) and self._from_cache(query, peer, sink):
            return None
        return self._submit(query, peer, sink)

    def _is_claimed(self, query: ClientQuery) -> bool:
        """Whether the fast path may have passed this query on so that its cached answer is prefetched."""
        return bool(self._prefetch and self._answers.claimed(query.wire, self._clock.time()))

    def _submit(self, query: ClientQuery, peer: tuple[Any, ...], sink: Sink) -> PendingQuery | None:
        account = self._verified if sink.stream or self._has_valid_cookie(query, peer) else self._unverified
        if len(query.wire) > STORED_QUERY_SIZE:
            query = _without_unused_options(query)
        pending = PendingQuery(self, query, peer, sink, account)
        key = None
        if not sink.stream:
            # A retransmission (same address, port, id and message) gets the reply of the pending query.
            key = (peer, query.wire)
            if key in self._pending:
                self.joined += 1
                return None
        if not account.take(pending.host, pending.network):
            self._overflow(query, peer, sink)
            return None
        try:
            if key is not None:
                self._pending[key] = pending
                pending.key = key
            if self._discard:
                pending.arrived = self._clock.monotonic()
            question = Question(query.qname, query.qtype)
            # The mesh, too, counts verified and unverified clients of one network apart.
            network = (pending.network,) if account is self._verified else pending.network
            ticket = self._mesh.submit(question, cd=bool(query.flags & c.CD), on_done=pending.done, network=network)
            if ticket.done:
                return None
            pending.ticket = ticket
            if self._submitted is not None:
                self._submitted()
        except BaseException:
            # Out of memory. Free the slot, and the key: a retransmission must not join a query that is never answered.
            self.forget(pending)
            self._release(pending)
            raise
        return pending

    def finished(self, pending: PendingQuery, outcome: Outcome) -> None:
        """Called with the outcome from the mesh: store the reply for the fast path and send it."""
        if not self._release(pending):
            return
        query = pending.query
        if outcome.failure is not None:
            self._note_failure(query, outcome)
        packet = compose(query, outcome, minimal=self._minimal)
        edes = extended_errors(outcome.ede)
        # A CNAME chain may be partly cached: the alias, which expires first, while the target was resolved.
        held = self._prefetch and (outcome.from_cache or len(outcome.answer) > 1)
        if outcome.ttl > 0 and not (held and self._renew(query, outcome)):
            self._remember(query, packet, outcome.ttl, edes, outcome.serial)
        sink = pending.sink
        if self._discard and not sink.stream and self._clock.monotonic() - pending.arrived > self._discard:
            self.discarded += 1
            sink.skip()
            return
        self._send(query, packet, pending.peer, sink, edes)

    def _renew(self, query: ClientQuery, outcome: Outcome) -> bool:
        """Start a prefetch when the fast path has passed `query` on because its cached answer expires soon.

        False when there is no such answer, or when `outcome` is newer than it: then the caller stores `outcome`.
        """
        left = self._answers.claimed(query.wire, self._clock.time())
        if not left or outcome.ttl > left + 1 or outcome.stale:
            return False
        begun = self._mesh.refresh(
            Question(query.qname, query.qtype), cd=bool(query.flags & c.CD), on_done=partial(self._renewed, query)
        )
        if begun and self._submitted is not None:
            self._submitted()
        return True

    def _renewed(self, query: ClientQuery, outcome: Outcome) -> None:
        """Called with the outcome of a prefetch. After a failure the old answer stays until it expires."""
        if outcome.failure is None and outcome.ttl > 0 and not outcome.from_cache:
            packet = compose(query, outcome, minimal=self._minimal)
            self._remember(query, packet, outcome.ttl, extended_errors(outcome.ede), outcome.serial)

    def forget(self, pending: PendingQuery) -> None:
        """Cancel `pending`: its reply is no longer needed. A second call does nothing."""
        if pending.ticket is not None:
            ticket = pending.ticket
            self._release(pending)
            self._mesh.cancel(ticket)

    @property
    def waiting(self) -> int:
        """Number of pending queries."""
        return self._unverified.waiting + self._verified.waiting

    def statistics(self) -> dict[str, int]:
        """Counters since the start, by name."""
        return {
            "queries": self.queries,
            "replies": self.replies,
            "retransmitted": self.joined,
            "refused": self.refused,
            "access_dropped": self.denied,
            "overloaded": self.overflowed,
            "discarded": self.discarded,
            "servfail": self.failed,
            "malformed": self.malformed,
            "pending": self.waiting,
            "pending_verified": self._verified.waiting,
        }

    # --- replies -------------------------------------------------------------------------------------------------

    def _release(self, pending: PendingQuery) -> bool:
        """Remove `pending` from the counts; False when it was not pending."""
        account, pending.account = pending.account, None
        if account is None:
            return False
        pending.ticket = None
        if pending.key is not None:
            del self._pending[pending.key]
        else:
            pending.sink.forget(pending)
        account.give_back(pending.host, pending.network)
        return True

    def _remember(self, query: ClientQuery, packet: bytes, ttl: int, options: bytes, serial: int = 0) -> None:
        """Store a composed reply for the fast path, unless a flush has changed the cache since `serial`."""
        if self._truncating and self._plan.local.is_truncated(query.qname):
            return  # the fast path answers without regard to the transport
        self._answers.put(packet, do=query.do, cd=bool(query.flags & c.CD), now=self._clock.time(), ttl=ttl,
                          options=options, serial=serial)

    def _send(
        self, query: ClientQuery, packet: bytes, peer: tuple[Any, ...], sink: Sink, options: bytes, ext_rcode: int = 0
    ) -> None:
        if query.options:
            options = self._reply_options(query, peer, sink) + options
        self.replies += 1
        limit = self._client_limit(query, sink)
        if sink.padding_block and query.padded:
            size = len(packet) + OPT_HEAD + OPT_LENGTH + len(options)
            options += padding_option(size, sink.padding_block, limit)
        sink.send(finish(query, packet, limit, self._payload, options, ext_rcode), peer)

    def _client_limit(self, query: ClientQuery, sink: Sink) -> int:
        """The largest reply that the client accepts, in bytes (RFC 6891 section 6.2.3)."""
        if sink.stream:
            return MESSAGE_MAX
        if query.has_edns:
            return max(PAYLOAD_MIN, min(query.payload, self._payload))
        return PAYLOAD_MIN

    def _reply_options(self, query: ClientQuery, peer: tuple[Any, ...], sink: Sink) -> bytes:
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

    def _is_verified(self, query: ClientQuery, peer: tuple[Any, ...], sink: Sink) -> bool:
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

    def _has_valid_cookie(self, query: ClientQuery, peer: tuple[Any, ...]) -> bool:
        """Whether a valid server cookie verifies the source address of the query (RFC 7873 section 5.2.5)."""
        if self._cookies is None or not query.options:
            return False
        cookie = _cookie_of(query)
        return cookie is not None and self._cookies.is_good(cookie, peer[0], self._clock.time())

    def _reply_empty(
        self, query: ClientQuery, peer: tuple[Any, ...], sink: Sink, rcode: int, *, options: bytes = b"",
        ext_rcode: int = 0,
    ) -> None:
        packet = error_reply(query.wire, rcode, query.question_end)
        self._send(query, packet, peer, sink, options, ext_rcode)

    def _refuse_client(self, data: bytes, peer: tuple[Any, ...], sink: Sink, access: int) -> None:
        if access == DROP or len(data) < HEADER_SIZE or data[2] & 0x80:
            self.denied += 1
            sink.skip()
            return
        self.refused += 1
        query = read_query(data)
        if isinstance(query, ClientQuery):
            packet = error_reply(data, c.REFUSED, query.question_end, served=False)
            self._send(query, packet, peer, sink, extended_errors([(c.EDE_PROHIBITED, "")]))
        else:
            sink.send(error_reply(data, c.REFUSED, served=False), peer)

    def _answer_non_plain(self, data: bytes, peer: tuple[Any, ...], sink: Sink, code: int) -> None:
        """Answer a message that `read_query` rejected with an error, or a cookie query; drop one without a header."""
        if len(data) < HEADER_SIZE or data[2] & 0x80:
            self.malformed += 1
            sink.skip()
            return
        rcode = c.FORMERR
        question_end = HEADER_SIZE
        if code > 0:
            if data[2] & 0x78:
                rcode = c.NOTIMP
            elif data[4:HEADER_SIZE] == ONLY_OPT:
                reply = self._answer_cookie_query(data, peer)
                if reply is not None:
                    self.replies += 1
                    sink.send(reply, peer)
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
                        signed = bad_key_reply(data, question_end, self._payload)
                        if signed is not None:
                            self.refused += 1
                            self.replies += 1
                            sink.send(signed, peer)
                            return
        if rcode == c.FORMERR:
            self.malformed += 1
        elif rcode == c.REFUSED:
            self.refused += 1
        self.replies += 1
        sink.send(error_reply(data, rcode, question_end), peer)

    def _answer_cookie_query(self, data: bytes, peer: tuple[Any, ...]) -> bytes | None:
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

    def _answer_meta_query(self, query: ClientQuery, peer: tuple[Any, ...], sink: Sink) -> PendingQuery | None:
        """Answer queries for other classes, ANY, and types that are not data."""
        qtype = query.qtype
        if qtype in _MEANINGLESS_TYPES:
            self.malformed += 1
            self._reply_empty(query, peer, sink, c.FORMERR)
            return None
        # QCLASS ANY is answered as IN (RFC 1035 section 3.2.5). No other class gets further than here (CVE-2026-5946).
        qclass = c.IN if query.qclass == c.CLASS_ANY else query.qclass
        question = Question(query.qname, qtype, qclass)
        if qclass == c.IN and (qtype == c.ANY or not c.LAST_DATA_TYPE < qtype < c.ANY):
            if not query.flags & c.RD:
                self._without_recursion(query, peer, sink)
                return None
            if qtype != c.ANY or not self._minimal_any:
                return self._submit(query, peer, sink)
            record = any_record(query.qname)
            outcome = self._plan.answer(question) or Outcome(
                question, c.NOERROR, [record], [], Verdict.INSECURE, record.ttl
            )
        else:
            outcome = self._plan.answer(question) or Outcome(question, c.REFUSED, [], [], Verdict.INDETERMINATE, 0)
        if outcome.rcode == c.REFUSED:
            self.refused += 1
        packet = compose(query, outcome, minimal=self._minimal)
        edes = extended_errors(outcome.ede)
        if outcome.ttl > 0 and qclass == c.IN:
            self._remember(query, packet, outcome.ttl, edes)
        self._send(query, packet, peer, sink, edes)
        return None

    def _without_recursion(self, query: ClientQuery, peer: tuple[Any, ...], sink: Sink) -> None:
        """RD is clear: answer from the cache if the settings permit it, else REFUSED (RFC 1035 section 4.1.1)."""
        if self._cache_only:
            if self._from_cache(query, peer, sink):
                return
            outcome = self._mesh.peek(Question(query.qname, query.qtype), cd=bool(query.flags & c.CD))
            if outcome is not None:
                packet = compose(query, outcome, minimal=self._minimal)
                self._send(query, packet, peer, sink, extended_errors(outcome.ede))
                return
        self.refused += 1
        self._reply_empty(query, peer, sink, c.REFUSED, options=extended_errors([(c.EDE_NOT_AUTHORITATIVE, "")]))

    def _from_cache(self, query: ClientQuery, peer: tuple[Any, ...], sink: Sink) -> bool:
        """Answer from the cache a query that the fast path did not take because of its options or its RD bit."""
        now, limit = self._clock.time(), self._client_limit(query, sink)
        packet = self._fast.cached(query, now, limit)
        if packet is not None and query.options:
            # Made only now, because made cookies are counted; without a cached answer, `_send` makes them.
            options = self._reply_options(query, peer, sink)
            if sink.padding_block and query.padded:
                options += padding_option(len(packet) + len(options), sink.padding_block, limit)
            if options:
                packet = self._fast.cached(query, now, limit, options)
        if packet is None:
            return False
        self.replies += 1
        sink.send(packet, peer)
        return True

    def _overflow(self, query: ClientQuery, peer: tuple[Any, ...], sink: Sink) -> None:
        self.overflowed += 1
        if self._drop_overflow and not sink.stream:
            sink.skip()
            return
        self._reply_empty(query, peer, sink, c.SERVFAIL, options=extended_errors([(c.EDE_OTHER, "too many queries")]))

    def _note_failure(self, query: ClientQuery, outcome: Outcome) -> None:
        self.failed += 1
        failure = outcome.failure
        assert failure is not None
        self._failures.warn(
            "SERVFAIL for %s %s: %s (%s)", names.to_text(query.qname), c.type_to_text(query.qtype), failure.text,
            failure.kind.name,
        )


def _without_unused_options(query: ClientQuery) -> ClientQuery:
    """Return `query` with only those options that are answered, so that a pending query does not hold 64 KiB."""
    found: dict[int, bytes] = {}
    for code, value in options_from_wire(query.options):
        if code == c.OPTION_COOKIE or code in OPTIONS_WITHOUT_VALUE:
            found.setdefault(code, b"" if code in OPTIONS_WITHOUT_VALUE else value)
    options = options_to_wire(found.items())
    head = query.wire[: query.question_end + OPT_HEAD]
    shortened = read_query(head + len(options).to_bytes(2, "big") + options)
    assert isinstance(shortened, ClientQuery)
    return shortened


def _is_cookie(value: bytes) -> bool:
    """Whether `value` has the size of a COOKIE option: a client cookie, with or without a server cookie."""
    return len(value) == c.COOKIE_CLIENT_SIZE or c.COOKIE_MIN <= len(value) <= c.COOKIE_MAX


def _cookie_of(query: ClientQuery) -> bytes | None:
    """The content of the first COOKIE option, or None. The parser has checked its size."""
    return next((value for code, value in options_from_wire(query.options) if code == c.OPTION_COOKIE), None)
