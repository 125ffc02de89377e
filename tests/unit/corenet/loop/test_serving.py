"""Servers: every keyword, several hosts, socket options, lifetime of connections, Unix sockets and their files."""

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.twin import Recorder, accepting, loop_factory, since, twin
from support.waiting import turns

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]


def test_a_server_listens_on_several_hosts_and_families(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, ["127.0.0.1", "127.0.0.2", "::1", "127.0.0.1"], 0)
        found = sorted(sock.getsockname()[0] for sock in server.sockets)
        assert found == ["127.0.0.1", "127.0.0.2", "::1"]
        for sock in server.sockets:
            transport, _ = await loop.create_connection(Recorder, *sock.getsockname()[:2])
            transport.abort()
        server.close()

    twin(main())


@pytest.mark.parametrize("port", [65_536, 70_000, -1])
def test_port_numbers_out_of_range_are_refused(twin: Twin, port: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(OverflowError):
            await loop.create_server(Recorder, "127.0.0.1", port)
        with pytest.raises(OverflowError):
            await loop.create_connection(Recorder, "127.0.0.1", port)

    twin(main())


def test_an_address_that_cannot_be_bound_is_an_error(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            with pytest.raises(OSError, match="error while attempting to bind on address"):
                await loop.create_server(Recorder, *taken.getsockname())
        with pytest.raises(OSError):
            await loop.create_server(Recorder, "192.0.2.1", 0)

    twin(main())


@pytest.mark.parametrize(
    ("keyword", "option"), [("reuse_address", socket.SO_REUSEADDR), ("reuse_port", socket.SO_REUSEPORT)]
)
def test_reuse_of_addresses_and_ports(twin: Twin, keyword: str, option: int) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        for wanted in (True, False):
            server = await loop.create_server(Recorder, "127.0.0.1", 0, **{keyword: wanted})
            assert bool(server.sockets[0].getsockopt(socket.SOL_SOCKET, option)) is wanted
            server.close()

    twin(main())


@since(3, 13)
def test_keep_alive(twin: Twin) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        for wanted in (True, None):
            server = await loop.create_server(Recorder, "127.0.0.1", 0, keep_alive=wanted)
            kept = server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert bool(kept) is bool(wanted)
            server.close()

    twin(main())


def test_start_serving_later(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, start_serving=False)
        assert isinstance(server, asyncio.AbstractServer)
        assert not server.is_serving() and server.get_loop() is loop
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Recorder, *server.sockets[0].getsockname())
        await server.start_serving()
        await server.start_serving()
        assert server.is_serving()
        (await loop.create_connection(Recorder, *server.sockets[0].getsockname()))[0].abort()
        server.close()
        server.close()
        assert not server.is_serving() and server.sockets == ()
        with pytest.raises((RuntimeError, TypeError)):  # asyncio fails on its None
            await server.start_serving()

    twin(main())


def test_serve_forever(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with await loop.create_server(Recorder, "127.0.0.1", 0, start_serving=False) as server:
            task = loop.create_task(server.serve_forever())
            await asyncio.sleep(0)
            assert server.is_serving()
            with pytest.raises(RuntimeError, match="already being awaited"):
                await server.serve_forever()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not server.is_serving()

    twin(main())


@since(3, 12, 1)
def test_wait_closed_waits_for_connections(twin: Twin) -> None:
    import sys

    async def main() -> None:
        loop = asyncio.get_running_loop()
        accepted: list[Recorder] = []

        def factory() -> Recorder:
            accepted.append(Recorder())
            return accepted[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0)
        transport, client = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
        while not accepted or accepted[0].transport is None:
            await asyncio.sleep(0)
        server.close()
        waiting = loop.create_task(server.wait_closed())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert waiting.done() is (sys.version_info < (3, 12, 1))
        transport.close()
        await waiting
        await accepted[0].lost
        await client.lost

    twin(main())


@since(3, 13)
def test_close_and_abort_clients(twin: Twin) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        for method in ("close_clients", "abort_clients"):
            accepted: list[Recorder] = []

            def factory(accepted: list[Recorder] = accepted) -> Recorder:
                accepted.append(Recorder())
                return accepted[-1]

            server = await loop.create_server(factory, "127.0.0.1", 0)
            transport, client = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
            transport.pause_reading()
            while not accepted or accepted[0].transport is None:
                await asyncio.sleep(0)
            accepted[0].transport.write(b"x" * 12_000_000)
            server.close()
            getattr(server, method)()
            assert accepted[0].transport.is_closing()
            transport.resume_reading()
            await client.lost
            assert (len(client.data) == 12_000_000) is (method == "close_clients")
            await server.wait_closed()

    twin(main())


def test_backlog_reaches_the_kernel(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, backlog=7)
        info = server.sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        assert int.from_bytes(info[28:32], "little") == 7  # tcpi_sacked: a listening socket's backlog, tcp(7)
        server.close()

    twin(main())


# --- Unix sockets -----------------------------------------------------------------------------------------------------


def test_unix_paths(twin: Twin, tmp_path: Path) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        for path in (str(tmp_path / "a"), tmp_path / "b", os.fsencode(tmp_path / "c"), "\0corenet-test-abstract"):
            server = await loop.create_unix_server(Recorder, path)
            transport, _ = await loop.create_unix_connection(Recorder, path)
            assert transport.get_extra_info("socket").family == socket.AF_UNIX
            transport.abort()
            await turns()
            server.close()
        stale = tmp_path / "stale"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(stale))
        server = await loop.create_unix_server(Recorder, stale)
        server.close()
        plain = tmp_path / "plain"
        plain.write_text("not a socket")
        with pytest.raises(OSError, match="already in use"):
            await loop.create_unix_server(Recorder, plain)
        with pytest.raises(FileNotFoundError):
            await loop.create_unix_server(Recorder, tmp_path / "none" / "x")
        with pytest.raises(FileNotFoundError):
            await loop.create_unix_connection(Recorder, tmp_path / "none")

    twin(main())


@since(3, 13)
@pytest.mark.parametrize("cleanup", [True, False])
def test_cleanup_socket(twin: Twin, tmp_path: Path, cleanup: bool) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        path = tmp_path / "socket"
        server = await loop.create_unix_server(Recorder, path, cleanup_socket=cleanup)
        assert stat.S_ISSOCK(path.stat().st_mode)
        server.close()
        assert path.exists() is not cleanup
        first = await loop.create_unix_server(Recorder, path, cleanup_socket=True)
        second = await loop.create_unix_server(Recorder, path, cleanup_socket=True)
        first.close()
        assert path.exists(), "the first server removed the second one's socket"
        second.close()
        third = await loop.create_unix_server(Recorder, path, cleanup_socket=True)
        path.unlink()
        third.close()

    twin(main())


# --- what transports tell -------------------------------------------------------------------------------------------


def test_extra_information_of_streams(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        factory, accepted = accepting()
        server = await loop.create_server(factory, "127.0.0.1", 0)
        transport, _ = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
        other = (await accepted).transport
        assert transport.get_extra_info("peername") == other.get_extra_info("sockname")
        assert transport.get_extra_info("sockname") == other.get_extra_info("peername")
        for one in (transport, other):
            sock = one.get_extra_info("socket")
            assert isinstance(sock, asyncio.trsock.TransportSocket)
            assert sock.fileno() >= 0 and sock.type == socket.SOCK_STREAM and sock.gettimeout() == 0
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            assert one.get_extra_info("nothing", "default") == "default" and one.get_extra_info("sslcontext") is None
            assert isinstance(one, asyncio.Transport)
        transport.close()
        other.close()
        await turns()
        assert transport.get_extra_info("peername") is not None
        server.close()

    twin(main())


def test_extra_information_of_other_transports(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        datagram, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
        assert datagram.get_extra_info("sockname")[0] == "127.0.0.1"
        assert datagram.get_extra_info("socket").type == socket.SOCK_DGRAM
        datagram.close()
        process, _ = await loop.subprocess_exec(asyncio.SubprocessProtocol, "cat")
        assert process.get_extra_info("subprocess").pid == process.get_pid()
        assert isinstance(process, asyncio.SubprocessTransport)
        for number, kind in ((0, asyncio.WriteTransport), (1, asyncio.ReadTransport), (2, asyncio.ReadTransport)):
            end: Any = process.get_pipe_transport(number)
            assert isinstance(end, kind)
            assert end.get_extra_info("pipe").fileno() >= 0
        process.close()
        await process._wait()  # type: ignore[attr-defined]

    twin(main())
