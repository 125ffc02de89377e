"""The body buffer returns immutable bytes only when no writable view of them exists.

The rest is arithmetic that must be right, because TLS and the kernel write into the memory.
"""

import gc

import pytest

from corenet.http.body_buffer import BodyBuffer
from corenet.http.errors import LocalProtocolError
from corenet.http.events import Data, End, Request
from corenet.http.h1 import CLIENT, H1Codec


def test_a_body_is_filled_in_place() -> None:
    body = BodyBuffer(10)
    body.append(b"ab")
    with memoryview(body) as view:
        assert len(view) == 8
        view[:3] = b"cde"
    body.advance(3)
    with memoryview(body) as view:
        view[:] = b"fghij"
    body.advance(5)
    assert body.filled == body.size == 10
    whole = body.finish()
    assert whole == b"abcdefghij"
    del body
    gc.collect()
    assert whole == b"abcdefghij"


def test_a_remaining_view_forces_a_copy() -> None:
    body = BodyBuffer(3)
    view = memoryview(body)
    view[:] = b"abc"
    body.advance(3)
    whole = body.finish()
    view[:] = b"XYZ"
    assert whole == b"abc"


def test_unfilled_memory_is_not_returned() -> None:
    body = BodyBuffer(100)
    body.append(b"abc")
    assert body.finish() == b"abc"


def test_nothing_can_be_written_after_the_end() -> None:
    body = BodyBuffer(2)
    body.append(b"ab")
    assert body.finish() == b"ab"
    for wrong in (lambda: memoryview(body), lambda: body.append(b""), lambda: body.advance(0), body.finish):
        with pytest.raises((BufferError, ValueError)):
            wrong()


def test_positions_outside_of_the_buffer_are_refused() -> None:
    with pytest.raises(ValueError, match="needs no buffer"):
        BodyBuffer(0)
    body = BodyBuffer(3)
    with pytest.raises(ValueError, match="do not fit"):
        body.append(b"abcd")
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match="within the empty part"):
            body.advance(wrong)


def test_the_codec_counts_bytes_that_were_received_directly() -> None:
    codec = H1Codec(CLIENT)
    codec.send(Request(b"GET", b"/", [(b"Host", b"h")]))
    codec.send(End())
    assert codec.length_left == 0
    events = codec.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
    assert events[1:] == [Data(b"abc")] and codec.length_left == 97
    assert codec.count_received(90) == [] and codec.length_left == 7
    for wrong in (-1, 8):
        with pytest.raises(LocalProtocolError, match="within the rest of the body"):
            codec.count_received(wrong)
    assert codec.count_received(7) == [End()] and codec.reusable
    with pytest.raises(LocalProtocolError, match="within the rest of the body"):
        codec.count_received(0)
