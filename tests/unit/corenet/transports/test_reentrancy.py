"""Code of the program may run inside a call of a transport: from an argument, a protocol's attribute, a file object.

It may close the transport or its descriptor, whose number is then reused. So each state that such code can change is
checked after it ran: no byte goes to another file, or is sent where the state forbids it.
"""

import asyncio
import contextlib
import io
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.framed import Frames
from support.tls_pair import client_context, leaf, ours, server_context, tls_pair
from support.twin import Recorder, connected_pair, finish, loop_factory, twin

from corenet.transports.stream_reader_buffer import StreamReaderBuffer

__all__ = ["client_context", "leaf", "loop_factory", "ours", "server_context", "twin"]

Twin = Callable[[Any], Any]


def nothing() -> None:
    """Do nothing."""


class Exported(bytes):
    """Bytes that run `then`, once, when their buffer is requested (PEP 688, from Python 3.12 on)."""

    then: Callable[[], object] = staticmethod(nothing)

    def __buffer__(self, flags: int, /) -> memoryview:
        then, self.then = self.then, nothing
        then()
        return memoryview(bytes.__getitem__(self, slice(None)) + b"")


def exported(content: bytes, then: Callable[[], object]) -> Exported:
    data = Exported(content)
    data.then = then
    return data


class NumberTaker:
    """A socket that takes a number as soon as it is free, and its peer, which shows what was sent to it."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

    def take(self, number: int) -> None:
        """Open a file as `number`, unless that is still open."""
        with contextlib.suppress(OSError):
            os.fstat(number)
            return
        one, peer = socket.socketpair()
        if one.fileno() != number:
            os.dup2(one.fileno(), number)
            one.close()
            one = socket.socket(fileno=number)
        peer.setblocking(False)
        self.sockets += [one, peer]

    def received(self) -> bytes:
        """What it was sent."""
        with contextlib.suppress(BlockingIOError):
            return self.sockets[1].recv(1000) if self.sockets else b""
        return b""

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


@pytest.fixture
def taker() -> Iterator[NumberTaker]:
    taker = NumberTaker()
    yield taker
    taker.close()


def replaced(sock: socket.socket, taker: NumberTaker) -> None:
    """Close `sock`; its number is reused by the other file."""
    number = sock.fileno()
    sock.close()
    taker.take(number)


# --- sock_sendall, sock_sendfile ----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_file_that_closes_the_socket(twin: Twin, taker: NumberTaker, tmp_path: Path, at: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"for the peer alone")

    async def main() -> None:
        mine, peer = socket.socketpair()
        mine.setblocking(False)
        asked = 0

        class File(io.FileIO):
            def fileno(self) -> int:
                nonlocal asked
                asked += 1
                if asked == at:
                    replaced(mine, taker)
                return super().fileno()

        with peer, mine, File(path) as file:
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().sock_sendfile(mine, file)
            assert asked
            assert taker.received() == b""

    twin(main())


if sys.version_info >= (3, 12):

    def test_data_that_closes_the_socket(twin: Twin, taker: NumberTaker) -> None:
        async def main() -> None:
            mine, peer = socket.socketpair()
            mine.setblocking(False)
            with peer, mine:
                data = exported(b"for the peer alone", lambda: replaced(mine, taker))
                with pytest.raises(OSError, match="Bad file descriptor"):
                    await asyncio.get_running_loop().sock_sendall(mine, data)
                assert taker.sockets
                assert taker.received() == b""

        twin(main())

    @pytest.mark.parametrize("end", ["write_eof", "abort", "close"])
    @pytest.mark.parametrize("way", ["write", "writelines"])
    def test_data_that_ends_the_stream(ours: Twin, end: str, way: str) -> None:
        async def main() -> None:
            there, here, server = await connected_pair()
            there.keep_open = True
            transport = here.transport
            data = exported(b"late", getattr(transport, end))
            with pytest.raises(RuntimeError) if end == "write_eof" else contextlib.nullcontext():
                transport.write(data) if way == "write" else transport.writelines([data])
            await there.until(lambda: "eof" in there.events or "lost" in there.events)
            if end == "write_eof":
                # The other direction is as it was.
                there.transport.write(b"still open")
                await here.until(lambda: here.data == b"still open")
            assert there.data == b""
            await finish(server, here, there)
            assert not isinstance(here.lost.result(), BrokenPipeError)

        ours(main())

    @pytest.mark.parametrize("end", ["abort", "close"])
    def test_data_that_ends_tls(
        ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext, end: str
    ) -> None:
        async def main() -> None:
            there, here, server = await tls_pair(server_context, client_context)
            here.transport.write(exported(b"late", getattr(here.transport, end)))
            await finish(server, here, there)
            assert there.data == b""
            assert here.lost.result() is None

        ours(main())

    def test_data_that_aborts_among_datagrams(ours: Twin) -> None:
        async def main() -> None:
            mine, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            peer.setblocking(False)
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.create_datagram_endpoint(lambda: Datagrams(loop), sock=mine)
            with peer:
                transport.send_many([(b"early", None), (exported(b"late", transport.abort), None), (b"later", None)])
                # Until connection_lost the kernel gets all data, and nothing is queued.
                assert transport.get_write_buffer_size() == 0
                assert [peer.recv(100) for _ in range(3)] == [b"early", b"late", b"later"]
                await protocol.lost

        ours(main())

    @pytest.mark.parametrize("over", ["tcp", "tls"])
    @pytest.mark.parametrize("when", ["asked", "given back"])
    def test_a_buffer_that_aborts(
        ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext, over: str, when: str
    ) -> None:
        class Target(bytearray):
            def __buffer__(self, flags: int, /) -> memoryview:
                if when == "asked":
                    protocol.transport.abort()
                return memoryview(protocol.memory)

            def __release_buffer__(self, view: memoryview, /) -> None:
                if when == "given back":
                    protocol.transport.abort()

        class Into(Buffering):
            def get_buffer(self, hint: int) -> Any:
                self.events.append("asked")
                return Target(100)

        protocol: Any = None

        async def main() -> None:
            nonlocal protocol
            there, protocol, server = await buffering(over, Into, server_context, client_context)
            there.transport.write(b"not for who has gone")
            await protocol.lost
            assert protocol.events == ["made", "asked", "lost"]
            await finish(server, there)

        ours(main())


# --- frames -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("way", ["transport", "protocol"])
def test_payloads_that_end_the_stream(ours: Twin, size: int, way: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        lost = loop.create_future()
        accepted = loop.create_future()

        class Server(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                self.keep_open = True
                accepted.set_result(self)

        class Client(Frames):
            def connection_lost(self, error: BaseException | None) -> None:
                lost.set_result(error)

        server = await loop.create_server(Server, "127.0.0.1", 0)
        transport, protocol = await loop.create_connection(Client, *server.sockets[0].getsockname())
        there = await accepted

        def payloads() -> Iterator[bytes]:
            yield b"x" * size
            transport.write_eof()

        with pytest.raises(RuntimeError, match="write_eof"):
            (transport if way == "transport" else protocol).write_frames(payloads())
        await there.until(lambda: "eof" in there.events)
        assert there.data == b""
        assert not transport.is_closing()
        transport.close()
        assert await lost is None
        await finish(server, there)

    ours(main())


# --- protocols whose attributes are code --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "datagram"])
def test_a_protocol_whose_attribute_closes_the_socket(ours: Twin, taker: NumberTaker, kind: str) -> None:
    """The socket is counted before that, so it stays open until its transport has ended."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        mine, peer = socket.socketpair(type=socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        mine.setblocking(False)
        peer.setblocking(False)
        number = mine.fileno()
        before = os.fstat(number)

        class Looked(Datagrams if kind == "datagram" else Recorder):  # type: ignore[misc]
            looked = 0

            def look(self) -> None:
                self.looked += 1
                if self.looked == 1:
                    replaced(mine, taker)

            @property
            def data_received(self) -> Any:
                self.look()
                return super().data_received

            @property
            def datagrams_received(self) -> Any:
                self.look()
                raise AttributeError("one by one")

        if kind == "tcp":
            transport, protocol = await loop.create_unix_connection(Looked, sock=mine)
        else:
            transport, protocol = await loop.create_datagram_endpoint(lambda: Looked(loop), sock=mine)
        with peer:
            assert protocol.looked
            assert os.fstat(number).st_ino == before.st_ino
            await loop.sock_sendall(peer, b"for us")
            await protocol.until(lambda: protocol.data == b"for us")
            assert taker.sockets == []
            transport.close()
            await protocol.lost

    ours(main())


@pytest.mark.parametrize("end", ["detach", "raise"])
def test_a_protocol_that_keeps_the_socket_from_the_transport(ours: Twin, taker: NumberTaker, end: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        mine, peer = socket.socketpair()
        mine.setblocking(False)
        number = mine.fileno()

        class Looked(Recorder):
            @property
            def data_received(self) -> Any:  # type: ignore[override]
                if end == "raise":
                    raise ValueError("not now")
                os.close(mine.detach())
                taker.take(number)
                return super().data_received

        with peer, mine:
            with pytest.raises(ValueError, match="not now") if end == "raise" else pytest.raises(OSError, match="Bad"):
                await loop.create_unix_connection(Looked, sock=mine)
            if end == "raise":
                # It has no references of the loop: a close closes it.
                mine.close()
                assert peer.recv(1) == b""
            else:
                # Its number can be watched.
                loop.add_reader(number, nothing)
                loop.remove_reader(number)
            assert taker.received() == b""

    ours(main())


class Datagrams(asyncio.DatagramProtocol):
    """Notes what it gets."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lost: asyncio.Future[None] = loop.create_future()
        self.changed = asyncio.Event()
        self.data = b""

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.data += data
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(None)


def test_a_datagram_is_its_bytes_whatever_its_class_says(ours: Twin) -> None:
    class Other(bytes):
        def __bytes__(self) -> bytes:
            raise AssertionError("nobody asks for a copy of other bytes")

    async def main() -> None:
        mine, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(lambda: Datagrams(loop), sock=mine)
        with peer:
            transport.send_many([(b"one", None), (Other(b"two"), None)])
            assert [peer.recv(100), peer.recv(100)] == [b"one", b"two"]
            transport.close()
            await protocol.lost

    ours(main())


def test_a_protocol_that_aborts_in_pause_writing(ours: Twin) -> None:
    """Its transport has left the poller for good; a queue that is not empty any more brings it back for nothing."""

    async def main() -> None:
        class Impatient(Datagrams):
            def pause_writing(self) -> None:
                transport.abort()

        mine, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(lambda: Impatient(loop), sock=mine)
        transport.set_write_buffer_limits(high=0)
        with peer:
            for _ in range(100_000):
                transport.sendto(b"x" * 1000)
                if transport.is_closing():
                    break
            assert "write=<idle" in repr(transport)
            await protocol.lost

    ours(main())


# --- buffers of protocols -----------------------------------------------------------------------------------------


class Buffering(asyncio.BufferedProtocol):
    """Records the calls of its methods."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.memory = bytearray(100)
        self.data = b""
        self.events: list[str] = []
        self.changed = asyncio.Event()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.events.append("made")

    def get_buffer(self, hint: int) -> Any:
        return self.memory

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.memory[:nbytes]
        self.events.append("updated")
        self.changed.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


async def buffering(
    over: str, factory: Any, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> tuple[Recorder, Any, Any]:
    """A server's end, a client's of class `factory`, and the server."""
    if over == "tls":
        return await tls_pair(server_context, client_context, factory)
    there, here, server = await connected_pair()
    protocol = factory()
    here.transport.set_protocol(protocol)
    protocol.connection_made(here.transport)
    return there, protocol, server


@pytest.mark.parametrize("over", ["tcp", "tls"])
@pytest.mark.parametrize("deed", ["pause", "abort", "replace"])
def test_effects_of_get_buffer_precede_the_bytes(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext, over: str, deed: str
) -> None:
    class Acting(Buffering):
        def get_buffer(self, hint: int) -> Any:
            self.events.append("asked")
            if self.events.count("asked") == 1:
                if deed == "pause":
                    self.transport.pause_reading()
                elif deed == "abort":
                    self.transport.abort()
                else:
                    self.transport.set_protocol(successor)
            return self.memory

    successor: Any = None

    async def main() -> None:
        nonlocal successor
        there, protocol, server = await buffering(over, Acting, server_context, client_context)
        successor = Buffering()
        there.transport.write(b"whose is this")
        if deed == "replace":
            await successor.until(lambda: successor.data == b"whose is this")
            assert protocol.events == ["made", "asked"]
            protocol.transport.close()
            await successor.lost
        elif deed == "abort":
            await protocol.lost
            assert protocol.events == ["made", "asked", "lost"]
        else:
            while "asked" not in protocol.events:
                await asyncio.sleep(0)
            assert protocol.events == ["made", "asked"]
            protocol.transport.resume_reading()
            await protocol.until(lambda: protocol.data == b"whose is this")
            protocol.transport.close()
            await protocol.lost
        await finish(server, there)

    ours(main())


class Emptying:
    """A number that empties `buffer` when it is read."""

    def __init__(self, buffer: StreamReaderBuffer, value: int) -> None:
        self.buffer = buffer
        self.value = value

    def __index__(self) -> int:
        self.buffer.clear()
        return self.value

    def __le__(self, other: int) -> bool:
        return self.value <= other

    def __ge__(self, other: int) -> bool:
        return self.value >= other


@pytest.mark.parametrize("as_bytearray", [False, True])
def test_a_number_that_empties_the_buffer(as_bytearray: bool) -> None:
    def filled() -> StreamReaderBuffer:
        buffer = StreamReaderBuffer()
        buffer.extend(b"a" * 50_000)
        if as_bytearray:
            buffer.extend(b"a" * 50_000)
        return buffer

    buffer = filled()
    assert buffer.find(b"\0", Emptying(buffer, 0)) == -1
    buffer = filled()
    assert buffer[Emptying(buffer, 0):] == b""
    buffer = filled()
    del buffer[: Emptying(buffer, 10)]
    assert len(buffer) == 0
    buffer = filled()
    with pytest.raises((AttributeError, IndexError)):
        # No bytearray has so many; before Python 3.15 none has the method.
        buffer.take_bytes(Emptying(buffer, 10_000))


# --- the end of an iteration --------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["tcp", "tls"])
def test_a_protocol_that_pauses_each_time_does_not_block_the_iteration(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext, over: str
) -> None:
    """Written, paused by its watermarks, flushed at the end, resumed, written again: at most once per iteration."""

    class Restless(Recorder):
        rounds = 0

        def data_received(self, data: bytes) -> None:
            self.go_on()

        def go_on(self) -> None:
            self.transport.set_write_buffer_limits(high=1_000_000)
            self.transport.write(b"a")
            self.transport.write(b"b")
            self.transport.set_write_buffer_limits(high=0)

        def resume_writing(self) -> None:
            self.rounds += 1
            if self.rounds < 1000:
                self.go_on()

    async def main() -> None:
        if over == "tls":
            there, here, server = await tls_pair(server_context, client_context, Restless)
        else:
            there, plain, server = await connected_pair()
            here = Restless()
            plain.transport.set_protocol(here)
            here.connection_made(plain.transport)
        there.transport.write(b"go")
        await there.until(lambda: len(there.data) >= 2)
        assert here.rounds < 100
        # A task that waits again is woken, whether or not there are other events.
        await there.until(lambda: len(there.data) == 2 * here.rounds + (0 if here.rounds == 1000 else 2))
        here.rounds = 1000
        here.transport.abort()
        await here.lost if over == "tls" else None
        there.transport.abort()
        await there.lost
        server.close()
        await server.wait_closed()

    twin(main())


def test_a_flush_that_another_one_asks_for_waits_for_no_event(ours: Twin) -> None:
    """Nothing else is ready: the loop would sleep until the timeout."""

    class Restless(Recorder):
        rounds = 0
        enough: asyncio.Future[None]

        def go_on(self) -> None:
            self.transport.set_write_buffer_limits(high=1_000_000)
            self.transport.write(b"a")
            self.transport.write(b"b")
            self.transport.set_write_buffer_limits(high=0)

        def resume_writing(self) -> None:
            self.rounds += 1
            if self.rounds == 10:
                self.enough.set_result(None)
            else:
                self.go_on()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with there:
            _, protocol = await loop.create_unix_connection(Restless, sock=here)
            protocol.enough = loop.create_future()
            async with asyncio.timeout(30):
                protocol.go_on()
                await protocol.enough
            assert there.recv(100) == b"ab" * 10
            protocol.transport.abort()
            await protocol.lost

    ours(main())
