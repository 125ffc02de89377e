"""One connection to a name server over TCP, its queries, and those that wait for a connection to the same server.

Replies are matched as strictly as over UDP (`match.is_reply`), and may come in any order. A connection belongs to one
server and is closed after a short idle timeout. When a server closes a connection that has carried replies, this is a
race with its idle timeout and no failure: the queries in flight are sent once more on a new connection.

A query (`StreamQuery`) is in exactly one place until it has ended: in `pending` of its connection, or in `waiting` of
its server's `ServerQueue`. States of a connection: connecting (no `transport`: its queries are sent when it is
established), established, and closing: it takes no further query, and is forgotten by its owner when it is closed.
The owner (`Owner`) decides which connections there may be (`resolver.net.stream_upstream`).
"""

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Protocol, cast

from corenet.core.framer import FrameError, LengthFramer
from resolver import limits
from resolver.effects import Ask, EncryptedConnection, Failure, FailureKind, Reply, Server
from resolver.net.clock_random import Entropy
from resolver.net.local_errors import EDES
from resolver.net.match import cookie_of, is_reply, make_packet, truncated_stub
from resolver.net.quick_ack import acknowledge_now
from resolver.net.subnet_option import with_subnet
from resolver.net.upstream_slots import NEVER_REPLIED, RepliedNetworks
from resolver.net.upstream_waiting import WaitingQueries
from resolver.wire import consts as c
from resolver.wire.errors import WireError
from resolver.wire.message import MessageView

if TYPE_CHECKING:
    from typing import TypeAlias

    from resolver.observe.observer import Observer

    OnReply: TypeAlias = Callable[[Reply | Failure], object]

__all__ = ["Owner", "ServerQueue", "StreamQuery", "UpstreamConnection", "query_flags"]

UNWANTED = limits.UNWANTED_ON_STREAM


class Owner(Protocol):
    """What queries and connections need of the upstream that they belong to."""

    loop: asyncio.AbstractEventLoop
    entropy: Entropy
    replied_networks: RepliedNetworks
    after_batch: Callable[[], object] | None
    pipeline: int
    idle_seconds: float
    closed: bool
    observer: "Observer | None"
    transport_name: str
    replies: int
    unwanted_replies: int
    malformed: int

    def note_sent(self, entry: "StreamQuery") -> None: ...

    def assign(self, entry: "StreamQuery") -> None: ...

    def feed_waiting(self, queue: "ServerQueue") -> None: ...

    def remove_if_unused(self, queue: "ServerQueue") -> None: ...

    def schedule_assign(self) -> None: ...

    def note_activity(self, connection: "UpstreamConnection") -> None: ...

    def end_exemption(self, connection: "UpstreamConnection") -> None: ...

    def drop(self, connection: "UpstreamConnection") -> None: ...

    def fail_soon(self, entry: "StreamQuery", failure: Failure) -> None: ...

    def explain_loss(self, error: Exception | None, server: Server) -> tuple[FailureKind, str]: ...

    def text(self, what: str, server: Server) -> str: ...


def query_flags(ask: Ask) -> int:
    """The header flags of the query of `ask`."""
    return (c.RD if ask.rd else 0) | (c.CD if ask.checking_disabled else 0)


class StreamQuery:
    """One query in flight or waiting; returned by `StreamUpstream.start`."""

    __slots__ = (
        "ask",
        "connection",
        "cookie",
        "identity",
        "on_reply",
        "owner",
        "packet",
        "retried",
        "server",
        "started",
        "timer",
        "waited_for_slot",
    )

    def __init__(self, owner: Owner, ask: Ask, on_reply: "OnReply", server: "ServerQueue") -> None:
        self.owner = owner
        self.ask = ask
        self.on_reply: OnReply | None = on_reply
        self.server = server
        self.connection: UpstreamConnection | None = None
        self.identity = 0
        self.packet = b""
        self.cookie: bytes | None = None
        """Content of the COOKIE option in the query."""
        self.waited_for_slot = False
        """Whether it waited for a slot. Then the server had less than the timeout to reply."""
        self.retried = False
        self.started = time.monotonic()
        self.timer: asyncio.TimerHandle | asyncio.Handle | None = None

    def cancel(self) -> None:
        """Cancel the query without calling back. A second call does nothing."""
        self.on_reply = None
        self.release()

    def release(self) -> None:
        """Cancel the timer, and leave the connection or the wait queue."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.forget(self)
        elif self.server.waiting.discard(self):
            self.owner.remove_if_unused(self.server)

    def finish(self, result: Reply | Failure) -> None:
        """Call back, once."""
        self.release()
        on_reply, self.on_reply = self.on_reply, None
        if on_reply is None:
            return
        try:
            on_reply(result)
        except Exception as error:  # noqa: BLE001 - an error in one query must not lose the others of the connection
            self.owner.loop.call_exception_handler({"message": "handling an upstream reply failed", "exception": error})

    def charge_packet(self) -> Failure | None:
        """Take a packet for a retransmission from the budget; returns the failure when none is left."""
        budget = self.ask.budget
        return None if budget is None or budget.take_packet() else budget.failure

    def fail(self, kind: FailureKind, text: str) -> None:
        """Call back with a failure, once."""
        self.finish(Failure(kind, EDES[kind], text))


class ServerQueue:
    """The connections to one server, and the queries that wait for one of them."""

    __slots__ = ("connections", "had_eviction", "network", "server", "waiting", "zone")

    def __init__(self, server: Server, zone: bytes) -> None:
        self.server = server
        self.network: Hashable = NEVER_REPLIED
        self.zone = zone
        """The zone and the network that the next connection counts for."""
        self.had_eviction = False
        """Whether a connection to this server was evicted and no reply came since."""
        self.connections: list[UpstreamConnection] = []
        self.waiting: WaitingQueries[StreamQuery] = WaitingQueries()


class UpstreamConnection(asyncio.Protocol):
    """One connection: pending queries by id, replies in any order."""

    overhead = limits.CONNECTION_OVERHEAD
    """Memory counted for it, besides octets received and not sent."""

    def __init__(self, owner: Owner, server: ServerQueue) -> None:
        self.owner = owner
        self.server = server
        self.capacity = owner.pipeline
        """Queries that may be outstanding at the same time."""
        self.spread = 1
        """Pending queries from which another connection is opened."""
        self.idle_seconds = owner.idle_seconds
        self.pending: dict[int, StreamQuery] = {}
        self.transport: asyncio.Transport | None = None
        self.framer = LengthFramer(2, max_frame=c.MESSAGE_MAX)
        self.closing = False
        self.unwanted = 0
        """Messages since the last reply that match no query."""
        self.reply_count = 0
        self.idle_timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def octets(self) -> int:
        """Estimated memory of the connection, without its queries."""
        unsent = 0 if self.transport is None else self.transport.get_write_buffer_size()
        return self.overhead + 2 * self.framer.pending + unsent

    # --- queries -----------------------------------------------------------------------------------------------

    def take(self, entry: StreamQuery) -> None:
        """Send `entry` on this connection, now or when the connection is established."""
        identity = self.owner.entropy.bits(16)
        while identity in self.pending:
            identity = self.owner.entropy.bits(16)
        entry.identity = identity
        entry.packet = self.encode(entry)
        if not self.pending:
            self.owner.note_activity(self)  # no reply was due before
        self.pending[identity] = entry
        entry.connection = self
        if self.idle_timer is not None:
            self.idle_timer.cancel()
            self.idle_timer = None
        if self.transport is not None:
            self.send(entry)

    def encode(self, entry: StreamQuery) -> bytes:
        """Build the packet of `entry`."""
        ask = entry.ask
        cookie = ask.cookie
        if cookie is not None:
            cookie = entry.cookie = cookie or self.owner.entropy.bits(64).to_bytes(8, "big")
        packet = make_packet(
            ask.qname, ask.qtype, entry.identity, flags=query_flags(ask), payload=ask.edns_payload, do=ask.do,
            cookie=cookie,
        )  # fmt: skip
        return packet if ask.subnet is None else with_subnet(packet, ask.subnet, cookie)

    def send(self, entry: StreamQuery) -> None:
        """Send `entry`, which is one of `pending`."""
        assert self.transport is not None
        self.owner.note_sent(entry)
        self.transport.write(len(entry.packet).to_bytes(2, "big") + entry.packet)

    def forget(self, entry: StreamQuery) -> None:
        del self.pending[entry.identity]
        if self.pending:
            return
        if self.closing or self.transport is None or not self.idle_seconds:
            self.close()
        elif self.idle_timer is None:
            self.idle_timer = self.owner.loop.call_later(self.idle_seconds, self.close)
            self.owner.schedule_assign()

    def close(self) -> None:
        """Close the connection. `connection_lost` or `connection_failed` handles its pending queries."""
        self.closing = True
        if self.idle_timer is not None:
            self.idle_timer.cancel()
            self.idle_timer = None
        if self.transport is not None:
            self.end_transport(self.transport)
        elif self.task is not None:
            self.task.cancel()
        self.owner.drop(self)

    def end_transport(self, transport: asyncio.Transport) -> None:
        """Close the transport."""
        transport.abort()

    def connection_failed(self, text: str, kind: FailureKind = FailureKind.NETWORK) -> None:
        """The connection is lost: send its queries once more on another one, or fail them.

        A callback may cancel queries that come later, or close the upstream. These are in no table here, so it cannot
        end them itself.
        """
        self.closing = True
        self.owner.drop(self)
        entries = list(self.pending.values())
        for entry in entries:
            entry.connection = None
        self.pending.clear()
        for entry in entries:
            if entry.on_reply is None:
                continue
            if self.owner.closed:
                entry.cancel()
                continue
            if not self.reply_count or entry.retried:
                entry.fail(kind, text)
                continue
            spent = entry.charge_packet()
            if spent is not None:
                entry.finish(spent)
                continue
            entry.retried = True
            self.owner.assign(entry)

    def evict(self) -> None:
        """Close the connection to free its slot. Its queries wait again, each at the cost of a packet of its budget,
        because they may be evicted many times."""
        queue = self.server
        queue.had_eviction = True
        for entry in self.pending.values():
            entry.connection = None
            spent = entry.charge_packet()
            if spent is not None:
                self.owner.fail_soon(entry, spent)
                continue
            entry.waited_for_slot = True
            queue.waiting.add(entry)
        self.pending.clear()
        self.close()

    # --- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.closing:
            self.transport.abort()
            return
        self.owner.note_activity(self)
        for entry in self.pending.values():
            self.send(entry)
        # What the loop has not written yet would switch it off again.
        self.owner.loop.call_soon(acknowledge_now, transport)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self.framer.feed(data)
        except FrameError as error:
            self.connection_failed(self.owner.text(f"invalid framing: {error}", self.server.server))
            self.close()
            return
        for frame in frames:
            self.receive(bytes(frame))
            if self.unwanted >= UNWANTED:
                # Late replies are fewer. Otherwise the server could keep us reading until the timeout of the query.
                text = self.owner.text("too many messages that match no query", self.server.server)
                self.connection_failed(text, FailureKind.MALFORMED)
                self.close()
                break
        if self.pending and self.transport is not None:
            acknowledge_now(self.transport)
        if self.owner.after_batch is not None:
            self.owner.after_batch()

    def receive(self, message: bytes) -> None:
        """Process one message: it ends the query that it is the reply to, or is ignored."""
        entry = self.pending.get(int.from_bytes(message[:2], "big")) if len(message) >= 12 else None
        if entry is None or not is_reply(entry.packet, message, allow_no_question=True):
            self.owner.unwanted_replies += 1
            self.unwanted += 1
            return
        self.accept(entry, message)

    def accept(self, entry: StreamQuery, message: bytes) -> None:
        """`message` matches `entry`: parse it and call back."""
        owner = self.owner
        self.reply_count += 1
        self.server.had_eviction = False
        owner.end_exemption(self)
        owner.replied_networks.add_reply(self.server.server.address)
        owner.note_activity(self)
        if owner.observer is not None:
            owner.observer.upstream_response(
                entry.ask, entry.packet, message, owner.transport_name.lower(), time.monotonic() - entry.started
            )
        try:
            view = MessageView.parse(message)
        except WireError as error:
            stub = truncated_stub(message)
            if stub is None:
                owner.malformed += 1
                entry.fail(FailureKind.MALFORMED, owner.text(f"malformed reply: {error.reason}", self.server.server))
                return
            view = MessageView.parse(stub)
        cookie = b"" if entry.cookie is None else cookie_of(entry.cookie, view.edns)
        if cookie is None:
            owner.unwanted_replies += 1
            self.unwanted += 1
            return
        self.unwanted = 0
        owner.replies += 1
        self.note_reply(view)
        entry.finish(
            Reply(view, time.monotonic() - entry.started, True, entry.ask.server, cookie, self.description())
        )
        owner.feed_waiting(self.server)

    def note_timeout(self, entry: StreamQuery) -> None:
        """`entry` timed out: other queries may still get replies, but no new one is sent on this connection."""
        self.closing = True

    def note_reply(self, view: MessageView) -> None:
        """A reply came. Encrypted connections read their options from it."""

    def description(self) -> EncryptedConnection | None:
        """What a trace shows of an encrypted connection."""
        return None

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self.idle_timer is not None:
            self.idle_timer.cancel()
            self.idle_timer = None
        self.transport = None
        kind, text = self.owner.explain_loss(exc, self.server.server)
        self.connection_failed(text, kind)
        if self.owner.after_batch is not None:
            self.owner.after_batch()
