"""DNS over QUIC towards clients (RFC 9250): one UDP socket, its QUIC connections, and their streams.

The library `qh3` speaks QUIC and TLS without I/O; this module gives it datagrams and time, and decides who may have a
connection. Limits, timeouts and counters are those of `StreamListener`: a connection has a slot of its client.

A datagram goes through these steps; each reason to drop one is counted:

1. Its header is read (`resolver.net.quic_packets`). A datagram of a known connection id goes to that connection, if it
   comes from the address that the connection began with. The port may change: routers with NAT forget it.
2. Another one must be an Initial packet of `QUIC_DATAGRAM` octets. For another version the answer is a Version
   Negotiation packet, which is smaller than the datagram.
3. A valid token proves the client's address: the connection gets its slot at once, as a TCP connection does.
4. Without one, up to `QUIC_UNVALIDATED` handshakes are begun, which get their slots when they are completed. The
   library sends at most three times what it has received until then. Above that number, and while handshakes wait, the
   answer is a Retry packet with a token, for which nothing is kept. So forged addresses use up no slot of anybody, and
   cannot keep others out.
5. A handshake waits until there is time for it (`resolver.net.handshake_budget`). What it waits with is its first
   datagram (`_Newcomer`); further ones of its client are dropped until then.

States of a connection: handshake, open, closed. A closed one is forgotten after its CONNECTION_CLOSE was sent: what
still comes for it is dropped, and a client that has not received it notices by its idle timeout.

States of a stream (`_Stream`): reading its message; waiting for a turn, while the connection has as many unanswered
queries as it may have; waiting for its reply; and gone, when the reply was given to the library. The library permits
100 streams of a client at the same time, so there are never more of them.

With several certificates, the first datagrams of a connection are kept until the name that the client asks for is
known (`resolver.net.quic_hello`); the library begins then.

There is no 0-RTT and no session resumption, because no session tickets are issued: 0-RTT could be replayed (RFC 9250
section 4.5).
"""

import asyncio
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

from qh3.quic import events
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection
from qh3.quic.packet import encode_quic_retry, encode_quic_version_negotiation

from resolver import limits
from resolver.net import doq
from resolver.net.fair_slots import network_of
from resolver.net.fastpath import FastPath
from resolver.net.quic_hello import HelloReader
from resolver.net.quic_packets import CONNECTION_ID, INITIAL, VERSION_1, make_token, open_token, parse_header
from resolver.net.service import PendingQuery, Service
from resolver.net.tls_listener import BUSY, CLOSED, OTHER, TIMEOUT, TlsListener, for_name
from resolver.net.udp_listener import enable_pktinfo, prepare_udp_socket
from resolver.policy import ALLOW, DROP, AccessTable
from resolver.settings import ServerSettings

__all__ = ["QuicClient", "QuicListener"]

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
KEY = 32


class QuicListener(TlsListener, asyncio.DatagramProtocol):
    """The listener of one socket for DNS over QUIC, and all its connections."""

    transport_name = "QUIC"

    def __init__(
        self,
        service: Service,
        fast: FastPath,
        access: AccessTable,
        settings: ServerSettings,
        context: Mapping[str, QuicConfiguration],
        **options: Any,
    ) -> None:
        """`context` has certificates and keys of new connections by the names that clients ask for, the empty name for
        all others; `options` are those of `StreamListener`."""
        super().__init__(service, fast, access, settings, context, **options)
        self._by_id: dict[bytes, QuicClient] = {}
        self._unvalidated: dict[QuicClient, None] = {}
        self._newcomers: dict[bytes, _Newcomer] = {}
        self._changed: dict[QuicClient, None] = {}
        self._outgoing: list[tuple[bytes, tuple[Any, ...]]] = []
        self._flush_due = False
        self._transport: asyncio.DatagramTransport | None = None
        self._key = os.urandom(KEY)
        self._configured: tuple[Any, float, dict[str, QuicConfiguration]] | None = None
        self.queries = 0
        self.retries = 0
        self.versions_negotiated = 0
        self.errors = 0
        self.dropped: dict[str, int] = {}
        self.protocol_errors: dict[str, int] = {}

    # --- StreamListener ----------------------------------------------------------------------------------------------

    async def start(self, sock: socket.socket) -> None:
        """Serve `sock`, which must be bound and non-blocking. The listener takes ownership."""
        prepare_udp_socket(sock)
        enable_pktinfo(sock)
        self._loop = asyncio.get_running_loop()
        await self._loop.create_datagram_endpoint(lambda: self, sock=sock)

    def close(self) -> None:
        """Close every connection and stop serving."""
        transport, self._transport = self._transport, None
        for newcomer in self._newcomers.values():
            self.handshake_budget.remove(newcomer)
        self._newcomers.clear()
        for client in [*self._slots, *self._unvalidated]:
            client.close(doq.NO_ERROR)
        if transport is not None:
            self._send_all(transport)
            transport.close()
        super().close()

    @property
    def serving(self) -> bool:
        """Whether new connections may be admitted."""
        return self._transport is not None

    @property
    def address(self) -> tuple[Any, ...]:
        """The address that the socket is bound to: (address, port, ...)."""
        assert self._transport is not None
        return cast("tuple[Any, ...]", self._transport.get_extra_info("sockname"))

    @property
    def connections(self) -> int:
        """Connections, also those whose handshake is not completed."""
        return len(self._slots) + len(self._unvalidated)

    def statistics(self) -> dict[str, Any]:
        """Counters since the start, by name; three map reasons to counts."""
        found = super().statistics()
        del found["bad_proxy_headers"], found["resumed"]
        return {
            **found,
            "connections": self.connections,
            "queries": self.queries,
            "retries": self.retries,
            "versions_negotiated": self.versions_negotiated,
            "send_errors": self.errors,
            "dropped": dict(self.dropped),
            "protocol_errors": dict(self.protocol_errors),
        }

    def _sweep(self) -> None:
        now = self.now()
        for client in list(self._unvalidated):
            if client.is_overdue(now):
                self.timed_out += 1
                client.abort()
        super()._sweep()
        self._watch()
        self.schedule()

    def _watch(self) -> None:
        """Have the timeouts of handshakes without a slot checked."""
        if self._unvalidated and self._timer is None:
            self._arm()

    # --- asyncio.DatagramProtocol --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if exc is not None:
            self._warnings.warn("listener: a QUIC socket was closed after an error: %s", exc)

    def error_received(self, exc: Exception) -> None:
        """ICMP about a client that is gone, or a full send buffer: QUIC sends again. This is only counted."""
        self.errors += 1

    def datagrams_received(self, datagrams: Iterable[tuple[bytes, tuple[Any, ...]]]) -> None:
        """A batch from corenet's loop."""
        for data, peer in datagrams:
            self._receive(data, peer)
        self._flush()

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """One datagram from any other loop."""
        self._receive(data, addr)
        self._flush()

    # --- datagrams -----------------------------------------------------------------------------------------------

    def _receive(self, data: bytes, peer: tuple[Any, ...]) -> None:
        header = parse_header(data)
        if header is None:
            self._drop("not QUIC")
            return
        client = self._by_id.get(header.destination)
        if client is not None:
            if peer[0] != client.host:
                self._drop("connection of another address")
            else:
                client.receive(data, peer)
            return
        version = header.version
        if version is None or (version == VERSION_1 and header.kind != INITIAL):
            self._drop("unknown connection")
        elif not version:
            self._drop("not QUIC")  # Version Negotiation of a server: answering it would be a loop
        elif len(data) < limits.QUIC_DATAGRAM:
            self._drop("first datagram too small")
        elif version != VERSION_1:
            self.versions_negotiated += 1
            self._outgoing.append((
                encode_quic_version_negotiation(
                    source_cid=header.destination, destination_cid=header.source, supported_versions=[VERSION_1]
                ),
                peer,
            ))
        elif len(header.destination) < limits.QUIC_CONNECTION_ID_MIN:
            self._drop("connection id too short")
        elif self.access.lookup(peer[0]) == DROP:
            self._drop("access list")
        else:
            self._begin(data, peer, header.destination, header.source, header.token)

    def _begin(self, data: bytes, peer: tuple[Any, ...], chosen: bytes, source: bytes, token: bytes) -> None:
        """An Initial packet to the connection id `chosen`, which no connection has."""
        budget = self.handshake_budget
        newcomer = self._newcomers.get(chosen)
        if newcomer is not None:
            if not newcomer.add(data, peer):
                self._drop("handshake waits")
            return
        if budget.waiting and budget.acceptable() < 1:
            self._drop(BUSY)
            return
        budget.accepted()
        now = int(self.now())
        original = open_token(self._key, token, _packed(peer), chosen, now) if token else None
        if token and original is None:
            self._drop("token not valid")
            return
        if original is None and (budget.waiting or len(self._unvalidated) >= limits.QUIC_UNVALIDATED):
            self.retries += 1
            ours = os.urandom(CONNECTION_ID)
            self._outgoing.append((
                encode_quic_retry(
                    version=VERSION_1,
                    source_cid=ours,
                    destination_cid=source,
                    original_destination_cid=chosen,
                    retry_token=make_token(self._key, _packed(peer), chosen, ours, now),
                ),
                peer,
            ))
            return
        self._newcomers[chosen] = newcomer = _Newcomer(self, data, peer, chosen, original)
        budget.enter(newcomer)

    def begin(self, newcomer: "_Newcomer") -> None:
        """There is time for the handshake of `newcomer`."""
        del self._newcomers[newcomer.chosen]
        original = newcomer.original
        client = QuicClient(self, newcomer.peer)
        if original is not None:
            if not self.admit(cast(Any, client)):
                return
        else:
            self._unvalidated[client] = None
            self._watch()
        client.begin(original or newcomer.chosen, newcomer.chosen if original is not None else None)
        for data in newcomer.datagrams:
            client.receive(data, newcomer.peer)

    def drop_newcomer(self, newcomer: "_Newcomer") -> None:
        """Too many handshakes wait. The client sends its datagram again, if it still wants to."""
        del self._newcomers[newcomer.chosen]
        self._drop(BUSY)

    @property
    def chooses(self) -> bool:
        """Whether the certificate depends on the name that a client asks for."""
        return len({id(one) for one in self.tls_context.values()}) > 1

    def configuration(self, name: str) -> QuicConfiguration:
        """The configuration of a new connection of a client that asks for `name`: certificate and limits."""
        contexts, idle = self.tls_context, self.idle_timeout
        if self._configured is None or self._configured[0] is not contexts or self._configured[1] != idle:
            self._configured = contexts, idle, {}
        configured = self._configured[2]
        found = for_name(contexts, name) or contexts[""]
        # By the certificate, not by the name, of which clients could ask for any number.
        key = next(one for one, context in contexts.items() if context is found)
        if key not in configured:
            configured[key] = replace(
                found,
                idle_timeout=idle,
                max_data=limits.QUIC_WINDOW,
                max_stream_data=limits.QUIC_WINDOW,
                max_datagram_size=limits.QUIC_DATAGRAM,
                connection_id_length=CONNECTION_ID,
            )
        return configured[key]

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    # --- for connections -----------------------------------------------------------------------------------------

    def opened(self, client: "QuicClient") -> bool:
        """The handshake of `client` is completed; False when it must be closed, because no slot is free."""
        self.handshakes += 1
        if client in self._unvalidated:
            del self._unvalidated[client]
            return self.admit(cast(Any, client))
        return True

    def note_broken(self, rule: str) -> None:
        """A client has broken `rule`."""
        self.malformed += 1
        self.protocol_errors[rule] = self.protocol_errors.get(rule, 0) + 1

    def note_library_error(self, client: "QuicClient", error: BaseException) -> None:
        """The library has raised instead of closing the connection."""
        self._drop("library error")
        self._warnings.warn("listener: a QUIC connection of %s ended by an error of qh3: %r", client.host, error)

    def route(self, identity: bytes, client: "QuicClient") -> None:
        """Give datagrams for the connection id `identity` to `client`."""
        self._by_id[identity] = client

    def unroute(self, identity: bytes) -> None:
        """The connection id `identity` is no longer used."""
        self._by_id.pop(identity, None)

    def remove(self, client: Any) -> None:
        """Free what `client` holds here. A second call does nothing."""
        self._unvalidated.pop(client, None)
        self._changed.pop(client, None)
        super().remove(client)

    def send(self, datagrams: Iterable[tuple[bytes, tuple[Any, ...]]]) -> None:
        """Send `datagrams` together with the others of this turn."""
        self._outgoing.extend(datagrams)

    def schedule(self, client: "QuicClient | None" = None) -> None:
        """Have `client` examined for what it has to send, and everything sent, in this turn of the loop."""
        if client is not None:
            self._changed[client] = None
        if not self._flush_due and self._loop is not None:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def call_at(self, when: float, client: "QuicClient") -> asyncio.TimerHandle:
        """Call `client.on_timer` at `when`."""
        assert self._loop is not None
        return self._loop.call_at(when, client.on_timer)

    def _flush(self) -> None:
        self._flush_due = True  # what is scheduled from here is done here
        try:
            while self._changed:
                client, _ = self._changed.popitem()
                client.advance()
        finally:
            self._flush_due = False
        if self._transport is not None and self._outgoing:
            self._send_all(self._transport)

    def _send_all(self, transport: asyncio.DatagramTransport) -> None:
        outgoing, self._outgoing = self._outgoing, []
        many = getattr(transport, "send_many", None)
        if many is not None:
            many(outgoing)
            return
        for data, peer in outgoing:
            transport.sendto(data, peer)


class QuicClient:
    """One connection of a client."""

    __slots__ = (
        "_backlog",
        "_blocked_since",
        "_ending",
        "_first",
        "_held",
        "_hello",
        "_identities",
        "_listener",
        "_original",
        "_peer",
        "_quic",
        "_retried",
        "_since",
        "_state",
        "_streams",
        "_timer",
        "_timer_at",
        "allowed",
        "host",
        "idle_since",
        "network",
        "octets",
        "waiting",
    )

    def __init__(self, listener: QuicListener, peer: tuple[Any, ...]) -> None:
        self._listener = listener
        self._peer = peer
        self.host: str = peer[0]
        self.network = network_of(self.host)
        self.octets = _packed(peer)[:-2]
        self.allowed = listener.access.lookup(self.host) == ALLOW
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
        self._backlog: deque[_Stream] = deque()
        self._held = 0
        self._blocked_since: float | None = None
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
        shaking, began = self._state == HANDSHAKE, time.monotonic()
        datagrams = [data]
        if self._hello is not None:
            self._first.append(data)
            name = self._hello.feed(data)
            if name is None:
                return  # the client sends again what is lost
            datagrams, self._first = self._first, []
            self._connect(name)
        for one in datagrams:
            if self._state != GONE:
                self._guard(self._quic.receive_datagram, one, _plain(peer), self._listener.now())
        if shaking:
            self._listener.handshake_budget.charge(time.monotonic() - began)
        self._listener.schedule(self)

    def on_timer(self) -> None:
        """A timer of the library (loss, delayed acknowledgement, idle timeout) has fired, or was set anew."""
        self._timer = None
        if self._state != GONE:
            now = self._listener.now()
            if now >= self._timer_at:
                self._guard(self._quic.handle_timer, now)
            self._listener.schedule(self)

    def advance(self) -> None:
        """Process what the library has found, send what it has to send, and set its timer."""
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
        sent = self._guard(self._quic.datagrams_to_send, now)
        peer = self._peer
        # While the client's port changes, the library still sends to the old one until it has validated the new one.
        self._listener.send(
            (data, peer if to[1] == peer[1] else (peer[0], to[1], *peer[2:])) for data, to in sent or ()
        )
        unsent = self._guard(self._quic.get_send_buffer_size) if self._state != GONE else None
        if not unsent:
            self._blocked_since = None
        elif unsent > limits.STREAM_WRITE_LIMIT:
            self._listener.write_overrun += 1
            self.close(doq.EXCESSIVE_LOAD)
        elif self._blocked_since is None:
            self._blocked_since = now

    def _set_timer(self) -> None:
        when = self._guard(self._quic.get_timer)
        if when is None:
            return
        self._timer_at = when
        if self._timer is not None:
            if self._timer.when() <= when:
                return  # it fires earlier, and is set anew then
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
        except BaseException as error:  # noqa: BLE001  octets of strangers decide what the library meets
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
            self._backlog.append(stream)

    def _on_cancelled(self, identity: int, *, reset: bool) -> None:
        """The client does not want the reply, or has given up its query (RFC 9250 section 4.3.1)."""
        stream = self._streams.get(identity)
        if stream is None or stream.cancelled:
            if stream is not None and reset:
                del self._streams[identity]
            return
        if reset or stream.message is not None:
            del self._streams[identity]  # nothing more comes on it
        stream.cancelled = True
        self._release(stream)
        self._guard(self._quic.reset_stream, identity, doq.REQUEST_CANCELLED)

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
        """Whether a query waits, and the pipeline permits one more."""
        return bool(self._backlog) and self._state == OPEN and self.waiting < self._listener.pipeline

    def turn(self) -> None:
        """Answer as many queries as one turn permits."""
        listener, busy = self._listener, self.waiting > 0
        self.idle_since = listener.now()
        messages = octets = 0
        while self._may_answer() and messages < limits.STREAM_TURN_MESSAGES and octets < limits.STREAM_TURN_OCTETS:
            stream = self._backlog.popleft()
            messages += 1
            if not stream.cancelled:
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
        if self.allowed:
            reply, _ = listener.fast.answer_encrypted(message, self.octets, listener.padding_block)
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
            self._guard(self._quic.send_stream_data, stream.identity, doq.frame(packet), True)

    def refuse(self, stream: "_Stream") -> None:
        """End `stream` without a reply."""
        if self._finish(stream):
            self._guard(self._quic.reset_stream, stream.identity, doq.UNSPECIFIED_ERROR)

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
        pending, stream.pending = stream.pending, None
        if stream.asked:
            stream.asked = False
            self.waiting -= 1
        if pending is not None:
            pending.service.forget(pending)

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

    def expel(self) -> None:
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
        since = [self._blocked_since] if self._blocked_since is not None else []
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


class _Newcomer:
    """The first datagrams of a client whose handshake waits: sent to the connection id `chosen`, after a Retry packet
    when there is the `original` id. A ClientHello may be in several; at most `QUIC_HELLO` are kept."""

    __slots__ = ("_listener", "chosen", "datagrams", "network", "original", "peer")

    def __init__(
        self, listener: QuicListener, data: bytes, peer: tuple[Any, ...], chosen: bytes, original: bytes | None
    ) -> None:
        self._listener = listener
        self.datagrams = [data]
        self.peer = peer
        self.chosen = chosen
        self.original = original
        self.network = network_of(peer[0])

    def add(self, data: bytes, peer: tuple[Any, ...]) -> bool:
        """Keep a further datagram; False when it is from another address, or one too many."""
        if peer != self.peer or len(self.datagrams) >= limits.QUIC_HELLO:
            return False
        self.datagrams.append(data)
        return True

    def begin_handshake(self) -> None:
        """The handshake may begin."""
        self._listener.begin(self)

    def drop_handshake(self) -> None:
        """Too many handshakes wait."""
        self._listener.drop_newcomer(self)


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
    def idle_timeout(self) -> float:
        """Seconds an idle connection is kept."""
        return self._client._listener.idle_timeout

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


def _packed(peer: tuple[Any, ...]) -> bytes:
    """Address and port of `peer` in octets."""
    host = peer[0]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_pton(family, host.partition("%")[0]) + int(peer[1]).to_bytes(2, "big")


def _plain(peer: tuple[Any, ...]) -> tuple[str, int]:
    """`peer` as the library wants it: without interface."""
    return peer[0].partition("%")[0], peer[1]


def _reason(code: int) -> str:
    """A name for what has ended a handshake. Clients choose codes, so only known ones have names."""
    if not code:
        return CLOSED
    return ALERTS.get(code - CRYPTO_ERROR, OTHER)
