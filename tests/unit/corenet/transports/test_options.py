"""`SocketOptions`: which values it accepts and refuses, the messages, and the options that the kernel then has."""

import asyncio
import dataclasses
import errno
import socket
from pathlib import Path
from typing import Any

import pytest

import corenet
from corenet import SocketOptions
from corenet.transports.options import GETTERS, SETTERS, read_options

from .test_datagram import address, close, endpoint


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"keepalive": 1}, TypeError, r"SocketOptions.keepalive must be True, False or None, not 1"),
        ({"keepalive_idle": "60"}, TypeError, r"SocketOptions.keepalive_idle must be an int, not '60'"),
        ({"keepalive_idle": True}, TypeError, r"keepalive_idle must be an int, not True"),
        ({"keepalive_idle": 0}, ValueError, r"SocketOptions.keepalive_idle: 0 is outside 1..32767 seconds"),
        ({"keepalive_count": 128}, ValueError, r"128 is outside 1..127 probes"),
        ({"keepalive": False, "keepalive_idle": 5}, ValueError, r"keepalive_idle has no effect with keepalive=False"),
        ({"user_timeout": "1"}, TypeError, r"user_timeout must be a number of seconds, not '1'"),
        ({"user_timeout": -1}, ValueError, r"user_timeout, as ms: -1000 is outside"),
        ({"user_timeout": float("nan")}, ValueError, r"user_timeout must be finite"),
        ({"linger": -1}, ValueError, r"linger: -1 is outside 0..3600 seconds"),
        ({"backlog": -1}, ValueError, r"backlog: -1 is outside"),
        ({"receive_buffer": 1}, ValueError, r"receive_buffer: 1 is outside 256"),
        ({"traffic_class": 256}, ValueError, r"traffic_class: 256 is outside 0..255"),
        ({"congestion": b"bbr"}, TypeError, r"congestion must be a str"),
    ],
)
def test_wrong_values_are_refused_with_their_name(fields: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        SocketOptions(**fields)


def test_every_field_can_be_set_and_read() -> None:
    names = {field.name for field in dataclasses.fields(SocketOptions)}
    assert set(SETTERS) == names
    assert set(GETTERS) == names - {"backlog", "udp_gso"}


TCP = SocketOptions(
    keepalive_idle=77,
    keepalive_interval=11,
    keepalive_count=3,
    user_timeout=4.5,
    linger=2,
    receive_buffer=20_000,
    send_buffer=30_000,
    unsent_low_water=5000,
    congestion="reno",
    traffic_class=32,
)
AS_READ = {
    "keepalive": True,
    "keepalive_idle": 77,
    "keepalive_interval": 11,
    "keepalive_count": 3,
    "user_timeout": 4.5,
    "linger": 2,
    "receive_buffer": 40_000,
    "send_buffer": 60_000,
    "unsent_low_water": 5000,
    "congestion": "reno",
    "traffic_class": 32,
    "nodelay": True,
    "udp_gro": None,
}


def differs(options: SocketOptions, expected: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(options, name) for name, value in expected.items() if getattr(options, name) != value}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_server_and_client_have_them_before_the_first_byte(host: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, corenet.Loop)
        accepted: asyncio.Future[SocketOptions] = loop.create_future()

        class Server(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                accepted.set_result(transport.get_extra_info("socket_options"))
                transport.close()

        server = await loop.create_server(Server, host, 0, options=TCP)
        transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname()[:2], options=TCP)
        assert differs(transport.get_extra_info("socket_options"), AS_READ) == {}
        assert differs(await accepted, AS_READ) == {}
        transport.abort()
        server.close()
        await server.wait_closed()

    corenet.run(main())


def test_accepted_connections_have_the_options_and_nagle_can_be_enabled() -> None:
    async def main() -> None:
        options = SocketOptions(nodelay=False, keepalive=True, backlog=7, reuse_port=True, fast_open=9, defer_accept=1)
        seen: asyncio.Future[SocketOptions] = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.readexactly(1) == b"x"
            seen.set_result(writer.get_extra_info("socket_options"))
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, options=options)
        listening = read_options(server.sockets[0])
        assert (listening.reuse_port, listening.fast_open) == (True, 9)
        assert listening.defer_accept
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), options=SocketOptions(nodelay=False, fast_open=True)
        )
        mine = writer.get_extra_info("socket_options")
        assert (mine.nodelay, mine.fast_open, mine.keepalive, mine.keepalive_idle) == (False, True, False, None)
        writer.write(b"x")
        theirs = await seen
        assert (theirs.nodelay, theirs.keepalive) == (False, True)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()

    corenet.run(main())


def test_options_of_given_sockets() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, corenet.Loop)
        sock = socket.create_server(("127.0.0.1", 0))
        server = await loop.create_server(asyncio.Protocol, sock=sock, options=SocketOptions(keepalive=True))
        client = socket.create_connection(sock.getsockname())
        for made in (
            await loop.create_connection(asyncio.Protocol, sock=client, options=SocketOptions(linger=0)),
            await loop.connect_accepted_socket(
                asyncio.Protocol, socket.create_connection(sock.getsockname()), options=SocketOptions(linger=0)
            ),
        ):
            assert made[0].get_extra_info("socket_options").linger == 0
            made[0].abort()
        with socket.create_connection(sock.getsockname()) as third:
            with pytest.raises(ValueError, match="reuse_port does not apply to a connection that exists already"):
                await loop.create_connection(asyncio.Protocol, sock=third, options=SocketOptions(reuse_port=True))
        server.close()

    corenet.run(main())


def test_options_of_unix_sockets(tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, corenet.Loop)
        path = str(tmp_path / "sock")
        server = await loop.create_unix_server(asyncio.Protocol, path, options=SocketOptions(backlog=3, linger=1))
        options = SocketOptions(send_buffer=10_000)
        transport, _ = await loop.create_unix_connection(asyncio.Protocol, path, options=options)
        read = transport.get_extra_info("socket_options")
        assert (read.send_buffer, read.nodelay, read.keepalive_idle) == (20_000, None, None)
        transport.abort()
        with pytest.raises(ValueError, match="nodelay does not apply to a socket that is not IPv4 or IPv6"):
            await loop.create_unix_connection(asyncio.Protocol, path, options=SocketOptions(nodelay=True))
        server.close()

    corenet.run(main())


def test_options_of_datagram_sockets() -> None:
    async def main() -> None:
        options = SocketOptions(receive_buffer=9000, traffic_class=8, udp_gro=True, udp_gso=False)
        one = await endpoint(options=options)
        expected = {"receive_buffer": 18_000, "traffic_class": 8, "udp_gro": True, "udp_gso": False}
        assert differs(one.transport.get_extra_info("socket_options"), expected) == {}
        two = await endpoint(options=SocketOptions(reuse_port=True))
        three = await endpoint(local_addr=address(two), options=SocketOptions(reuse_port=True))
        read = three.transport.get_extra_info("socket_options")
        assert (read.reuse_port, read.udp_gro, read.udp_gso) == (True, False, True)
        with pytest.raises(ValueError, match="nodelay does not apply to a datagram socket"):
            await endpoint(options=SocketOptions(nodelay=True))
        await close(one, two, three)

    corenet.run(main())


def test_gso_and_gro_can_be_switched_off() -> None:
    async def main() -> None:
        plain = await endpoint(options=SocketOptions(udp_gro=False, udp_gso=False))
        # Whether it joins is up to each socket: this one would, if there were anything to join.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
            sink.setsockopt(17, 104, 1)
            sink.bind(("127.0.0.1", 0))
            sink.settimeout(30)
            plain.transport.send_many([(b"one", sink.getsockname()), (b"two", sink.getsockname())])
            assert [sink.recv(100), sink.recv(100)] == [b"one", b"two"]
        await close(plain)

    corenet.run(main())


def test_contradicting_options_are_refused() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, corenet.Loop)

        def serve(options: SocketOptions, **keywords: Any) -> Any:
            return loop.create_server(asyncio.Protocol, "127.0.0.1", 0, options=options, **keywords)

        with pytest.raises(ValueError, match=r"reuse_port=True and options.reuse_port=False contradict each other"):
            await serve(SocketOptions(reuse_port=False), reuse_port=True)
        with pytest.raises(ValueError, match=r"keep_alive=True and options.keepalive=False"):
            await serve(SocketOptions(keepalive=False), keep_alive=True)
        with pytest.raises(ValueError, match="udp_gro does not apply to a stream socket"):
            await serve(SocketOptions(udp_gro=True))
        with pytest.raises(OSError, match=r"SocketOptions.congestion='nonsense'") as caught:
            await serve(SocketOptions(congestion="nonsense"))
        assert caught.value.errno == errno.ENOENT
        with pytest.raises(ValueError, match="backlog does not apply to a socket that does not listen"):
            await loop.create_connection(asyncio.Protocol, "127.0.0.1", 1, options=SocketOptions(backlog=1))
        with pytest.raises(ValueError, match="role must be one of"), socket.socket() as sock:
            SocketOptions().apply(sock, "server")

    corenet.run(main())


def test_closed_transports_and_pipes_have_no_options() -> None:
    async def main() -> None:
        one = await endpoint()
        await close(one)
        assert one.transport.get_extra_info("socket_options", "none") == "none"

    corenet.run(main())
