"""A client's query from packet to packet: admit it, answer it at once or give it to the mesh, and send the reply.

Rule: every query that the fast path does not answer comes here, whatever carried it, and every reply leaves through
`reply.compose`, so UDP, TCP and what follows them cannot differ in what they permit. Work that waits is bounded in all,
for each client address (DNSBomb, CVE-2024-33655) and for each network (CVE-2026-42534); who has shown that the address
is its own, by a good cookie or by TCP, has an account apart from all who only carry it, so forged packets use up
nobody's share but their own (RFC 7873 section 1). A question that is repeated while it waits costs one look in a
dictionary. One object is made for each waiting query and no task, future or timer.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from resolver import limits
from resolver.effects import Outcome, Question
from resolver.net.clock_random import Clock
from resolver.net.fair_slots import network_of
from resolver.net.fastpath import ClientQuery, FastPath, finish, read_query
from resolver.net.log_limit import LimitedWarning
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

# The counts of a header without question and with one record, in additional.
ONLY_OPT = b"\0\0\0\0\0\0\0\1"
OPT_HEAD = 9  # owner, type, class and TTL of an OPT record
OPT_LENGTH = 2
STORED_QUERY_SIZE = limits.STORED_QUERY_OCTETS
# Of these not even the content counts.
OPTIONS_WITHOUT_VALUE = frozenset({c.OPTION_NSID, c.OPTION_KEEPALIVE, c.OPTION_PADDING})

_MEANINGLESS_TYPES = frozenset({0, c.OPT})


class Sink(Protocol):
    """Where replies go: a UDP socket, or one TCP connection."""

    @property
    def stream(self) -> bool:
        """Whether replies of any size may be sent."""
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
        """`pending` no longer waits (streams only: they keep what waits on them)."""
        ...

    def abort(self) -> None:
        """A reply that is due cannot be made: a client that relies on one learns it by the end of its connection."""
        ...


class PendingLimit:
    """Queries that wait: how many there are, in all, of each network and of each address, and how many there may be.

    A network may have its share, in percent, of what it has and what is free together: some places are left for others
    however many networks take all they may.
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
        """Count one more of `host` in `network`; False when there is no place for it."""
        count = self.per_client.get(host, 0)
        near = self.per_network.get(network, 0)
        free, share = self.limit - self.waiting, self.network_share
        # With nothing free the last holds of every network.
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
        """One of `host` in `network` waits no longer."""
        self.waiting -= 1
        decrement(self.per_client, host)
        decrement(self.per_network, network)


def decrement(counts: dict[Any, int], key: str | bytes) -> None:
    """Count one less of `key`; what is at nought takes no room."""
    count = counts[key] - 1
    if count:
        counts[key] = count
    else:
        del counts[key]


class PendingQuery:
    """A client's query while the mesh works on it."""

    __slots__ = ("account", "arrived", "host", "key", "network", "peer", "query", "service", "sink", "ticket")

    def __init__(
        self, service: "Service", query: ClientQuery, peer: tuple[Any, ...], sink: Sink, account: PendingLimit
    ) -> None:
        self.service = service
        self.account: PendingLimit | None = account  # None: it waits no longer
        self.query = query
        self.peer = peer
        self.host: str = peer[0]
        self.network = network_of(self.host)
        self.sink = sink
        self.ticket: Any = None
        self.arrived = 0.0
        self.key: tuple[tuple[Any, ...], bytes] | None = None

    def done(self, outcome: Outcome) -> None:
        """What `Mesh` calls."""
        try:
            self.service.finished(self, outcome)
        except BaseException:
            self.sink.abort()  # for want of memory
            raise


class Service:
    """Answers queries of clients. `submitted` is called after each question given to the mesh."""

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
        self._payload = server.udp_payload
        self._prefetch = settings.cache.prefetch
        self._cache_only = server.without_recursion == "cache"
        self._drop_overflow = server.overflow == "drop"
        self._discard = server.discard_timeout
        self._nsid = server.nsid_octets
        self._cookies = fast.cookies
        self._pending: dict[tuple[tuple[Any, ...], bytes], PendingQuery] = {}
        self._unverified = PendingLimit(
            server.pending_queries, server.pending_per_client, server.pending_network_share
        )
        self._verified = PendingLimit(
            server.pending_queries, server.pending_per_proven_client, server.pending_network_share
        )
        self._failures = LimitedWarning(logger, settings.log.interval, limits.LOG_FAILURES)
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
        """Answer `data` of `peer` through `sink`; a query that has to wait is returned and can be given to `forget`.

        `table` is the access list of the listener; None: the policy's.
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
        """Whether the fast path may have left a query with options here so that its answer is renewed."""
        return bool(self._prefetch and self._answers.claimed(query.wire, self._clock.time()))

    def _submit(self, query: ClientQuery, peer: tuple[Any, ...], sink: Sink) -> PendingQuery | None:
        account = self._verified if sink.stream or self._has_valid_cookie(query, peer) else self._unverified
        if len(query.wire) > STORED_QUERY_SIZE:
            query = _without_unused_options(query)
        pending = PendingQuery(self, query, peer, sink, account)
        key = None
        if not sink.stream:
            # A client that repeats itself waits for the reply under way (same address, port, id and question).
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
            # Places are taken by proven clients and by the others of a network apart, as in the accounts.
            network = (pending.network,) if account is self._verified else pending.network
            ticket = self._mesh.submit(question, cd=bool(query.flags & c.CD), on_done=pending.done, network=network)
            if ticket.done:
                return None
            pending.ticket = ticket
            if self._submitted is not None:
                self._submitted()
        except BaseException:
            # For want of memory. Its place is not lost with it, and a repetition waits for no reply that never comes.
            self.forget(pending)
            self._release(pending)
            raise
        return pending

    def finished(self, pending: PendingQuery, outcome: Outcome) -> None:
        """The mesh has an outcome: remember the reply for the fast path and send it."""
        if not self._release(pending):
            return
        query = pending.query
        if outcome.failure is not None:
            self._note_failure(query, outcome)
        packet = compose(query, outcome, minimal=self._minimal)
        edes = extended_errors(outcome.ede)
        # A chain may be half from the cache: its alias, which ends first, while its target had to be asked for.
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
        """Begin to renew the finished answer to `query` when the fast path has left it here for that.

        False when there is no such answer, or when the cache has a newer one than it: then that is to be remembered.
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
        """An answer was asked for again before its end; a failure leaves the old one to live out its time."""
        if outcome.failure is None and outcome.ttl > 0 and not outcome.from_cache:
            packet = compose(query, outcome, minimal=self._minimal)
            self._remember(query, packet, outcome.ttl, extended_errors(outcome.ede), outcome.serial)

    def forget(self, pending: PendingQuery) -> None:
        """Nobody waits for this reply any more; a second call does nothing."""
        if pending.ticket is not None:
            ticket = pending.ticket
            self._release(pending)
            self._mesh.cancel(ticket)

    @property
    def waiting(self) -> int:
        """Queries the mesh works on."""
        return self._unverified.waiting + self._verified.waiting

    def statistics(self) -> dict[str, int]:
        """Counters since the start, by name."""
        return {
            "queries": self.queries,
            "replies": self.replies,
            "joined": self.joined,
            "refused": self.refused,
            "denied": self.denied,
            "overflowed": self.overflowed,
            "discarded": self.discarded,
            "failed": self.failed,
            "malformed": self.malformed,
            "waiting": self.waiting,
            "waiting_verified": self._verified.waiting,
        }

    # --- replies -------------------------------------------------------------------------------------------------

    def _release(self, pending: PendingQuery) -> bool:
        """Let `pending` wait no longer; False when it did not."""
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
        """Keep a composed reply for the fast path, unless something was flushed since the cache had `serial`."""
        if self._truncating and self._plan.local.is_truncated(query.qname):
            return  # the fast path does not ask over what a query came
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
        """Bytes that the client takes in one reply (RFC 6891 section 6.2.3)."""
        if sink.stream:
            return MESSAGE_MAX
        if query.has_edns:
            return max(PAYLOAD_MIN, min(query.payload, self._payload))
        return PAYLOAD_MIN

    def _reply_options(self, query: ClientQuery, peer: tuple[Any, ...], sink: Sink) -> bytes:
        """Options that the client's own ask for: NSID (RFC 5001), TCP keepalive (RFC 7828), cookie (RFC 7873)."""
        found: dict[int, bytes] = {}
        for code, value in options_from_wire(query.options):
            if code == c.OPTION_NSID and self._nsid:
                found[code] = self._nsid
            elif code == c.OPTION_COOKIE and self._cookies is not None and code not in found:
                found[code] = self._cookies.answer(value, peer[0], self._clock.time())
            elif code == c.OPTION_KEEPALIVE and sink.stream:
                found[code] = encode_keepalive(sink.idle_timeout)
        return options_to_wire(found.items()) if found else b""

    def _is_verified(self, query: ClientQuery, peer: tuple[Any, ...], sink: Sink) -> bool:
        """Whether the client has shown that its address is its own; else it is told how to (RFC 7873 section 5.2)."""
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
        """Whether a good cookie proves that the query comes from where it says (RFC 7873 section 5.2.5)."""
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
        """Not a plain query: say what is wrong with it, where there is a header to answer to."""
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
                        # A zone transfer is well-formed with an SOA in its authority section (RFC 1995 section 3).
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
        """The reply to who asks for nothing but a cookie (RFC 7873 section 5.4); None for whatever else `data` is."""
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
        """Other classes, ANY, and types that are not data."""
        qtype = query.qtype
        if qtype in _MEANINGLESS_TYPES:
            self.malformed += 1
            self._reply_empty(query, peer, sink, c.FORMERR)
            return None
        # Any class is the one that has a tree (RFC 1035 section 3.2.5); below here there is no other (CVE-2026-5946).
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
        """RD is clear: what is in the cache, if strangers may look into it, else REFUSED (RFC 1035 section 4.1.1)."""
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
        """Answer a query that only its options or its RD bit kept off the fast path."""
        now, limit = self._clock.time(), self._client_limit(query, sink)
        packet = self._fast.cached(query, now, limit)
        if packet is not None and query.options:
            # Only now, because a cookie that is made is counted; a cold query gets its own with the reply.
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
    """`query` with those of its options alone that are answered: one that waits could be held with 64 KiB else."""
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
    """Whether a COOKIE option may have this content: a client's cookie, with or without one of a server."""
    return len(value) == c.COOKIE_CLIENT_SIZE or c.COOKIE_MIN <= len(value) <= c.COOKIE_MAX


def _cookie_of(query: ClientQuery) -> bytes | None:
    """The content of the first COOKIE option; the parser has checked its size."""
    return next((value for code, value in options_from_wire(query.options) if code == c.OPTION_COOKIE), None)
