"""TCP towards clients (RFC 7766): framing, pipelining with replies in any order, and what keeps one client from all.

Rule: everything a connection can hold is bounded: bytes of an unfinished message, unanswered queries, unsent replies,
and the time for each; beyond a bound reading pauses, and past its time the connection ends (slow loris; Unbound and
BIND both ran out of memory this way, CVE-2024-0760, CVE-2024-12705). Connections are bounded in all, for each address
and for each network, as queries that wait are in `resolver.net.service`. One sweep a second looks after all timeouts,
since a timer per connection would be moved with every message. Hits of one read leave in one write.
"""

import asyncio
import logging
import socket
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any, cast

from corenet.core.framer import FrameError, LengthFramer
from resolver import limits
from resolver.net.bound import bound_socket
from resolver.net.complaint import Complaint
from resolver.net.fastpath import FastPath
from resolver.net.service import PendingQuery, Service, network_of, one_less
from resolver.policy import ALLOW, DROP, AccessTable
from resolver.settings import ServerSettings

__all__ = ["StreamListener", "open_stream_socket"]

logger = logging.getLogger(__name__)

LARGEST_MESSAGE = 65_535
SWEEPS_PER_TIMEOUT = 4
LONGEST_SWEEP = 1.0


def open_stream_socket(address: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A bound, non-blocking socket for `StreamListener`.

    Raises:
        OSError: the address cannot be had.
    """
    return bound_socket(socket.SOCK_STREAM, address, port, reuse_port=reuse_port, prepare=_outlive_connections)


def _outlive_connections(sock: socket.socket) -> None:
    # A restart must not wait until the kernel has forgotten the connections that the last one closed.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


class StreamListener:
    """The TCP side of one listening socket and all its connections."""

    def __init__(
        self,
        service: Service,
        fast: FastPath,
        access: AccessTable,
        settings: ServerSettings,
        *,
        message_timeout: float = limits.STREAM_MESSAGE.default,
    ) -> None:
        """`message_timeout` in seconds bounds a begun message and an unread reply."""
        self.message_timeout = message_timeout
        self._clients: OrderedDict[_Client, None] = OrderedDict()
        self._networks: dict[str | bytes, OrderedDict[_Client, None]] = {}
        self._per_address: dict[str, int] = {}
        self.switch(service, fast, access, settings)
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._complaint = Complaint(logger)
        self.accepted = 0
        self.rejected = 0
        self.timed_out = 0
        self.garbled = 0

    async def start(self, sock: socket.socket) -> None:
        """Serve `sock`, which is bound and non-blocking and now belongs to the listener."""
        self._loop = asyncio.get_running_loop()
        self._server = await self._loop.create_server(
            lambda: _Client(self), sock=sock, backlog=limits.STREAM_BACKLOG.default
        )

    def switch(self, service: Service, fast: FastPath, access: AccessTable, settings: ServerSettings) -> None:
        """Serve new queries, also of open connections, with these; queries under way keep their service."""
        self.service = service
        self.fast = fast
        self.access = access
        self.pipeline = settings.tcp_pipeline
        self.idle_timeout = settings.tcp_idle_timeout
        self._limit = settings.tcp_connections
        self._limit_per_client = settings.tcp_connections_per_client
        self._limit_per_network = max(self._limit * settings.tcp_network_share // 100, 1)
        for client in list(self._clients):
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
        for client in list(self._clients):
            client.abort()

    @property
    def address(self) -> tuple[Any, ...]:
        """Where the socket is bound: (address, port, ...)."""
        assert self._server is not None
        return cast("tuple[Any, ...]", self._server.sockets[0].getsockname())

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._clients)

    def statistics(self) -> dict[str, int]:
        """Counters since the start, by name."""
        return {
            "accepted": self.accepted,
            "rejected": self.rejected,
            "timed_out": self.timed_out,
            "garbled": self.garbled,
            "connections": len(self._clients),
        }

    # --- for _Client ---------------------------------------------------------------------------------------------

    def now(self) -> float:
        assert self._loop is not None
        return self._loop.time()

    def admit(self, client: "_Client") -> bool:
        """Whether `client` may stay. When all places, or its network's, are taken, the longest idle one makes room."""
        access = self.access.lookup(client.host)
        if self._server is None or access == DROP:
            self.rejected += 1
            return False
        client.allowed = access == ALLOW
        count = self._per_address.get(client.host, 0)
        if count >= self._limit_per_client:
            self.rejected += 1
            self._complaint.say(
                "%s has %d TCP connections open, one more was closed (server.tcp-connections-per-client)",
                client.host, count,
            )
            return False
        near = self._networks.get(client.network, OrderedDict[_Client, None]())
        if not self._make_room(near, self._limit_per_network):
            self._complaint.say(
                "the network of %s has %d TCP connections open, one more was closed (server.tcp-network-share)",
                client.host, len(near),
            )
            return False
        if not self._make_room(self._clients, self._limit):
            self._complaint.say("all %d TCP connections are taken (server.tcp-connections)", self._limit)
            return False
        self._per_address[client.host] = self._per_address.get(client.host, 0) + 1
        try:
            if client.network not in self._networks:  # also when room was made by its last one
                self._networks[client.network] = OrderedDict()
            self._networks[client.network][client] = None
            self._clients[client] = None
        except MemoryError:
            self._remove(client)
            raise
        self.accepted += 1
        if self._timer is None:
            self._arm()
        return True

    def _make_room(self, crowd: "Mapping[_Client, None]", limit: int) -> bool:
        """End the longest idle of `crowd` until one more is within `limit`; False, and counted, when it is busy."""
        while len(crowd) >= limit:  # more than once only after a reload that has lowered the limit
            oldest = next(iter(crowd))
            if oldest.waiting or oldest.partial_since is not None:
                self.rejected += 1
                return False
            oldest.abort()
        return True

    def used(self, client: "_Client") -> None:
        """`client` did something: it is the last to make room."""
        if client in self._clients:
            self._clients.move_to_end(client)
            self._networks[client.network].move_to_end(client)

    def leave(self, client: "_Client") -> None:
        """`client` is gone; a second call does nothing."""
        if client in self._clients:
            self._remove(client)

    def _remove(self, client: "_Client") -> None:
        self._clients.pop(client, None)
        near = self._networks.get(client.network)
        if near is not None:
            near.pop(client, None)
            if not near:
                del self._networks[client.network]
        one_less(self._per_address, client.host)

    def _arm(self) -> None:
        assert self._loop is not None
        shortest = min(self.idle_timeout, self.message_timeout)
        self._timer = self._loop.call_later(min(LONGEST_SWEEP, shortest / SWEEPS_PER_TIMEOUT), self._sweep)

    def _sweep(self) -> None:
        """End what has been silent, slow or deaf for too long."""
        self._timer = None
        now = self.now()
        for client in list(self._clients):
            if client.is_overdue(now):
                self.timed_out += 1
                client.abort()
        if self._clients:
            self._arm()


class _Client(asyncio.Protocol):
    """One connection. It is also the sink of its replies."""

    __slots__ = ("_backlog", "_closing", "_deaf_since", "_feeding", "_framer", "_listener", "_peer", "_pending",
                 "_reading", "_transport", "allowed", "host", "idle_since", "network", "octets", "partial_since",
                 "waiting")

    stream = True

    def __init__(self, listener: StreamListener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._framer = LengthFramer(2, max_frame=LARGEST_MESSAGE)
        self._peer: tuple[Any, ...] = ("", 0)
        self._pending: dict[PendingQuery, None] = {}
        self._backlog: deque[bytes] = deque()
        self._feeding = False
        self._reading = True
        self._closing = False
        self._deaf_since: float | None = None
        self.host = ""
        self.network: str | bytes = ""
        self.octets = b""
        """The client's address as cookies are made of it."""
        self.allowed = False
        self.idle_since = 0.0
        self.partial_since: float | None = None
        self.waiting = 0

    def abort(self) -> None:
        """End the connection now; what it waits for is forgotten."""
        self._listener.leave(self)
        if self._transport is not None:
            self._transport.abort()

    def is_overdue(self, now: float) -> bool:
        """Whether one of the three timeouts has passed."""
        listener = self._listener
        if self.partial_since is not None and now - self.partial_since > listener.message_timeout:
            return True
        if self._deaf_since is not None and now - self._deaf_since > listener.message_timeout:
            return True
        return not self.waiting and now - self.idle_since > listener.idle_timeout

    # --- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if not peer:
            # The client was gone before it was looked at.
            self._transport.abort()
            return
        self._peer = peer
        self.host = peer[0]
        self.network = network_of(self.host)
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self.octets = socket.inet_pton(family, self.host.partition("%")[0])
        self.idle_since = self._listener.now()
        if not self._listener.admit(self):
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=limits.STREAM_WRITE_HIGH.default)

    def data_received(self, data: bytes) -> None:
        listener = self._listener
        try:
            frames = cast("list[bytes]", self._framer.feed(data))      # the framer was made without views
        except FrameError:
            listener.garbled += 1
            self.abort()
            return
        if frames:
            if self.allowed:
                replies, missed, dropped = listener.fast.answer_frames(frames, None, self.octets)
            else:
                replies, missed, dropped = b"", frames, 0       # the service says that they are refused
            if dropped:
                # Not DNS, or a response: nothing that follows could be trusted to be framed.
                listener.garbled += 1
                self.abort()
                return
            self.idle_since = listener.now()
            self.partial_since = None
            listener.used(self)
            if replies and self._transport is not None:
                self._transport.write(replies)
            self._backlog.extend(missed)
            self._feed_service()
        if self._framer.pending:
            if self.partial_since is None:
                self.partial_since = listener.now()
        else:
            self.partial_since = None
        self._regulate()

    def eof_received(self) -> bool:
        # A client may close its side and still wait for replies (RFC 7766 section 6.2.4).
        self._closing = True
        self.partial_since = None
        return self.waiting > 0

    def pause_writing(self) -> None:
        self._deaf_since = self._listener.now()
        self._regulate()

    def resume_writing(self) -> None:
        self._deaf_since = None
        self._regulate()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._listener.leave(self)
        self._backlog.clear()
        pending, self._pending = self._pending, {}
        for query in pending:
            query.service.forget(query)

    # --- Sink ----------------------------------------------------------------------------------------------------

    @property
    def idle_timeout(self) -> float:
        """Seconds that an idle connection is kept (RFC 7828)."""
        return self._listener.idle_timeout

    def send(self, packet: bytes, peer: tuple[Any, ...]) -> None:
        """Send a reply of `Service`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(len(packet).to_bytes(2, "big") + packet)
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
        if self._closing and not self.waiting and self._transport is not None:
            self._transport.close()
            return
        self._regulate()

    def _feed_service(self) -> None:
        """Give the service as many of the messages at hand as the pipeline permits; it may answer from inside."""
        listener = self._listener
        backlog = self._backlog
        self._feeding = True
        try:
            while backlog and self.waiting < listener.pipeline:
                if self._transport is None or self._transport.is_closing():
                    backlog.clear()
                    break
                self.waiting += 1
                pending = listener.service.handle(backlog.popleft(), self._peer, self)
                if pending is not None:
                    self._pending[pending] = None
        except BaseException:
            self.abort()  # for want of memory: no reply comes, and the client shall not wait for one
            raise
        finally:
            self._feeding = False

    def _regulate(self) -> None:
        """Read only while there is room for more queries and for their replies."""
        transport = self._transport
        if transport is None or self._closing or transport.is_closing():
            return
        wanted = self._deaf_since is None and not self._backlog and self.waiting < self._listener.pipeline
        if wanted and not self._reading:
            self._reading = True
            transport.resume_reading()
        elif not wanted and self._reading:
            self._reading = False
            transport.pause_reading()
