"""Descriptors that the program closes while a transport or reader uses them, and closed loops.

The kernel reuses the number of a closed descriptor for the next file that is opened. The former owner may still change
its interest or end; the poller's slot of that number then belongs to the new owner.
"""

import asyncio
import gc
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from support.twin import Recorder, accepting, loop_factory

import corenet
from corenet.core import READ

__all__ = ["loop_factory"]


def run(main: Coroutine[Any, Any, None]) -> None:
    """Whatever reaches the exception handler fails the test."""
    reports: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: reports.append(context))
        runner.run(asyncio.wait_for(main, 30))
    assert reports == []



async def stolen(reading: bool, queued: bytes = b"") -> tuple[Any, Recorder, socket.socket, Recorder, socket.socket]:
    """A transport whose descriptor the program closes, and an accepted connection that reuses its number."""
    loop = asyncio.get_running_loop()
    factory, accepted = accepting()
    server = await loop.create_server(factory, "127.0.0.1", 0)
    sock, peer = socket.socketpair()
    transport, protocol = await loop.create_unix_connection(Recorder, sock=sock)
    if not reading:
        transport.pause_reading()
    transport.write(queued)
    client = socket.create_connection(server.sockets[0].getsockname())
    number = sock.fileno()
    os.close(sock.detach())
    # The lowest number that is free is what accept returns.
    other = await accepted
    assert other.transport._sock_fd == number
    client.setblocking(False)
    server.close()
    return transport, protocol, peer, other, client


def pause(transport: Any) -> None:
    transport.pause_reading()


def abort(transport: Any) -> None:
    transport.abort()


def resume(transport: Any) -> None:
    transport.resume_reading()


def pause_and_resume(transport: Any) -> None:
    transport.pause_reading()
    transport.resume_reading()


@pytest.mark.parametrize("act", [pause, abort, resume, pause_and_resume])
@pytest.mark.parametrize("reading", [True, False])
@pytest.mark.parametrize("paused", [True, False], ids=["the other is paused", "the other reads"])
def test_the_new_owner_of_a_number_keeps_its_registration(
    act: Callable[[Any], None], reading: bool, paused: bool
) -> None:
    async def main() -> None:
        transport, protocol, peer, other, client = await stolen(reading)
        if paused:
            other.transport.pause_reading()
        act(transport)
        for _ in range(3):
            await asyncio.sleep(0)
        if paused:
            other.transport.resume_reading()
        client.send(b"mine")
        await asyncio.wait_for(other.until(lambda: other.data == b"mine"), 30)
        other.transport.write(b"yours")
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 100), 30) == b"yours"
        transport.abort()
        await asyncio.wait_for(asyncio.wait([protocol.lost]), 30)
        client.send(b", too")
        await asyncio.wait_for(other.until(lambda: other.data == b"mine, too"), 30)
        other.transport.close()
        await other.lost
        client.close()
        peer.close()

    run(main())


@pytest.mark.parametrize("act", [pause, pause_and_resume])
def test_queued_data_does_not_reach_the_new_owner_of_the_number(act: Callable[[Any], None]) -> None:
    async def main() -> None:
        transport, protocol, peer, other, client = await stolen(True, bytes(4_000_000))
        act(transport)
        await asyncio.sleep(0)
        client.send(b"mine")
        await asyncio.wait_for(other.until(lambda: other.data == b"mine"), 30)
        other.transport.write(b"yours")
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 100), 30) == b"yours"
        assert isinstance(await asyncio.wait_for(protocol.lost, 30), OSError)
        other.transport.close()
        await other.lost
        client.close()
        peer.close()

    run(main())


@pytest.mark.parametrize("act", [pause, abort, pause_and_resume])
def test_a_watch_on_a_reused_number_is_kept(act: Callable[[Any], None]) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        sock, peer = socket.socketpair()
        transport, protocol = await loop.create_unix_connection(Recorder, sock=sock)
        one, two = socket.socketpair()
        number = sock.detach()
        os.dup2(one.fileno(), number)
        seen = asyncio.Event()
        # The kernel's entry has gone with the last descriptor of the transport's socket.
        loop.watch(number, READ, lambda _events: seen.set())
        act(transport)
        for _ in range(3):
            await asyncio.sleep(0)
        two.send(b"x")
        await asyncio.wait_for(seen.wait(), 30)
        assert loop.unwatch(number)
        transport.abort()
        await asyncio.wait_for(asyncio.wait([protocol.lost]), 30)
        os.close(number)
        for end in (one, two, peer):
            end.close()

    run(main())


def test_a_server_whose_socket_was_closed_does_not_use_the_number() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        server = await loop.create_server(asyncio.Protocol, sock=listener)
        number = listener.fileno()
        os.close(listener.detach())
        sock, peer = socket.socketpair()
        moved = socket.socket(fileno=os.dup2(sock.detach(), number))
        moved.setblocking(False)
        heard = asyncio.Event()
        asyncio.get_running_loop().watch(number, READ, lambda _events: heard.set())  # type: ignore[attr-defined]
        server.close()
        peer.send(b"x")
        await asyncio.wait_for(heard.wait(), 30)
        loop.unwatch(number)  # type: ignore[attr-defined]
        moved.close()
        peer.close()

    run(main())


def test_a_reader_on_the_number_outlives_a_server_that_was_paused() -> None:
    """Removing the reader of a listening socket pauses the server; the next reader of that socket is independent of
    it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        server = await loop.create_server(asyncio.Protocol, sock=listener)
        number = listener.fileno()
        assert loop.remove_reader(number)
        os.close(listener.detach())
        sock, peer = socket.socketpair()
        moved = socket.socket(fileno=os.dup2(sock.detach(), number))
        heard = asyncio.Event()
        loop.add_reader(number, heard.set)
        server.close()
        peer.send(b"x")
        await asyncio.wait_for(heard.wait(), 30)
        assert loop.remove_reader(number)
        moved.close()
        peer.close()

    run(main())


# --- a loop that is closed ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", ["stream", "datagrams"])
def test_a_closed_loop_refuses_writes(loop_factory: Any, kind: str) -> None:
    loop = loop_factory()
    sort = socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM
    ours, peer = socket.socketpair(socket.AF_UNIX, sort)
    make: Any = loop.create_unix_connection if kind == "stream" else loop.create_datagram_endpoint
    transport, _ = loop.run_until_complete(make(asyncio.Protocol, sock=ours))
    loop.close()

    def fill(transport: Any) -> None:
        for _ in range(1000):
            if kind == "stream":
                transport.write(bytes(100_000))
            else:
                transport.sendto(bytes(10_000))

    with pytest.raises(RuntimeError, match="Event loop is closed"):
        fill(transport)
    ours.close()
    peer.close()
    del transport
    gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_pause_reading_works_on_a_transport_of_a_closed_loop(loop_factory: Any) -> None:
    loop = loop_factory()
    ours, peer = socket.socketpair()
    transport, _ = loop.run_until_complete(loop.create_unix_connection(asyncio.Protocol, sock=ours))
    transport.write(bytes(4_000_000))
    assert transport.get_write_buffer_size()
    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: reports.append(context))
    loop.close()
    transport.pause_reading()
    assert reports == []
    assert transport.get_write_buffer_size()
    ours.close()
    peer.close()
    del transport
    gc.collect()
