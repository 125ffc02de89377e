"""Any chunking gives the same frames through a FramedProtocol, whatever is paused, handed over or cut meanwhile.

The transport is a fake without a loop: what is tried is the protocol's own order of things, on the way by
``data_received``. The reference is the list that the stream was made of.
"""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from corenet import DelimiterFramer, FixedFramer, FramedProtocol, FrameTooLarge, LengthFramer

FRAMES = st.lists(st.binary(max_size=40), max_size=12)
CUTS = st.lists(st.integers(1, 60), min_size=1, max_size=20)


class Wire:
    """A transport that notes what is asked of it."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.reading = True
        self.closed = False
        self.protocol: Any = None

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def get_protocol(self) -> Any:
        return self.protocol

    def get_extra_info(self, _name: str, default: Any = None) -> Any:
        return default

    def close(self) -> None:
        self.closed = True

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def _force_close(self, error: BaseException) -> None:
        self.error = error
        self.closed = True


class Collect(FramedProtocol):
    """Keeps frames, and acts after some of them."""

    def __init__(self, framer: Any, batch: int, views: bool = True) -> None:
        super().__init__(framer, batch=batch, views=views)
        self.frames: list[bytes] = []
        self.acts: dict[int, Any] = {}

    def frames_received(self, frames: list[Any]) -> None:
        self.frames += [bytes(frame) for frame in frames]
        for number in sorted(self.acts):
            if len(self.frames) >= number:
                self.acts.pop(number)()


class Rest(asyncio.Protocol):
    """Takes over."""

    def __init__(self) -> None:
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """The stream in pieces of the given sizes, over and over until it is used up."""
    out, at, turn = [], 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        out.append(stream[at : at + size])
        at, turn = at + size, turn + 1
    return out


@given(FRAMES, CUTS, st.integers(1, 5), st.booleans(), st.sampled_from([1, 2, 4, 8]))
def test_any_chunking(frames: list[bytes], cuts: list[int], batch: int, views: bool, prefix: Any) -> None:
    protocol = Collect(LengthFramer(prefix), batch, views)
    protocol.connection_made(Wire())  # type: ignore[arg-type]
    for piece in pieces(LengthFramer(prefix).pack(frames), cuts):
        protocol.data_received(piece)
    assert protocol.frames == frames
    assert protocol.pending == 0


@given(FRAMES, CUTS, st.integers(1, 5), st.sets(st.integers(1, 12), max_size=4), st.integers(0, 3))
def test_pausing_loses_nothing(frames: list[bytes], cuts: list[int], batch: int, stops: set[int], tail: int) -> None:
    """Pauses after some frames; resumed each time by the loop's next turn."""

    async def main() -> None:
        protocol = Collect(LengthFramer(2), batch)
        wire = Wire()
        protocol.connection_made(wire)  # type: ignore[arg-type]
        protocol.acts = dict.fromkeys(stops, protocol.pause_frames)
        for piece in pieces(LengthFramer(2).pack(frames) + bytes(2)[:tail], cuts):
            protocol.data_received(piece)
        if not protocol.eof_received():
            wire.close()
        for _ in range(3 * len(stops) + 3):
            protocol.resume_frames()
            await asyncio.sleep(0)
        got = [*frames, b""] if tail >= 2 else frames
        assert protocol.frames == got
        assert (wire.error is None) == (tail != 1)
        assert wire.closed

    asyncio.run(main())


@given(FRAMES, CUTS, st.integers(1, 5), st.integers(1, 12), st.integers(0, 3), st.booleans())
def test_hand_over_gives_the_stream_from_there(
    frames: list[bytes], cuts: list[int], batch: int, at: int, kept: int, by_line: bool
) -> None:
    """Taken over after some frame, the successor's bytes and our frames make up the whole stream."""
    framer: Any = DelimiterFramer(b"\r\n") if by_line else LengthFramer(4)
    if by_line:
        frames = [frame.replace(b"\r", b"-").replace(b"\n", b"-") for frame in frames]
    stream = framer.pack(frames) + b"\xff\xff\xff\xff tail"
    protocol, wire, rest = Collect(framer, batch), Wire(), Rest()
    protocol.connection_made(wire)  # type: ignore[arg-type]
    put_back: list[bytes] = []

    def take_over() -> None:
        put_back.extend(protocol.frames[len(protocol.frames) - min(kept, batch, len(protocol.frames)) :])
        protocol.switch_protocol(rest, put_back)

    protocol.acts = {at: take_over}
    chunks = pieces(stream, cuts)
    while chunks and wire.protocol is None and not wire.closed:
        protocol.data_received(chunks.pop(0))
    if wire.protocol is None:
        # It never came to it: fewer frames, and a tail that is an endless frame or one over the limit.
        assert protocol.frames == frames
        return
    rest.data += b"".join(chunks)
    ours = protocol.frames[: len(protocol.frames) - len(put_back)]
    assert type(framer)(*((b"\r\n",) if by_line else (4,))).pack(ours) + rest.data == stream


@given(st.binary(max_size=200), st.integers(1, 30), CUTS, st.integers(1, 4))
def test_a_limit_holds_however_it_is_cut(stream: bytes, limit: int, cuts: list[int], batch: int) -> None:
    def play(chunks: list[bytes]) -> tuple[list[bytes], type | None]:
        protocol, wire = Collect(LengthFramer(1, max_frame=limit), batch), Wire()
        protocol.connection_made(wire)  # type: ignore[arg-type]
        for chunk in chunks:
            protocol.data_received(chunk)
        return protocol.frames, None if wire.error is None else type(wire.error)

    whole = play([stream])
    assert play(pieces(stream, cuts)) == whole
    assert whole[1] in (None, FrameTooLarge)
    assert all(len(frame) <= limit for frame in whole[0])


@given(st.binary(max_size=100), st.integers(1, 20), CUTS, st.integers(1, 4))
def test_fixed_frames(stream: bytes, size: int, cuts: list[int], batch: int) -> None:
    protocol, wire = Collect(FixedFramer(size), batch), Wire()
    protocol.connection_made(wire)  # type: ignore[arg-type]
    for piece in pieces(stream, cuts):
        protocol.data_received(piece)
    assert protocol.frames == [stream[at : at + size] for at in range(0, len(stream) - size + 1, size)]
    protocol.eof_received()
    assert (wire.error is None) == (len(stream) % size == 0)
