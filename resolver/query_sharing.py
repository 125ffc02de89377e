"""Equal queries to one server share one packet, whatever they are asked for. Sans-IO, no clock of its own.

With many equal queries in flight, a forged reply needs to match only one of them (birthday attack, CVE-2002-2211;
RebirthDay, 2025). Many names lead to equal queries: aliases to one name, or names below one zone cut, whose queries are
minimised (RFC 9156). So the bound is here, where all of them pass.

A query is equal to another one in flight when server, question and all that decides about the reply are the same, in
any letter case, and the cache was not flushed between the starts of their jobs. A packet counts as lost after some
`Ask.timeout` (`LOST_AFTER`). Until then it is joined; a later query is sent. A packet is in flight for its own timeout.
That follows from what is known about the server and not from who asks, so a few equal ones are in flight at most,
nearly always one. `Ask.patience` is how long a query waits for its result, joined or not; it may be shorter.

All that wait get the result, with two exceptions, whose queries are sent themselves. A failure of the budget of the
query that was sent concerns that query only. A timeout concerns only those whose own timeout the packet has lasted;
others would count a server as dead that had less time to reply. Each packet counts once: in the quota of its server
(`FetchQuota`), and in what is noted about the server, which is left to one job that gets the result (`Ask.joined`).

States of a query (`Waiting`): it waits for one `_InFlight` (`query`), or it has ended (None): it has its result or was
cancelled. An `_InFlight` has at least one waiting query until it ends; the table has all of them. `_timers` has each
query whose patience ends before its packet does, and queries that have ended, which are skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Protocol, TypeAlias

from resolver import limits
from resolver.effects import Ask, Failure, FailureKind, Reply
from resolver.wire import MessageView
from resolver.wire import consts as c
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.jobs import Handle, Job

__all__ = ["Exchange", "QuerySharing", "ReplyCopy", "ServerQuota", "Waiting"]

LOST_AFTER = limits.LOST_AFTER / 100
HEADER_OCTETS = 12  # RFC 1035 section 4.1.1
# Failures of the client query whose packet was sent. They say nothing about the server.
OWN_FAILURES = frozenset({
    FailureKind.BUDGET, FailureKind.DEADLINE, FailureKind.CANCELLED, FailureKind.INTERNAL, FailureKind.OVERLOAD,
})


class Exchange(Protocol):
    """Performs an `Ask`. `on_reply` is called exactly once unless cancelled, and never from inside `start`."""

    def start(self, ask: Ask, on_reply: Callable[[Reply | Failure], None], /) -> Handle: ...


class ServerQuota(Protocol):
    """Counts the queries that are outstanding at each server."""

    def take_server(self, key: tuple[object, ...], /) -> None: ...

    def give_server(self, key: tuple[object, ...], /) -> None: ...


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
    """A query of `job` that was started; it gives up at `ends` (monotonic seconds)."""

    __slots__ = ("ask", "ends", "job", "query", "serial")

    def __init__(self, ask: Ask, job: Job, serial: object) -> None:
        self.ask = ask
        self.job = job
        self.serial = serial
        self.query: _InFlight | None = None
        self.ends = 0.0

    def cancel(self) -> None:
        """End the query without a result. A second call does nothing."""
        query, self.query = self.query, None
        if query is not None:
            query.remove(self)


class _InFlight:
    """A query that was sent at `sent` (monotonic seconds) for `first`, and those that wait for its reply."""

    __slots__ = ("first", "handle", "key", "sent", "sharing", "waiting")

    def __init__(self, sharing: QuerySharing, key: tuple[object, ...], first: Waiting, sent: float) -> None:
        self.sharing = sharing
        self.key = key
        self.first = first
        self.sent = sent
        self.handle: Handle | None = None
        # A dictionary as an ordered set, because a `set` is not safe when memory is short (see `JobTable`).
        self.waiting: dict[Waiting, None] = {first: None}

    def remove(self, one: Waiting) -> None:
        """`one` waits no more. The query goes on for the others, and stays charged to the budget of `first`."""
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

    __slots__ = ("_exchange", "_in_flight", "_monotonic", "_on_results", "_order", "_quota", "_timers", "sent")

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
        self._in_flight: dict[tuple[object, ...], list[_InFlight]] = {}
        self._timers: list[tuple[float, int, Waiting]] = []
        self._order = count()
        self.sent = 0

    def start(self, ask: Ask, job: Job, serial: object) -> Waiting:
        """Send `ask` or let it join an equal query; `job` is in `on_results` later, never from inside this call.

        `serial` is that of the cache when the job began. The reply to a query from before a flush may be older.

        Raises:
            ValueError: the qname is not a valid name.
        """
        one = Waiting(ask, job, serial)
        self._join_or_send(one, self._monotonic())
        return one

    def forget(self, query: _InFlight) -> None:
        """Remove `query`, which has ended or has no waiting job left, from the table and the quota of its server."""
        self._quota.give_server(query.first.ask.server.key)
        equal = self._in_flight.get(query.key, [])
        if query in equal:  # not when there was no memory for it
            equal.remove(query)
            if not equal:
                del self._in_flight[query.key]

    def _join_or_send(self, one: Waiting, now: float) -> None:
        """Let `one` join an equal query in flight, or send it."""
        ask: Ask = one.ask
        server = ask.server.key
        # Only whether there is a cookie: its value is the same for all queries to a server, except while it changes.
        key = (server, names.lower(ask.qname), ask.qtype, ask.tcp, ask.edns_payload, ask.do, ask.rd,
               ask.checking_disabled, ask.randomise_case, ask.cookie is None, ask.subnet, one.serial)
        equal = self._in_flight.get(key)
        query: _InFlight
        joined: _InFlight | None = None
        if equal is not None:
            for query in equal:
                if not _is_lost(now - query.sent, ask):
                    joined = query
        one.ends = now + ask.patience
        if one.ends < (now if joined is None else joined.sent) + ask.timeout:
            heappush(self._timers, (one.ends, next(self._order), one))
        if joined is not None:
            joined.waiting[one] = None
            one.query = joined
            return
        query = _InFlight(self, key, one, now)
        self._quota.take_server(server)
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
        """`query` has its result: pass it on, and send the queries that it does not concern."""
        self.forget(query)
        now = self._monotonic()
        waiting, query.waiting = query.waiting, {}
        results: list[tuple[Job, Result]] = []
        noting: Waiting | None = None
        one: Waiting
        for one in waiting:
            one.query = None
            try:
                if one is not query.first and _must_be_sent_again(result, one.ask, now - query.sent):
                    self._join_or_send(one, now)
                    continue
                share: Result = result
                if isinstance(result, Reply) and one is not query.first:
                    share = ReplyCopy(result, one.ask.qname)
                results.append((one.job, share))
                one.ask.joined = True
                if noting is None or one.ask.patience > noting.ask.patience:
                    noting = one  # whose timeout says most about the server
            except Exception as error:  # noqa: BLE001 - the others must get their result; `on_results` reports it
                results.append((one.job, error))
        if noting is not None:
            noting.ask.joined = False
        self._on_results(results)

    def expire(self, now: float) -> None:
        """End the queries whose patience has ended."""
        timers = self._timers
        results: list[tuple[Job, Result]] = []
        one: Waiting
        while timers and timers[0][0] <= now:
            ends, _, one = heappop(timers)
            query = one.query
            if query is not None and one.ends == ends:
                one.ask.joined = one is not query.first
                one.query = None
                query.remove(one)
                results.append((one.job, Failure(FailureKind.TIMEOUT, c.EDE_NO_REACHABLE_AUTHORITY,
                                                 f"no reply from {one.ask.server.address}")))
        if results:
            self._on_results(results)

    def next_timer(self) -> float | None:
        """The monotonic second of the next call of `expire`, None without one."""
        timers = self._timers
        while timers and timers[0][2].query is None:
            heappop(timers)
        return timers[0][0] if timers else None


def _must_be_sent_again(result: Reply | Failure, ask: Ask, age: float) -> bool:
    """Whether `result` of another query, which has lasted `age` seconds, does not concern `ask`."""
    if not isinstance(result, Failure):
        return False
    return result.kind in OWN_FAILURES or (result.kind is FailureKind.TIMEOUT and not _is_lost(age, ask))


def _is_lost(age: float, ask: Ask) -> bool:
    """Whether a packet sent `age` seconds ago counts as lost for `ask`."""
    return age >= LOST_AFTER * float(ask.timeout)
