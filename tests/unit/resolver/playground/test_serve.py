"""Serving: a world on loopback sockets over UDP and TCP, with delays, and clean-up.

A small world is enough; the whole playground is served once.
"""

import asyncio
import socket

import pytest

from resolver.playground import ServerFaults, World, start, world_tables
from resolver.settings import Settings
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView

SERVERS = {
    "a.root.": world_tables.ServerSpec("127.20.210.1", ServerFaults(mirror=names.from_text("mirror."))),
    "b.root.": world_tables.ServerSpec("127.20.210.2", ServerFaults(delay=0.05)),
    "c.root.": world_tables.ServerSpec("127.20.210.3", listening=False),
    "d.root.": world_tables.ServerSpec("127.20.210.4", ServerFaults(drop_udp=True, drop_tcp=True)),
}
SMALL = World({".": world_tables.ZoneSpec(tuple(SERVERS), "root", "www A 192.0.2.1\n")}, SERVERS, ())
QUERY = make_query(7, names.from_text("www."), c.A)


async def udp(address: str, port: int, packet: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        await loop.sock_connect(channel, (address, port))
        await loop.sock_sendall(channel, packet)
        return await loop.sock_recv(channel, 65535)


async def tcp(address: str, port: int, data: bytes, replies: int = 1) -> list[bytes]:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        for at in range(0, len(data), 5):  # in small pieces, so that frames never arrive whole
            writer.write(data[at : at + 5])
            await writer.drain()
        return [await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")) for _ in range(replies)]
    finally:
        writer.close()
        await writer.wait_closed()


def framed(packet: bytes) -> bytes:
    return len(packet).to_bytes(2, "big") + packet


def test_udp_and_tcp() -> None:
    async def body() -> None:
        async with await start(SMALL, port=0) as running:
            assert running.addresses == ["127.20.210.1", "127.20.210.2", "127.20.210.4"]
            view = MessageView.parse(await udp("127.20.210.1", running.port, QUERY))
            assert view.aa and view.answer[0].rdata(0) == b"\xc0\0\2\1"
            both = await tcp("127.20.210.1", running.port, framed(QUERY) + framed(b"\0\x08" + QUERY[2:]), replies=2)
            assert [MessageView.parse(data).id for data in both] == [7, 8]
            for protocol in ("udp", "tcp"):
                packet = make_query(1, names.from_text("mirror."), c.TXT)
                data = (
                    await udp("127.20.210.1", running.port, packet)
                    if protocol == "udp"
                    else (await tcp("127.20.210.1", running.port, framed(packet)))[0]
                )
                assert protocol.encode() in MessageView.parse(data).answer[0].rdata(0)

    asyncio.run(body())


def test_slow_servers_delay_their_replies() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with await start(SMALL, port=0) as running:
            for request in (udp("127.20.210.2", running.port, QUERY), tcp("127.20.210.2", running.port, framed(QUERY))):
                began = loop.time()
                assert await request
                assert loop.time() - began >= 0.05

    asyncio.run(body())


def test_a_server_that_drops_closes_streams() -> None:
    async def body() -> None:
        async with await start(SMALL, port=0) as running:
            with pytest.raises(asyncio.IncompleteReadError):
                await tcp("127.20.210.4", running.port, framed(QUERY))
            with pytest.raises(OSError):
                await tcp("127.20.210.3", running.port, framed(QUERY))

    asyncio.run(body())


def test_closing_frees_the_port_and_ends_connections() -> None:
    async def body() -> None:
        running = await start(SMALL, port=0)
        reader, writer = await asyncio.open_connection("127.20.210.1", running.port)
        writer.write(framed(QUERY))
        await reader.readexactly(2)
        await running.close()
        await running.close()
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(65535)
        writer.close()
        again = await start(SMALL, port=running.port)
        await again.close()

    asyncio.run(body())


def test_a_taken_port_is_named_and_nothing_stays_open() -> None:
    async def body() -> None:
        async with await start(SMALL, port=0) as running:
            with pytest.raises(OSError, match=rf"127\.20\.210\.1 port {running.port}"):
                await start(SMALL, port=running.port)
            assert await udp("127.20.210.1", running.port, QUERY)

    asyncio.run(body())


def test_settings_for_a_resolver_inside() -> None:
    async def body() -> None:
        async with await start(SMALL, port=0) as running:
            settings = running.settings(Settings())
            assert settings.iteration.upstream_port == running.port
            assert not settings.iteration.do_not_query_localhost
            assert [root.addresses for root in settings.root_hints] == [(spec.address,) for spec in SERVERS.values()]
            assert not settings.dnssec.active

    asyncio.run(body())


def test_the_whole_playground_can_be_served() -> None:
    async def body() -> None:
        async with await start(port=0) as running:
            assert len(running.addresses) > 40
            for address in running.addresses[:3]:
                packet = make_query(3, names.from_text("www.example.playground."), c.A)
                assert MessageView.parse(await udp(address, running.port, packet)).authority

    asyncio.run(body())
