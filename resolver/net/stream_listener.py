"""The server side of TCP (RFC 7766): framing, pipelining with replies in any order, limits for clients.

Everything that a connection holds is bounded: octets of an incomplete message, unanswered queries, unsent replies, and
the time for each. Above a limit, reading is paused. After a timeout the connection is aborted. (Slow loris; Unbound and
BIND ran out of memory without such limits, CVE-2024-0760, CVE-2024-12705.) The number of connections is limited in
total, per address and per network, like pending queries in `resolver.net.service`. One sweep at least every second
checks all timeouts, because a timer per connection would have to be re-armed for every message. Cache hits of one turn
are sent in one write.

Processing of received octets (`DnsConnection._work`):

* Received octets that are not yet split into messages are in `_unread`. While there are any, reading is paused.
* One turn takes at most `STREAM_READ_CHUNK` octets of them, and stops after `STREAM_TURN_OCTETS` octets of replies; the
  last reply may exceed that. It processes at most `STREAM_TURN_MESSAGES`. Then others have their turn
  (`resolver.net.turns`).
* Nothing is processed, so no reply is made, while the write buffer is above its high watermark
  (`_write_blocked_since`), while messages wait for the service (`_backlog`), or while the pipeline is full.
* Replies of the service are written when they are ready. A client that does not read is disconnected when its write
  buffer exceeds `STREAM_WRITE_LIMIT`.

States of a connection:

* open.
* half-closed by the client (`_eof_received`), by FIN, or in TLS 1.3 by close_notify: its queries are answered, then the
  connection is closed. Before TLS 1.3 close_notify ends the connection, and so does a FIN without close_notify: queries
  that wait are cancelled.
* discarding (`_discarding`), after a message that is no query. Earlier queries are answered, then our side is
  half-closed. What the client still sends is discarded until it closes, sends too much, or `STREAM_LINGER` has passed.
  Closing at once with unread octets would make the kernel send RST and discard the replies.

Progress of a connection is a complete message or a reply, not an octet. When slots are scarce, the connection without
progress for the longest time is evicted, idle ones first (`resolver.net.fair_slots`).
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Iterable
from typing import Any, cast

from corenet.core.framer import LengthFramer
from corenet.loop import Server
from resolver import limits
from resolver.log_limit import LimitedWarning
from resolver.net.fair_slots import FairSlots
from resolver.net.fastpath import FastPath
from resolver.net.handshake_budget import HandshakeBudget
from resolver.net.listen_socket import bound_socket
from resolver.net.proxy_protocol import TrustedProxies
from resolver.net.quick_ack import acknowledge_now
from resolver.net.service import PendingQuery, Service, decrement
from resolver.net.stream_connection import StreamConnection, half_close
from resolver.net.turns import Turns
from resolver.policy import ALLOW, DROP, AccessTable
from resolver.settings import ServerSettings
from resolver.wire.consts import MESSAGE_MAX
from resolver.wire.edns import keepalive_units

__all__ = ["DnsConnection", "StreamListener", "open_stream_socket"]

logger = logging.getLogger(__name__)

SWEEPS_PER_TIMEOUT = 4
LONGEST_SWEEP = limits.STREAM_SWEEP / 1000


def open_stream_socket(address: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A bound, non-blocking socket for `StreamListener`.

    Raises:
        OSError: the socket cannot be made or bound.
    """
    return bound_socket(socket.SOCK_STREAM, address, port, reuse_port=reuse_port, prepare=_prepare)


def _prepare(sock: socket.socket) -> None:
    # Without it, bind fails after a restart while connections of the previous process are in TIME_WAIT.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted sockets inherit it, which saves a system call per connection.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class StreamListener:
    """One listening TCP socket and all its connections.

    Subclasses serve other protocols: they override `make_connection`, and those with TLS set `tls_context`.
    """

    transport_name = "TCP"
    """What the log calls its connections."""
    tls_context: Any = None
    """The `ssl.SSLContext` of new connections; None without TLS."""
    padding_block = 0
    """Replies to padded queries are padded to multiples of this many bytes; 0 on transports that are not encrypted."""

    def __init__(
        self,
        service: Service,
        fast: FastPath,
        access: AccessTable,
        settings: ServerSettings,
        *,
        message_timeout: float = limits.STREAM_MESSAGE,
        handshake_timeout: float = limits.TLS_HANDSHAKE / 1000,
        proxies: Iterable[str] = (),
        own_access: bool = False,
        turns: Turns | None = None,
    ) -> None:
        """`message_timeout` (seconds) limits the time to complete a message and to read replies, `handshake_timeout`
        the time for the PROXY header and the TLS handshake. Connections of peers within the prefixes `proxies` begin
        with a PROXY header. `own_access` tells that `access` is not the table of `service`. Listeners of one
        worker share `turns`; None: the listener has its own."""
        self.message_timeout = message_timeout
        self.handshake_timeout = handshake_timeout
        self.turns = Turns() if turns is None else turns
        self._slots: FairSlots[StreamConnection] = FairSlots()
        self._per_address: dict[str, int] = {}
        self.access_closed = 0
        self.switch(service, fast, access, settings, proxies=proxies, own_access=own_access)
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._warnings = LimitedWarning(logger)
        self.accepted = 0
        self.rejected = 0
        self.evicted = 0
        self.write_overrun = 0
        self.timed_out = 0
        self.malformed = 0
        self.bad_proxy_headers = 0

    async def start(self, sock: socket.socket) -> None:
        """Serve `sock`, which must be bound and non-blocking. The listener takes ownership."""
        self._loop = asyncio.get_running_loop()
        server = await self._loop.create_server(
            self.make_connection, sock=sock, backlog=limits.STREAM_BACKLOG, start_serving=False
        )
        self._server = server
        if isinstance(server, Server):
            # On asyncio's own loop only the kernel's accept queue limits how many are accepted before `admit` runs.
            server.limit_accepts(self._accept_allowance)
        await server.start_serving()

    def make_connection(self) -> StreamConnection:
        """Return the protocol of a new connection."""
        return DnsConnection(self)

    def _accept_allowance(self, active: int) -> int:
        """How many connections may be accepted while `active` are open. An accepted one gets its slot later, and an
        evicted one is closed later still: at most `STREAM_NEWCOMERS` are open without a slot. Connections with TLS are
        accepted as fast as the budget of handshakes permits; below 0, none for so many microseconds."""
        most = max(limits.STREAM_NEWCOMERS - (active - len(self._slots)), 0)
        return most if self.tls_context is None else min(most, self.handshake_budget.acceptable())

    def switch(
        self,
        service: Service,
        fast: FastPath,
        access: AccessTable,
        settings: ServerSettings,
        *,
        proxies: Iterable[str] = (),
        own_access: bool = False,
    ) -> None:
        """Serve new queries, also of open connections, with these. Pending queries keep their service."""
        prefixes = tuple(proxies)
        self.proxies = TrustedProxies(prefixes) if prefixes else None
        self.own_access = access if own_access else None
        self.service = service
        self.fast = fast
        self.access = access
        self.pipeline = settings.tcp_pipeline
        self.idle_timeout = settings.tcp_idle_timeout
        self._limit = settings.tcp_connections
        self._limit_per_client = settings.tcp_connections_per_client
        self._limit_per_network = max(self._limit * settings.tcp_connections_network_percent // 100, 1)
        for client in list(self._slots):
            if not client.network:
                continue  # its PROXY header has not been received, so its client is not known
            verdict = access.lookup(client.host)
            client.allowed = verdict == ALLOW
            if verdict == DROP:
                self.access_closed += 1
                client.expel()

    def close(self) -> None:
        """Stop serving and abort every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for client in list(self._slots):
            client.abort()

    @property
    def serving(self) -> bool:
        """Whether new connections may be admitted."""
        return self._server is not None

    @property
    def address(self) -> tuple[Any, ...]:
        """The address that the socket is bound to: (address, port, ...)."""
        assert self._server is not None
        return cast("tuple[Any, ...]", self._server.sockets[0].getsockname())

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._slots)

    def statistics(self) -> dict[str, Any]:
        """Counters since the start, by name."""
        return {
            "accepted": self.accepted,
            "rejected": self.rejected,
            "access_closed": self.access_closed,
            "evicted": self.evicted,
            "timed_out": self.timed_out,
            "write_overrun": self.write_overrun,
            "malformed": self.malformed,
            "bad_proxy_headers": self.bad_proxy_headers,
            "connections": len(self._slots),
        }

    # --- for connections -----------------------------------------------------------------------------------------

    def now(self) -> float:
        assert self._loop is not None
        return self._loop.time()

    def admit_proxy(self, client: StreamConnection) -> bool:
        """Give a connection of a proxy a slot until its PROXY header is received; False when it must be closed.

        Only the total limit holds: a proxy has the connections of many clients, whose own limits hold afterwards.
        """
        if not self.serving or not self._free_slot(""):
            return False
        self._slots.add(client, "")
        if self._timer is None:
            self._arm()
        return True

    def note_bad_proxy_header(self, host: str, error: Exception) -> None:
        """Count that the proxy `host` has sent something else than a PROXY header."""
        self.bad_proxy_headers += 1
        self._warnings.warn("listener: %s has to send a PROXY header: %s (listener.proxy-protocol-from)", host, error)

    def note_handshake(self, transport: asyncio.Transport) -> None:
        """A TLS handshake was completed."""

    def note_handshake_failure(self, error: OSError) -> None:
        """A TLS handshake has failed, or was not completed in time (TimeoutError)."""

    def note_handshake_dropped(self) -> None:
        """A connection is closed because too many wait for their handshake."""

    @property
    def handshake_budget(self) -> HandshakeBudget:
        """What paces the handshakes of the worker."""
        return self.turns.handshakes

    def admit(self, client: StreamConnection) -> bool:
        """Give `client` a slot; False when it must be closed. May evict another when the slots, or its network's, are
        all taken."""
        access = self.access.lookup(client.host)
        if not self.serving or access == DROP:
            self.rejected += 1
            return False
        client.allowed = access == ALLOW
        count = self._per_address.get(client.host, 0)
        if count >= self._limit_per_client:
            self.rejected += 1
            self._warnings.warn(
                "listener: client %s has %d %s connections, a new one was closed (server.tcp-connections-per-client)",
                client.host, count, self.transport_name,
            )
            return False
        slots, network = self._slots, client.network
        # These loops run more than once only after a reload has lowered a limit.
        while slots.count(network) >= self._limit_per_network:
            if not self._evict(slots.oldest_idle(network)):
                self._warnings.warn(
                    "listener: the network of client %s has %d %s connections, a new one was closed"
                    " (server.tcp-connections-network-percent)",
                    client.host, slots.count(network), self.transport_name,
                )
                return False
        if not self._free_slot(network):
            return False
        slots.add(client, network)
        try:
            self._per_address[client.host] = self._per_address.get(client.host, 0) + 1
        except MemoryError:
            slots.remove(client)
            raise
        self.accepted += 1
        if self._timer is None:
            self._arm()
        return True

    def _free_slot(self, network: str | bytes) -> bool:
        """Whether there is a slot for one more connection of `network`. May evict another connection."""
        while len(self._slots) >= self._limit:
            if not self._evict(self._slots.choose_victim(network)):
                self._warnings.warn(
                    "listener: all %d %s connections are in use, a new one was closed (server.tcp-connections)",
                    self._limit, self.transport_name,
                )
                return False
        return True

    def _evict(self, client: StreamConnection | None) -> bool:
        """Abort `client` to free its slot. None means that no client can be evicted: the new one counts as rejected."""
        if client is None:
            self.rejected += 1
            return False
        self.evicted += 1
        client.abort()
        return True

    def note_progress(self, client: StreamConnection) -> None:
        """Record that `client` has made progress."""
        self._slots.note_progress(client, busy=client.waiting > 0)

    def remove(self, client: StreamConnection) -> None:
        """Free the slot of `client`. A second call does nothing."""
        self.handshake_budget.remove(client)
        if self._slots.remove(client) and client.network:
            decrement(self._per_address, client.host)

    def _arm(self) -> None:
        assert self._loop is not None
        shortest = min(self.idle_timeout, self.message_timeout)
        self._timer = self._loop.call_later(min(LONGEST_SWEEP, shortest / SWEEPS_PER_TIMEOUT), self._sweep)

    def _sweep(self) -> None:
        """Abort connections whose idle, message or write timeout has passed."""
        self._timer = None
        now = self.now()
        for client in list(self._slots):
            if client.is_overdue(now):
                self.timed_out += 1
                client.abort()
        if self._slots:
            self._arm()


class DnsConnection(StreamConnection):
    """One connection that carries DNS messages, with or without TLS. It is also the sink of its replies."""

    __slots__ = (
        "_backlog",
        "_discarded_octets",
        "_discarding",
        "_eof_received",
        "_feeding",
        "_framer",
        "_frames",
        "_listener",
        "_next_frame",
        "_offset",
        "_pending",
        "_reading",
        "_turn_messages",
        "_turn_octets",
        "_unread",
        "_write_blocked_since",
        "idle_since",
        "partial_since",
    )

    stream = True

    def __init__(self, listener: StreamListener) -> None:
        super().__init__(listener)
        self._listener = listener
        self._framer = LengthFramer(2, max_frame=MESSAGE_MAX)
        self._pending: dict[PendingQuery, None] = {}
        self._unread = b""
        self._offset = 0
        self._frames: list[bytes] = []
        self._next_frame = 0
        self._backlog: deque[bytes] = deque()
        self._turn_messages = 0
        self._turn_octets = 0
        self._feeding = False
        self._reading = True
        self._eof_received = False
        self._discarding = False
        self._discarded_octets = 0
        self._write_blocked_since: float | None = None
        self.idle_since = 0.0
        self.partial_since: float | None = None

    def is_late(self, now: float) -> bool:
        """Whether a timeout has passed."""
        listener = self._listener
        for since in (self.partial_since, self._write_blocked_since):
            if since is not None and now - since > listener.message_timeout:
                return True
        linger = min(limits.STREAM_LINGER, listener.message_timeout)
        idle_timeout = linger if self._discarding else listener.idle_timeout
        return not self.waiting and now - self.idle_since > idle_timeout

    # --- StreamConnection ----------------------------------------------------------------------------------------

    def opened(self, transport: asyncio.Transport) -> None:
        """Start the idle timeout."""
        self.idle_since = self._listener.now()

    def received(self, data: bytes) -> None:
        """Take octets of messages, cut anywhere."""
        if self._discarding:
            self._discarded_octets += len(data)
            if self._discarded_octets > limits.STREAM_READ_CHUNK:
                self.abort()
            return
        self._unread = self._unread[self._offset:] + data if self._offset < len(self._unread) else data
        self._offset = 0
        if self._listener.turns.enter(self):
            self._work()
        else:
            self._update_reading()

    def eof_received(self) -> bool:
        # A half-closed client still gets its replies (RFC 7766 section 6.2.4); before TLS 1.3 it is closed anyway.
        self._eof_received = True
        self._discarding = False  # nothing is left to discard
        return self.has_early or self._has_work()

    def pause_writing(self) -> None:
        self._write_blocked_since = self._listener.now()
        self._update_reading()

    def resume_writing(self) -> None:
        self._write_blocked_since = None
        self._schedule_turn()
        self._update_reading()

    def closed(self) -> None:
        """Cancel pending queries and drop what was read."""
        self._listener.turns.remove(self)
        self._backlog.clear()
        self._frames, self._unread = [], b""
        pending, self._pending = self._pending, {}
        for query in pending:
            query.service.forget(query)

    # --- Sink ----------------------------------------------------------------------------------------------------

    @property
    def idle_timeout(self) -> float:
        """Seconds an idle connection is kept (RFC 7828)."""
        return self._listener.idle_timeout

    @property
    def padding_block(self) -> int:
        """Size of the blocks to which replies are padded; 0: they are not padded."""
        return self._listener.padding_block

    def send(self, packet: bytes, peer: tuple[Any, ...]) -> None:
        """Send a reply of `Service`."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            self._turn_octets += len(packet) + 2
            transport.write(len(packet).to_bytes(2, "big") + packet)
            if self._write_blocked_since is not None and transport.get_write_buffer_size() > limits.STREAM_WRITE_LIMIT:
                self._listener.write_overrun += 1
                self.abort()
        self._answered()

    def skip(self) -> None:
        """A query gets no reply."""
        self._answered()

    def forget(self, pending: PendingQuery) -> None:
        """Remove `pending`, which no longer waits for a reply."""
        self._pending.pop(pending, None)

    def _answered(self) -> None:
        self.waiting -= 1
        self.idle_since = self._listener.now()
        if self._feeding:
            return
        self._feed_service()
        self._listener.note_progress(self)
        self._schedule_turn()
        self._close_if_done()
        self._update_reading()

    # --- from octets to replies ------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Process what is left of earlier turns."""
        self._work()

    def _work(self) -> None:
        """Process the messages of one turn."""
        transport, listener = self._transport, self._listener
        if transport is None or transport.is_closing():
            return
        self._turn_messages = self._turn_octets = read = 0
        if self._backlog:
            self._feed_service()
        if self._can_read_more():
            if self._next_frame == len(self._frames):
                read = self._next_portion()
            if self._next_frame < len(self._frames):
                self.idle_since = listener.now()
                listener.note_progress(self)
                self._answer_frames(transport)
                self._feed_service()
        listener.turns.spend(self._turn_messages, read + self._turn_octets)
        self._schedule_turn()
        self._close_if_done()
        self._update_reading()

    def _next_portion(self) -> int:
        """Split the unread octets of one turn into messages. Returns how many octets."""
        size = limits.STREAM_READ_CHUNK
        if self._offset == 0 and len(self._unread) <= size:
            data, self._unread = self._unread, b""
        else:
            data = self._unread[self._offset:self._offset + size]
            self._offset += size
            if self._offset >= len(self._unread):
                self._unread, self._offset = b"", 0
        # The framer returns bytes, not views. It cannot raise: every length of two octets is permitted.
        self._frames, self._next_frame = cast("list[bytes]", self._framer.feed(data)), 0
        if self._frames:
            self.partial_since = None  # an incomplete message after them is a new one
        elif self._transport is not None:
            acknowledge_now(self._transport)  # the rest of the message may wait for it
        return len(data)

    def _answer_frames(self, transport: asyncio.Transport) -> None:
        """Answer messages from the cache until the turn's share is used up; queue the others."""
        if not self.allowed:
            # The service sends REFUSED.
            self._backlog.extend(self._frames[self._next_frame:])
            self._frames, self._next_frame = [], 0
            return
        first, frames = self._next_frame, self._frames
        end = first + limits.STREAM_TURN_MESSAGES - self._turn_messages
        replies, missed, self._next_frame, malformed = self._listener.fast.answer_frames(
            frames if len(frames) <= end else frames[:end], None, self.octets, first, self._listener.padding_block,
            keepalive_units(self._listener.idle_timeout),
        )
        self._turn_messages += self._next_frame - first - len(missed)  # those are counted for the service
        if replies:
            self._turn_octets += len(replies)
            transport.write(replies)
        self._backlog.extend(missed)
        if malformed:
            # Not DNS, or a response: the framing of what follows cannot be trusted.
            self._listener.malformed += 1
            self._framer.reset()
            self._frames, self._next_frame, self._unread, self._offset = [], 0, b"", 0
            self._eof_received = self._discarding = True
        elif self._next_frame == len(self._frames):
            self._frames, self._next_frame = [], 0

    def _feed_service(self) -> None:
        """Give queued messages to the service while the pipeline permits; `handle` may call `send` at once."""
        listener = self._listener
        backlog = self._backlog
        waited = self.waiting
        self._feeding = True
        try:
            while backlog and self._pipeline_open() and self._share_left():
                if self._transport is None or self._transport.is_closing():
                    backlog.clear()
                    break
                self.waiting += 1
                self._turn_messages += 1
                pending = listener.service.handle(backlog.popleft(), self._peer, self, listener.own_access)
                if pending is not None:
                    self._pending[pending] = None
        except BaseException:
            self.abort()  # out of memory: no reply will come, so the client must not wait for one
            raise
        finally:
            self._feeding = False
        if self.waiting and not waited:
            listener.note_progress(self)  # moves it from the idle to the busy connections

    def _pipeline_open(self) -> bool:
        """Whether the service may be given one more query."""
        return self._write_blocked_since is None and self.waiting < self._listener.pipeline

    def _can_read_more(self) -> bool:
        """Whether more of the unread octets may be processed in this turn."""
        return not self._backlog and self._pipeline_open() and self._share_left()

    def _share_left(self) -> bool:
        """Whether the turn may go on."""
        return self._turn_octets < limits.STREAM_TURN_OCTETS and self._turn_messages < limits.STREAM_TURN_MESSAGES

    def _has_work(self) -> bool:
        """Whether there are unread octets or unanswered messages."""
        return bool(self.waiting or self._backlog or self._next_frame < len(self._frames) or self._unread)

    def _schedule_turn(self) -> None:
        """Schedule another turn when messages are left and no later event would process them."""
        if self._transport is None or not self._pipeline_open():
            return
        if self._backlog or self._next_frame < len(self._frames) or self._unread:
            self._listener.turns.add(self)

    def _close_if_done(self) -> None:
        """Close our side when the client has closed its own, or sent what is no query, and everything is answered."""
        transport = self._transport
        if not self._eof_received or transport is None or transport.is_closing() or self._has_work():
            return
        if self._discarding:
            if not half_close(transport):
                transport.close()
        else:
            transport.close()

    def _update_reading(self) -> None:
        """Pause or resume reading by the state of the pipeline and of the write buffer, and start or stop the message
        timeout."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        unread = bool(self._next_frame < len(self._frames) or self._unread)
        wanted = self._discarding or (not unread and not self._backlog and self._pipeline_open())
        if self._discarding or not self._eof_received:
            if wanted and not self._reading:
                self._reading = True
                transport.resume_reading()
            elif not wanted and self._reading:
                self._reading = False
                transport.pause_reading()
        if not wanted or self._eof_received or not self._framer.pending:
            self.partial_since = None  # no message timeout while reading is paused
        elif self.partial_since is None:
            self.partial_since = self._listener.now()
