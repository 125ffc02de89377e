"""Framed protocols: frames and the data passed to a second protocol make up the stream, however it is cut and paused.

The first six bytes choose the framer, its limit, the size of pieces, the batch, the frame after which it pauses, and
that after which another protocol takes over. The rest is the stream. The transport is a fake that records calls.
"""

import asyncio
from typing import Any

from corenet import DelimiterFramer, FixedFramer, FramedProtocol, FrameTooLarge, LengthFramer

FRAMERS = (
    lambda limit: LengthFramer(1, max_frame=limit),
    lambda limit: LengthFramer(2, max_frame=limit),
    lambda limit: LengthFramer(4, big_endian=False, max_frame=limit),
    lambda limit: DelimiterFramer(b"\n", max_frame=limit),
    lambda limit: DelimiterFramer(b"\xff\xff\xff", max_frame=limit),
    lambda limit: FixedFramer(limit),
)


class Wire:
    """What a protocol asks of its transport."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.closed = False
        self.protocol: asyncio.BaseProtocol | None = None

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def get_protocol(self) -> asyncio.BaseProtocol | None:
        return self.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def _force_close(self, error: BaseException) -> None:
        self.error = error
        self.closed = True


class Rest(asyncio.Protocol):
    """Keeps what is handed over."""

    data: bytes | None = None

    def data_received(self, data: bytes) -> None:
        self.data = (self.data or b"") + data


class Subject(FramedProtocol):
    """Keeps frames; pauses and hands over where it was told to."""

    def __init__(self, framer: Any, batch: int, views: bool, pause: int, leave: int) -> None:
        super().__init__(framer, batch=batch, views=views)
        self.frames: list[bytes] = []
        self.pause, self.leave = pause, leave
        self.rest: Rest | None = None

    def frames_received(self, frames: list[Any]) -> None:
        before = len(self.frames)
        self.frames += [bytes(frame) for frame in frames]
        if before < self.leave <= len(self.frames):
            self.rest = Rest()
            kept = frames[self.leave - before :]
            del self.frames[self.leave :]
            self.switch_protocol(self.rest, kept)
        elif before < self.pause <= len(self.frames):
            self.pause_frames()


def run(data: bytes) -> None:
    """One input: choice, limit, piece size, batch, pause, leave, stream."""
    if len(data) < 6:
        return
    choice, limit, size, batch, pause, leave = data[:6]
    stream = data[6:]

    async def play() -> None:
        framer = FRAMERS[choice % len(FRAMERS)](1 + limit)
        subject, wire = Subject(framer, 1 + batch % 8, bool(choice & 128), pause, leave), Wire()
        subject.connection_made(wire)  # type: ignore[arg-type]
        fed = b""
        for at in range(0, len(stream), 1 + size):
            if wire.closed or subject.rest is not None:
                break
            fed = stream[: at + 1 + size]
            subject.data_received(stream[at : at + 1 + size])
        subject.resume_frames()
        await asyncio.sleep(0)
        sent = FRAMERS[choice % len(FRAMERS)](1 + limit).pack(subject.frames)
        if subject.rest is not None:
            assert sent + (subject.rest.data or b"") == fed
            assert wire.error is None
            return
        assert fed.startswith(sent)
        held = subject.pending
        if wire.error is None:
            assert sent + framer.leftover() == fed
            subject.eof_received()
            assert (wire.error is None) == (held == 0)
        else:
            assert isinstance(wire.error, FrameTooLarge)
            assert sent + framer.leftover() == fed

    asyncio.run(play())
