"""The simulated Internet on real sockets: each server of a world on its own loopback address, over UDP and TCP.

This module only transports packets: `Authority.answer` creates the replies, and `quirks.delay` delays them. All
addresses use the same port, by default a high one that needs no privilege; resolvers set it as the port of name servers
(iteration.upstream-port).
"""

import asyncio
import dataclasses
import socket
import time
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from corenet import LengthFramer
from resolver.limits import PLAYGROUND_PORT, PLAYGROUND_TCP_IDLE, PLAYGROUND_TCP_QUERIES, PORT_ATTEMPTS
from resolver.playground.authority import Authority
from resolver.playground.world import World
from resolver.playground.world_tables import WEB_ADDRESS, WEB_HOST
from resolver.settings import RootServer, Settings
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.playground.https import WebServer

__all__ = ["RunningWorld", "start"]


class RunningWorld:
    """A served world. An asynchronous context manager; leaving it closes all sockets."""

    def __init__(
        self,
        world: World,
        port: int,
        transports: list[asyncio.DatagramTransport],
        servers: list[asyncio.Server],
        streams: set[asyncio.Transport],
    ) -> None:
        self.world = world
        self.port = port
        self._transports = transports
        self._servers = servers
        self._streams = streams
        self.web: WebServer | None = None

    @property
    def root_hints(self) -> list[tuple[bytes, list[str]]]:
        """(name in wire form, addresses) of every root server."""
        return self.world.root_hints

    @property
    def addresses(self) -> list[str]:
        """The addresses of all listening servers."""
        return list(self.world.authorities)

    def settings(self, base: Settings) -> Settings:
        """`base` with root hints, port and trust anchors of this world."""
        roots = tuple(RootServer(names.to_text(name), tuple(addresses)) for name, addresses in self.root_hints)
        iteration = dataclasses.replace(
            base.iteration, upstream_port=self.port, do_not_query_localhost=False, do_ip6=_has_ip6()
        )
        dnssec = dataclasses.replace(base.dnssec, trust_anchors=self.world.trust_anchors)
        return dataclasses.replace(base, root_hints=roots, iteration=iteration, dnssec=dnssec, forward=(), stub=())

    async def close(self) -> None:
        """Stop listening and close open connections. Calling it again has no effect."""
        for transport in self._transports:
            transport.close()
        for server in self._servers:
            server.close()
        for stream in list(self._streams):
            stream.abort()
        for server in self._servers:
            await server.wait_closed()
        self._transports, self._servers = [], []
        if self.web is not None:
            await self.web.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def start(
    world: World | None = None,
    *,
    port: int = PLAYGROUND_PORT.default,
    web: bool = False,
    web_port: int | None = None,
    ca: Path | None = None,
) -> RunningWorld:
    """Serve `world` (default: the playground, signed now) on the running loop; port 0 takes a free one.

    `web` also starts the HTTPS site, on port 443 or a high port, or on `web_port`; its CA certificate is written to
    `ca`.

    Raises:
        OSError: an address or port is not available; the text names it.
    """
    if world is None:
        # Imported here because the signing library is slow to import and other worlds may not need it.
        from resolver.playground.signed import signed_world

        world = signed_world(int(time.time()))
    running = await _start_on_free_port(world, port)
    if web:
        try:
            # Imported here because TLS and certificates are slow to import and most runs do not need them.
            from resolver.playground.https import start_web

            running.web = await start_web(WEB_HOST, WEB_ADDRESS, port=web_port, ca=ca)
        except BaseException:
            await running.close()
            raise
    return running


async def _start_on_free_port(world: World, port: int) -> RunningWorld:
    for attempt in range(PORT_ATTEMPTS):
        chosen = port or _free_port(next(iter(world.authorities)))
        try:
            return await _start_at(world, chosen)
        except OSError:
            if port or attempt == PORT_ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returned or raised")


def _free_port(address: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


async def _start_at(world: World, port: int) -> RunningWorld:
    loop = asyncio.get_running_loop()
    running = RunningWorld(world, port, [], [], set())
    try:
        for address, authority in world.authorities.items():
            if ":" in address and not _has_ip6():
                continue
            try:
                transport, _ = await loop.create_datagram_endpoint(
                    partial(_Datagrams, authority), local_addr=(address, port)
                )
                running._transports.append(transport)
                server = await loop.create_server(partial(_Stream, authority, running._streams), address, port)
                running._servers.append(server)
            except OSError as error:
                raise OSError(error.errno, f"cannot serve the playground at {address} port {port}: {error.strerror}")
    except BaseException:
        await running.close()
        raise
    return running


def _has_ip6() -> bool:
    """Whether this host has IPv6 on its loopback interface; without it, IPv6 servers are not started."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


class _Datagrams(asyncio.DatagramProtocol):
    """One UDP socket of one simulated server."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.DatagramTransport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self._authority.answer(data, source=addr[0])
        if reply is None:
            return
        delay = self._authority.quirks.delay
        if delay:
            self._loop.call_later(delay, self._send, reply, addr)
        else:
            self._send(reply, addr)

    def error_received(self, exc: Exception) -> None:
        """Ignore ICMP errors for replies to clients that have closed their socket."""

    def _send(self, reply: bytes, addr: tuple[str, int]) -> None:
        if not self._transport.is_closing():
            self._transport.sendto(reply, addr)


class _Stream(asyncio.Protocol):
    """One TCP connection to one simulated server. Queries may be pipelined; replies keep their order (RFC 7766)."""

    def __init__(self, authority: Authority, streams: set[asyncio.Transport]) -> None:
        self._authority = authority
        self._streams = streams
        self._framer = LengthFramer(2)  # RFC 1035 section 4.2.2
        self._answered = 0
        self._loop = asyncio.get_running_loop()
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._streams.add(self._transport)
        self._source = transport.get_extra_info("peername")[0]
        self._idle = self._loop.call_later(PLAYGROUND_TCP_IDLE, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._streams.discard(self._transport)
        if self._idle is not None:
            self._idle.cancel()

    def data_received(self, data: bytes) -> None:
        for packet in self._framer.feed(data):
            self._answered += 1
            reply = self._authority.answer(bytes(packet), tcp=True, source=self._source)
            if reply is None or self._answered > PLAYGROUND_TCP_QUERIES:
                self._transport.close()
                return
            framed = self._framer.pack([reply])
            delay = self._authority.quirks.delay
            if delay:
                self._loop.call_later(delay, self._send, framed)
            else:
                self._send(framed)

    def _send(self, framed: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(framed)
