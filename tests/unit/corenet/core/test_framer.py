"""The three framers: sizes, limits, the poisoned state, views and the end of the stream.

That the result does not depend on chunking is a property test (tests/property/test_framer.py).
"""

import _testcapi
import struct
import sys
from collections.abc import Callable
from typing import Any

import pytest

from corenet.core.framer import (
    DelimiterFramer,
    FixedFramer,
    FrameError,
    Framer,
    FrameTooLarge,
    IncompleteFrame,
    LengthFramer,
)
from corenet.core.views import FrameView


@pytest.mark.parametrize("prefix", [1, 2, 4, 8])
@pytest.mark.parametrize("big_endian", [True, False])
def test_length_prefixes_of_all_widths_and_orders(prefix: Any, big_endian: bool) -> None:
    framer = LengthFramer(prefix, big_endian=big_endian)
    header, payload = framer.frame(b"hello")
    assert header == (5).to_bytes(prefix, "big" if big_endian else "little")
    assert framer.feed(header + payload + header + payload + header[:1]) == [b"hello", b"hello"]
    assert framer.pending == 1


def test_a_prefix_over_many_reads() -> None:
    framer = LengthFramer(4)
    stream = struct.pack(">I", 3) + b"abc"
    assert [framer.feed(stream[i : i + 1]) for i in range(6)] == [[]] * 6
    assert framer.pending == 6
    assert framer.feed(stream[6:]) == [b"abc"]
    assert framer.pending == 0
    framer.at_eof()


def test_empty_frames_are_delivered() -> None:
    assert LengthFramer(2).feed(b"\0\0\0\0\0\1x") == [b"", b"", b"x"]
    assert DelimiterFramer(b"\n").feed(b"\n\na\n") == [b"", b"", b"a"]


def test_an_empty_frame_with_a_split_prefix() -> None:
    framer = LengthFramer(2)
    assert framer.feed(b"\0") == []
    assert framer.feed(b"\0") == [b""]


def test_a_large_frame_in_many_pieces() -> None:
    body = bytes(range(256)) * 4000
    framer = LengthFramer(4, max_frame=len(body))
    framer.feed(struct.pack(">I", len(body)))
    got = [frame for i in range(0, len(body), 1000) for frame in framer.feed(body[i : i + 1000])]
    assert got == [body]


@pytest.mark.parametrize("views", [True, False])
def test_frames_of_one_read_are_referenced_by_their_list_only(views: bool) -> None:
    framer = LengthFramer(4, views=views)
    stream = framer.pack([b"begun before", *(b"whole %d" % number for number in range(300)), b"begun"])
    assert framer.feed(stream[:6]) == []
    frames = framer.feed(stream[6:-1])
    assert len(frames) == 301
    assert (frames[0], frames[1], frames[-1]) == (b"begun before", b"whole 0", b"whole 299")
    # The list's reference and that of the call.
    assert {sys.getrefcount(frames[number]) for number in range(301)} == {2}
    assert framer.feed(stream[-1:]) == [b"begun"]


def test_an_announced_size_reserves_little_memory() -> None:
    framer = LengthFramer(8, max_frame=1 << 40)
    assert framer.feed(struct.pack(">Q", 1 << 40) + b"x") == []
    assert framer.pending == 9


def test_a_frame_over_the_limit_fails_after_the_frames_before_it() -> None:
    framer = LengthFramer(2, max_frame=4)
    with pytest.raises(FrameTooLarge, match="over the limit of 4") as caught:
        framer.feed(b"\0\1a\0\5")
    assert caught.value.frames == [b"a"]
    with pytest.raises(FrameError, match="refused a frame before"):
        framer.feed(b"\0\1a")
    framer.reset()
    assert framer.feed(b"\0\1a") == [b"a"]


def test_eight_byte_sizes_beyond_any_memory_are_refused() -> None:
    with pytest.raises(FrameTooLarge):
        LengthFramer(8).feed(b"\xff" * 8)


def test_a_payload_over_the_limit_is_not_sent() -> None:
    with pytest.raises(FrameTooLarge):
        LengthFramer(1).frame(b"x" * 256)
    with pytest.raises(FrameTooLarge):
        LengthFramer(2, max_frame=3).frame(b"1234")
    assert LengthFramer(2).frame(memoryview(b"abcd").cast("H"))[0] == b"\0\4"


def test_the_end_of_the_stream_inside_a_frame_is_an_error() -> None:
    framer = LengthFramer(2)
    framer.feed(b"\0\4ab")
    with pytest.raises(IncompleteFrame, match="4 bytes") as caught:
        framer.at_eof()
    assert caught.value.pending == 4


def test_views_have_any_size() -> None:
    framer = LengthFramer(2, views=True)
    data = b"\0\1a\0\0" + struct.pack(">H", 10000) + bytes(10000)
    frames = framer.feed(data) + framer.feed(b"\0\2x") + framer.feed(b"y")
    assert {type(frame) for frame in frames} == {FrameView}
    assert frames == [b"a", b"", bytes(10000), b"xy"]
    # Views of the data itself; the last frame, received in two pieces, is a view of its joined copy.
    assert [frame.pinned_bytes for frame in frames if isinstance(frame, FrameView)] == [len(data)] * 3 + [2]


def test_views_never_point_into_mutable_buffers() -> None:
    data = bytearray(b"\0\2ab")
    (frame,) = LengthFramer(2, views=True).feed(data)
    data[2:] = b"xy"
    assert frame == b"ab"


def test_leftover_is_the_undelivered_part_of_the_input() -> None:
    framers = (LengthFramer(4), LengthFramer(4), DelimiterFramer(b"--"), FixedFramer(4))
    streams = (b"\0\0\0", b"\0\0\0\5abc", b"abc-", b"xy")
    for framer, stream in zip(framers, streams, strict=True):
        for at in range(len(stream)):
            framer.feed(stream[at : at + 1])
        assert framer.leftover() == stream
        framer.reset()
        assert framer.leftover() == b""


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_leftover_of_a_failed_stream_begins_with_the_refused_frame(size: int) -> None:
    for framer, good, bad in (
        (LengthFramer(2, max_frame=3), b"\0\1a", b"\0\4abcd"),
        (DelimiterFramer(b"--", max_frame=3), b"a--", b"abcd--e"),
        (DelimiterFramer(b"\n", max_frame=3), b"a\n", b"abcdefg"),
    ):
        stream = good + bad
        frames: list[object] = []
        for fed in range(size, len(stream) + size, size):
            try:
                frames += framer.feed(stream[fed - size : fed])
            except FrameTooLarge as error:
                frames += [*error.frames, "refused"]
                break
        assert frames == [b"a", "refused"]
        assert framer.leftover() == stream[len(good) : fed]


FRAMERS: dict[str, Callable[[bool], Framer]] = {
    "length": lambda views: LengthFramer(2, views=views),
    "delimiter": lambda views: DelimiterFramer(b"<=>", views=views),
    "fixed": lambda views: FixedFramer(300, views=views),
}


@pytest.mark.parametrize("views", [True, False])
@pytest.mark.parametrize("held", [0, 1, 2, 100, 299, 304])
@pytest.mark.parametrize("make", FRAMERS.values(), ids=FRAMERS)
def test_after_a_memory_error_no_bytes_are_accepted(
    make: Callable[[bool], Framer], held: int, views: bool
) -> None:
    """Each allocation of one call fails in turn. A later frame would begin at an arbitrary position of the stream."""
    framer = make(views)
    payloads = [bytes([65 + i]) * 300 for i in range(5)]
    stream = framer.pack(payloads)
    begun, rest, last = stream[:held], stream[held:-1], stream[-1:] + framer.pack([b"z" * 300])
    failed = 0
    for allocation in range(1000):
        framer.reset()
        before = framer.feed(begun)
        _testcapi.set_nomemory(allocation, allocation + 1)
        try:
            frames = framer.feed(rest)
        except MemoryError:
            frames = []
        finally:
            _testcapi.remove_mem_hooks()
        if frames:
            assert before + frames + framer.feed(last) == [*payloads, b"z" * 300]
            break
        failed += 1
        for refused in (lambda: framer.feed(last), framer.leftover, framer.at_eof):
            with pytest.raises(FrameError, match="lost a part of the stream"):
                refused()
    assert failed, "no allocation was made"


def test_pack_returns_the_complete_encoding() -> None:
    payloads = [b"a", b"", bytearray(b"bc"), memoryview(b"def")]
    assert LengthFramer(2, big_endian=False).pack(payloads) == b"\1\0a\0\0\2\0bc\3\0def"
    assert DelimiterFramer(b"\r\n").pack(payloads) == b"a\r\n\r\nbc\r\ndef\r\n"
    assert FixedFramer(1).pack(iter([b"x", b"y"])) == b"xy"
    assert LengthFramer(8).pack(LengthFramer(1, views=True).feed(b"\1v")) == b"\0" * 7 + b"\1v"
    assert LengthFramer(4).pack(()) == b""
    for framer, payload in ((LengthFramer(1), bytes(256)), (DelimiterFramer(b"aa"), b"xa"), (FixedFramer(2), b"")):
        with pytest.raises(FrameError):
            framer.pack([payload])


@pytest.mark.parametrize("prefix", [0, 3, 5, 16])
def test_other_prefix_widths_are_refused(prefix: Any) -> None:
    with pytest.raises(ValueError, match="not 1, 2, 4 or 8"):
        LengthFramer(prefix)


@pytest.mark.parametrize("delimiter", [b"\n", b"\r\n", b"ab", b"--boundary--1234"])
def test_delimiters_split_at_every_position(delimiter: bytes) -> None:
    stream = b"one" + delimiter + b"" + delimiter + b"three" + delimiter
    for cut in range(len(stream) + 1):
        framer = DelimiterFramer(delimiter)
        assert framer.feed(stream[:cut]) + framer.feed(stream[cut:]) == [b"one", b"", b"three"]
        framer.at_eof()


def test_a_delimiter_that_overlaps_itself_ends_at_the_first_match() -> None:
    framer = DelimiterFramer(b"aa")
    assert framer.feed(b"xa") + framer.feed(b"aay") + framer.feed(b"aa") == [b"x", b"ay"]


def test_the_limits_of_delimiters() -> None:
    with pytest.raises(ValueError, match="delimiter length"):
        DelimiterFramer(b"")
    with pytest.raises(ValueError, match="delimiter length"):
        DelimiterFramer(b"x" * 17)


def test_a_line_over_the_limit_is_refused_before_its_end() -> None:
    framer = DelimiterFramer(b"\r\n", max_frame=4)
    assert framer.feed(b"abcd\r") == []
    with pytest.raises(FrameTooLarge):
        framer.feed(b"x")
    framer = DelimiterFramer(b"\r\n", max_frame=4)
    assert framer.feed(b"abcd\r") == []
    assert framer.feed(b"\n") == [b"abcd"]
    with pytest.raises(FrameTooLarge):
        DelimiterFramer(b"\r\n", max_frame=4).feed(b"abcde\r\n")
    # Five bytes and a third of the delimiter, which might have been four and two thirds of it.
    framer = DelimiterFramer(b"<=>", max_frame=4)
    assert framer.feed(b"12345<") == []
    with pytest.raises(FrameTooLarge):
        framer.feed(b"=>")
    assert framer.leftover() == b"12345<=>"


def test_a_payload_holding_the_delimiter_is_not_sent() -> None:
    framer = DelimiterFramer(b"aa")
    assert framer.frame(b"xyz") == (b"xyz", b"aa")
    for payload in (b"xaay", b"xa"):
        with pytest.raises(FrameError, match="contains the delimiter"):
            framer.frame(payload)


def test_frames_of_fixed_size() -> None:
    framer = FixedFramer(3)
    assert framer.feed(b"abcdefgh") == [b"abc", b"def"]
    assert framer.pending == 2
    assert framer.feed(b"") == []
    assert framer.feed(b"ij") == [b"ghi"]
    with pytest.raises(IncompleteFrame):
        framer.at_eof()
    assert framer.frame(b"xyz") == (b"", b"xyz")
    with pytest.raises(FrameError, match="not a frame of size 3"):
        framer.frame(b"xy")


def test_feed_accepts_any_buffer_and_refuses_other_types() -> None:
    framer = LengthFramer(1)
    assert framer.feed(bytearray(b"\1a")) + framer.feed(memoryview(b"\1b")) == [b"a", b"b"]
    with pytest.raises(TypeError):
        framer.feed("text")  # type: ignore[arg-type]
