"""Listeners: bursts, failing factories, and what happens when descriptors run out."""

import _testcapi
import asyncio
import contextvars
import errno
import gc
import os
import resource
import socket
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.twin import Recorder, accepting, connected_pair, loop_factory, twin
from support.waiting import turns, until

import corenet
from corenet.core import READ
from corenet.limits import ACCEPT_RETRY_SECONDS
from corenet.loop.server import Server
from corenet.transports.listener import Listener

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]


class Counting(asyncio.Protocol):
    """Counts what was accepted and sends a greeting."""

    made = 0

    def connection_made(self, transport: Any) -> None:
        Counting.made += 1
        transport.write(b"hi")
        transport.close()


def test_a_burst_of_connections(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        Counting.made = 0
        server = await loop.create_server(Counting, "127.0.0.1", 0, backlog=300)
        clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(200)]
        for sock in clients:
            sock.setblocking(False)
            assert await loop.sock_recv(sock, 10) == b"hi"
            sock.close()
        assert Counting.made == 200
        server.close()
        await server.wait_closed()

    twin(main())


def test_a_burst_with_capacity_for_few() -> None:
    """Counted until its descriptor is closed; the others wait in the kernel, and each is accepted later."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        Counting.made = 0
        most = 0

        def room(active: int) -> int:
            nonlocal most
            most = max(most, active)
            return 3 - active

        server: Any = await loop.create_server(Counting, "127.0.0.1", 0, start_serving=False)
        server.limit_accepts(room)
        await server.start_serving()
        clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(20)]
        for sock in clients:
            sock.setblocking(False)
            assert await loop.sock_recv(sock, 10) == b"hi"
            sock.close()
        assert Counting.made == 20
        assert most == 3
        # A function that is set while this serves is used from then on.
        server.limit_accepts(lambda active: 0)
        with socket.create_connection(server.sockets[0].getsockname()):
            await turns(5)
            assert Counting.made == 20
            server.limit_accepts(room)
            await until(lambda: Counting.made == 21, "the last")
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 30))


def test_a_negative_allowance_pauses_without_polling() -> None:
    """For so many microseconds the listener is not watched; then it accepts again."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        Counting.made = 0
        answers = [-1_000_000_000, 5]
        calls: list[int] = []

        def allowance(active: int) -> int:
            calls.append(active)
            return answers[min(len(calls), 2) - 1]

        server: Any = await loop.create_server(Counting, "127.0.0.1", 0, start_serving=False)
        server.limit_accepts(allowance)
        await server.start_serving()
        with socket.create_connection(server.sockets[0].getsockname()):
            await until(lambda: calls, "the first event")
            await turns(20)
            assert calls == [0] and Counting.made == 0
            server._listeners[0]._resume_accepting()
            await until(lambda: Counting.made == 1, "the connection")
        calls.clear()
        answers[0] = -1
        with socket.create_connection(server.sockets[0].getsockname()):
            await until(lambda: Counting.made == 2, "the connection after a microsecond")
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 30))


def test_a_failing_factory_loses_one_connection() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reported: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: reported.append(context))
        calls: list[int] = []

        def factory() -> asyncio.Protocol:
            calls.append(1)
            if len(calls) == 1:
                raise LookupError
            return Counting()

        server = await loop.create_server(factory, "127.0.0.1", 0)
        for expected in (b"", b"hi"):
            with socket.create_connection(server.sockets[0].getsockname()) as sock:
                sock.setblocking(False)
                assert await loop.sock_recv(sock, 10) == expected
        # As in asyncio, it is reported in debug mode only.
        assert [type(context["exception"]) for context in reported] == [LookupError]
        server.close()

    corenet.run(main(), debug=True)


class Unreadable:
    """A protocol whose class cannot be inspected."""

    @property
    def __class__(self) -> Any:
        raise ZeroDivisionError


def test_a_descriptor_is_closed_once_when_no_transport_can_be_made() -> None:
    """By the listener, and not again by a partially made transport: the number may be reused by then."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Unreadable, "127.0.0.1", 0)  # type: ignore[arg-type]
        before = len(os.listdir("/proc/self/fd"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            client = socket.create_connection(server.sockets[0].getsockname())
            client.setblocking(False)
            assert await loop.sock_recv(client, 10) == b""
            client.close()
            near, far = socket.socketpair()
            with pytest.raises(ZeroDivisionError):
                await loop.create_connection(Unreadable, sock=near)  # type: ignore[arg-type]
            near.close()
            far.close()
            read, write = os.pipe()
            with os.fdopen(write, "wb", 0) as pipe, os.fdopen(read, "rb", 0):
                first, _ = await loop.connect_write_pipe(Recorder, pipe)
                with pytest.raises(ZeroDivisionError):
                    await loop.connect_write_pipe(Unreadable, pipe)  # type: ignore[arg-type]
                first.close()
                await asyncio.sleep(0)
        assert [str(one.message) for one in caught] == []
        assert len(os.listdir("/proc/self/fd")) == before
        server.close()

    corenet.run(main())


def test_the_listener_pauses_while_descriptors_are_exhausted() -> None:
    """The listener reports it once, backs off, and then serves the waiting connections."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reported: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: reported.append(context))
        server = await loop.create_server(Counting, "127.0.0.1", 0)
        client = socket.socket()
        client.setblocking(False)
        spare = socket.socket()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = spare.fileno()
        spare.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        began = time.monotonic()
        try:
            await loop.sock_connect(client, server.sockets[0].getsockname())
            await until(lambda: reported, "the report of the shortage")
            await asyncio.sleep(0.05)
            # Once, and again for each time it has tried again.
            assert len(reported) <= 1 + (time.monotonic() - began) / ACCEPT_RETRY_SECONDS
            assert "out of system resource" in reported[0]["message"]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert await asyncio.wait_for(loop.sock_recv(client, 10), 30) == b"hi"
        client.close()
        server.close()

    corenet.run(main())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "", "unix"])
def test_both_addresses_of_an_accepted_connection(twin: Twin, tmp_path: Path, host: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        factory, accepted = accepting()
        if host == "unix":
            path = str(tmp_path / "socket")
            server: Any = await loop.create_unix_server(factory, path)
            _, client = await loop.create_unix_connection(Recorder, path)
        else:
            family = socket.AF_UNSPEC if host else socket.AF_INET
            server = await loop.create_server(factory, host or None, 0, family=family)
            port = server.sockets[0].getsockname()[1]
            _, client = await loop.create_connection(Recorder, host or "127.0.0.1", port)
        end = await accepted
        information = end.transport.get_extra_info
        sock = information("socket")
        assert information("sockname") == sock.getsockname() == client.transport.get_extra_info("peername")
        assert information("peername") == sock.getpeername()
        before = information("sockname"), information("peername")
        client.transport.close()
        assert await end.lost is None
        assert await client.lost is None
        assert (information("sockname"), information("peername")) == before
        server.close()
        await server.wait_closed()

    twin(main())


def test_addresses_not_read_before_are_available_after_the_end(twin: Twin) -> None:
    async def main() -> None:
        ours, theirs, server = await connected_pair()
        name = server.sockets[0].getsockname()
        ours.transport.close()
        await ours.lost
        await theirs.lost
        assert {ours.transport.get_extra_info("sockname"), ours.transport.get_extra_info("peername")} >= {name}
        assert theirs.transport.get_extra_info("sockname") == ours.transport.get_extra_info("peername")
        assert theirs.transport.get_extra_info("peername") == ours.transport.get_extra_info("sockname")
        server.close()
        await server.wait_closed()

    twin(main())


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("nodelay", [None, False])
def test_options_of_a_given_listening_socket_are_not_changed(
    loop_factory: Callable[[], Any], given: bool, nodelay: bool | None
) -> None:
    """Other processes may accept from it, too; our own connections send small segments at once, as asyncio's do."""
    number = (socket.IPPROTO_TCP, socket.TCP_NODELAY)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        factory, accepted = accepting()
        extra = {} if nodelay is None else {"options": corenet.SocketOptions(nodelay=nodelay)}
        if given:
            # asyncio checks the `proto` of the socket.
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            sock.bind(("127.0.0.1", 0))
            server = await loop.create_server(factory, sock=sock, **extra)
            assert sock.getsockopt(*number) == 0
        else:
            server = await loop.create_server(factory, "127.0.0.1", 0, **extra)
        with socket.create_connection(server.sockets[0].getsockname()):
            here = await asyncio.wait_for(accepted, 30)
            assert (here.transport.get_extra_info("socket").getsockopt(*number) != 0) is (nodelay is None)
        await asyncio.wait_for(here.lost, 30)
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        if isinstance(runner.get_loop(), corenet.Loop) or nodelay is None:
            runner.run(main())


def test_of_two_servers_on_one_socket_the_later_one_accepts(twin: Twin) -> None:
    """CPython's own tests listen on several hosts with sockets that answer the same number."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        earlier, nobody = accepting()
        later, accepted = accepting()
        with socket.create_server(("127.0.0.1", 0)) as sock:
            await loop.create_server(earlier, sock=sock)
            second = await loop.create_server(later, sock=sock)
            with socket.create_connection(sock.getsockname()):
                here = await asyncio.wait_for(accepted, 30)
            await asyncio.wait_for(here.lost, 30)
            assert not nobody.done()
            second.close()

    twin(main())


def test_a_listener_that_cannot_be_registered_holds_no_socket() -> None:
    """It was to replace another one. The socket must be closed when the program closes it afterwards."""
    loop: Any = corenet.new_event_loop()
    sock = socket.create_server(("127.0.0.1", 0))
    earlier, later = (Listener(loop, sock, Recorder) for _ in range(2))
    earlier.start()
    assert references(sock) == 1
    fd = sock.fileno()
    spare = os.dup(fd)
    with open(__file__, "rb") as regular:
        os.dup2(regular.fileno(), fd)
    # epoll refuses a regular file.
    with pytest.raises(PermissionError):
        later.start()
    assert references(sock) == 1
    os.dup2(spare, fd)
    os.close(spare)
    later.start()
    assert references(sock) == 1
    for listener in (earlier, later):
        listener.stop()
    assert references(sock) == 0
    sock.close()
    assert sock.fileno() == -1
    loop.close()


def references(sock: socket.socket) -> int:
    """How many uses of `sock` keep it open after its `close`."""
    found: int = sock._io_refs  # type: ignore[attr-defined]
    return found


def test_a_listener_with_a_detached_socket_holds_no_socket_after_its_end() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.exclusive_listeners = True
        sock = socket.create_server(("127.0.0.1", 0))
        address = sock.getsockname()
        server = await loop.create_server(lambda: Recorder(), sock=sock)
        # A burst registers again, and finds that the number is no longer the socket's.
        loop.call_soon(sock.detach)
        with socket.create_connection(address):
            await turns(5)
        server.close()
        assert references(sock) == 0

    corenet.run(main())


def test_a_server_that_could_not_start_may_be_started_again() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        made, accepted = accepting()
        watch = loop.watch(socks[1], READ, print)
        with pytest.raises(RuntimeError, match="is used by"):
            await loop.create_server(made, sock=socks[1])
        server = Server(loop, socks, made, None, 10, None)
        with pytest.raises(RuntimeError, match="is used by"):
            await server.start_serving()
        assert not server.is_serving()
        assert [references(sock) for sock in socks] == [0, 0]
        loop.unwatch(watch)
        await server.start_serving()
        assert server.is_serving()
        with socket.create_connection(socks[1].getsockname()):
            here = await asyncio.wait_for(accepted, 30)
        await asyncio.wait_for(here.lost, 30)
        server.close()
        await server.wait_closed()

    corenet.run(main())


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_server_that_could_not_start_leaves_no_socket(kind: str, tmp_path: Path) -> None:
    """Its sockets would accept into their backlog until they are garbage-collected."""
    path = str(tmp_path / "socket")
    bound: list[socket.socket] = []

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        tcp = kind == "tcp"
        make = loop.create_server(Recorder, "127.0.0.1", 0) if tcp else loop.create_unix_server(Recorder, path)
        with pytest.raises(OSError, match="no room"):
            await make
        assert bound[0].fileno() == -1

    def listen(sock: Any, backlog: int) -> None:
        bound.append(sock)
        raise OSError(errno.ENOSPC, "no room")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "listen", listen)
        corenet.run(main())


@pytest.mark.parametrize("closed_before", [False, True])
def test_closing_a_server_continues_after_a_failing_close_of_a_socket(closed_before: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        server: Any = Server(loop, socks, Recorder, None, 10, None)
        await server.start_serving()
        waiting = asyncio.ensure_future(server.wait_connections_closed())
        await turns(2)
        fd = socks[1].fileno()
        if closed_before:
            # The server keeps it open, and closes it.
            socks[1].close()
        os.close(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            server.close()
        await asyncio.wait_for(waiting, 30)
        assert not server.is_serving()
        assert [sock.fileno() for sock in socks] == [-1] * 3

    corenet.run(main())


def accept_with_a_failing_allocation(number: int) -> tuple[bytes, int]:
    """What the client receives, and how many descriptors are left; allocation `number` after the first event fails."""
    loop: Any = corenet.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: _testcapi.remove_mem_hooks())
    before, after = (socket.socketpair() for _ in range(2))
    server: Any = loop.run_until_complete(loop.create_server(Last, "127.0.0.1", 0))
    kept: list[contextvars.Context] = []

    def begin() -> None:
        before[0].recv(1)
        # The interpreter keeps some for the next copies, which would then need no memory.
        kept.extend(contextvars.copy_context() for _ in range(300))
        _testcapi.set_nomemory(number, number + 1)

    def end() -> None:
        _testcapi.remove_mem_hooks()
        after[0].recv(1)
        loop.stop()

    loop.add_reader(before[0], begin)
    loop.add_reader(after[0], end)
    # One batch of events, in this order.
    before[1].send(b"1")
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        after[1].send(b"3")
        used = len(os.listdir("/proc/self/fd"))
        with warnings.catch_warnings():
            # Of a transport whose handle could not be made.
            warnings.simplefilter("ignore", ResourceWarning)
            loop.run_forever()
            got = loop.run_until_complete(asyncio.wait_for(greeted(client), 30))
            gc.collect()
        left = len(os.listdir("/proc/self/fd")) - used
    loop.remove_reader(before[0])
    loop.remove_reader(after[0])
    assert server._active_count == 0
    server.close()
    loop.close()
    for sock in (*before, *after):
        sock.close()
    return got, left


def test_a_connection_is_served_or_closed_when_there_is_no_memory_for_it() -> None:
    outcomes = [accept_with_a_failing_allocation(number) for number in range(30)]
    assert {left for _, left in outcomes} == {0}
    assert {got for got, _ in outcomes} == {b"", b"hello"}


class Last(asyncio.Protocol):
    """Sends a greeting; the first one does more."""

    first: Callable[[], object] | None = None

    def connection_made(self, transport: Any) -> None:
        transport.write(b"hello")
        transport.close()
        act, Last.first = Last.first, None
        if act is not None:
            act()


async def greeted(sock: socket.socket) -> bytes:
    """All that `sock` is sent, as long as nothing resets it."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    got = b""
    while data := await loop.sock_recv(sock, 100):
        got += data
    return got


@pytest.mark.parametrize("hosts", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]], ids=["one address", "two addresses"])
@pytest.mark.parametrize("count", [2, 100])
@pytest.mark.parametrize("act", ["close", "close_later"])
def test_a_server_closed_by_a_connection_serves_the_others_of_the_batch(
    twin: Twin, hosts: list[str], count: int, act: str
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Last, hosts, 0)
        Last.first = server.close if act == "close" else lambda: loop.call_soon(server.close)
        names = [sock.getsockname() for sock in server.sockets]
        clients = [socket.create_connection(name) for name in names for _ in range(count)]
        for client in clients:
            assert await greeted(client) == b"hello"
            client.close()
        await server.wait_closed()
        assert not server.is_serving()

    twin(main())


def test_connections_accepted_with_one_that_ended_the_run_are_served_in_the_next(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    loop = loop_factory()
    server = loop.run_until_complete(loop.create_server(Last, "127.0.0.1", 0))
    Last.first = interrupt
    clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(3)]
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    for client in clients:
        assert loop.run_until_complete(asyncio.wait_for(greeted(client), 30)) == b"hello"
        client.close()
    server.close()
    loop.run_until_complete(server.wait_closed())
    loop.close()


def test_a_factory_that_ends_the_run_leaves_no_descriptor() -> None:
    """What asyncio accepted is closed, with a warning, by the collector."""

    def factory() -> asyncio.Protocol:
        raise SystemExit

    loop = corenet.new_event_loop()
    server = loop.run_until_complete(loop.create_server(factory, "127.0.0.1", 0))
    before = len(os.listdir("/proc/self/fd"))
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        with pytest.raises(SystemExit):
            loop.run_forever()
        assert len(os.listdir("/proc/self/fd")) == before + 1
        assert loop.run_until_complete(asyncio.wait_for(greeted(client), 30)) == b""
    server.close()
    loop.close()


def test_a_listening_socket_that_was_shut_down_is_reported_once() -> None:
    """The kernel reports its hang-up for ever, and accept fails each time; asyncio spins on it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reported: list[Any] = []
        loop.set_exception_handler(lambda _loop, context: reported.append(context["exception"].errno))
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        server.sockets[0].shutdown(socket.SHUT_RDWR)
        await until(lambda: reported, "the report of the shutdown")
        await turns()
        assert reported == [errno.EINVAL]
        server.close()
        await server.wait_closed()

    corenet.run(asyncio.wait_for(main(), 30))
