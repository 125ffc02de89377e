"""Queries to authoritative servers over TLS where the servers offer it: unilateral probing (RFC 9539).

`iteration.opportunistic-encryption` turns it on. It protects against those who only listen. Servers are not
authenticated: the certificate is not checked, no name is sent (RFC 9539 section 4.6.3), and an attacker on the path can
force plain text.

A query is never delayed: it is sent over TLS only when a connection is established and has a free slot, else in plain
text at once. When the plain reply has come and a probe is due (`encryption_probing`), the same query is sent over a new
connection in the background; its reply shows that this is the same server, and is used for nothing else. So only
servers that answer are probed, each costs one more query, and the connection serves the next queries. RFC 9539 section
4.6 would rather wait for a connection to a server that is known to have TLS. Of servers that are not known to have
TLS, few are probed at a time (`OPPORTUNISTIC_PROBES`), so that silent ones leave room for connections to the others.

A query fails over TLS when the connection ends, when no reply arrives, or when the reply is neither NOERROR nor
NXDOMAIN. Then it is sent in plain text, at the cost of a packet of its budget. So a query fails only where it would
without TLS. That TLS is of no use at this server is concluded only when the reply in plain text is better: anyone can
delegate zones to a server that refuses them, and would turn off encryption for all zones there.

States of a query: over TLS (`_Query.handle` is of `tls`), in plain text (of `plain`), finished. Probes belong to
`Opportunistic`; they end with their timeout at the latest.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from resolver import limits
from resolver.effects import Ask, Failure, FailureKind, Reply, Server
from resolver.net.encryption_probing import Outcome, ProbeTable, Status
from resolver.net.tls_client import describe_tls_failure
from resolver.net.tls_upstream import TlsConnection, TlsUpstream
from resolver.net.upstream_connection import StreamQuery
from resolver.upstream_address import TLS, Encryption
from resolver.wire import consts as c

if TYPE_CHECKING:
    from typing import TypeAlias

    OnReply: TypeAlias = Callable[[Reply | Failure], object]

__all__ = ["Opportunistic", "OpportunisticUpstream"]

UNAUTHENTICATED = Encryption(TLS)
USABLE = (c.NOERROR, c.NXDOMAIN)
OUTCOMES = {
    FailureKind.TIMEOUT: Outcome.TIMED_OUT,
    FailureKind.LOCAL_RESOURCE: Outcome.NOT_TRIED,
    FailureKind.NO_ROUTE: Outcome.NOT_TRIED,
    FailureKind.NO_FAMILY: Outcome.NOT_TRIED,
}


class Handle(Protocol):
    """A query that was started."""

    def cancel(self) -> None: ...


class OpportunisticConnection(TlsConnection):
    """A connection whose queries are sent in plain text when it ends, instead of over another one."""

    def connection_failed(self, text: str, kind: FailureKind = FailureKind.NETWORK) -> None:
        for entry in self.pending.values():
            entry.retried = True
        super().connection_failed(text, kind)

    def note_timeout(self, entry: StreamQuery) -> None:
        """No new query is to wait for this server."""
        self.closing = True


class OpportunisticUpstream(TlsUpstream):
    """Connections over TLS to authoritative servers, one to each. A server that has no TLS is nothing to log."""

    connection_type = OpportunisticConnection

    def has_free_slot(self, server: Server) -> bool:
        """Whether there is an established connection to `server` that takes another query."""
        queue = self._queues.get(server.key)
        return queue is not None and any(
            isinstance(one, TlsConnection) and one.facts is not None and not one.closing
            and len(one.pending) < one.capacity
            for one in queue.connections
        )

    def can_connect(self, server: Server) -> bool:
        """Whether a connection to `server` can be opened without the end of a busy one."""
        if server.key in self._queues:
            return False
        return len(self._open) < self._limit or any(not one.pending for one in self._open)

    def disconnect(self, server: Server) -> None:
        """Close the connection to `server`, if there is one. Its queries are sent in plain text."""
        queue = self._queues.get(server.key)
        for connection in () if queue is None else tuple(queue.connections):
            connection.close()

    def explain_refusal(self, error: Exception, server: Server) -> tuple[FailureKind, str]:
        reason = describe_tls_failure(error)
        if reason is not None or (isinstance(error, ConnectionError) and error.errno is None):
            return FailureKind.NETWORK, self.text(reason or "the server ended the connection", server)
        kind = self.routes.classify_connection_error(error, server.address)
        return kind, self.text(f"cannot connect: {error}", server)


class _Query:
    """One query over TLS, and then perhaps in plain text."""

    __slots__ = ("ask", "handle", "on_reply", "owner")

    def __init__(self, owner: "Opportunistic", ask: Ask, on_reply: "OnReply") -> None:
        self.owner = owner
        self.ask = ask
        self.on_reply: OnReply | None = on_reply
        self.handle: Handle | None = None

    def cancel(self) -> None:
        """Cancel the query without calling back."""
        self.on_reply = None
        handle, self.handle = self.handle, None
        if handle is not None:
            handle.cancel()

    def over_tls(self, result: Reply | Failure) -> None:
        """The end of the query over TLS."""
        if self.on_reply is None:
            return
        ask = self.ask
        used = self.owner.usable_reply(ask.server, result)
        if used is not None:
            self.on_reply(Reply(used.view, used.rtt, True, ask.server, b"", used.connection))
        elif ask.budget is not None and not ask.budget.take_packet():
            assert ask.budget.failure is not None
            self.on_reply(ask.budget.failure)
        else:
            self.handle = self.owner.plain(ask, self.in_plain_text if isinstance(result, Reply) else self.on_reply)

    def in_plain_text(self, result: Reply | Failure) -> None:
        """The end of the query in plain text, after an unusable reply over TLS."""
        if self.on_reply is None:
            return
        if isinstance(result, Reply) and result.view.rcode in USABLE:
            self.owner.note_unusable(self.ask.server)
        self.on_reply(result)


class Opportunistic:
    """Sends queries to authoritative servers over TLS or by `plain`, and probes. `port` is that of DNS over TLS."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tls: OpportunisticUpstream,
        plain: "Callable[[Ask, OnReply], Handle]",
        *,
        port: int = limits.OPPORTUNISTIC_PORT.default,
        table: ProbeTable | None = None,
    ) -> None:
        self.loop = loop
        self.tls = tls
        self.plain = plain
        self.table = ProbeTable() if table is None else table
        self._port = port
        self._servers: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self._probes: dict[str, Handle] = {}
        self._unknown_probes: set[str] = set()
        """The addresses in `_probes` that are not known to have TLS."""
        self.probes = 0
        self.queries = 0
        self.fallbacks = 0

    def start(self, ask: Ask, on_reply: "OnReply") -> Handle:
        """Send `ask`, over TLS when a connection to its server is established."""
        target = self._target(ask.server)
        known = self.table.status(ask.server.address, self.loop.time()) is Status.SUCCESS
        if known and self.tls.has_free_slot(target):
            self.queries += 1
            query = _Query(self, ask, on_reply)
            query.handle = self.tls.start(_copy(ask, target, ask.timeout), query.over_tls)
            return query
        if self.table.wants_probe(ask.server.address, self.loop.time()):
            return self.plain(ask, partial(self._plain_reply, ask, on_reply))
        return self.plain(ask, on_reply)

    def usable_reply(self, server: Server, result: Reply | Failure) -> Reply | None:
        """The reply over TLS when it can be used; else None, and the query must be sent in plain text."""
        if isinstance(result, Reply) and result.view.rcode in USABLE and not result.view.tc:
            self.table.note_reply(server.address, self.loop.time())
            return result
        self.fallbacks += 1
        return None

    def note_unusable(self, server: Server) -> None:
        """What answers over TLS at the address of `server` is not the server that answers in plain text."""
        self.table.note_unusable(server.address, self.loop.time())
        self.tls.disconnect(self._target(server))

    def close(self) -> None:
        """Close all connections. Queries in flight end without a callback."""
        for address, handle in self._probes.items():
            handle.cancel()
            self.table.end(address, Outcome.NOT_TRIED, self.loop.time())
        self._probes.clear()
        self._unknown_probes.clear()
        self.tls.close()

    def statistics(self) -> dict[str, int]:
        """Counters since the start, and the number of servers that have TLS."""
        return {
            "probes": self.probes,
            "probes_succeeded": self._servers[Outcome.SUCCEEDED],
            "probes_failed": self._servers[Outcome.FAILED],
            "probes_timed_out": self._servers[Outcome.TIMED_OUT],
            "queries": self.queries,
            "fallbacks": self.fallbacks,
            "connections": self.tls.connection_count,
            "servers": self.table.count(self.loop.time()),
        }

    # --- probes ------------------------------------------------------------------------------------------------------

    def _target(self, server: Server) -> Server:
        return Server(server.address, self._port, server.name, UNAUTHENTICATED)

    def _plain_reply(self, ask: Ask, on_reply: "OnReply", result: Reply | Failure) -> None:
        """A server has answered in plain text: call back, then probe it."""
        on_reply(result)
        if isinstance(result, Reply) and result.view.rcode in USABLE and not self.tls.closed:
            self._probe(ask, result)

    def _probe(self, ask: Ask, plain: Reply) -> None:
        address, now = ask.server.address, self.loop.time()
        target = self._target(ask.server)
        if not (self.table.wants_probe(address, now) and self.tls.can_connect(target)):
            return
        if self.table.status(address, now) is not Status.SUCCESS:
            if len(self._unknown_probes) >= limits.OPPORTUNISTIC_PROBES:
                return  # a later plain reply of this server may begin the probe
            self._unknown_probes.add(address)
        self.table.begin(address, now)
        self.probes += 1
        probe = _copy(ask, target, limits.OPPORTUNISTIC_TIMEOUT)
        probe.budget = None
        self._probes[address] = self.tls.start(probe, partial(self._probed, target, plain.view.rcode, plain.view.aa))

    def _probed(self, target: Server, rcode: int, aa: bool, result: Reply | Failure) -> None:
        address = target.address
        self._probes.pop(address, None)
        self._unknown_probes.discard(address)
        if isinstance(result, Reply):
            same = (result.view.rcode, result.view.aa) == (rcode, aa)
            outcome = Outcome.SUCCEEDED if same else Outcome.FAILED
        else:
            outcome = OUTCOMES.get(result.kind, Outcome.FAILED)
        self._servers[outcome] += 1
        self.table.end(address, outcome, self.loop.time())
        if outcome is not Outcome.SUCCEEDED:
            self.tls.disconnect(target)


def _copy(ask: Ask, server: Server, timeout: float) -> Ask:
    """`ask` to `server` over a connection."""
    return Ask(
        server, ask.qname, ask.qtype, tcp=True, edns_payload=ask.edns_payload, do=ask.do, rd=ask.rd, timeout=timeout,
        checking_disabled=ask.checking_disabled, subnet=ask.subnet, zone=ask.zone, budget=ask.budget,
    )
