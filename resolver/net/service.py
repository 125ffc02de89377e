"""Handles client queries that the fast path does not answer: signature, access, policy, mesh, reply.

Queries of all transports come here, every composed reply is made by `reply.compose` and sent by `ReplySender`, so that
transports cannot differ in what they permit. Pending queries are limited (`PendingLimit`). At a limit, a query that has
waited for `limits.JOSTLE` is ended for a new one, the oldest first, so slow queries leave room for fast ones. Clients
whose address is verified, by a valid cookie or by TCP, are counted apart from unverified ones, so queries with forged
addresses use up only the unverified quota (RFC 7873 section 1). A query that is repeated while it is pending costs one
dictionary lookup.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from resolver import limits
from resolver.cache import rotated
from resolver.cache.bounded import Held
from resolver.effects import Outcome, Question
from resolver.log_limit import LimitedWarning
from resolver.net.client_subnet import SUBNET_OPTION_MOST
from resolver.net.clock_random import Clock
from resolver.net.fastpath import ClientQuery, FastPath, read_query
from resolver.net.padding import padding_option
from resolver.net.pending_queries import NONE, Peer, PendingLimit, PendingQuery, Sink
from resolver.net.reply import compose, error_reply, extended_errors
from resolver.net.reply_sender import OPT_HEAD, ReplySender
from resolver.net.tsig import SignedQueries, keys_of
from resolver.observe import result_of
from resolver.policy import (
    ALLOW,
    DECISION,
    VIEW_SHIFT,
    AccessTable,
    Balance,
    OwnZones,
    Pipeline,
    PolicyPipeline,
)
from resolver.query import ActionKind, Query
from resolver.settings import Settings
from resolver.verdict import Verdict
from resolver.wire.consts import (
    ANY,
    BADVERS,
    CD,
    CLASS_ANY,
    EDE_NOT_AUTHORITATIVE,
    EDE_NOT_READY,
    EDE_OTHER,
    FORMERR,
    IN,
    LAST_DATA_TYPE,
    NOERROR,
    OPT,
    OPTION_COOKIE,
    OPTION_ECS,
    OPTION_KEEPALIVE,
    OPTION_NSID,
    OPTION_PADDING,
    RD,
    REFUSED,
    SERVFAIL,
    type_to_text,
)
from resolver.wire.edns import options_from_wire, options_to_wire
from resolver.wire.errors import WireError
from resolver.wire.name import to_text

if TYPE_CHECKING:
    from resolver.mesh import Mesh
    from resolver.net.zone_server import ZoneServer
    from resolver.observe.observer import Observer

__all__ = ["Service"]

logger = logging.getLogger(__name__)

STORED_QUERY_SIZE = limits.STORED_QUERY_OCTETS
# Options whose content in a query is ignored.
OPTIONS_WITHOUT_VALUE = frozenset({OPTION_NSID, OPTION_KEEPALIVE, OPTION_PADDING})

JOSTLE = limits.JOSTLE / 1000
SCAN = limits.JOSTLE_SCAN
LATE_GROWTH = limits.LATE_GROWTH
TOO_MANY = extended_errors([(EDE_OTHER, "too many queries")])
ENDED = extended_errors([(EDE_NOT_READY, "ended for a newer query")])
_MEANINGLESS_TYPES = frozenset({0, OPT})
WITHOUT_ANSWER = frozenset({ActionKind.DROP, ActionKind.TRUNCATE})


class Service(ReplySender):
    """Answers client queries. `submitted` is called after each submission to the mesh.

    It stores finished answers where `fast` finds them, under the same rules.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        mesh: Mesh,
        plan: PolicyPipeline,
        fast: FastPath,
        clock: Clock,
        submitted: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(settings, fast, clock)
        server = settings.server
        self._mesh = mesh
        self._answers = fast.answers
        self._views = plan.views
        self._access = plan.access
        self._signed_queries = SignedQueries(keys_of(settings), clock.time, server.max_udp_size)
        self._submitted = submitted
        self._minimal = server.minimal_responses
        self._minimal_any = server.minimal_any
        self._prefetch = settings.cache.prefetch
        self._rotates = server.rotate_addresses
        self._cache_only = server.non_recursive_queries == "cache"
        self._drop_overflow = server.overload_action == "drop"
        self._discard = server.discard_timeout
        self._late = server.late_answers_per_network
        self._timeout = settings.iteration.query_timeout
        self.observer: Observer | None = None
        """What records queries and replies; None: they are not recorded."""
        self.zone_server: ZoneServer | None = None
        """What answers transfers and NOTIFY for own zones; None without zones."""
        self._pending: dict[tuple[tuple[Any, ...], bytes, int], PendingQuery] = {}
        self._unverified = PendingLimit(
            server.pending_queries, server.pending_queries_per_client, server.pending_queries_network_percent
        )
        self._verified = PendingLimit(
            server.pending_queries, server.pending_queries_per_verified_client, server.pending_queries_network_percent
        )
        self._failures = LimitedWarning(logger, settings.log.rate_limit_interval, limits.LOG_FAILURES)
        self.queries = 0
        self.joined = 0
        self.overflowed = 0
        self.ended = 0
        self.discarded = 0
        self.shortened = 0
        self.failed = 0
        self.verified_signatures = 0

    # --- a query comes in ----------------------------------------------------------------------------------------

    def handle(
        self, data: bytes, peer: Peer, sink: Sink, table: AccessTable | None = None
    ) -> PendingQuery | None:
        """Answer the message `data` of `peer` through `sink`. A pending query is returned; `forget` cancels it.

        `table` is the table of access and views of the listener; None: that of the policy.
        """
        self.queries += 1
        found = self._fast.access_of(peer[0]) if table is None else table.find(peer[0])
        query = read_query(data)
        signed = None if isinstance(query, ClientQuery) else self._signed_queries.check(data)
        if signed is not None and signed.key is not None:
            found = (table or self._access).find_signed(peer[0], signed.key.name)
        if self.observer is not None:
            sink = self.observer.watch(data, peer, sink, found >> VIEW_SHIFT)
        access = found & DECISION
        if self.zone_server is not None and self.zone_server.handle(data, peer, sink, found, signed):
            self.observed.note_message(sink.origin[0])
            return None
        if signed is not None and signed.refusal is None:
            data = signed.message
            query = read_query(data)
            sink = self._signed_queries.sink(signed, sink, self._signed_limit(query, sink))
            self.verified_signatures += 1
        if access != ALLOW:
            self._refuse_client(data, peer, sink, access)
            return None
        if signed is not None and signed.refusal is not None:
            self._refuse_signature(data, signed, peer, sink)
            return None
        if not isinstance(query, ClientQuery):
            self._answer_non_plain(data, peer, sink, query)
            return None
        transport, listener = sink.origin
        self.observed.note_query(transport, query.qtype)
        if query.edns_version:
            self._reply_empty(query, peer, sink, NOERROR, ext_rcode=BADVERS >> 4)
            return None
        if self._cookies is not None and self._cookies.required and not self._is_verified(query, peer, sink):
            return None
        client = Query(peer[0], transport=transport, listener=listener, verified=sink.stream, view=found >> VIEW_SHIFT,
                       tsig_key=None if signed is None or signed.key is None else signed.key.name,
                       arrived=self._clock.monotonic())
        if self._subnets is not None:
            try:
                client.subnet = self._subnets.subnet_of(client.address, query.options)
            except WireError:
                self.malformed += 1
                self._reply_empty(query, peer, sink, FORMERR, view=client.view)
                return None
        hooks = self._views[client.view].hooks
        if hooks is None:
            return self._handle_admitted(query, client, peer, sink, None)
        # What hooks take is charged to the query: its deadline begins before the first of them.
        client.deadline = client.arrived + self._timeout
        if not hooks.has_client:
            return self._handle_admitted(query, client, peer, sink, None)
        pending = self._admit(query, client, peer, sink)
        if pending is not None:
            question = Question(query.qname, query.qtype, query.qclass)
            self._ask_hooks(pending, "client", question, None, self._client_asked)
        return pending if pending is not None and pending.account is not None else None

    def _handle_admitted(
        self, query: ClientQuery, client: Query, peer: Peer, sink: Sink, pending: PendingQuery | None
    ) -> PendingQuery | None:
        """Answer a query whose client is admitted. `pending` is the query itself when it has waited for hooks."""
        pipeline: Pipeline = self._views[client.view]
        if pipeline.has_client:
            outcome = self._judge(pipeline.client, client, Question(query.qname, query.qtype, query.qclass))
            if outcome is not None:
                self._end(pending)
                self._answer(query, client, outcome, peer, sink)
                return None
        qtype = query.qtype
        if query.qclass != IN or qtype > LAST_DATA_TYPE or qtype in _MEANINGLESS_TYPES:
            return self._answer_meta_query(query, client, peer, sink, pending)
        if not query.flags & RD:
            return self._without_recursion(query, client, peer, sink, pending)
        if self._answered_by_policy(query, client, peer, sink, pending):
            return None
        # The fast path passes on queries with options that need a reply of their own, and signed ones.
        if ((query.options or client.tsig_key is not None) and pipeline.caches and not self._is_claimed(query, client)
                and self._from_cache(query, client, peer, sink)):
            return None  # a query that has waited for hooks has no cached answer (`Pipeline.caches`)
        return self._submit(query, client, peer, sink, pending)

    # --- hooks -----------------------------------------------------------------------------------------------------

    def _ask_hooks(
        self, pending: PendingQuery, point: str, question: Question, outcome: Outcome | None,
        then: Callable[[PendingQuery, Outcome | None, Outcome | None], None],
    ) -> None:
        """Ask the hooks of `point`; `then` gets `pending`, `outcome` and what to give instead, or None. A query that
        is cancelled meanwhile gets no further."""
        hooks = self._views[pending.client.view].hooks
        assert hooks is not None
        if not pending.serial:
            pending.serial = (0 if outcome is None else outcome.serial) or self._answers.table.serial
        try:
            done = partial(self._hooks_done, pending, outcome, then)
            waiting = hooks.ask(point, pending.client, question, outcome, done)
        except BaseException:  # out of memory
            self._release(pending)
            raise
        if waiting is not None:
            pending.waiting = waiting

    def _hooks_done(
        self, pending: PendingQuery, outcome: Outcome | None,
        then: Callable[[PendingQuery, Outcome | None, Outcome | None], None], found: Outcome | None,
    ) -> None:
        pending.waiting = None
        try:
            then(pending, outcome, found)
        except BaseException:
            self._release(pending)
            pending.sink.abort()  # out of memory
            raise

    def _client_asked(self, pending: PendingQuery, outcome: Outcome | None, found: Outcome | None) -> None:
        query, client, sink = pending.query, pending.client, pending.sink
        if found is None:
            self._handle_admitted(query, client, pending.peer, sink, pending)
        else:
            self._release(pending)
            self._answer(query, client, found, pending.peer, sink)

    def _question_asked(self, pending: PendingQuery, outcome: Outcome | None, found: Outcome | None) -> None:
        if found is None:
            self._resolve(pending)
        else:
            self._reply(pending, found)

    def _response_asked(self, pending: PendingQuery, outcome: Outcome | None, found: Outcome | None) -> None:
        assert outcome is not None
        if found is not None:
            found.serial = outcome.serial  # a flush since then concerns the new answer, too
            found.scope = outcome.scope
        self._reply(pending, found or outcome)

    def _end(self, pending: PendingQuery | None) -> None:
        """The query of `pending` is answered at once."""
        if pending is not None:
            self._release(pending)

    def _judge(
        self, point: Callable[[Query, Question], Outcome | None], client: Query, question: Question
    ) -> Outcome | None:
        """What a point of the pipeline decides; SERVFAIL after a fault in a module, so that nothing is given
        unjudged."""
        try:
            return point(client, question)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - a fault of a policy must cost this query only; the log has its traceback
            self._log_fault(question)
            return Outcome(question, SERVFAIL, [], [], Verdict.INDETERMINATE, 0)

    def _log_fault(self, question: Question) -> None:
        if self._failures.warn("policy: unexpected exception for %s %s; the query fails", to_text(question.qname),
                               type_to_text(question.qtype)):
            logger.debug("policy: traceback", exc_info=True)

    def _is_claimed(self, query: ClientQuery, client: Query) -> bool:
        """Whether the fast path may have passed this query on so that its cached answer is prefetched."""
        return bool(self._prefetch and self._answers.claimed(query.wire, self._clock.time(), client.view))

    def _submit(
        self, query: ClientQuery, client: Query, peer: Peer, sink: Sink, pending: PendingQuery | None = None
    ) -> PendingQuery | None:
        """Resolve a query, unless a hook answers it, or a policy before the hooks has. It is counted as pending, if it
        is not yet."""
        if pending is None:
            pending = self._admit(query, client, peer, sink)
            if pending is None:
                return None
        hooks = self._views[client.view].hooks
        if hooks is not None and hooks.has_question and client.alias is None:
            self._ask_hooks(pending, "question", Question(query.qname, query.qtype), None, self._question_asked)
            return pending if pending.account is not None else None
        return self._resolve(pending)

    def _admit(self, query: ClientQuery, client: Query, peer: Peer, sink: Sink) -> PendingQuery | None:
        """Count a query as pending; None when it is a retransmission, or there are too many."""
        account = self._verified if sink.stream or self._has_valid_cookie(query, peer) else self._unverified
        if len(query.wire) > STORED_QUERY_SIZE:
            query = _without_unused_options(query)
        client.verified = account is self._verified
        pending = PendingQuery(self, query, client, peer, sink, account)
        key = None
        if not sink.stream and client.tsig_key is None:
            # A retransmission (same address, port, id, message and view) gets the reply of the pending query. One that
            # is signed anew needs a reply that is signed for it.
            key = (peer, query.wire, client.view)
            if key in self._pending:
                self.joined += 1
                return None
        now = self._clock.monotonic()
        others = account.take(pending)
        if others is not None and (not self._end_slow_query(others, now) or account.take(pending) is not None):
            self._overflow(query, client, peer, sink)
            return None
        try:
            if key is not None:
                self._pending[key] = pending
                pending.key = key
        except BaseException:  # out of memory
            self._release(pending)
            raise
        return pending

    def _resolve(self, pending: PendingQuery) -> PendingQuery | None:
        query, client = pending.query, pending.client
        try:
            question = Question(query.qname, query.qtype)
            # The mesh, too, counts verified and unverified clients of one network apart.
            client.network = (pending.network,) if pending.account is self._verified else pending.network
            ticket = self._mesh.submit(question, query=client, cd=bool(query.flags & CD), on_done=pending.done)
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

    def _end_slow_query(self, queries: Iterable[PendingQuery], now: float) -> bool:
        """End the oldest of `queries` that has waited for `JOSTLE`, so that a new one has room; False without one."""
        for pending in islice(queries, SCAN):
            if now - pending.client.arrived < JOSTLE:
                return False
            if pending.ticket is None and pending.waiting is None:
                continue  # the mesh or a hook is working on it at this moment
            self.forget(pending)
            self.ended += 1
            self._reply_empty(pending.query, pending.peer, pending.sink, SERVFAIL, options=ENDED,
                              view=pending.client.view)
            return True
        return False

    def finished(self, pending: PendingQuery, outcome: Outcome) -> None:
        """Called with the outcome from the mesh."""
        hooks = self._views[pending.client.view].hooks
        if hooks is not None and hooks.has_response and pending.account is not None:
            pending.ticket = None
            self._ask_hooks(pending, "response", outcome.question, outcome, self._response_asked)
        else:
            self._reply(pending, outcome)

    def _reply(self, pending: PendingQuery, outcome: Outcome) -> None:
        """Store the reply for the fast path and send it."""
        if not self._release(pending):
            return
        query, client, sink = pending.query, pending.client, pending.sink
        if outcome.failure is not None:
            self._note_failure(query, outcome)
        if outcome.applied is not None and outcome.applied.kind in WITHOUT_ANSWER:
            self._answer(query, client, outcome, pending.peer, sink)
            return
        packet = compose(query, outcome, minimal=self._minimal, minimal_any=self._minimal_any)
        edes = extended_errors(outcome.ede)
        # A CNAME chain may be partly cached: the alias, which expires first, while the target was resolved.
        held = self._prefetch and (outcome.from_cache or len(outcome.answer) > 1)
        # A prefetch would query the servers of a name that a rule for the client has answered.
        held = held and client.alias is None
        if outcome.ttl > 0 and outcome.scope is None and not (held and self._renew(query, client, outcome)):
            self._remember(query, client.view, packet, outcome.ttl, edes, pending.serial or outcome.serial)
        if not sink.stream:
            waited = self._clock.monotonic() - client.arrived
            if self._discard and waited > self._discard:
                self.discarded += 1
                sink.skip()
                return
            if waited > JOSTLE and self._is_burst(pending):
                most = LATE_GROWTH * len(query.wire)
                if len(packet) > most:
                    self.shortened += 1
                    packet, edes = error_reply(query.wire, NOERROR, query.question_end, truncated=True), b""
                elif len(packet) + len(edes) > most:
                    edes = b""  # their text may be longer than the answer, and names of an attacker are in it
        self._send_judged(query, client, outcome, packet, pending.peer, sink, edes)

    def _is_burst(self, pending: PendingQuery) -> bool:
        """Whether a late answer may be one of many that were held back to be released together (DNSBomb).

        It is when many queries of the network wait, whose sources nothing has verified. What is hardly longer than its
        query is sent nevertheless: it is of no use to an attacker.
        """
        return (
            self._late > 0 and not pending.client.verified
            and len(self._unverified.per_network.get(pending.network, NONE)) >= self._late
        )

    def _renew(self, query: ClientQuery, client: Query, outcome: Outcome) -> bool:
        """Start a prefetch when the fast path has passed `query` on because its cached answer expires soon.

        False when there is no such answer, or when `outcome` is newer than it: then the caller stores `outcome`.
        """
        left = self._answers.claimed(query.wire, self._clock.time(), client.view)
        if not left or outcome.ttl > left + 1 or outcome.stale:
            return False
        asker: Query = self._views[client.view].query
        if client.subnet is not None:
            asker = Query(view=client.view, subnet=client.subnet)
        begun = self._mesh.refresh(
            Question(query.qname, query.qtype), query=asker, cd=bool(query.flags & CD),
            on_done=partial(self._renewed, query, client.view),
        )
        if begun and self._submitted is not None:
            self._submitted()
        return True

    def _renewed(self, query: ClientQuery, view: int, outcome: Outcome) -> None:
        """Called with the outcome of a prefetch. After a failure the old answer stays until it expires."""
        hooks = self._views[view].hooks
        if hooks is None or not hooks.has_response:
            self._store_renewed(query, view, outcome, None)
        elif outcome.failure is None:
            hooks.ask("response", self._views[view].query, outcome.question, outcome,
                      partial(self._store_renewed, query, view, outcome))

    def _store_renewed(self, query: ClientQuery, view: int, outcome: Outcome, found: Outcome | None) -> None:
        """`found` is what a hook has put in the place of `outcome`, None without."""
        if found is not None:
            found.serial, found.scope = outcome.serial, outcome.scope
            outcome = found
        if outcome.failure is None and outcome.ttl > 0 and outcome.scope is None and not outcome.from_cache:
            packet = compose(query, outcome, minimal=self._minimal, minimal_any=self._minimal_any)
            self._remember(query, view, packet, outcome.ttl, extended_errors(outcome.ede), outcome.serial)

    def forget(self, pending: PendingQuery) -> None:
        """Cancel `pending`: its reply is no longer needed. A second call does nothing."""
        if pending.waiting is not None:
            waiting, pending.waiting = pending.waiting, None
            self._release(pending)
            waiting.cancel()
            return
        if pending.ticket is not None:
            ticket = pending.ticket
            self._release(pending)
            self._mesh.cancel(ticket)

    @property
    def waiting(self) -> int:
        """Number of pending queries."""
        return self._unverified.waiting + self._verified.waiting

    def usage(self) -> dict[str, tuple[int, int]]:
        """Pending queries and their limit, by whether the client's address is verified."""
        return {
            "pending_queries": (self._unverified.waiting, self._unverified.limit),
            "pending_queries_verified": (self._verified.waiting, self._verified.limit),
        }

    def memory(self) -> list[Held]:
        """What clients can fill, without the connections."""
        size = limits.PENDING_QUERY_OCTETS
        found = [Held(name, used * size, most * size) for name, (used, most) in self.usage().items()]
        if self._subnets is not None:
            size = limits.SUBNET_CLIENT_OCTETS
            found.append(Held("subnet_clients", self._subnets.remembered * size, limits.SUBNET_CLIENTS * size))
        if self.zone_server is not None:
            found.extend(self.zone_server.memory())
        return found

    def statistics(self) -> dict[str, int]:
        """Counters since the start, by name."""
        return {
            "queries": self.queries,
            "replies": self.replies,
            "signed": self.verified_signatures,
            "retransmitted": self.joined,
            "refused": self.refused,
            "access_dropped": self.denied,
            "overloaded": self.overflowed,
            "ended": self.ended,
            "discarded": self.discarded,
            "truncated": self.shortened,
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
        account.give_back(pending)
        return True

    def _remember(
        self, query: ClientQuery, view: int, packet: bytes, ttl: int, options: bytes, serial: int = 0
    ) -> None:
        """Store a composed reply for the fast path, unless a flush has changed the cache since `serial`."""
        pipeline: Pipeline = self._views[view]
        if not pipeline.caches:
            return
        if pipeline.has_own_question and not pipeline.is_cacheable(Question(query.qname, query.qtype, query.qclass)):
            return  # the fast path answers without regard to the transport
        self._answers.put(packet, do=query.do, cd=bool(query.flags & CD), view=view, now=self._clock.time(), ttl=ttl,
                          options=options, serial=serial)

    def _answer(
        self, query: ClientQuery, client: Query, outcome: Outcome, peer: Peer, sink: Sink
    ) -> None:
        """Do what a policy has decided: answer, or give no answer. Nothing of it is cached."""
        kind = None if outcome.applied is None else outcome.applied.kind
        if kind is ActionKind.DROP:
            self.denied += 1
            sink.skip()
            return
        edes = extended_errors(outcome.ede)
        if kind is ActionKind.TRUNCATE:
            self._note_answer(client, outcome)
            packet = error_reply(query.wire, NOERROR, query.question_end, truncated=True)
            self._send(query, packet, peer, sink, edes, view=client.view)
            return
        if outcome.rcode == REFUSED:
            self.refused += 1
        packet = compose(query, outcome, minimal=self._minimal, minimal_any=self._minimal_any)
        self._send_judged(query, client, outcome, packet, peer, sink, edes)

    def _send_judged(
        self, query: ClientQuery, client: Query, outcome: Outcome, packet: bytes, peer: Peer, sink: Sink,
        options: bytes,
    ) -> None:
        """Send a reply that was made from `outcome`, unless a policy of the point `send` prevents it."""
        pipeline: Pipeline = self._views[client.view]
        if self._rotates and (outcome.applied is None or outcome.applied.module != Balance.name):
            packet = rotated(packet, self.replies)  # a balanced name has its own order
        kind: ActionKind | None = None
        if pipeline.hooks is not None and pipeline.hooks.has_send:
            found = pipeline.hooks.send(client, outcome)
            if found is not None and found.applied is not None:
                kind = found.applied.kind
                if kind is ActionKind.ANSWER:  # it failed
                    kind, packet, options = None, error_reply(query.wire, found.rcode, query.question_end), b""
        if pipeline.has_send and kind is None:
            try:
                kind = pipeline.send(client, outcome, packet)
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001 - as in `_judge`
                self._log_fault(outcome.question)
                kind, packet, options = None, error_reply(query.wire, SERVFAIL, query.question_end), b""
        if kind is not None:
            if kind is ActionKind.DROP:
                self.denied += 1
                sink.skip()
                return
            options = b""
            truncated = kind is ActionKind.TRUNCATE
            rcode = NOERROR if truncated else REFUSED
            packet = error_reply(query.wire, rcode, query.question_end, truncated=truncated)
        self._note_answer(client, outcome)
        if self._subnets is not None and kind is None:
            options += self._subnets.reply_option(client.address, query.options, outcome.scope)
        self._send(query, packet, peer, sink, options, view=client.view)

    def _note_answer(self, client: Query, outcome: Outcome) -> None:
        self.observed.note_answer(result_of(outcome), self._clock.monotonic() - client.arrived)

    def _answer_meta_query(
        self, query: ClientQuery, client: Query, peer: Peer, sink: Sink, pending: PendingQuery | None
    ) -> PendingQuery | None:
        """Answer queries for other classes, ANY, and types that are not data."""
        qtype = query.qtype
        if qtype in _MEANINGLESS_TYPES:
            self.malformed += 1
            self._end(pending)
            self._reply_empty(query, peer, sink, FORMERR)
            return None
        # QCLASS ANY is answered as IN (RFC 1035 section 3.2.5). No other class gets further than here (CVE-2026-5946).
        qclass = IN if query.qclass == CLASS_ANY else query.qclass
        question = Question(query.qname, qtype, qclass)
        if qclass == IN and (qtype == ANY or not LAST_DATA_TYPE < qtype < ANY):
            if not query.flags & RD:
                return self._without_recursion(query, client, peer, sink, pending)
            if qtype != ANY or not self._minimal_any:
                if self._answered_by_policy(query, client, peer, sink, pending):
                    return None
                return self._submit(query, client, peer, sink, pending)
        pipeline: Pipeline = self._views[client.view]
        outcome = self._judge(lambda _, asked: pipeline.answer(asked), client, question)
        if outcome is None and qclass == IN:
            outcome = self._judge(pipeline.own_question, client, question)
            if outcome is None and qtype == ANY:
                return self._submit(query, client, peer, sink, pending)
        self._end(pending)
        if outcome is None:
            outcome = Outcome(question, REFUSED, [], [], Verdict.INDETERMINATE, 0)
        if outcome.ttl > 0 and qclass == IN:
            packet = compose(query, outcome, minimal=self._minimal, minimal_any=self._minimal_any)
            self._remember(query, client.view, packet, outcome.ttl, extended_errors(outcome.ede))
        self._answer(query, client, outcome, peer, sink)
        return None

    def _answered_by_policy(
        self, query: ClientQuery, client: Query, peer: Peer, sink: Sink, pending: PendingQuery | None
    ) -> bool:
        """Whether a policy that depends on the client has answered a query. With an alias, its target is to be
        resolved."""
        pipeline: Pipeline = self._views[client.view]
        if pipeline.has_own_question:
            outcome = self._judge(pipeline.own_question, client, Question(query.qname, query.qtype))
            if outcome is not None and outcome.applied is not None and outcome.applied.follow:
                client.alias = outcome
            elif outcome is not None:
                self._end(pending)
                self._answer(query, client, outcome, peer, sink)
                return True
        return False

    def _without_recursion(
        self, query: ClientQuery, client: Query, peer: Peer, sink: Sink, pending: PendingQuery | None
    ) -> PendingQuery | None:
        """RD is clear: answer from own zones, or from the cache if the settings permit it, else REFUSED (RFC 1035
        section 4.1.1). The policies are those of queries with RD."""
        pipeline: Pipeline = self._views[client.view]
        question = Question(query.qname, query.qtype)
        decided = None
        if pipeline.has_own_question and query.qtype != ANY:
            decided = self._judge(pipeline.own_question, client, question)
        own = None
        if decided is None and self.zone_server is not None:
            own = self.zone_server.answer(question)
        if own is not None:
            decided = self._judge(lambda _, asked: pipeline.answer(asked), client, question)
            if decided is not None and decided.applied is not None and decided.applied.module == OwnZones.name:
                decided = None  # `own` is the same answer, or a referral
            if decided is None and pipeline.hooks is not None and pipeline.hooks.has_question:
                pending = pending or self._admit(query, client, peer, sink)
                if pending is not None:
                    self._ask_hooks(pending, "question", question, own, self._own_asked)
                return pending if pending is not None and pending.account is not None else None
            return self._give_own(query, client, decided or own, peer, sink, pending)
        self._end(pending)
        if decided is not None:
            self._answer(query, client, decided, peer, sink)
        else:
            self._without_own_answer(query, client, peer, sink)
        return None

    def _own_asked(self, pending: PendingQuery, outcome: Outcome | None, found: Outcome | None) -> None:
        assert outcome is not None
        if found is not None:
            self._reply(pending, found)
        else:
            self._give_own(pending.query, pending.client, outcome, pending.peer, pending.sink, pending)

    def _give_own(
        self, query: ClientQuery, client: Query, outcome: Outcome, peer: Peer, sink: Sink,
        pending: PendingQuery | None,
    ) -> PendingQuery | None:
        """Give an answer from an own zone, or what a policy has put in its place, unless the point `response` changes
        it."""
        pipeline: Pipeline = self._views[client.view]
        if pipeline.has_response:
            given = outcome
            outcome = self._judge(lambda asker, _: pipeline.response(asker, given), client, given.question) or given
        if pipeline.hooks is not None and pipeline.hooks.has_response:
            pending = pending or self._admit(query, client, peer, sink)
            if pending is not None:
                self._ask_hooks(pending, "response", outcome.question, outcome, self._response_asked)
            return pending if pending is not None and pending.account is not None else None
        self._end(pending)
        self._answer(query, client, outcome, peer, sink)
        return None

    def _without_own_answer(self, query: ClientQuery, client: Query, peer: Peer, sink: Sink) -> None:
        """As `_without_recursion`, for a name in no own zone."""
        if self._cache_only:
            if self._views[client.view].caches and self._from_cache(query, client, peer, sink):
                return
            hooks = self._views[client.view].hooks
            # An answer that hooks have not seen is not given.
            outcome = None if hooks is not None and (hooks.has_question or hooks.has_response) else self._mesh.peek(
                Question(query.qname, query.qtype), query=client, cd=bool(query.flags & CD)
            )
            if outcome is not None:
                self._answer(query, client, outcome, peer, sink)
                return
        self.refused += 1
        self._reply_empty(query, peer, sink, REFUSED, options=extended_errors([(EDE_NOT_AUTHORITATIVE, "")]))

    def _from_cache(self, query: ClientQuery, client: Query, peer: Peer, sink: Sink) -> bool:
        """Answer from the cache what the fast path did not take: because of options, the RD bit or a signature."""
        now, limit = self._clock.time(), self._client_limit(query, sink)
        packet = self._fast.cached(query, now, limit, b"", client.view)
        if packet is not None and query.options:
            # Made only now, because made cookies are counted; without a cached answer, `_send` makes them.
            options = self._reply_options(query, peer, sink)
            if self._subnets is not None:
                options += self._subnets.reply_option(client.address, query.options, None)
            if sink.padding_block and query.padded:
                options += padding_option(len(packet) + len(options), sink.padding_block, limit)
            if options:
                packet = self._fast.cached(query, now, limit, options, client.view)
        if packet is None:
            return False
        self.observed.note_answer("hit", self._clock.monotonic() - client.arrived)
        self.emit(query.wire, packet, peer, sink, client.view)
        return True

    def _overflow(self, query: ClientQuery, client: Query, peer: Peer, sink: Sink) -> None:
        self.overflowed += 1
        if self._drop_overflow and not sink.stream:
            sink.skip()
            return
        self._reply_empty(query, peer, sink, SERVFAIL, options=TOO_MANY, view=client.view)

    def _note_failure(self, query: ClientQuery, outcome: Outcome) -> None:
        self.failed += 1
        failure = outcome.failure
        assert failure is not None
        self._failures.warn(
            "SERVFAIL for %s %s: %s (%s)", to_text(query.qname), type_to_text(query.qtype), failure.text,
            failure.kind.name,
        )


def _without_unused_options(query: ClientQuery) -> ClientQuery:
    """Return `query` with only those options that are answered, so that a pending query does not hold 64 KiB."""
    found: dict[int, bytes] = {}
    for code, value in options_from_wire(query.options):
        if (code == OPTION_COOKIE or code in OPTIONS_WITHOUT_VALUE
                or (code == OPTION_ECS and len(value) <= SUBNET_OPTION_MOST)):
            found.setdefault(code, b"" if code in OPTIONS_WITHOUT_VALUE else value)
    options = options_to_wire(found.items())
    head = query.wire[: query.question_end + OPT_HEAD]
    shortened = read_query(head + len(options).to_bytes(2, "big") + options)
    assert isinstance(shortened, ClientQuery)
    return shortened

