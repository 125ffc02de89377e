"""What a callback has written is sent, however the callback ends and whatever it does next.

Our transports send held writes of a callback when it returns, asyncio's at once. The difference must not be visible
after an exception, SystemExit, close, abort, or a request for the socket or the size of the buffer.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from support.twin import FACTORIES, Recorder, connected_pair, loop_factory, twin

import corenet

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]
Action = Callable[["Acting"], Any]


class Acting(Recorder):
    """Does something in one of its callbacks."""

    def __init__(self, where: str, action: Action) -> None:
        super().__init__()
        self.where = where
        self.action = action

    def act(self, where: str) -> None:
        if where == self.where:
            self.action(self)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.act("made")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.act("data")

    def eof_received(self) -> bool:
        self.act("eof")
        return super().eof_received()


def raising(error: BaseException) -> Action:
    def action(protocol: Acting) -> None:
        protocol.transport.write(b"last ")
        protocol.transport.write(b"words")
        raise error

    return action


def closing(protocol: Acting) -> None:
    protocol.transport.write(b"last words")
    protocol.transport.close()
    protocol.transport.write(b", not heard")


def aborting(protocol: Acting) -> None:
    protocol.transport.write(b"last words")
    protocol.transport.abort()


def shutting_down(protocol: Acting) -> None:
    protocol.transport.write(b"last words")
    protocol.transport.get_extra_info("socket").shutdown(socket.SHUT_WR)


def measuring(protocol: Acting) -> None:
    protocol.transport.write(b"last words")
    assert protocol.transport.get_write_buffer_size() == 0
    os.write(protocol.transport.get_extra_info("socket").fileno(), b"!")


def heard(peer: socket.socket, where: str) -> bytes:
    """All data received from the other end until its end."""
    peer.settimeout(30)
    if where == "data":
        peer.send(b"go")
    if where == "eof":
        peer.shutdown(socket.SHUT_WR)
    found = b""
    while len(found) < len(b"last words"):
        piece = peer.recv(100)
        if not piece:
            break
        found += piece
    return found


@pytest.mark.parametrize("where", ["data", "eof"])
@pytest.mark.parametrize(
    ("action", "words"),
    [
        (raising(ValueError("of the protocol")), b"last words"),
        (closing, b"last words"),
        (aborting, b"last words"),
        (shutting_down, b"last words"),
        (measuring, b"last words!"),
    ],
)
def test_the_last_writes_before_the_end_are_sent(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], where: str, action: Action, words: bytes
) -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        ours, theirs = socket.socketpair()
        with theirs:
            transport, _ = await loop.create_connection(lambda: Acting(where, action), sock=ours)
            found = await asyncio.to_thread(heard, theirs, where)
            with contextlib.suppress(BlockingIOError, ConnectionResetError):
                theirs.setblocking(False)
                found += theirs.recv(100)
            transport.abort()
        return found

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) == words


@pytest.mark.parametrize("where", ["made", "data"])
def test_writes_before_the_program_ends_are_sent(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], where: str
) -> None:
    """``sys.exit()`` after an answer; when the loop is run again, the connection works."""
    ours, theirs = socket.socketpair()
    loop = loop_factory()
    with theirs:
        theirs.settimeout(30)
        making = loop.create_task(
            loop.create_connection(lambda: Acting(where, raising(SystemExit(3))), sock=ours)  # type: ignore[arg-type]
        )
        if where == "data":
            theirs.send(b"go")
        with pytest.raises(SystemExit):
            loop.run_forever()
        assert theirs.recv(100) == b"last words"
        transport, protocol = loop.run_until_complete(asyncio.wait_for(making, 30))
        transport.close()
        assert loop.run_until_complete(asyncio.wait_for(protocol.lost, 30)) is None
        assert theirs.recv(100) == b""
    loop.close()


def test_writes_of_a_task_before_the_program_ends_are_sent(
    loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    ours, theirs = socket.socketpair()
    loop = loop_factory()
    with theirs:
        theirs.settimeout(30)

        made: list[Any] = []

        async def main() -> None:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            made.append(transport)
            for _ in range(3):
                transport.write(b"last ")
                transport.write(b"words")
                await asyncio.sleep(0)
            transport.write(b"last ")
            transport.write(b"words")
            raise SystemExit

        with pytest.raises(SystemExit):
            loop.run_until_complete(main())
        found = b""
        while len(found) < 4 * len(b"last words"):
            found += theirs.recv(100)
    made.pop().abort()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.mark.parametrize("kind", ["number", "generator"])
def test_writelines_is_all_or_nothing(twin: Twin, kind: str) -> None:
    """The pieces before a bad one were kept, and neither they nor the end of the connection were ever sent. asyncio of
    3.15 adds the pieces to its buffer one by one, and has this error again.
    """

    def failing() -> Iterator[bytes]:
        yield b"first"
        raise LookupError

    async def main() -> None:
        if not isinstance(asyncio.get_running_loop(), corenet.Loop) and sys.version_info >= (3, 15):
            return
        here, there, server = await connected_pair()
        with pytest.raises((TypeError, LookupError)):
            here.transport.writelines([b"first", 7] if kind == "number" else failing())
        here.transport.write(b"second")
        here.transport.close()
        await there.lost
        await here.lost
        assert bytes(there.data) == b"second"
        server.close()

    twin(main())


def test_nothing_is_received_into_an_empty_buffer(twin: Twin) -> None:
    """The kernel says "not yet" for a receive of nothing, and the wait had no end."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            assert await loop.sock_recv(here, 0) == b""
            assert await loop.sock_recv_into(here, bytearray()) == 0
            with pytest.raises(TypeError):
                await loop.sock_recv(here, 1.5)  # type: ignore[arg-type]

    twin(main())


def test_a_new_reader_is_not_called_for_events_of_the_old_one(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, first_peer = socket.socketpair()
        second, second_peer = socket.socketpair()
        calls: list[str] = []
        done = loop.create_future()

        def take_both() -> None:
            # The first callback reads all data and replaces the other's reader.
            for sock in (first, second):
                with contextlib.suppress(BlockingIOError):
                    calls.append(sock.recv(10).decode())
                loop.add_reader(sock, lambda: calls.append("for nothing"))
            loop.call_later(0.01, done.set_result, None)

        with first, first_peer, second, second_peer:
            for sock in (first, second):
                sock.setblocking(False)
                loop.add_reader(sock, take_both)
            first_peer.send(b"a")
            second_peer.send(b"b")
            await done
            for sock in (first, second):
                loop.remove_reader(sock)
        assert calls == ["a", "b"]

    twin(main())


def test_each_connection_has_a_context_of_its_own(twin: Twin) -> None:
    counted: ContextVar[int] = ContextVar("counted", default=0)
    seen: list[int] = []

    class Counting(asyncio.Protocol):
        def __init__(self) -> None:
            seen.append(counted.get())
            counted.set(counted.get() + 1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Counting, "127.0.0.1", 0)
        for _ in range(3):
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            while len(seen) < 3 and not seen:
                await asyncio.sleep(0)
            writer.close()
            await writer.wait_closed()
        while len(seen) < 3:
            await asyncio.sleep(0)
        server.close()

    twin(main())
    assert seen == [0, 0, 0]


def test_a_signal_handler_set_in_another_thread_is_refused(
    loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    loop = loop_factory()
    caught: list[BaseException] = []

    def add() -> None:
        try:
            loop.add_signal_handler(signal.SIGUSR2, print)
        except (RuntimeError, ValueError) as error:
            caught.append(error)

    async def main() -> None:
        loop.add_signal_handler(signal.SIGUSR1, print)
        await asyncio.to_thread(add)
        assert loop.remove_signal_handler(signal.SIGUSR1)
        assert not loop.remove_signal_handler(signal.SIGUSR2)

    try:
        loop.run_until_complete(main())
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    assert [type(error) for error in caught] == [RuntimeError]


def test_none_as_a_callback_is_reported(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    told: list[dict[str, Any]] = []
    loop = loop_factory()
    loop.set_exception_handler(lambda _loop, context: told.append(context))
    loop.call_soon(None)  # type: ignore[arg-type]
    loop.call_later(0, None)  # type: ignore[arg-type]
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    loop.close()
    assert [str(context["exception"]) for context in told] == ["'NoneType' object is not callable"] * 2
    assert [context["message"] for context in told] == ["Exception in callback None()"] * 2


def test_handles_have_a_readable_repr(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    loop = loop_factory()
    try:
        handle = loop.call_soon(heard, 1, "x")
        timer = loop.call_at(5e9, heard)
        shown = repr(handle), repr(timer)
        handle.cancel()
        timer.cancel()
        shown += repr(handle), repr(timer)
    finally:
        loop.close()
    reference = FACTORIES["asyncio"]()
    wanted = repr(asyncio.Handle(heard, (1, "x"), reference)), repr(asyncio.TimerHandle(5e9, heard, (), reference))
    reference.close()
    assert shown == (*wanted, "<Handle cancelled>", "<TimerHandle cancelled when=5000000000.0>")


@pytest.mark.parametrize("high", [float("inf"), 1 << 70])
def test_an_infinite_watermark_never_pauses(twin: Twin, high: Any) -> None:
    async def main() -> None:
        here, there, server = await connected_pair()
        here.transport.set_write_buffer_limits(high=high, low=0)
        here.transport.write(bytes(1 << 20))
        here.transport.close()
        await here.lost
        await there.lost
        assert "pause" not in here.events
        server.close()

    twin(main())


def test_datagrams_of_an_aborted_endpoint_are_dropped(twin: Twin) -> None:
    class Answering(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: Any) -> None:
            self.transport.sendto(b"last words", address)
            self.transport.abort()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Answering, ("127.0.0.1", 0))
        with socket.socket(type=socket.SOCK_DGRAM) as peer:
            peer.setblocking(False)
            peer.bind(("127.0.0.1", 0))
            peer.sendto(b"go", transport.get_extra_info("sockname"))
            assert await asyncio.wait_for(loop.sock_recv(peer, 100), 30) == b"last words"

    twin(main())


def test_empty_and_broadcast_names_are_addresses(twin: Twin) -> None:
    """``""`` is any address of this host and ``"<broadcast>"`` the network's; neither is looked up."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        errors: list[BaseException] = []

        class Protocol(asyncio.DatagramProtocol):
            def error_received(self, error: Exception) -> None:
                errors.append(error)

        with socket.socket(type=socket.SOCK_DGRAM) as peer:
            peer.setblocking(False)
            peer.bind(("127.0.0.1", 0))
            transport, _ = await loop.create_datagram_endpoint(Protocol, ("127.0.0.1", 0), allow_broadcast=True)
            transport.sendto(b"any", ("", peer.getsockname()[1]))
            assert await asyncio.wait_for(loop.sock_recv(peer, 100), 30) == b"any"
            transport.sendto(b"all", ("<broadcast>", peer.getsockname()[1]))
            transport.close()
            await asyncio.sleep(0)
        assert not any(isinstance(error, socket.gaierror) for error in errors)

    twin(main())
