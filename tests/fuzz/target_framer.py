"""Framers: the frames do not depend on how the input is cut.

The first four bytes choose the framer, its limit and the size of the pieces; the rest is the stream.
"""

from corenet.core.framer import DelimiterFramer, FixedFramer, FrameTooLarge, LengthFramer

FRAMERS = (
    lambda limit: LengthFramer(1, max_frame=limit),
    lambda limit: LengthFramer(2, max_frame=limit, views=True),
    lambda limit: LengthFramer(4, big_endian=False, max_frame=limit),
    lambda limit: LengthFramer(8, max_frame=limit),
    lambda limit: DelimiterFramer(b"\n", max_frame=limit),
    lambda limit: DelimiterFramer(b"\r\n", max_frame=limit),
    lambda limit: DelimiterFramer(b"\xff\xff\xff", max_frame=limit, views=True),
    lambda limit: FixedFramer(limit),
)


def play(choice: int, limit: int, pieces: list[bytes]) -> tuple[list[bytes], bool]:
    """The frames of a stream, and whether it was refused."""
    framer = FRAMERS[choice % len(FRAMERS)](limit)
    frames: list[bytes] = []
    try:
        for piece in pieces:
            frames += [bytes(frame) for frame in framer.feed(piece)]
            assert framer.pending <= len(b"".join(pieces))
    except FrameTooLarge as error:
        return frames + [bytes(frame) for frame in error.frames], True
    return frames, False


def run(data: bytes) -> None:
    """One input: choice, limit, piece size, stream."""
    if len(data) < 4:
        return
    choice, limit, size = data[0], 1 + data[1] + (data[2] << 8), 1 + data[3]
    stream = data[4:]
    whole = play(choice, limit, [stream])
    assert play(choice, limit, [stream[at : at + size] for at in range(0, len(stream), size)]) == whole
    assert all(len(frame) <= limit for frame in whole[0])
