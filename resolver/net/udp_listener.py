"""A listening UDP socket. The native handler answers cache hits; misses arrive here as a list.

Only misses cost work in Python. On corenet's loop the fast path runs inside the transport, without the GIL, for a whole
batch of datagrams, or in a lane: then a thread of its own receives them, and the loop only gets what the fast path
declines. On any other loop the same function is called for each datagram, so only speed depends on the loop.
Path MTU discovery is off (IP_PMTUDISC_OMIT): otherwise forged ICMP could make the kernel fragment our replies, and
fragments can be forged.
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from corenet.limits import LANE_BUFFER
from resolver import limits
from resolver.log_limit import LimitedWarning
from resolver.net.fastpath import FastPath
from resolver.net.listen_socket import bound_socket
from resolver.net.native import attach, detach, open_lane, refresh_lane, switch_lane
from resolver.net.pending_queries import PendingQuery
from resolver.net.proxy_protocol import ProxyHeaderError, TrustedProxies, parse_proxy_header
from resolver.net.service import Service
from resolver.policy import AccessTable
from resolver.query import UDP

if TYPE_CHECKING:
    from corenet.transports.datagram import DatagramTransport
    from corenet.transports.lane import Lane

__all__ = ["UdpListener", "open_udp_socket"]

logger = logging.getLogger(__name__)

# Constants of <linux/in.h> and <linux/in6.h> that the socket module lacks in some Python versions.
IP_MTU_DISCOVER = 10
IPV6_MTU_DISCOVER = 23
IP_PKTINFO = 8
IP_PMTUDISC_OMIT = 5


def open_udp_socket(
    address: str, port: int, *, reuse_port: bool = False, freebind: bool = False
) -> socket.socket:
    """A bound, non-blocking socket for `UdpListener`; with `freebind`, also of an address that this host lacks.

    Raises:
        OSError: the socket cannot be made or bound.
    """
    return bound_socket(socket.SOCK_DGRAM, address, port, reuse_port=reuse_port, freebind=freebind,
                        prepare=prepare_udp_socket)


def prepare_udp_socket(sock: socket.socket) -> None:
    """Set the options of a listening socket, also of one that another process has bound."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_OMIT)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_OMIT)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, limits.SERVER_BUFFER)


def enable_pktinfo(sock: socket.socket) -> None:
    """On a socket bound to the wildcard address, have the kernel report the destination address of each query: it must
    be the source address of the reply (RFC 1123 section 4.1.3.5)."""
    host = sock.getsockname()[0]
    if host == "0.0.0.0":
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    elif host == "::":
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)


class UdpListener(asyncio.DatagramProtocol):
    """Serves one UDP socket. It is also the `Sink` of its replies."""

    stream = False
    idle_timeout = 0.0
    padding_block = 0

    def __init__(
        self,
        service: Service,
        fast: FastPath,
        *,
        native: bool = True,
        lane: bool = False,
        access: AccessTable | None = None,
        proxies: Iterable[str] = (),
        name: str = "",
    ) -> None:
        """With `native` False each datagram is answered in Python, also on corenet's loop, for comparison. With `lane`
        a thread answers them, unless `proxies` are given or the loop is not corenet's.

        `access` is the access list when it is not that of `service`; `fast` has the same one. Datagrams of peers within
        the prefixes `proxies` begin with a PROXY header; then no datagram is answered without Python. `name` is for
        policies.
        """
        self._service = service
        self._fast = fast
        self._access = access
        self._proxies = _trusted(proxies)
        self.origin = (UDP, name)
        self._native = native
        self._attached = False
        self._wants_lane = lane
        self._lane: Lane | None = None
        self._closed_lanes: Counter[str] = Counter()
        self._transport: asyncio.DatagramTransport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._send_many: Callable[[list[tuple[bytes, tuple[Any, ...]]]], None] | None = None
        self._replies: list[tuple[bytes, tuple[Any, ...]]] = []
        self._warnings = LimitedWarning(logger)
        self.errors = 0
        self.bad_proxy_headers = 0

    async def start(self, sock: socket.socket) -> None:
        """Serve `sock`, which must be bound and non-blocking. The listener takes ownership."""
        prepare_udp_socket(sock)
        enable_pktinfo(sock)
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=sock)

    @property
    def lane_octets(self) -> int:
        """Memory of the buffers of its lane, which are allocated whole."""
        return 0 if self._lane is None else 2 * LANE_BUFFER

    def switch(
        self, service: Service, fast: FastPath, *, access: AccessTable | None = None, proxies: Iterable[str] = (),
        lane: bool | None = None,
    ) -> None:
        """Give new queries to `service` and `fast`. Pending queries are still answered through this socket.

        `lane` says whether a lane answers from the cache; None leaves that as it is.
        """
        self._service = service
        self._fast = fast
        self._access = access
        self._proxies = _trusted(proxies)
        if lane is not None:
            self._wants_lane = lane
        if self._transport is not None:
            self._attach(self._transport)

    def stop_reading(self) -> None:
        """Receive no more queries; those that were received are still answered. This cannot be undone."""
        lane = self._lane
        self._close_lane()
        if self._transport is not None:
            cast("DatagramTransport", self._transport).pause_reading()
        while lane is not None and (found := lane.take(limits.LANE_TURN)):
            self.datagrams_received(found)

    def close(self) -> None:
        """Stop serving. Replies that are not sent yet are dropped."""
        self._close_lane()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    @property
    def native(self) -> bool:
        """Whether hits are answered inside the transport or its lane."""
        return self._attached

    def statistics(self) -> dict[str, int]:
        """Counters since the start, by name."""
        lane = Counter(self._closed_lanes)
        if self._lane is not None:
            lane.update(self._lane.counters())
        return {
            "errors": self.errors + lane["errors"],
            "bad_proxy_headers": self.bad_proxy_headers,
            "lane_declined": lane["declined"],
            "lane_overflowed": lane["overflowed"],
        }

    @property
    def address(self) -> tuple[Any, ...]:
        """The address that the socket is bound to: (address, port, ...)."""
        assert self._transport is not None
        return cast("tuple[Any, ...]", self._transport.get_extra_info("sockname"))

    # --- asyncio.DatagramProtocol ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        self._loop = asyncio.get_running_loop()
        self._send_many = getattr(transport, "send_many", None)
        self._attach(transport)

    def _attach(self, transport: asyncio.BaseTransport) -> None:
        if self._lane is not None and self._proxies is None and self._wants_lane:
            switch_lane(self._lane, self._fast)
            return
        self._close_lane()
        self._attached = self._native and self._proxies is None
        if self._attached and self._wants_lane and self._open_lane(transport):
            return
        self._attached = self._attached and attach(self._fast, transport)
        if not self._attached:
            detach(transport)

    def _open_lane(self, transport: asyncio.BaseTransport) -> bool:
        """Let a thread receive and answer the datagrams; False when the transport is not one of corenet's loop."""
        assert self._loop is not None
        try:
            lane = open_lane(self._fast, transport)
        except (OSError, RuntimeError, MemoryError) as error:
            why = str(error) or "out of memory"
            logger.warning("listener: no lane for %s: %s; the loop answers its queries", self.origin[1], why)
            return False
        if lane is None:
            return False
        self._loop.add_reader(lane.fileno(), self._from_lane, lane)
        self._lane = lane
        return True

    def _close_lane(self) -> None:
        """End the thread; the transport receives again."""
        lane, self._lane = self._lane, None
        if lane is None:
            return
        assert self._loop is not None
        self._loop.remove_reader(lane.fileno())
        lane.stop()
        self._closed_lanes.update(lane.counters())
        if self._transport is not None:
            cast("DatagramTransport", self._transport).resume_reading()

    def _from_lane(self, lane: "Lane") -> None:
        """Handle a part of what the lane has declined, so that other events have their turn."""
        if lane is not self._lane:
            return
        found = lane.take(limits.LANE_TURN)
        refresh_lane(lane)
        if len(found) == limits.LANE_TURN:
            assert self._loop is not None
            self._loop.call_soon(self._from_lane, lane)
        if found:
            self.datagrams_received(found)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._close_lane()
        if exc is not None:
            logger.error("listener: a UDP socket was closed after an error: %s", exc)

    def datagrams_received(self, datagrams: list[tuple[bytes, tuple[Any, ...]]]) -> None:
        """A batch from corenet's loop: what the native handler did not answer, or everything when none is attached."""
        if not self._attached:
            for data, peer in datagrams:
                self.datagram_received(data, peer)
            return
        handle, access = self._service.handle, self._access
        for data, peer in datagrams:
            handle(data, peer, self, access)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if self._proxies is not None and addr[0] in self._proxies:
            self._from_proxy(data, addr)
            return
        reply = None if self._attached else self._fast.answer(data, addr)
        if reply is None:
            self._service.handle(data, addr, self, self._access)
        elif reply and self._transport is not None:
            self._transport.sendto(reply, addr)

    def _from_proxy(self, data: bytes, proxy: tuple[Any, ...]) -> None:
        """A datagram that begins with a PROXY header: the header names the client, and the reply is sent to `proxy`."""
        try:
            header = parse_proxy_header(data)
            if header is None:
                raise ProxyHeaderError("the datagram ends within the header")
        except ProxyHeaderError as error:
            self.bad_proxy_headers += 1
            self._warnings.warn(
                "listener: %s has to send a PROXY header: %s (listener.proxy-protocol-from)", proxy[0], error
            )
            return
        client = header.client or proxy
        query = data[header.size:]
        reply = self._fast.answer(query, client)
        if reply is None:
            self._service.handle(query, client, _ProxiedClient(self, proxy), self._access)
        elif reply and self._transport is not None:
            self._transport.sendto(reply, proxy)

    def error_received(self, exc: Exception) -> None:
        # ICMP about a client that closed its socket, or a full send buffer. The client retries; this is only counted.
        self.errors += 1
        self._warnings.warn("listener: cannot send a UDP reply: %s", exc)

    def _flush(self) -> None:
        replies, self._replies = self._replies, []
        transport = self._transport
        if transport is None:
            return
        if self._send_many is not None:
            self._send_many(replies)
            return
        for packet, peer in replies:
            transport.sendto(packet, peer)

    # --- Sink ----------------------------------------------------------------------------------------------------

    def send(self, packet: bytes, peer: tuple[Any, ...]) -> None:
        """Send a reply of `Service`, together with the others of this iteration of the loop.

        One system call for all of them also wakes a local receiver only once, which is most of the cost of sending.
        """
        if self._transport is None or self._loop is None:
            return
        replies = self._replies
        if not replies:
            self._loop.call_soon(self._flush)
        replies.append((packet, peer))

    def skip(self) -> None:
        """Nothing to do: no reply is sent."""

    def abort(self) -> None:
        """Nothing to do: a client that gets no reply retries."""

    def forget(self, pending: PendingQuery) -> None:
        """Nothing to do: pending queries are not kept here."""


class _ProxiedClient:
    """The sink of replies to a client behind the proxy at `proxy`."""

    __slots__ = ("_listener", "_proxy")

    stream = False
    idle_timeout = 0.0
    padding_block = 0

    def __init__(self, listener: UdpListener, proxy: tuple[Any, ...]) -> None:
        self._listener = listener
        self._proxy = proxy

    @property
    def origin(self) -> tuple[str, str]:
        """That of the listener."""
        return self._listener.origin

    def send(self, packet: bytes, peer: tuple[Any, ...]) -> None:
        """Send a reply of `Service` to the proxy, which knows the client by the id."""
        self._listener.send(packet, self._proxy)

    def skip(self) -> None:
        """Nothing to do: over UDP no reply is sent."""

    def abort(self) -> None:
        """A client that gets no reply asks again."""

    def forget(self, pending: PendingQuery) -> None:
        """Nothing to do: pending queries are not kept here."""


def _trusted(proxies: Iterable[str]) -> TrustedProxies | None:
    prefixes = tuple(proxies)
    return TrustedProxies(prefixes) if prefixes else None
