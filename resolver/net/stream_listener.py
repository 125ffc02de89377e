"""TCP towards clients (RFC 7766): framing, pipelining with replies in any order, and what keeps one client from all.

Rule: everything a connection can hold is bounded: bytes of an unfinished message, unanswered queries, unsent replies,
and the time for each; beyond a bound reading pauses, and past its time the connection ends (slow loris; Unbound and
BIND both ran out of memory this way, CVE-2024-0760, CVE-2024-12705). Connections are bounded in all, for each address
and for each network, as queries that wait are in `resolver.net.service`. One sweep a second looks after all timeouts,
since a timer per connection would be moved with every message. Hits of one turn leave in one write.

How a connection works through what it has read (`DnsConnection._work`):

* What was read and not looked at yet waits in `_unread`. While anything is there, reading is paused.
* A turn takes at most `STREAM_READ_CHUNK` octets of it and makes at most `STREAM_TURN_OCTETS` octets of replies, and
  one reply more; then the loop serves others. The rest has its turn by `call_soon`.
* Nothing is looked at, and so no reply is made, while the client does not take what it has (`_write_blocked_since`),
  while queries wait for the service (`_backlog`), or while as many as the pipeline permits are unanswered.
* Replies that the service owes come whenever they are ready. A client that does not read and has more than
  `STREAM_WRITE_LIMIT` octets to fetch is cut off.

States: open; closing, when the client has closed its side (what was asked is answered, then the connection is closed);
ending, when something was no query (queries before it are answered, then our side is closed, and what the client still
sends is thrown away until it closes or its time is over: closing at once with unread octets would make the kernel
discard the replies).

Progress of a connection is a complete message or a reply, never a mere octet: who makes none, or waits for nothing,
makes room for others (`resolver.net.fair_slots`).
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
from resolver.net.fair_slots import FairSlots
from resolver.net.fastpath import FastPath
from resolver.net.listen_socket import bound_socket
from resolver.net.log_limit import LimitedWarning
from resolver.net.proxy_protocol import TrustedProxies
from resolver.net.service import PendingQuery, Service, decrement
from resolver.net.stream_connection import StreamConnection
from resolver.policy import ALLOW, DROP, AccessTable
from resolver.settings import ServerSettings
from resolver.wire.consts import MESSAGE_MAX

__all__ = ["DnsConnection", "StreamListener", "open_stream_socket"]

logger = logging.getLogger(__name__)

SWEEPS_PER_TIMEOUT = 4
LONGEST_SWEEP = limits.STREAM_SWEEP / 1000


def open_stream_socket(address: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A bound, non-blocking socket for `StreamListener`.

    Raises:
        OSError: the address cannot be had.
    """
    return bound_socket(socket.SOCK_STREAM, address, port, reuse_port=reuse_port, prepare=_prepare)


def _prepare(sock: socket.socket) -> None:
    # A restart must not wait until the kernel has forgotten the connections that the last one closed.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Handed down to the connections: one call less for each.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class StreamListener:
    """The TCP side of one listening socket and all its connections.

    Subclasses serve other protocols: they make other connections, and those with TLS have a context.
    """

    tls_context: Any = None
    """The `ssl.SSLContext` of new connections; None without TLS."""
    padding_block = 0
    """Replies to padded queries are padded to multiples of this many bytes; 0 where nothing is encrypted."""

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
    ) -> None:
        """`message_timeout` in seconds bounds a begun message and an unread reply, `handshake_timeout` the PROXY header
        and the TLS handshake. Peers within the prefixes `proxies` begin with a PROXY header. `own_access` says that
        `access` is not the table of `service`."""
        self.message_timeout = message_timeout
        self.handshake_timeout = handshake_timeout
        self._places: FairSlots[StreamConnection] = FairSlots()
        self._per_address: dict[str, int] = {}
        self.switch(service, fast, access, settings, proxies=proxies, own_access=own_access)
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._complaint = LimitedWarning(logger)
        self.accepted = 0
        self.rejected = 0
        self.evicted = 0
        self.write_overrun = 0
        self.timed_out = 0
        self.malformed = 0
        self.bad_proxy_headers = 0

    async def start(self, sock: socket.socket) -> None:
        """Serve `sock`, which is bound and non-blocking and now belongs to the listener."""
        self._loop = asyncio.get_running_loop()
        server = await self._loop.create_server(
            self.make_connection, sock=sock, backlog=limits.STREAM_BACKLOG, start_serving=False
        )
        self._server = server
        if isinstance(server, Server):
            # Of asyncio's own, the kernel's queue alone bounds how many are accepted before the first is judged.
            server.limit_accepts(self._room)
        await server.start_serving()

    def make_connection(self) -> StreamConnection:
        """The protocol of a new connection."""
        return DnsConnection(self)

    def _room(self, active: int) -> int:
        """How many more may be accepted while `active` are open: their places are given later, and who makes room for
        them is gone later still. So never more than the limit and `STREAM_NEWCOMERS` are open."""
        return limits.STREAM_NEWCOMERS - (active - len(self._places))

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
        """Serve new queries, also of open connections, with these; queries under way keep their service."""
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
        self._limit_per_network = max(self._limit * settings.tcp_network_share // 100, 1)
        for client in list(self._places):
            if not client.network:
                continue  # its PROXY header has not come, so its client is not known
            verdict = access.lookup(client.host)
            client.allowed = verdict == ALLOW
            if verdict == DROP:
                client.abort()

    def close(self) -> None:
        """Stop serving and end every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for client in list(self._places):
            client.abort()

    @property
    def address(self) -> tuple[Any, ...]:
        """Where the socket is bound: (address, port, ...)."""
        assert self._server is not None
        return cast("tuple[Any, ...]", self._server.sockets[0].getsockname())

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._places)

    def statistics(self) -> dict[str, Any]:
        """Counters since the start, by name."""
        return {
            "accepted": self.accepted,
            "rejected": self.rejected,
            "evicted": self.evicted,
            "timed_out": self.timed_out,
            "write_overrun": self.write_overrun,
            "malformed": self.malformed,
            "bad_proxy_headers": self.bad_proxy_headers,
            "connections": len(self._places),
        }

    # --- for connections ---------------------------------------------------------------------------------------------

    def now(self) -> float:
        assert self._loop is not None
        return self._loop.time()

    def admit_proxy(self, client: StreamConnection) -> bool:
        """Whether a connection of a proxy may stay until its PROXY header has come.

        It counts only among all: a proxy has the connections of many clients, whose own limits hold afterwards.
        """
        if self._server is None or not self._make_room(""):
            return False
        self._places.add(client, "")
        if self._timer is None:
            self._arm()
        return True

    def note_bad_proxy_header(self, host: str, error: Exception) -> None:
        """`host`, which is a proxy, has sent something else than a PROXY header."""
        self.bad_proxy_headers += 1
        self._complaint.warn("%s was to send a PROXY header: %s (listener.proxy-protocol-from)", host, error)

    def note_handshake(self, transport: asyncio.Transport) -> None:
        """A TLS handshake was completed."""

    def note_handshake_failure(self, error: OSError) -> None:
        """A TLS handshake has failed, or was not completed in time (TimeoutError)."""

    def admit(self, client: StreamConnection) -> bool:
        """Whether `client` may stay. When all places, or its network's, are taken, another may have to make room."""
        access = self.access.lookup(client.host)
        if self._server is None or access == DROP:
            self.rejected += 1
            return False
        client.allowed = access == ALLOW
        count = self._per_address.get(client.host, 0)
        if count >= self._limit_per_client:
            self.rejected += 1
            self._complaint.warn(
                "%s has %d TCP connections open, one more was closed (server.tcp-connections-per-client)",
                client.host, count,
            )
            return False
        places, network = self._places, client.network
        # More than one only after a reload that has lowered a limit.
        while places.count(network) >= self._limit_per_network:
            if not self._end(places.oldest_idle(network)):
                self._complaint.warn(
                    "the network of %s has %d TCP connections open, one more was closed (server.tcp-network-share)",
                    client.host, places.count(network),
                )
                return False
        if not self._make_room(network):
            return False
        places.add(client, network)
        try:
            self._per_address[client.host] = self._per_address.get(client.host, 0) + 1
        except MemoryError:
            places.remove(client)
            raise
        self.accepted += 1
        if self._timer is None:
            self._arm()
        return True

    def _make_room(self, network: str | bytes) -> bool:
        """Whether there is a slot for one more of `network`; another connection may be ended for it."""
        while len(self._places) >= self._limit:
            if not self._end(self._places.choose_victim(network)):
                self._complaint.warn("all %d TCP connections are taken (server.tcp-connections)", self._limit)
                return False
        return True

    def _end(self, client: StreamConnection | None) -> bool:
        """End `client` to make room; False, and counted, when there is none."""
        if client is None:
            self.rejected += 1
            return False
        self.evicted += 1
        client.abort()
        return True

    def note_progress(self, client: StreamConnection) -> None:
        """`client` has made progress."""
        self._places.note_progress(client, busy=client.waiting > 0)

    def leave(self, client: StreamConnection) -> None:
        """`client` is gone; a second call does nothing."""
        if self._places.remove(client) and client.network:
            decrement(self._per_address, client.host)

    def _arm(self) -> None:
        assert self._loop is not None
        shortest = min(self.idle_timeout, self.message_timeout)
        self._timer = self._loop.call_later(min(LONGEST_SWEEP, shortest / SWEEPS_PER_TIMEOUT), self._sweep)

    def _sweep(self) -> None:
        """End what has been silent, slow or deaf for too long."""
        self._timer = None
        now = self.now()
        for client in list(self._places):
            if client.is_overdue(now):
                self.timed_out += 1
                client.abort()
        if self._places:
            self._arm()


class DnsConnection(StreamConnection):
    """One connection that carries DNS messages, with or without TLS. It is also the sink of its replies."""

    __slots__ = (
        "_at",
        "_backlog",
        "_discarded_octets",
        "_discarding",
        "_eof_received",
        "_feeding",
        "_first",
        "_framer",
        "_frames",
        "_listener",
        "_pending",
        "_reading",
        "_turn",
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
        self._at = 0
        self._frames: list[bytes] = []
        self._first = 0
        self._backlog: deque[bytes] = deque()
        self._turn: asyncio.Handle | None = None
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
        """Whether one of the timeouts has passed."""
        listener = self._listener
        for since in (self.partial_since, self._write_blocked_since):
            if since is not None and now - since > listener.message_timeout:
                return True
        patience = listener.message_timeout if self._discarding else listener.idle_timeout
        return not self.waiting and now - self.idle_since > patience

    # --- StreamConnection ----------------------------------------------------------------------------------------

    def opened(self, transport: asyncio.Transport) -> None:
        """Queries may come from now on."""
        self.idle_since = self._listener.now()

    def received(self, data: bytes) -> None:
        """Octets of messages, cut anywhere."""
        if self._discarding:
            self._discarded_octets += len(data)
            if self._discarded_octets > limits.STREAM_READ_CHUNK:
                self.abort()
            return
        self._unread = self._unread[self._at:] + data if self._at < len(self._unread) else data
        self._at = 0
        if self._turn is None:
            self._work()

    def eof_received(self) -> bool:
        # A client may close its side and still wait for replies (RFC 7766 section 6.2.4).
        self._eof_received = True
        self._discarding = False  # nothing more comes that would have to be thrown away
        return self._has_work()

    def pause_writing(self) -> None:
        self._write_blocked_since = self._listener.now()
        self._update_reading()

    def resume_writing(self) -> None:
        self._write_blocked_since = None
        self._schedule_turn()
        self._update_reading()

    def closed(self) -> None:
        """Cancel what waits and release what was read."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._backlog.clear()
        self._frames, self._unread = [], b""
        pending, self._pending = self._pending, {}
        for query in pending:
            query.service.forget(query)

    # --- Sink ----------------------------------------------------------------------------------------------------

    @property
    def idle_timeout(self) -> float:
        """Seconds that an idle connection is kept (RFC 7828)."""
        return self._listener.idle_timeout

    @property
    def padding_block(self) -> int:
        """Size of the blocks to which replies are padded; 0: they are not."""
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
        """`pending` no longer waits."""
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

    def _work(self) -> None:
        """Do one turn's share of what there is to do."""
        self._turn = None
        transport, listener = self._transport, self._listener
        if transport is None or transport.is_closing():
            return
        self._turn_octets = 0
        if self._backlog:
            self._feed_service()
        if self._can_read_more():
            if self._first == len(self._frames):
                self._next_portion()
            if self._first < len(self._frames):
                self.idle_since = listener.now()
                listener.note_progress(self)
                self._answer_frames(transport)
                self._feed_service()
        self._schedule_turn()
        self._close_if_done()
        self._update_reading()

    def _next_portion(self) -> None:
        """Cut what was read into messages, not more of it than one turn takes."""
        size = limits.STREAM_READ_CHUNK
        if self._at == 0 and len(self._unread) <= size:
            data, self._unread = self._unread, b""
        else:
            data = self._unread[self._at:self._at + size]
            self._at += size
            if self._at >= len(self._unread):
                self._unread, self._at = b"", 0
        # The framer was made without views; no length of two octets is too large for it.
        self._frames, self._first = cast("list[bytes]", self._framer.feed(data)), 0
        if self._frames:
            self.partial_since = None  # what has begun behind them is another message

    def _answer_frames(self, transport: asyncio.Transport) -> None:
        """Answer messages from the cache until a turn's replies are made; others are left to the service."""
        if not self.allowed:
            # The service says that they are refused.
            self._backlog.extend(self._frames[self._first:])
            self._frames, self._first = [], 0
            return
        listener = self._listener
        replies, missed, self._first, malformed = listener.fast.answer_frames(
            self._frames, None, self.octets, self._first, listener.padding_block
        )
        if replies:
            self._turn_octets += len(replies)
            transport.write(replies)
        self._backlog.extend(missed)
        if malformed:
            # Not DNS, or a response: nothing that follows could be trusted to be framed.
            listener.malformed += 1
            self._framer.reset()
            self._frames, self._first, self._unread, self._at = [], 0, b"", 0
            self._eof_received = self._discarding = True
        elif self._first == len(self._frames):
            self._frames, self._first = [], 0

    def _feed_service(self) -> None:
        """Give the service as many of the messages at hand as the pipeline permits; it may answer from inside."""
        listener = self._listener
        backlog = self._backlog
        waited = self.waiting
        self._feeding = True
        try:
            while backlog and self._pipeline_open() and self._turn_octets < limits.STREAM_TURN_OCTETS:
                if self._transport is None or self._transport.is_closing():
                    backlog.clear()
                    break
                self.waiting += 1
                pending = listener.service.handle(backlog.popleft(), self._peer, self, listener.own_access)
                if pending is not None:
                    self._pending[pending] = None
        except BaseException:
            self.abort()  # for want of memory: no reply comes, and the client shall not wait for one
            raise
        finally:
            self._feeding = False
        if self.waiting and not waited:
            listener.note_progress(self)  # from now on it is busy

    def _pipeline_open(self) -> bool:
        """Whether the service may be given one more query."""
        return self._write_blocked_since is None and self.waiting < self._listener.pipeline

    def _can_read_more(self) -> bool:
        """Whether more of what was read may be looked at in this turn."""
        return not self._backlog and self._pipeline_open() and self._turn_octets < limits.STREAM_TURN_OCTETS

    def _has_work(self) -> bool:
        """Whether a message was read that is not answered yet."""
        return bool(self.waiting or self._backlog or self._first < len(self._frames) or self._unread)

    def _schedule_turn(self) -> None:
        """Have another turn when there is something to do that nothing else will set off."""
        if self._turn is not None or self._transport is None or not self._pipeline_open():
            return
        if self._backlog or self._first < len(self._frames) or self._unread:
            self._turn = asyncio.get_running_loop().call_soon(self._work)

    def _close_if_done(self) -> None:
        """Close our side when the client has closed its own, or must not go on, and everything is answered."""
        transport = self._transport
        if not self._eof_received or transport is None or transport.is_closing() or self._has_work():
            return
        if self._discarding and transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def _update_reading(self) -> None:
        """Read only while there is room for more queries and for their replies; a begun message has its time."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        unread = bool(self._first < len(self._frames) or self._unread)
        wanted = self._discarding or (not unread and not self._backlog and self._pipeline_open())
        if self._discarding or not self._eof_received:
            if wanted and not self._reading:
                self._reading = True
                transport.resume_reading()
            elif not wanted and self._reading:
                self._reading = False
                transport.pause_reading()
        if not wanted or self._eof_received or not self._framer.pending:
            self.partial_since = None  # what we do not read cannot be late
        elif self.partial_since is None:
            self.partial_since = self._listener.now()
