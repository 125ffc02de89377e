"""The descriptor of a socket passed to the loop (`sock=`) stays open until its transport or server has closed.

That holds also when the program closes the socket object earlier.

Otherwise the next file that is opened would get the same descriptor number: the transport would write to that
file, and the protocol would receive its data. uvloop also keeps the socket open; where it is installed, the tests
run on it first.
"""

import asyncio
import errno
import gc
import os
import resource
import socket
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from support.reference_loops import LOOPS, Factory, keeps_open
from support.twin import Recorder, accepting

import corenet
from corenet.core import READ
from corenet.limits import ACCEPT_RETRY_SECONDS

WAIT = 30.0  # seconds


def run(factory: Factory, main: Coroutine[Any, Any, None]) -> None:
    """Run `main` on a new loop for at most `WAIT` seconds. A call of the loop's exception handler fails the test."""
    reports: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: reports.append(context))
        runner.run(asyncio.wait_for(main, WAIT))
    assert reports == []


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


async def wait_until_closed(fd: int) -> None:
    """Wait until `fd` is closed."""
    while is_open(fd):
        await asyncio.sleep(0)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        return ours, listener.accept()[0]


async def transport_on_own_socket(kind: str) -> tuple[Any, Recorder, socket.socket, socket.socket]:
    """Create a transport with `sock=`. Returns the transport, its protocol, our socket and the peer's socket."""
    loop: Any = asyncio.get_running_loop()
    ours, peer = socket.socketpair() if kind == "unix" else tcp_pair()
    peer.setblocking(False)
    ours.setblocking(False)
    if kind == "unix":
        transport, protocol = await loop.create_unix_connection(Recorder, sock=ours)
    elif kind == "accepted":
        transport, protocol = await loop.connect_accepted_socket(Recorder, ours)
    else:
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
    return transport, protocol, ours, peer


@keeps_open
@pytest.mark.parametrize("kind", ["tcp", "unix", "accepted"])
@pytest.mark.parametrize("ends", ["close", "abort", "peer"])
def test_a_connection_outlives_its_socket_object(factory: Factory, kind: str, ends: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol, ours, peer = await transport_on_own_socket(kind)
        fd = ours.fileno()
        ours.close()
        # If the loop did not keep the descriptor open, this pair would get its number.
        unrelated = socket.socketpair()
        assert fd not in [other_socket.fileno() for other_socket in unrelated]
        transport.write(b"out")
        assert await loop.sock_recv(peer, 100) == b"out"
        peer.send(b"in")
        await protocol.until(lambda: protocol.data == b"in")
        transport.pause_reading()
        transport.resume_reading()
        peer.send(b", too")
        await protocol.until(lambda: protocol.data == b"in, too")
        if ends == "peer":
            peer.close()
        else:
            getattr(transport, ends)()
        assert await protocol.lost is None
        await wait_until_closed(fd)
        assert ours.fileno() == -1
        for sock in (peer, *unrelated):
            sock.close()

    run(factory, main())


@keeps_open
def test_queued_data_is_sent_after_the_socket_object_was_closed(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol, ours, peer = await transport_on_own_socket("unix")
        fd = ours.fileno()
        transport.write(bytes(3_000_000))
        ours.close()
        transport.close()
        got = 0
        while data := await loop.sock_recv(peer, 1 << 16):
            got += len(data)
        assert got == 3_000_000
        assert await protocol.lost is None
        await wait_until_closed(fd)
        peer.close()

    run(factory, main())


@keeps_open
def test_streams_stay_open_after_the_with_block_of_their_socket(factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        peer.setblocking(False)
        fd = ours.fileno()
        with ours:
            reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(b"out")
        assert await loop.sock_recv(peer, 100) == b"out"
        peer.send(b"in")
        assert await reader.read(10) == b"in"
        writer.close()
        await writer.wait_closed()
        await wait_until_closed(fd)
        peer.close()

    run(factory, main())


@keeps_open
def test_datagrams_outlive_their_socket_object(factory: Factory) -> None:
    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            got.set_result((data, addr))

        def connection_lost(self, exc: BaseException | None) -> None:
            lost.set_result(exc)

    async def main() -> None:
        nonlocal got, lost
        loop = asyncio.get_running_loop()
        got, lost = loop.create_future(), loop.create_future()
        ours, peer = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for sock in (ours, peer):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        name, fd = ours.getsockname(), ours.fileno()
        transport, _ = await loop.create_datagram_endpoint(Receiver, sock=ours)
        ours.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other_socket:
            assert other_socket.fileno() != fd
            transport.sendto(b"out", peer.getsockname())
            while True:
                try:
                    data, source = peer.recvfrom(100)
                    break
                except BlockingIOError:
                    await asyncio.sleep(0)
            assert (data, source) == (b"out", name)
            peer.sendto(b"in", name)
            assert await got == (b"in", peer.getsockname())
            transport.close()
            assert await lost is None
            await wait_until_closed(fd)
        peer.close()

    got: asyncio.Future[Any]
    lost: asyncio.Future[BaseException | None]
    run(factory, main())


def test_an_unreferenced_transport_releases_the_socket() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        fd = ours.fileno()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        transport.pause_reading()
        await asyncio.sleep(0)
        ours.close()
        assert is_open(fd)
        references = [transport]
        del transport
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            references.clear()
        gc.collect()
        assert not is_open(fd)
        assert ours.fileno() == -1
        peer.close()

    run(corenet.new_event_loop, main())


def test_a_failed_transport_keeps_no_socket_open() -> None:
    class Bad:
        """The transport reads `__class__` of its protocol, which raises here."""

        @property
        def __class__(self) -> Any:
            raise ZeroDivisionError

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        fd = ours.fileno()
        with pytest.raises(ZeroDivisionError):
            await loop.create_connection(Bad, sock=ours)
        assert not is_open(fd)
        peer.close()

    run(corenet.new_event_loop, main())


def test_a_detached_descriptor_is_not_closed() -> None:
    """The program detaches and closes the descriptor, and its number is reused before connection_lost.

    Neither is the new descriptor closed, nor does `get_extra_info` return the addresses of its socket.
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        other, its_peer = tcp_pair()
        fd = ours.fileno()
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        transport.abort()
        os.close(ours.detach())
        assert os.dup2(other.fileno(), fd) == fd
        await protocol.lost
        for name in ("peername", "sockname"):
            found = transport.get_extra_info(name)
            assert found not in (other.getpeername(), other.getsockname()), name
        assert is_open(fd)
        os.close(fd)
        for sock in (peer, other, its_peer):
            sock.close()

    run(corenet.new_event_loop, main())


def test_a_write_does_not_block_on_a_socket_made_blocking() -> None:
    """O_NONBLOCK is a flag of the open file description, which dup and fork share."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol, ours, peer = await transport_on_own_socket("unix")
        # SO_SNDTIMEO (struct timeval) ends a blocking send after 60 s; the call then fails with EAGAIN.
        seconds = 60
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds.to_bytes(8, "little") + bytes(8))
        copy = ours.dup()
        copy.setblocking(True)
        began = time.monotonic()
        transport.write(bytes(1_000_000))
        transport.write(bytes(1_000_000))
        transport.write(bytes(1_000_000))
        got = len(await loop.sock_recv(peer, 1 << 16))
        while transport.get_write_buffer_size() > 1_000_000:
            got += len(await loop.sock_recv(peer, 1 << 16))
        assert got
        assert time.monotonic() - began < seconds - 1
        transport.abort()
        await protocol.lost
        copy.close()
        peer.close()

    run(corenet.new_event_loop, main())


# --- connecting -------------------------------------------------------------------------------------------------------


def full_listener() -> tuple[socket.socket, list[socket.socket]]:
    """A listener whose backlog is full, and the connections that fill it. A further connect stays in SYN-SENT."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    return listener, [socket.create_connection(listener.getsockname(), WAIT)]


async def connecting(sock: socket.socket, address: Any) -> "asyncio.Task[None]":
    """Start `sock_connect` and return its task, which is still waiting after three iterations of the loop."""
    task = asyncio.get_running_loop().create_task(asyncio.get_running_loop().sock_connect(sock, address))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    return task


# uvloop closes the descriptor also after `detach`. So on uvloop only "close" is tested.
@pytest.mark.parametrize(
    ("factory", "how"),
    [
        pytest.param(*param.values, how, id=f"{param.id}-{how}")
        for param in LOOPS
        for how in ("close", "detach")
        if (param.id, how) != ("uvloop", "detach")
    ],
)
def test_the_end_of_a_transport_does_not_wake_a_connect_on_its_reused_number(factory: Factory, how: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener, others = full_listener()
        ours, peer = socket.socketpair()
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        fd = ours.fileno()
        sock: Any = None

        async def replace() -> None:
            """Close our socket and start a connect on a new one, before the aborted transport calls connection_lost."""
            nonlocal sock
            transport.abort()
            if how == "close":
                ours.close()
            else:
                os.close(ours.detach())
            sock = socket.socket()
            sock.setblocking(False)
            await loop.sock_connect(sock, listener.getsockname())

        task = loop.create_task(replace())
        await protocol.lost
        for _ in range(5):
            await asyncio.sleep(0)
        assert (sock.fileno() == fd) is (how == "detach")
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for one in (sock, peer, listener, *others):
            one.close()

    run(factory, main())


def test_a_connect_woken_early_continues_to_wait() -> None:
    async def main() -> None:
        listener, others = full_listener()
        with socket.socket() as sock:
            sock.setblocking(False)
            task = await connecting(sock, listener.getsockname())
            task._fut_waiter.set_result(None)  # type: ignore[attr-defined]
            for _ in range(5):
                await asyncio.sleep(0)
            assert not task.done()
            listener.accept()[0].close()
            await task
            assert sock.getpeername() == listener.getsockname()
        for one in (listener, *others):
            one.close()

    run(corenet.new_event_loop, main())


def test_a_socket_that_was_shut_down_while_it_connected_is_not_connected() -> None:
    async def main() -> None:
        listener, others = full_listener()
        with socket.socket() as sock:
            sock.setblocking(False)
            task = await connecting(sock, listener.getsockname())
            sock.shutdown(socket.SHUT_RDWR)
            # Reading SO_ERROR clears it, so `sock_connect` finds no error and must check the connection itself.
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            with pytest.raises(OSError) as caught:
                await task
            assert caught.value.errno == errno.ENOTCONN
        for one in (listener, *others):
            one.close()

    run(corenet.new_event_loop, main())


# --- listening --------------------------------------------------------------------------------------------------------


def test_a_backed_off_listener_does_not_resume_on_a_reused_number() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reported: list[dict[str, Any]] = []
        shortage = asyncio.Event()

        def report(_loop: object, context: dict[str, Any]) -> None:
            reported.append(context)
            shortage.set()

        loop.set_exception_handler(report)
        listener = socket.create_server(("127.0.0.1", 0))
        fd, address = listener.fileno(), listener.getsockname()
        server = await loop.create_server(asyncio.Protocol, sock=listener)
        client = socket.socket()
        client.setblocking(False)
        ours, peer = socket.socketpair()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = socket.socket()
        lowest = spare.fileno()
        spare.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            await loop.sock_connect(client, address)
            await shortage.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        listener.close()
        os.dup2(ours.detach(), fd)
        ours = socket.socket(fileno=fd)
        transport, protocol = await loop.create_unix_connection(Recorder, sock=ours)  # type: ignore[arg-type]
        # Timers with the same delay run in the order of creation. So this one runs after the listener's retry timer.
        passed = asyncio.Event()
        loop.call_later(ACCEPT_RETRY_SECONDS, passed.set)
        await passed.wait()
        peer.send(b"mine")
        await protocol.until(lambda: protocol.data == b"mine")
        assert len(reported) == 1
        server.close()
        peer.send(b", too")
        await protocol.until(lambda: protocol.data == b"mine, too")
        transport.abort()
        await protocol.lost
        client.close()
        peer.close()

    # Not `run`: one call of the exception handler is expected.
    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), WAIT))


def test_a_new_server_can_reuse_the_descriptor_number_of_a_detached_server_socket() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        first = socket.create_server(("127.0.0.1", 0))
        fd = first.fileno()
        stale = await loop.create_server(asyncio.Protocol, sock=first)
        os.close(first.detach())
        factory, accepted = accepting()
        second = socket.create_server(("127.0.0.1", 0))
        assert second.fileno() == fd
        server = await loop.create_server(factory, sock=second)
        stale.close()
        client = socket.create_connection(second.getsockname())
        end = await accepted
        end.transport.abort()
        await end.lost
        client.close()
        server.close()

    run(corenet.new_event_loop, main())


@keeps_open
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_server_outlives_its_socket_object(factory: Factory, kind: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        if kind == "tcp":
            listener = socket.create_server(("127.0.0.1", 0))
            server = await loop.create_server(asyncio.Protocol, sock=listener)
        else:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind("")
            server = await loop.create_unix_server(asyncio.Protocol, sock=listener)
        fd, name = listener.fileno(), listener.getsockname()
        listener.close()
        unrelated = socket.socketpair()
        assert fd not in [other_socket.fileno() for other_socket in unrelated]
        client = socket.socket(listener.family)
        client.setblocking(False)
        await loop.sock_connect(client, name)
        client.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(client, 10) == b""
        server.close()
        await wait_until_closed(fd)
        assert listener.fileno() == -1
        for sock in (client, *unrelated):
            sock.close()

    run(factory, main())


def test_a_server_that_cannot_start_keeps_no_socket_open() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        fd = ours.fileno()
        with pytest.raises(OSError, match="Invalid argument"):
            # listen() fails with EINVAL, because `ours` is connected.
            await loop.create_server(asyncio.Protocol, sock=ours)
        ours.close()
        await wait_until_closed(fd)
        peer.close()

    run(corenet.new_event_loop, main())


@pytest.mark.parametrize("how", ["the loop is closed", "its reader is removed", "another server takes over"])
def test_a_listener_that_stops_releases_the_socket(how: str) -> None:
    loop = corenet.new_event_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    fd = listener.fileno()
    servers = [loop.run_until_complete(loop.create_server(asyncio.Protocol, sock=listener))]
    if how == "its reader is removed":
        loop.remove_reader(listener)
    elif how == "another server takes over":
        servers.append(loop.run_until_complete(loop.create_server(asyncio.Protocol, sock=listener)))
        servers[1].close()
    else:
        loop.close()
    listener.close()
    assert not is_open(fd)
    loop.close()
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    "use", ["a connection", "datagrams", "a pipe", "sock_sendall", "a writer", "a reader", "a watch"]
)
def test_the_number_of_a_closed_server_descriptor_can_be_reused(use: str) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        fd = listener.fileno()
        server = await loop.create_server(asyncio.Protocol, sock=listener)
        kind = socket.SOCK_DGRAM if use == "datagrams" else socket.SOCK_STREAM
        ours, peer = socket.socketpair(type=kind)
        os.close(listener.detach())
        os.dup2(ours.detach(), fd)
        ours = socket.socket(fileno=fd)
        ours.setblocking(False)
        ready = asyncio.Event()
        transport: Any = None
        if use == "a connection":
            transport, _ = await loop.create_unix_connection(asyncio.Protocol, sock=ours)
            transport.write(b"mine")
        elif use == "datagrams":
            transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=ours)
            transport.sendto(b"mine")
        elif use == "a pipe":
            transport, _ = await loop.connect_write_pipe(asyncio.Protocol, ours)
            transport.write(b"mine")
        elif use == "sock_sendall":
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            task = loop.create_task(loop.sock_sendall(ours, b"mine" + bytes(1_000_000)))
            await asyncio.sleep(0)
        elif use == "a writer":
            loop.add_writer(ours, ready.set)
        elif use == "a reader":
            loop.add_reader(ours, ready.set)
        else:
            loop.watch(ours, READ, lambda _events: ready.set())
        if use in ("a reader", "a watch"):
            peer.send(b"x")
        if transport is None and use != "sock_sendall":
            await ready.wait()
            ours.send(b"mine")
        assert peer.recv(4) == b"mine"
        server.close()
        if use == "sock_sendall":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif use == "a writer":
            assert loop.remove_writer(ours)
        elif use == "a reader":
            assert loop.remove_reader(ours)
        elif use == "a watch":
            assert loop.unwatch(ours)
        else:
            transport.abort()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        ours.close()
        peer.close()

    run(corenet.new_event_loop, main())
