"""Equal queries to one server share one packet, whatever they are asked for. Sans-IO, no clock of its own.

With many equal queries in flight, a forged reply needs to match only one of them (birthday attack, CVE-2002-2211;
RebirthDay, 2025). Many names lead to equal queries: aliases to one name, or names below one zone cut, whose queries are
minimised (RFC 9156). So the bound is here, where all of them pass.

A query is equal to another one in flight when server, question and all that decides about the reply are the same, in
any letter case, and the cache was not flushed between the starts of their jobs.

`Ask.timeout` is how long a query waits for its server. Equal queries have different ones: shorter when the client query
has little time left or other servers may reply sooner, longer after a packet without a reply. A packet lasts for the
timeout of the query that was sent. A query joins the oldest packet of which at most `SHARED_WAIT` times its own timeout
is left; without one it is sent.

All that wait for a packet get its result, with two exceptions:

* A failure of the budget of the query that was sent is for that query only.
* A timeout is for that query, and for those that have waited for their own timeout (most of it: `TIMEOUT_WAITED`). The
  server had less time for the others. They would count it as dead, or lose one of their tries.

The others are sent again, the one with the longest timeout first, or join a packet that lasts for their own timeout. So
for each query there is a packet that lasts for its timeout, whatever others do, and none is sent again twice because of
timeouts.

When a packet is sent, the others in flight have more than `SHARED_WAIT` times as long to last, so it ends before them.
A new query joins one of them otherwise. For one that is sent again: what was sent after the packet that has ended, has
ended before. What was sent earlier had more than `SHARED_WAIT` times the timeout of the query left when the query did
not join it, and has more than that timeout left now, because less than half of it has passed since. Either the query
joins it now, or `SHARED_WAIT` times the timeout is left. Therefore at most 1 + log2(longest / shortest timeout) equal
packets are in flight, and nearly always one. A packet that ends late, or early because a budget is spent, may add one.
Later tries have no new cookie and may have no EDNS, so there are up to three kinds of equal queries for a question.

Each packet counts once: in the quota of its server (`FetchQuota`), and in what is noted about the server, which is left
to one job that gets the result (`Ask.joined`).

States of a query (`Waiting`): it waits for one `_InFlight` (`query`), or it has ended (None): it has its result or was
cancelled. An `_InFlight` has at least one waiting query until it ends; the table has all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from resolver import limits
from resolver.effects import Ask, Failure, FailureKind, Reply
from resolver.wire import MessageView
from resolver.wire.name import lower

if TYPE_CHECKING:
    from resolver.jobs import Handle, Job

__all__ = ["Exchange", "QuerySharing", "ReplyCopy", "ServerQuota", "Waiting"]

Key: TypeAlias = "tuple[object, ...]"
TIMEOUT_WAITED = limits.TIMEOUT_WAITED / 100
SHARED_WAIT = limits.SHARED_WAIT
HEADER_OCTETS = 12  # RFC 1035 section 4.1.1
# Failures of the client query whose packet was sent. They say nothing about the server.
OWN_FAILURES = frozenset({
    FailureKind.BUDGET, FailureKind.DEADLINE, FailureKind.CANCELLED, FailureKind.INTERNAL, FailureKind.OVERLOAD,
})


class Exchange(Protocol):
    """Performs an `Ask`. `on_reply` is called exactly once unless cancelled, and never from inside `start`."""

    def start(self, ask: Ask, on_reply: Callable[[Reply | Failure], None], /) -> Handle: ...


class ServerQuota(Protocol):
    """Counts the queries that are outstanding at each server, for each zone."""

    def take_server(self, key: Key, zone: bytes, /) -> None: ...

    def give_server(self, key: Key, zone: bytes, /) -> None: ...


class ReplyCopy:
    """The reply that a job shares with others; `make` gives the job a copy with names spelled as in its `qname`.

    It is made when the job is resumed, so that a thousand copies do not stop the loop, nor are held at one time.
    """

    __slots__ = ("qname", "reply")

    def __init__(self, reply: Reply, qname: bytes) -> None:
        self.reply = reply
        self.qname = qname

    def make(self) -> Reply:
        """The copy. Each job writes to the RRsets of its reply."""
        reply, qname = self.reply, self.qname
        wire = reply.view.wire
        if reply.view.qname is not None and reply.view.qname != qname:
            wire = wire[:HEADER_OCTETS] + qname + wire[HEADER_OCTETS + len(qname) :]
        return Reply(MessageView.parse(wire), reply.rtt, reply.tcp, reply.server, reply.cookie, reply.connection)


Result: TypeAlias = Reply | ReplyCopy | Failure | Exception
"""What a job gets; an exception is a fault of this program that occurred when its query was sent again."""


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
    """A query that was sent at `sent` (monotonic seconds) for `first`, and those that wait for its reply."""

    __slots__ = ("first", "handle", "key", "sent", "sharing", "waiting")

    def __init__(self, sharing: QuerySharing, key: Key, first: Waiting, sent: float) -> None:
        self.sharing = sharing
        self.key = key
        self.first = first
        self.sent = sent
        self.handle: Handle | None = None
        # A dictionary as an ordered set, because a `set` is not safe when memory is short (see `JobTable`).
        self.waiting: dict[Waiting, None] = {first: None}

    def time_left(self, now: float) -> float:
        """The seconds until its end; when that is overdue, another timeout. It is where the exchange must connect
        first, or sends the query in plain text after a failure over TLS."""
        timeout = float(self.first.ask.timeout)
        left = self.sent + timeout - now
        return left if left > 0 else timeout

    def remove(self, one: Waiting) -> None:
        """`one` waits no more. The query continues for the others, and stays charged to the budget of `first`."""
        del self.waiting[one]
        if not self.waiting:
            handle, self.handle = self.handle, None
            self.sharing.forget(self)
            if handle is not None:
                handle.cancel()

    def on_reply(self, result: Reply | Failure) -> None:
        self.handle = None
        if self.waiting:  # else it was cancelled
            self.sharing.end(self, result)


class QuerySharing:
    """Starts the queries of jobs by means of `exchange`, and counts them in `quota`.

    `monotonic()` is the time in seconds. `on_results` is called with all that have got their result together. `sent` is
    the number of queries that were handed to the exchange.
    """

    __slots__ = ("_exchange", "_in_flight", "_monotonic", "_on_results", "_quota", "sent")

    def __init__(
        self,
        exchange: Exchange,
        quota: ServerQuota,
        monotonic: Callable[[], float],
        on_results: Callable[[list[tuple[Job, Result]]], None],
    ) -> None:
        self._exchange = exchange
        self._quota = quota
        self._monotonic = monotonic
        self._on_results = on_results
        self._in_flight: dict[Key, list[_InFlight]] = {}
        self.sent = 0

    def start(self, ask: Ask, job: Job, serial: object) -> Waiting:
        """Send `ask` or let it join an equal query; `job` is in `on_results` later, never from inside this call.

        `serial` is that of the cache when the job began. The reply to a query from before a flush may be older.

        Raises:
            ValueError: the qname is not a valid name.
        """
        now = self._monotonic()
        one = Waiting(ask, job, now)
        # Only whether there is a cookie: its value is the same for all queries to a server, except while it changes.
        flags = (ask.tcp | ask.do << 1 | ask.rd << 2 | ask.checking_disabled << 3 | ask.randomise_case << 4
                 | (ask.cookie is None) << 5)
        key = (ask.server.key, lower(ask.qname), ask.qtype, flags, ask.edns_payload, ask.subnet, serial)
        self._join_or_send(one, key, now, 0.0)
        return one

    def close(self) -> None:
        """Let go of the one who gets the results, when all queries were cancelled."""
        self._on_results = _no_results

    def forget(self, query: _InFlight) -> None:
        """Remove `query`, which has ended or has no waiting job left, from the table and the quota of its server."""
        ask: Ask = query.first.ask
        self._quota.give_server(ask.server.key, ask.zone)
        equal = self._in_flight.get(query.key)
        if equal is not None and query in equal:  # not when there was no memory for it
            equal.remove(query)
            if not equal:
                del self._in_flight[query.key]

    def _join_or_send(self, one: Waiting, key: Key, now: float, least: float) -> None:
        """Let `one` join an equal query that is in flight for `least` more seconds, or send it."""
        ask: Ask = one.ask
        equal = self._in_flight.get(key)
        query: _InFlight
        if equal is not None:
            longest = SHARED_WAIT * ask.timeout
            for query in equal:
                if least <= query.time_left(now) <= longest:
                    query.waiting[one] = None
                    one.query = query
                    return
        query = _InFlight(self, key, one, now)
        self._quota.take_server(ask.server.key, ask.zone)
        try:
            if equal is None:
                self._in_flight[key] = [query]
            else:
                equal.append(query)
            query.handle = self._exchange.start(ask, query.on_reply)
        except BaseException:
            self.forget(query)
            raise
        one.query = query
        self.sent += 1

    def end(self, query: _InFlight, result: Reply | Failure) -> None:
        """`query` has its result: pass it on, or send again what it does not concern."""
        self.forget(query)
        one: Waiting
        for one in query.waiting:  # first, so that nothing refers to `query` when there is no memory for the rest
            one.query = None
        now = self._monotonic()
        results: list[tuple[Job, Result]] = []
        again: list[Waiting] = []
        noting: Ask | None = None
        for one in query.waiting:
            ask: Ask = one.ask
            share: Result = result
            try:
                if one is not query.first:
                    if isinstance(result, Reply):
                        share = ReplyCopy(result, ask.qname)
                    elif result.kind in OWN_FAILURES or (
                        result.kind is FailureKind.TIMEOUT and now - one.since < TIMEOUT_WAITED * ask.timeout
                    ):
                        again.append(one)
                        continue
            except MemoryError as error:
                share = error
            results.append((one.job, share))
            ask.joined = True
            if noting is None or ask.timeout > noting.timeout:
                noting = ask  # a timeout after more time says more
        if noting is not None:
            noting.joined = False
        if again:
            again.sort(key=_timeout_of, reverse=True)
            for one in again:
                try:
                    self._join_or_send(one, query.key, now, TIMEOUT_WAITED * one.ask.timeout)
                except Exception as error:  # noqa: BLE001 - the others get their result; `on_results` reports it
                    results.append((one.job, error))
        self._on_results(results)


def _no_results(results: list[tuple[Job, Result]]) -> None:
    """The mesh is closed."""


def _timeout_of(one: Waiting) -> float:
    return float(one.ask.timeout)
