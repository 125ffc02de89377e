"""The base of control socket and metrics: a connection without memory is closed and not counted."""

import asyncio
import contextlib

import pytest
from support.http_peer import run_on
from support.shortage import FullDict

from resolver.daemon.management import ManagementServer
from resolver.net.stream_listener import open_stream_socket


class Writer:
    closed = False

    def close(self) -> None:
        self.closed = True


class Quiet(ManagementServer):
    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("it was not taken in")


def test_lack_of_memory_costs_a_connection_and_no_slot() -> None:
    server, writer = Quiet(1, 100, 1.0), Writer()
    server._open = FullDict()

    async def main() -> None:
        with pytest.raises(MemoryError):
            await server._on_connection(None, writer)  # type: ignore[arg-type]

    asyncio.run(main())
    assert writer.closed and not server._open


def test_a_connection_that_was_accepted_just_before_the_end_is_not_served() -> None:
    server, writer = Quiet(1, 100, 1.0), Writer()
    server.close()
    asyncio.run(server._on_connection(None, writer))  # type: ignore[arg-type]
    assert writer.closed and not server._open


class Talkative(ManagementServer):
    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(SIZE))


SIZE = 64 << 20


@pytest.mark.parametrize("loop", ["corenet", "asyncio"])
def test_a_client_that_does_not_read_holds_its_slot_until_it_is_disconnected(loop: str) -> None:
    async def main() -> None:
        listening = open_stream_socket("127.0.0.1", 0)
        server = Talkative(1, 100, 0.05)
        await server.start(listening)
        reader, writer = await asyncio.open_connection(*listening.getsockname(), limit=1000)
        async with asyncio.timeout(30):
            while not server._open:
                await asyncio.sleep(0)
            while server._open:
                await asyncio.sleep(0)
        got = 0
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(1 << 20):
                got += len(piece)
        assert 0 < got < SIZE
        writer.close()
        server.close()

    run_on(loop, main())


class Waiting(ManagementServer):
    """Has the request of each connection, and no reply yet."""

    REFUSAL = b"refused"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.note_request()
        await reader.read()


@pytest.mark.parametrize("loop", ["corenet", "asyncio"])
def test_connections_whose_request_is_performed_keep_their_places(loop: str) -> None:
    async def main() -> None:
        listening = open_stream_socket("127.0.0.1", 0)
        server = Waiting(1, 100, 30.0)
        await server.start(listening)
        _, first = await asyncio.open_connection(*listening.getsockname())
        async with asyncio.timeout(30):
            while not server._busy:
                await asyncio.sleep(0)
            reader, second = await asyncio.open_connection(*listening.getsockname())
            assert await reader.read() == b"refused" and len(server._busy) == server.connections == 1
            first.close()
            while server.connections or server._busy:
                await asyncio.sleep(0)
        second.close()
        server.close()

    run_on(loop, main())
