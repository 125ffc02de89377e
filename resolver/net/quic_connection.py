"""One QUIC connection of a client of DNS over QUIC (RFC 9250), and its streams.

The library `qh3` speaks QUIC and TLS without I/O; this module gives it datagrams and time, and takes queries from its
events. Whatever the library raises ends the connection only (`QuicClient._guard`).

States of a connection: handshake, open, gone. A gone connection is no longer tracked after its CONNECTION_CLOSE was
sent: later datagrams for it are dropped, and a client that has not received the close detects the end by its idle
timeout.

States of a stream (`_Stream`): reading its message; waiting for a turn, while the connection has as many unanswered
queries as it may have; waiting for its reply; and gone, when the reply was passed to the library. The library permits
100 streams of a client at the same time, so there are never more of them.

With several certificates, the first datagrams of a connection are kept until the name that the client asks for is
known (`resolver.net.quic_hello`); the library begins then.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Iterable
from typing import Any, Protocol, cast

from qh3.quic import events
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection, QuicConnectionError

from resolver import limits
from resolver.net import doq
from resolver.net.fastpath import FastPath
from resolver.net.handshake_budget import HandshakeBudget
from resolver.net.pending_queries import PendingQuery
from resolver.net.quic_hello import HelloReader
from resolver.net.service import Service
from resolver.net.sockaddr import network_of
from resolver.net.stream_connection import StreamConnection
from resolver.net.tls_listener import CLOSED, OTHER, TIMEOUT
from resolver.net.turns import Turns
from resolver.net.unsent import Unsent
from resolver.policy import ALLOW, DECISION, AccessTable

__all__ = ["QuicClient", "packed_peer"]

# The library logs each connection that its peer closes as a warning, so peers could fill the log.
logging.getLogger("quic").setLevel(logging.CRITICAL)

CRYPTO_ERROR = 0x100  # RFC 9001 section 4.8: a TLS alert is added to it
ALERTS = {
    40: "handshake failure",
    42: "bad certificate",
    45: "certificate expired",
    46: "certificate unknown",
    48: "unknown ca",
    70: "protocol version",
    120: "no application protocol",
}
HANDSHAKE, OPEN, GONE = range(3)
UNIDIRECTIONAL = 2  # bit of stream ids (RFC 9000 section 2.1)


class Listener(Protocol):
    """What a connection needs of its listener."""

    access: AccessTable
    own_access: AccessTable | None
    service: Service
    fast: FastPath
    turns: Turns
    pipeline: int
    padding_block: int
    idle_timeout: float
    origin: tuple[str, str]
    transport_number: int
    message_timeout: float
    handshake_timeout: float
    queries: int
    write_overrun: int

    @property
    def chooses(self) -> bool: ...

    @property
    def handshake_budget(self) -> HandshakeBudget: ...

    def configuration(self, name: str) -> QuicConfiguration: ...

    def now(self) -> float: ...

    def call_at(self, when: float, client: "QuicClient") -> asyncio.TimerHandle: ...

    def route(self, identity: bytes, client: "QuicClient") -> None: ...

    def unroute(self, identity: bytes) -> None: ...

    def opened(self, client: "QuicClient") -> bool: ...

    def remove(self, client: Any) -> None: ...

    def send(self, datagrams: Iterable[tuple[bytes, tuple[Any, ...]]]) -> None: ...

    def schedule(self, client: "QuicClient | None" = None) -> None: ...

    def note_progress(self, client: StreamConnection) -> None: ...

    def note_broken(self, rule: str) -> None: ...

    def note_library_error(self, client: "QuicClient", error: BaseException) -> None: ...

    def count_handshake_failure(self, reason: str) -> None: ...


class QuicClient:
    """One connection of a client."""

    __slots__ = (
        "_backlog",
        "_ending",
        "_first",
        "_held",
        "_hello",
        "_identities",
        "_listener",
        "_original",
        "_peer",
        "_ports",
        "_quic",
        "_retried",
        "_since",
        "_state",
        "_streams",
        "_timer",
        "_timer_at",
        "_unsent",
        "access",
        "allowed",
        "host",
        "idle_since",
        "network",
        "octets",
        "waiting",
    )

    def __init__(self, listener: Listener, peer: tuple[Any, ...]) -> None:
        self._listener = listener
        self._peer = peer
        self._ports: set[int] = {peer[1]}
        """The ports of the client that the library has sent to."""
        self.host: str = peer[0]
        self.network = network_of(self.host)
        self.octets = packed_peer(peer)[:-2]
        self.access = listener.access.find(self.host)
        self.allowed = self.access & DECISION == ALLOW
        self.waiting = 0
        """Queries that the service has and that are not answered yet."""
        self._quic: Any = None
        """None while it is not known which certificate the client needs."""
        self._original = b""
        self._retried: bytes | None = None
        self._hello: HelloReader | None = None
        self._first: list[bytes] = []
        self._state = HANDSHAKE
        self._since = self.idle_since = listener.now()
        self._identities: set[bytes] = set()
        self._streams: dict[int, _Stream] = {}
        self._backlog: dict[_Stream, None] = {}
        """Streams that wait for a turn, in their order; none that was cancelled, so at most as many as are open."""
        self._held = 0
        self._unsent = Unsent()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._ending = doq.EXCESSIVE_LOAD

    def begin(self, original: bytes, retried: bytes | None) -> None:
        """Be the server of a connection whose client has sent to the id `original` first, and after a Retry packet to
        `retried`."""
        self._original, self._retried = original, retried
        self._add_identity(retried or original)
        if self._listener.chooses:
            self._hello = HelloReader(retried or original)
        else:
            self._connect("")

    def _connect(self, name: str) -> None:
        """Have the library begin with the certificate for `name`."""
        self._hello = None
        self._quic = QuicConnection(
            configuration=self._listener.configuration(name),
            original_destination_connection_id=self._original,
            retry_source_connection_id=self._retried,
        )
        self._add_identity(self._quic.host_cid)

    # --- datagrams and time --------------------------------------------------------------------------------------

    def receive(self, data: bytes, peer: tuple[Any, ...]) -> None:
        """A datagram of this connection from `peer`, which has the address `host`."""
        if self._state == GONE:
            return
        self._peer = peer
        if peer[1] not in self._ports and len(self._ports) >= limits.QUIC_PORTS:
            self.close(doq.NO_ERROR)  # a silent connection would cost the client the time of its next queries
            return
        shaking, began = self._state == HANDSHAKE, time.monotonic()
        datagrams = [data]
        if self._hello is not None:
            self._first.append(data)
            name = self._hello.feed(data)
            if name is None:
                return  # the client retransmits lost datagrams
            datagrams, self._first = self._first, []
            self._connect(name)
        for one in datagrams:
            if self._state != GONE:
                self._guard(self._quic.receive_datagram, one, _plain(peer), self._listener.now())
        if shaking:
            self._listener.handshake_budget.charge(time.monotonic() - began)
        self._listener.schedule(self)

    def on_timer(self) -> None:
        """A timer of the library (loss, delayed acknowledgement, idle timeout) has fired, or was set again."""
        self._timer = None
        if self._state != GONE:
            now = self._listener.now()
            if now >= self._timer_at:
                self._guard(self._quic.handle_timer, now)
            self._listener.schedule(self)

    def advance(self) -> None:
        """Process the events of the library, send its datagrams, and set its timer."""
        while self._state != GONE and self._quic is not None:
            event = self._guard(self._quic.next_event)
            if event is None:
                break
            self._on_event(event)
        self._feed_service()
        if self._state != GONE:
            self._transmit()
        if self._state != GONE:
            self._set_timer()

    def _transmit(self) -> None:
        now = self._listener.now()
        sent = self._guard(self._quic.datagrams_to_send, now) or ()
        peer = self._peer
        self._ports.update(to[1] for _, to in sent)
        # While the client's port changes, the library still sends to the old one until it has validated the new one.
        self._listener.send(
            (data, peer if to[1] == peer[1] else (peer[0], to[1], *peer[2:])) for data, to in sent
        )
        unsent = self._guard(self._quic.get_send_buffer_size) if self._state != GONE else None
        self._unsent.update(unsent or 0, now)
        if unsent and unsent > limits.STREAM_WRITE_LIMIT:
            self._listener.write_overrun += 1
            self.close(doq.EXCESSIVE_LOAD)

    def _set_timer(self) -> None:
        when = self._guard(self._quic.get_timer)
        if when is None:
            return
        self._timer_at = when
        if self._timer is not None:
            if self._timer.when() <= when:
                return  # it fires earlier, and is set again then
            self._timer.cancel()
        self._timer = self._listener.call_at(when, self)

    def _guard(self, call: Any, *arguments: Any) -> Any:
        """The result of a call of the library. Whatever it raises ends this connection only: None.

        A panic of its native part is a `BaseException`, and its type has no public name.
        """
        try:
            return call(*arguments)
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # noqa: BLE001  octets of remote parties decide what the library raises
            self._listener.note_library_error(self, error)
            self._forget()
            return None

    # --- events --------------------------------------------------------------------------------------------------

    def _on_event(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.StreamDataReceived):
            self._on_stream_data(event.stream_id, event.data, event.end_stream)
        elif isinstance(event, events.HandshakeCompleted):
            self._on_handshake(event.alpn_protocol)
        elif isinstance(event, events.ConnectionTerminated):
            if self._state == HANDSHAKE:
                self._listener.count_handshake_failure(_reason(event.error_code))
            self._forget()
        elif isinstance(event, events.StreamReset | events.StopSendingReceived):
            self._on_cancelled(event.stream_id, reset=isinstance(event, events.StreamReset))
        elif isinstance(event, events.ConnectionIdIssued):
            self._add_identity(event.connection_id)
        elif isinstance(event, events.ConnectionIdRetired):
            self._identities.discard(event.connection_id)
            self._listener.unroute(event.connection_id)

    def _on_handshake(self, alpn: str | None) -> None:
        if alpn != doq.ALPN:
            self._listener.count_handshake_failure(ALERTS[120])
            self.close(doq.PROTOCOL_ERROR)
            return
        self._state = OPEN
        self.idle_since = self._listener.now()
        if not self._listener.opened(self):
            self.close(doq.EXCESSIVE_LOAD)

    def _on_stream_data(self, identity: int, data: bytes, end: bool) -> None:
        if identity & UNIDIRECTIONAL:
            self._break("a unidirectional stream")
            return
        stream = self._streams.get(identity)
        if stream is None:
            stream = self._streams[identity] = _Stream(self, identity, self._listener.now())
        if stream.cancelled:
            if end:
                del self._streams[identity]
            return
        before = stream.reader.held
        try:
            message = stream.reader.feed(data, end)
            if message is not None:
                doq.check_query(message)
        except doq.ProtocolError as error:
            self._break(str(error))
            return
        self._held += stream.reader.held - before
        if self._held > limits.QUIC_HELD:
            self.close(doq.EXCESSIVE_LOAD)
        elif message is not None:
            stream.message = message
            self._backlog[stream] = None

    def _on_cancelled(self, identity: int, *, reset: bool) -> None:
        """The client does not want the reply, or has given up its query (RFC 9250 section 4.3.1)."""
        stream = self._streams.get(identity)
        if stream is None or stream.cancelled:
            if stream is not None and reset:
                del self._streams[identity]
            return
        if reset or stream.message is not None:
            del self._streams[identity]  # no more data arrives on it
        stream.cancelled = True
        self._release(stream)
        self._guard(_on_stream, self._quic.reset_stream, identity, doq.REQUEST_CANCELLED)

    def _break(self, rule: str) -> None:
        """The client has broken a rule: its connection ends (RFC 9250 section 4.3.3)."""
        self._listener.note_broken(rule)
        self.close(doq.PROTOCOL_ERROR)

    # --- queries -------------------------------------------------------------------------------------------------

    def _feed_service(self) -> None:
        """Answer queries, or wait for a turn."""
        if self._may_answer() and self._listener.turns.enter(self):
            self.turn()

    def _may_answer(self) -> bool:
        """Whether a query waits, the pipeline permits one more, and the client takes what was made before.

        What it takes, it acknowledges, and then this is asked again.
        """
        return (
            bool(self._backlog) and self._state == OPEN and self.waiting < self._listener.pipeline
            and self._unsent.octets < limits.STREAM_TURN_OCTETS
        )

    def turn(self) -> None:
        """Answer as many queries as one turn permits."""
        listener, busy = self._listener, self.waiting > 0
        self.idle_since = listener.now()
        messages = octets = 0
        while self._may_answer() and messages < limits.STREAM_TURN_MESSAGES and octets < limits.STREAM_TURN_OCTETS:
            stream = next(iter(self._backlog))
            del self._backlog[stream]
            messages += 1
            octets += self._answer(stream)
        listener.turns.spend(messages, octets)
        if self._may_answer():
            listener.turns.add(self)
        if self._state == OPEN and not (busy and self.waiting):
            listener.note_progress(cast(Any, self))

    def _answer(self, stream: "_Stream") -> int:
        """Answer from the cache, or give the query to the service. Returns octets of the query and a cached reply."""
        listener, message = self._listener, stream.message
        assert message is not None
        listener.queries += 1
        if self.allowed or listener.fast.knows_keys:
            reply, _ = listener.fast.answer_encrypted(
                message, self.octets, listener.padding_block, None, self.access, listener.transport_number,
                self._peer[1],
            )
            if reply:
                self.reply(stream, reply)
                return len(message) + len(reply)
            if reply is not None:
                self.refuse(stream)
                return len(message)
        stream.asked = True
        self.waiting += 1
        try:
            pending = listener.service.handle(message, self._peer, stream, listener.own_access)
        except BaseException:
            self.close(doq.INTERNAL_ERROR)  # out of memory: no reply will come
            raise
        if pending is not None:
            stream.pending = pending
        return len(message)

    def reply(self, stream: "_Stream", packet: bytes) -> None:
        """Send the reply of `stream` and end it."""
        if self._finish(stream):
            self._unsent.given += 2 + len(packet)
            self._guard(_on_stream, self._quic.send_stream_data, stream.identity, doq.frame(packet), True)

    def refuse(self, stream: "_Stream") -> None:
        """End `stream` without a reply."""
        if self._finish(stream):
            self._guard(_on_stream, self._quic.reset_stream, stream.identity, doq.UNSPECIFIED_ERROR)

    def _finish(self, stream: "_Stream") -> bool:
        """Release what `stream` holds; False when it is gone already."""
        if self._streams.pop(stream.identity, None) is None or self._state == GONE:
            return False
        self._release(stream)
        self.idle_since = self._listener.now()
        self._listener.note_progress(cast(Any, self))
        self._listener.schedule(self)
        return True

    def _release(self, stream: "_Stream") -> None:
        self._held -= stream.reader.held
        self._backlog.pop(stream, None)
        pending, stream.pending = stream.pending, None
        if stream.asked:
            stream.asked = False
            self.waiting -= 1
        if pending is not None:
            pending.service.forget(pending)

    @property
    def held(self) -> int:
        """Estimated memory of the connection, without its unanswered queries, which the service counts."""
        streams = sum(one.held for one in self._streams.values())
        return limits.TLS_OVERHEAD + sum(map(len, self._first)) + streams + self._unsent.octets

    # --- the end -------------------------------------------------------------------------------------------------

    def close(self, code: int) -> None:
        """End the connection and tell the client the error `code`; queries that wait are cancelled."""
        if self._state == GONE:
            return
        if self._quic is not None:
            self._guard(self._quic.close, code)
        if self._state != GONE and self._quic is not None:  # the library has not failed
            for data, _ in self._guard(self._quic.datagrams_to_send, self._listener.now()) or ():
                self._listener.send([(data, self._peer)])
            self._listener.schedule()
        self._forget()

    def abort(self) -> None:
        """End the connection: for another one, or because a timeout has passed."""
        self.close(self._ending)

    def close_denied(self) -> None:
        """End the connection because a new access list drops its client; no code of RFC 9250 is for that."""
        self.close(doq.UNSPECIFIED_ERROR)

    def is_overdue(self, now: float) -> bool:
        """Whether one of the timeouts has passed."""
        listener = self._listener
        if self._state == HANDSHAKE:
            late = now - self._since > listener.handshake_timeout
            if late:
                listener.count_handshake_failure(TIMEOUT)
            return late
        since = [self._unsent.since] if self._unsent.since is not None else []
        since += [stream.begun for stream in self._streams.values() if stream.message is None]
        late = any(now - one > listener.message_timeout for one in since)
        if not late and not self.waiting and now - self.idle_since > listener.idle_timeout:
            late = True
            self._ending = doq.NO_ERROR
        return late

    def _forget(self) -> None:
        """Hold nothing any more. A second call does nothing."""
        if self._state == GONE:
            return
        self._state = GONE
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for identity in self._identities:
            self._listener.unroute(identity)
        self._identities.clear()
        streams = list(self._streams.values())
        self._streams.clear()
        self._backlog.clear()
        self._listener.turns.remove(self)
        for stream in streams:
            self._release(stream)
        self._listener.remove(self)

    def _add_identity(self, identity: bytes) -> None:
        self._identities.add(identity)
        self._listener.route(identity, self)


class _Stream:
    """One stream with a query. It is the sink of its reply."""

    __slots__ = ("_client", "asked", "begun", "cancelled", "identity", "message", "pending", "reader")

    stream = True

    def __init__(self, client: QuicClient, identity: int, begun: float) -> None:
        self._client = client
        self.identity = identity
        self.begun = begun
        self.reader = doq.MessageReader()
        self.message: bytes | None = None
        """The query, once it is complete."""
        self.asked = False
        """Whether the service has the query."""
        self.cancelled = False
        self.pending: PendingQuery | None = None

    @property
    def held(self) -> int:
        """Estimated memory."""
        return self.reader.octets + (0 if self.message is None else len(self.message)) + limits.EXCHANGE_OVERHEAD

    @property
    def idle_timeout(self) -> float:
        """Seconds an idle connection is kept."""
        return self._client._listener.idle_timeout

    @property
    def origin(self) -> tuple[str, str]:
        """Transport and listener of the query."""
        return self._client._listener.origin

    @property
    def padding_block(self) -> int:
        """Size of the blocks to which replies are padded."""
        return self._client._listener.padding_block

    def send(self, packet: bytes, peer: tuple[Any, ...]) -> None:
        """The reply of `Service`."""
        self._client.reply(self, packet)

    def skip(self) -> None:
        """There is no reply: the stream is reset, so that the client does not wait."""
        self._client.refuse(self)

    def forget(self, pending: PendingQuery) -> None:
        """`pending` no longer waits for a reply."""
        self.pending = None

    def abort(self) -> None:
        """A reply that is due cannot be made."""
        self._client.close(doq.INTERNAL_ERROR)


def packed_peer(peer: tuple[Any, ...]) -> bytes:
    """Address and port of `peer` in octets."""
    host = peer[0]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_pton(family, host.partition("%")[0]) + int(peer[1]).to_bytes(2, "big")


def _on_stream(call: Any, *arguments: Any) -> None:
    """Make a call of the library for one stream. Nothing happens when the client has ended the stream or the
    connection: the library refuses the call then, also while the event about it still waits. It resets a stopped stream
    itself (RFC 9000 section 3.5), and reports STOP_SENDING before the octets that came with it."""
    try:
        call(*arguments)
    except (ValueError, QuicConnectionError):
        pass


def _plain(peer: tuple[Any, ...]) -> tuple[str, int]:
    """`peer` as the library wants it: without interface."""
    return peer[0].partition("%")[0], peer[1]


def _reason(code: int) -> str:
    """A name for the reason that ended a handshake. Clients choose codes, so only known ones have names."""
    if not code:
        return CLOSED
    return ALERTS.get(code - CRYPTO_ERROR, OTHER)
