"""Equal queries to one server share one packet, whatever they are asked for. Sans-IO, no clock of its own.

With many equal queries in flight, a forged reply needs to match only one of them (birthday attack, CVE-2002-2211;
RebirthDay, 2025). Many names lead to equal queries: aliases to one name, or names below one zone cut, whose queries are
minimised (RFC 9156). So the bound is here, where all of them pass.

A query is equal to another one in flight when server, question and all that decides about the reply are the same, in
any letter case. It joins that one when this ends within `SHARED_WAIT` times its own timeout, so it is not delayed by a
server that counts as dead. Else it is sent, and others join it. So each further packet halves the time that is left,
and some log2(longest timeout / shortest timeout) equal queries are in flight at most; nearly always it is one.

The result is for all that wait, with two exceptions, which are sent once more. A failure of the query's own budget is
for the query that was sent. A timeout is for those that have waited for a part of their own timeout; others would count
a server as dead that had no time to reply.

States of a query (`Waiting`): it waits for one `_InFlight` (`query`), or it has ended (None): it has its result or was
cancelled. An `_InFlight` has at least one waiting query until it ends. The table has those that may be joined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from resolver import limits
from resolver.effects import Ask, Failure, FailureKind, Reply
from resolver.wire import MessageView
from resolver.wire import consts as c
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.jobs import Handle, Job

__all__ = ["Exchange", "QuerySharing", "Waiting"]

SHARED_WAIT = limits.SHARED_WAIT
HEADER = 12
# Failures of the client query whose packet was sent. They say nothing about the server.
OWN_FAILURES = frozenset({
    FailureKind.BUDGET, FailureKind.DEADLINE, FailureKind.CANCELLED, FailureKind.INTERNAL, FailureKind.OVERLOAD,
})
OUT_OF_MEMORY = Failure(FailureKind.LOCAL_RESOURCE, c.EDE_NETWORK_ERROR, "out of memory")


class Exchange(Protocol):
    """Performs an `Ask`. `on_reply` is called exactly once unless cancelled, and never from inside `start`."""

    def start(self, ask: Ask, on_reply: Callable[[Reply | Failure], None], /) -> Handle: ...


class Waiting:
    """A query of `job` that was started; `since` is the monotonic second of the start."""

    __slots__ = ("ask", "job", "query", "since")

    def __init__(self, ask: Ask, job: Job, since: float) -> None:
        self.ask = ask
        self.job = job
        self.since = since
        self.query: _InFlight | None = None

    def cancel(self) -> None:
        """End the query without a result. A second call does nothing."""
        query, self.query = self.query, None
        if query is not None:
            query.remove(self)


class _InFlight:
    """A query that was sent for `first`, and those that wait for its reply; it ends at `ends` (monotonic seconds)."""

    __slots__ = ("ends", "first", "handle", "key", "sharing", "waiting")

    def __init__(self, sharing: QuerySharing, key: tuple[object, ...], first: Waiting, ends: float) -> None:
        self.sharing = sharing
        self.key = key
        self.first = first
        self.ends = ends
        self.handle: Handle | None = None
        # A dictionary as an ordered set, because a `set` is not safe when memory is short (see `JobTable`).
        self.waiting: dict[Waiting, None] = {first: None}

    def remove(self, one: Waiting) -> None:
        """`one` was cancelled. The query goes on for the others, at the expense of the first."""
        del self.waiting[one]
        if not self.waiting:
            handle, self.handle = self.handle, None
            self.sharing.forget(self)
            if handle is not None:
                handle.cancel()

    def on_reply(self, result: Reply | Failure) -> None:
        self.handle = None
        self.sharing.end(self, result)


class QuerySharing:
    """Starts the queries of jobs by means of `exchange`.

    `monotonic()` is the time in seconds. `on_results` is called with all that have got their result together. `sent` is
    the number of queries that were handed to the exchange.
    """

    __slots__ = ("_exchange", "_in_flight", "_monotonic", "_on_results", "sent")

    def __init__(
        self,
        exchange: Exchange,
        monotonic: Callable[[], float],
        on_results: Callable[[list[tuple[Job, Reply | Failure]]], None],
    ) -> None:
        self._exchange = exchange
        self._monotonic = monotonic
        self._on_results = on_results
        self._in_flight: dict[tuple[object, ...], _InFlight] = {}
        self.sent = 0

    def start(self, ask: Ask, job: Job) -> Waiting:
        """Send `ask` or let it join an equal query; `job` is in `on_results` later, never from inside this call.

        Raises:
            ValueError: the qname is not a valid name.
        """
        now = self._monotonic()
        one = Waiting(ask, job, now)
        self._begin(one, now)
        return one

    def clear(self) -> None:
        """No later query joins one that is in flight now: the cache was flushed, and replies may be older."""
        self._in_flight.clear()

    def forget(self, query: _InFlight) -> None:
        """`query` has ended or has nobody who waits for it."""
        if self._in_flight.get(query.key) is query:
            del self._in_flight[query.key]

    def _begin(self, one: Waiting, now: float) -> None:
        ask: Ask = one.ask
        # Not the cookie, which is the same for all queries to a server but for the moment in which it changes.
        key = (ask.server.key, names.lower(ask.qname), ask.qtype, ask.tcp, ask.edns_payload, ask.do, ask.rd,
               ask.checking_disabled, ask.randomise_case, ask.cookie is None, ask.subnet)
        query: _InFlight | None = self._in_flight.get(key)
        if query is not None and query.ends - now <= SHARED_WAIT * ask.timeout:
            query.waiting[one] = None
            one.query = query
            return
        query = self._in_flight[key] = _InFlight(self, key, one, now + ask.timeout)
        try:
            query.handle = self._exchange.start(ask, query.on_reply)
        except BaseException:
            self.forget(query)
            raise
        one.query = query
        self.sent += 1

    def end(self, query: _InFlight, result: Reply | Failure) -> None:
        """`query` has its result: pass it on, or begin again for those whom it does not concern."""
        self.forget(query)
        now = self._monotonic()
        waiting, query.waiting = query.waiting, {}
        results: list[tuple[Job, Reply | Failure]] = []
        for one in waiting:
            one.query = None
            try:
                found = result if one is query.first else _shared(result, one, now)
                if found is None:
                    self._begin(one, now)
                    continue
            except MemoryError:
                found = OUT_OF_MEMORY
            results.append((one.job, found))
        self._on_results(results)


def _shared(result: Reply | Failure, one: Waiting, now: float) -> Reply | Failure | None:
    """What `result` of another query is for `one`; None when it must be sent itself."""
    if isinstance(result, Failure):
        if result.kind in OWN_FAILURES:
            return None
        if result.kind is FailureKind.TIMEOUT and (now - one.since) * SHARED_WAIT < one.ask.timeout:
            return None
        return result
    # Each job writes to the RRsets of its reply, and names are spelled as in its own question.
    wire, qname = result.view.wire, one.ask.qname
    if result.view.qname is not None and result.view.qname != qname:
        wire = wire[:HEADER] + qname + wire[HEADER + len(qname) :]
    return Reply(MessageView.parse(wire), result.rtt, result.tcp, result.server, result.cookie, result.connection)
