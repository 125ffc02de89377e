"""Memory that transports reuse, and data that callers may change: neither may be visible.

Bytes objects for received data are refilled when their last reference is gone, and mutable data is sent without a copy
where possible. Each test here fails when one of the two is done too early.
"""

import _testcapi
import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.twin import Recorder, loop_factory, twin

import corenet

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]
SIZES = (1, 2, 15, 16, 64, 64, 60, 47, 1024, 1024, 900, 700, 1024, 16384, 65536, 65536)


class Keeper(asyncio.Protocol):
    """Keeps what `keep` returns for each received object, and sets its length on the waiter."""

    def __init__(self, keep: Callable[[bytes], Any]) -> None:
        self.keep = keep
        self.kept: list[Any] = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.kept.append(self.keep(data))
        self.transport.write(len(data).to_bytes(4, "big"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


async def feed(protocol: Any, pieces: list[bytes]) -> None:
    """Send each piece when the one before has been received whole, so that each arrives as one."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    await loop.create_unix_connection(lambda: protocol, sock=ours)
    with theirs:
        for piece in pieces:
            await loop.sock_sendall(theirs, piece)
            told = 0
            while told < len(piece):
                answer = await loop.sock_recv(theirs, 4096)
                assert answer, "the connection ended early"
                told += sum(int.from_bytes(answer[i : i + 4], "big") for i in range(0, len(answer), 4))
    await protocol.lost


KEPT: dict[str, Callable[[bytes], Any]] = {
    "itself": lambda data: data,
    "a view": memoryview,
    "a slice of a view": lambda data: memoryview(data)[:],
    "in a tuple": lambda data: (data,),
    "a copy": bytearray,
}


@pytest.mark.parametrize("keep", KEPT.values(), ids=KEPT)
def test_received_data_does_not_change(twin: Twin, keep: Callable[[bytes], Any]) -> None:
    async def main() -> None:
        protocol = Keeper(keep)
        pieces = [bytes([65 + i]) * size for i, size in enumerate(SIZES)]
        await feed(protocol, pieces)
        kept = b"".join(bytes(item[0] if isinstance(item, tuple) else item) for item in protocol.kept)
        assert kept == b"".join(pieces)

    twin(main())


def test_reused_memory_has_the_right_hash_and_length(twin: Twin) -> None:
    seen: list[tuple[int, int, bool]] = []

    def look(data: bytes) -> None:
        fresh = bytes(bytearray(data))
        same = data == fresh and repr(data) == repr(fresh) and int(data) == int(fresh)
        seen.append((hash(data), hash(fresh), same))

    async def main() -> None:
        await feed(Keeper(look), [b"1" * 64, b"2" * 64, b"3" * 60, b"4" * 49, b"5" * 64])
        assert len(seen) == 5
        assert all(ours == theirs and same for ours, theirs, same in seen)

    twin(main())


@pytest.mark.parametrize("sizes", [(8192, 20000), (20000, 8192), (4096, 200_000), (8192, 8320), (8192, 8321)])
def test_a_changed_size_costs_at_most_one_more_piece(twin: Twin, sizes: tuple[int, int]) -> None:
    async def main() -> None:
        lengths: list[int] = []
        digests: list[int] = []

        def look(data: bytes) -> None:
            lengths.append(len(data))
            digests.append(sum(data))

        before, after = sizes
        await feed(Keeper(look), [b"a" * before, b"b" * after, b"c" * after, b"d" * after])
        assert sum(lengths) == before + 3 * after
        assert sum(digests) == 97 * before + (98 + 99 + 100) * after
        assert lengths[0] == before
        assert lengths[-2:] == [after, after]
        assert len(lengths) <= 5

    twin(main())


class Changer(asyncio.Protocol):
    """Answers from one buffer that it changes at once, which is allowed."""

    def __init__(self, size: int, how: Callable[[bytearray], Any]) -> None:
        self.size = size
        self.how = how
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        buffer = bytearray(self.size)
        for number in data:
            buffer[:] = bytes([number]) * self.size
            self.transport.write(self.how(buffer))
        buffer[:] = b"!" * self.size

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


HOW: dict[str, Callable[[bytearray], Any]] = {
    "bytearray": lambda buffer: buffer,
    "memoryview": memoryview,
    "read-only view": lambda buffer: memoryview(buffer).toreadonly(),
    "words": lambda buffer: memoryview(buffer).cast("H"),
}


# asyncio counts items where it should count bytes when a send was partial: words only where one send takes all.
CHANGES = [
    (name, size) for name in HOW for size in (2, 512, 1024, 4096, 65536, 200_000) if (name, size) != ("words", 200_000)
]


# From Python 3.12 on asyncio sends the later content of a queued buffer, so it is no reference here.
LOOPS = ["asyncio", "corenet"] if sys.version_info < (3, 12) else ["corenet"]


@pytest.mark.parametrize("loop_factory", LOOPS, indirect=True)
@pytest.mark.parametrize(("name", "size"), CHANGES)
def test_mutable_data_is_sent_unchanged(twin: Twin, name: str, size: int) -> None:
    how = HOW[name]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        protocol = Changer(size, how)
        await loop.create_unix_connection(lambda: protocol, sock=ours)
        with theirs:
            await loop.sock_sendall(theirs, b"abc")
            got = bytearray()
            while len(got) < 3 * size:
                got += await loop.sock_recv(theirs, 65536)
            # Compared by hand: the difference of two such strings would take pytest minutes to draw.
            changed = got != b"a" * size + b"b" * size + b"c" * size
            assert not changed
        await protocol.lost

    twin(main())


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "held"])
def test_no_gap_without_memory_for_unsent_data(kind: str) -> None:
    """The beginning was sent: later data would look like its continuation. One allocation fails."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        transport, protocol = await loop.create_unix_connection(Recorder, sock=ours)
        begun = b"begun" if kind == "held" else b""
        data: Any = b"x" * 60_000 if kind != "bytearray" else bytearray(b"x" * 60_000)

        def act() -> None:
            """In one callback: the second write is held until it returns or the buffer size is read."""
            call, given = transport.write, (data,)
            if kind == "held":
                transport.write(begun)
                transport.write(data)
                call, given = transport.get_write_buffer_size, ()
            failure = None
            _testcapi.set_nomemory(0, 1)
            try:
                call(*given)
            except MemoryError as error:
                failure = error
            finally:
                _testcapi.remove_mem_hooks()
            failed.set_result(failure)

        failed = loop.create_future()
        loop.call_soon(act)
        assert isinstance(await failed, MemoryError)
        transport.write(b"tail")
        got = b""
        while piece := await loop.sock_recv(theirs, 1 << 16):
            got += piece
        assert got == begun + b"x" * (len(got) - len(begun))
        assert 0 < len(got) < 60_000
        assert isinstance(await protocol.lost, MemoryError)
        theirs.close()

    corenet.run(asyncio.wait_for(main(), 30))


class Taker(asyncio.Protocol):
    """Keeps the data that it receives; memory is available again then."""

    def __init__(self) -> None:
        self.got = b""
        self.ends: list[BaseException | None] = []

    def data_received(self, data: bytes) -> None:
        _testcapi.remove_mem_hooks()
        self.got += data

    def connection_lost(self, exc: BaseException | None) -> None:
        self.ends.append(exc)


class FrameTaker(corenet.FramedProtocol):
    """The same with frames."""

    def __init__(self, views: bool) -> None:
        super().__init__(corenet.LengthFramer(2), views=views)
        self.got = b""
        self.ends: list[BaseException | None] = []

    def frames_received(self, frames: list[Any]) -> None:
        _testcapi.remove_mem_hooks()
        self.got += corenet.LengthFramer(2).pack(frames)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.ends.append(exc)


class ReaderTaker(corenet.StreamReaderProtocol):
    """The same with a reader."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.reader = corenet.StreamReader(1 << 20, loop)
        super().__init__(self.reader, loop=loop)
        self.ends: list[BaseException | None] = []

    @property
    def got(self) -> bytes:
        return bytes(self.reader._buffer)

    def eof_received(self) -> bool:
        super().eof_received()
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.ends.append(exc)


TAKERS: dict[str, Callable[[Any], Any]] = {
    "bytes": lambda loop: Taker(),
    "a pipe": lambda loop: Taker(),
    "frames": lambda loop: FrameTaker(False),
    "views": lambda loop: FrameTaker(True),
    "a reader": ReaderTaker,
}
PIECES = [corenet.LengthFramer(2).pack([bytes([65 + i]) * 600]) for i in range(3)]


def receive_with_a_failing_allocation(kind: str, number: int) -> Any:
    """Receive PIECES; allocation `number` after the first event fails, if it is made while the first is received."""
    loop: Any = corenet.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: _testcapi.remove_mem_hooks())
    before, peers, after = (socket.socketpair() for _ in range(3))
    taker = TAKERS[kind](loop)
    if kind == "a pipe":
        loop.run_until_complete(loop.connect_read_pipe(lambda: taker, peers[0]))
    else:
        loop.run_until_complete(loop.create_unix_connection(lambda: taker, sock=peers[0]))

    def begin() -> None:
        before[0].recv(1)
        _testcapi.set_nomemory(number, number + 1)

    def end() -> None:
        _testcapi.remove_mem_hooks()
        after[0].recv(1)
        loop.stop()

    loop.add_reader(before[0], begin)
    loop.add_reader(after[0], end)
    # One batch of events, in this order.
    before[1].send(b"1")
    peers[1].send(PIECES[0])
    after[1].send(b"3")
    loop.run_forever()
    if not taker.ends:
        peers[1].send(b"".join(PIECES[1:]))
    peers[1].close()
    while not taker.ends:
        loop.call_soon(loop.stop)
        loop.run_forever()
    loop.remove_reader(before[0])
    loop.remove_reader(after[0])
    loop.close()
    for sock in (*before, *after):
        sock.close()
    return taker


@pytest.mark.parametrize("kind", TAKERS)
def test_no_gap_without_memory_for_received_data(kind: str) -> None:
    """It is not in the kernel any more: later data would look like its continuation."""
    whole = b"".join(PIECES)
    failed = 0
    for number in range(100):
        taker = receive_with_a_failing_allocation(kind, number)
        if taker.ends == [None]:
            assert taker.got == whole
        else:
            assert isinstance(taker.ends[0], MemoryError)
            assert taker.got == b""
            failed += 1
    assert 0 < failed < 20


@pytest.mark.parametrize("begun", [b"", b"begun"])
@pytest.mark.parametrize("kind", ["lines", "frames"])
def test_no_gap_without_memory_for_a_part_of_a_write(kind: str, begun: bytes) -> None:
    """The parts before it are queued. Each allocation fails in turn, until there is none left that could."""

    async def attempt(number: int) -> bool:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        taker = FrameTaker(True)
        transport, _ = await loop.create_unix_connection(lambda: taker, sock=ours)
        # More parts than the first capacity of a queue.
        parts = [bytes([65 + i]) * (9000 if i < 3 else 1) for i in range(40)]
        lines = [piece for part in parts for piece in (len(part).to_bytes(2, "big"), part)]
        failed = False
        transport.write(begun)
        _testcapi.set_nomemory(number, number + 1)
        try:
            if kind == "lines":
                transport.writelines(lines)
            else:
                taker.write_frames(parts)
        except MemoryError:
            failed = True
        finally:
            _testcapi.remove_mem_hooks()
        transport.write(b"tail")
        transport.close()
        got = b""
        while piece := await loop.sock_recv(theirs, 1 << 16):
            got += piece
        theirs.close()
        sent = begun + b"".join(lines)
        if not failed:
            assert got == sent + b"tail"
        else:
            # Either none of it arrived, or the connection has ended.
            assert got == begun + b"tail" or sent.startswith(got)
        return failed

    async def main() -> None:
        number = 0
        while await attempt(number):
            number += 1
        assert number > 3

    corenet.run(asyncio.wait_for(main(), 60))


def references_of_received_bytes(environment: dict[str, str]) -> int:
    """How many references there are to the bytes that a protocol gets, as it sees them in a separate process."""
    code = (
        "import asyncio, socket, sys, corenet\n"
        "class Counter(asyncio.Protocol):\n"
        "    def data_received(self, data):\n"
        "        print(sys.getrefcount(data))\n"
        "        self.seen.set_result(None)\n"
        "async def main():\n"
        "    ours, theirs = socket.socketpair()\n"
        "    with theirs:\n"
        "        _, protocol = await asyncio.get_running_loop().create_unix_connection(Counter, sock=ours)\n"
        "        protocol.seen = asyncio.get_running_loop().create_future()\n"
        "        theirs.send(b'x' * 1024)\n"
        "        await asyncio.wait_for(protocol.seen, 10)\n"
        "corenet.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment, "PYTHONPATH": str(Path(corenet.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return int(done.stdout)


def test_the_reuse_of_received_bytes_can_be_disabled() -> None:
    """The reference that the loop keeps for the next read is not there then, so the object is never filled again."""
    assert references_of_received_bytes({"CORENET_REUSE_BYTES": "0"}) == references_of_received_bytes({}) - 1
