"""Any chunking gives the same frames: the whole contract of a framer in one sentence, tried with random streams.

The reference is not another framer but the list the stream was made of, or a one-line split where delimiters overlap.
"""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from corenet.core.framer import DelimiterFramer, FixedFramer, FrameTooLarge, LengthFramer

FRAMES = st.lists(st.one_of(st.binary(max_size=40), st.binary(min_size=250, max_size=300)), max_size=12)
CUTS = st.lists(st.integers(1, 400), min_size=1, max_size=40)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """The stream in pieces of the given sizes, over and over until it is used up."""
    out, at, turn = [], 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        out.append(stream[at : at + size])
        at, turn = at + size, turn + 1
    return out


def collect(framer: Any, chunks: list[bytes]) -> tuple[list[bytes], bool]:
    """All frames, and whether the framer refused one."""
    frames: list[bytes] = []
    try:
        for chunk in chunks:
            frames += [bytes(frame) for frame in framer.feed(chunk)]
    except FrameTooLarge as error:
        return frames + [bytes(frame) for frame in error.frames], True
    return frames, False


@given(FRAMES, CUTS, st.sampled_from([2, 4, 8]), st.booleans(), st.booleans())
def test_length_frames(frames: list[bytes], cuts: list[int], prefix: Any, big: bool, views: bool) -> None:
    framer = LengthFramer(prefix, big_endian=big, views=views)
    stream = b"".join(b"".join(framer.frame(frame)) for frame in frames)
    assert collect(framer, pieces(stream, cuts)) == (frames, False)
    framer.at_eof()


@given(FRAMES, CUTS, st.integers(1, 300))
def test_length_frames_under_a_limit(frames: list[bytes], cuts: list[int], limit: int) -> None:
    stream = b"".join(len(frame).to_bytes(2, "big") + frame for frame in frames)
    good: list[bytes] = []
    for frame in frames:
        if len(frame) > limit:
            break
        good.append(frame)
    got = collect(LengthFramer(2, max_frame=limit), pieces(stream, cuts))
    assert got == (good, len(good) < len(frames))


@given(st.text("abc", max_size=60), st.text("ab", min_size=1, max_size=4), CUTS)
def test_delimited_frames(text: str, delimiter: str, cuts: list[int]) -> None:
    stream, mark = text.encode(), delimiter.encode()
    *whole, rest = stream.split(mark)
    framer = DelimiterFramer(mark)
    assert collect(framer, pieces(stream, [1 + cut % 5 for cut in cuts])) == (whole, False)
    assert framer.pending == len(rest)


@given(st.text("ab\n", max_size=80), CUTS, st.integers(1, 10))
def test_delimited_frames_under_a_limit(text: str, cuts: list[int], limit: int) -> None:
    stream = text.encode()
    whole = collect(DelimiterFramer(b"\n", max_frame=limit), [stream])
    assert collect(DelimiterFramer(b"\n", max_frame=limit), pieces(stream, [1 + cut % 7 for cut in cuts])) == whole


@given(st.binary(max_size=200), st.integers(1, 40), CUTS)
def test_fixed_frames(stream: bytes, size: int, cuts: list[int]) -> None:
    whole = [stream[i : i + size] for i in range(0, len(stream) - size + 1, size)]
    framer = FixedFramer(size)
    assert collect(framer, pieces(stream, [1 + cut % 50 for cut in cuts])) == (whole, False)
    assert framer.pending == len(stream) % size
