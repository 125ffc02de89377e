"""The buffer that asyncio's StreamReader gets on our transports: it behaves like a bytearray, without its copies."""

import asyncio
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest
from support.twin import loop_factory, twin

from corenet.transports.stream_reader_buffer import StreamReaderBuffer, install_reader_buffer

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]


def attempt(call: Callable[[], Any]) -> Any:
    """What `call` returns, bytearrays as bytes, or the kind of exception that it raises."""
    try:
        result = call()
    except (TypeError, ValueError, IndexError, BufferError) as error:
        return type(error)
    return bytes(result) if isinstance(result, bytearray) else result


def change(buffer: Any, action: int, a: int, b: int, data: bytes) -> Any:
    """Do one operation that readers, or programs that use their buffer, do."""
    if action == 0:
        return buffer.extend(data)
    if action == 1:
        return buffer.extend(bytearray(data))
    if action == 2:
        del buffer[:a]
        return None
    if action == 3:
        return bytes(buffer[:a])
    if action == 4:
        return bytes(memoryview(buffer)[:a])
    if action == 5:
        return buffer.find(data[:b], a)
    if action == 6:
        return bytes(buffer[a:b:1])
    if action == 7:
        return buffer.clear()
    if action == 8:
        return buffer.startswith(data[:2], a)
    if action == 9:
        del buffer[a:b]
        return None
    if action == 10:
        buffer += data
        return None
    if action == 11:
        return buffer[a]
    if action == 12:
        return bytes(buffer[::-1])
    if action == 13:
        buffer[a:b] = data
        return None
    if action == 14:
        return buffer.find(data[:1], a - 5, b)
    if action in (15, 16):
        # bytearray.take_bytes, which Python has from 3.15 on and with which its StreamReader reads.
        count = len(buffer) if action == 15 else min(a, len(buffer))
        if hasattr(buffer, "take_bytes"):
            return buffer.take_bytes() if action == 15 else buffer.take_bytes(count)
        taken = bytes(buffer[:count])
        del buffer[:count]
        return taken
    return (
        len(buffer),
        bool(buffer),
        bytes(buffer),
        buffer == data,
        buffer != data,
        repr(buffer),
        list(buffer),
        bytes(buffer + data),
        data[:1] in buffer,
        buffer < data,
        buffer.hex(),
    )


@pytest.mark.parametrize("seed", range(40))
def test_the_buffer_behaves_like_a_bytearray(twin: Twin, seed: int) -> None:
    chance = random.Random(seed)

    async def main() -> None:
        reader = asyncio.StreamReader()
        install_reader_buffer(asyncio.StreamReaderProtocol(reader))
        ours: Any = reader._buffer
        assert type(ours) is StreamReaderBuffer
        model = bytearray()
        for _ in range(300):
            # Mostly what asyncio does, so that the state without copies is seen often.
            action = chance.choice((0, 0, 2, 2, 3, 4, 5, 7, 16, chance.randrange(18)))
            a, b = chance.randrange(12), chance.randrange(12)
            data = bytes(chance.choices(b"ab\n", k=chance.randrange(9)))
            told = attempt(lambda: change(ours, action, a, b, data))  # noqa: B023
            expected = attempt(lambda: change(model, action, a, b, data))  # noqa: B023
            assert told == expected, (action, a, b, data)
            assert len(ours) == len(model)
            if chance.random() < 0.5:
                assert bytes(ours) == bytes(model)

    twin(main())


def test_a_read_of_everything_returns_the_received_object(twin: Twin) -> None:
    async def main() -> None:
        reader = asyncio.StreamReader()
        install_reader_buffer(asyncio.StreamReaderProtocol(reader))
        piece = bytes(1000)
        reader.feed_data(piece)
        assert bytes(reader._buffer) is piece  # type: ignore[attr-defined]
        assert reader._buffer[:2000] is piece  # type: ignore[attr-defined]
        view = memoryview(reader._buffer)  # type: ignore[attr-defined]
        assert view.readonly
        assert reader._buffer.take_bytes(0) == b"" and bytes(reader._buffer) is piece  # type: ignore[attr-defined]
        assert await reader.read(2000) == piece
        assert bytes(view) == piece
        reader.feed_data(piece)
        assert reader._buffer.take_bytes() is piece and not reader._buffer  # type: ignore[attr-defined]
        reader.feed_data(b"too short")
        with pytest.raises((IndexError, AttributeError)):
            reader._buffer.take_bytes(10)  # type: ignore[attr-defined]

    twin(main())


def test_the_bytearray_may_be_shortened(twin: Twin) -> None:
    """After a part was read: what remains is read once, and never beyond its end."""

    async def main() -> None:
        reader = asyncio.StreamReader()
        install_reader_buffer(asyncio.StreamReaderProtocol(reader))
        ours: Any = reader._buffer  # type: ignore[attr-defined]
        reader.feed_data(b"abcd")
        reader.feed_data(b"efgh")
        shorten = ours.pop
        assert await reader.readexactly(5) == b"abcde"
        for _ in range(3):
            shorten()
        assert len(ours) == 0 and bytes(ours) == b"" and ours.find(b"c") == -1
        shorten()
        assert len(ours) == 0 and bytes(ours) == b"" and ours.find(b"c") == -1
        reader.feed_data(b"x")
        assert await reader.read(9) == b"x"

    twin(main())


def test_readers_of_other_classes_keep_their_buffer(twin: Twin) -> None:
    class Reader(asyncio.StreamReader):
        pass

    async def main() -> None:
        reader = Reader()
        install_reader_buffer(asyncio.StreamReaderProtocol(reader))
        assert type(reader._buffer) is bytearray  # type: ignore[attr-defined]
        install_reader_buffer(asyncio.Protocol())

    twin(main())


def test_streams_of_all_sizes_arrive_as_they_were_sent(twin: Twin) -> None:
    chance = random.Random(7)
    # Sizes that repeat, grow a little, shrink a little and jump: each way of receiving, with pieces kept and dropped.
    sizes = [
        chance.choice((1, 100, 8191, 8192, 16384, 16000, 20000, 100_000, 102_400, 90_000, 262_144, 300_000))
        for _ in range(120)
    ]

    async def main() -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        _, far = await asyncio.open_unix_connection(sock=theirs)
        kept = []
        for number, size in enumerate(sizes):
            sent = chance.randbytes(size)
            far.write(sent)
            got = b""
            while len(got) < size:
                piece = await reader.read(chance.choice((size, size, 1000)))
                got += piece
                if number % 3 == 0:
                    kept.append((piece, bytes(bytearray(piece))))
            assert len(got) == size
            same = got == sent
            assert same
        for piece, copy in kept:
            same = piece == copy
            assert same
        for end in (writer, far):
            end.close()
            await end.wait_closed()

    twin(main())


def test_readers_that_hold_the_last_data_do_not_see_it_change(twin: Twin) -> None:
    chance = random.Random(11)
    rounds = [[chance.choice((64, 1024, 16384, 100_000, 102_400)) for _ in range(30)] for _ in range(12)]

    async def main() -> None:
        pairs = []
        for _ in range(30):
            ours, theirs = socket.socketpair()
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            near = await asyncio.open_unix_connection(sock=ours)
            pairs.append((near, await asyncio.open_unix_connection(sock=theirs)))
        held: dict[int, tuple[bytes, bytes]] = {}
        for sizes in rounds:
            order = list(range(30))
            chance.shuffle(order)
            sent = {at: chance.randbytes(sizes[at]) for at in order}
            for at in order:
                pairs[at][1][1].write(sent[at])
            chance.shuffle(order)
            for at in order:
                got = await pairs[at][0][0].readexactly(sizes[at])
                same = got == sent[at] and (at not in held or held[at][0] == held[at][1])
                assert same
                if chance.random() < 0.8:
                    held[at] = (got, sent[at])
        for pair in pairs:
            for _, writer in pair:
                writer.close()
                await writer.wait_closed()

    twin(main())
