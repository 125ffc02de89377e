"""Pieces of a body: the same bytes in the same order, and memory that does not depend on how a server split them."""

import random
import tracemalloc

import pytest

from corenet.http.events import Data, End, Request
from corenet.http.h1 import CLIENT, H1Codec
from corenet.http.pieces import Pieces
from corenet.limits import HTTP_COALESCE_BELOW, HTTP_COALESCED_SIZE


@pytest.mark.parametrize("seed", range(20))
def test_order_and_size_do_not_depend_on_the_pieces(seed: int) -> None:
    chance = random.Random(seed)
    pieces = Pieces()
    put = got = b""
    lengths = [0, 1, 2, HTTP_COALESCE_BELOW - 1, HTTP_COALESCE_BELOW, HTTP_COALESCED_SIZE, 100_000]
    for _ in range(300):
        if chance.random() < 0.7:
            piece = chance.randbytes(chance.choice(lengths))
            pieces.add(piece)
            put += piece
        elif pieces:
            piece = pieces.pop()
            assert type(piece) is bytes
            got += piece
        assert pieces.size == len(put) - len(got)
    got += pieces.take()
    assert got == put and pieces.size == 0 and not pieces


def test_one_piece_is_not_copied() -> None:
    pieces, piece = Pieces(), b"x" * 10
    pieces.add(piece)
    assert pieces.take() is piece
    assert pieces.take() == b""


def test_taken_bytes_do_not_change() -> None:
    pieces = Pieces()
    pieces.add(b"ab")
    pieces.add(b"cd")
    first = pieces.pop()
    pieces.add(b"ef")
    pieces.add(b"gh")
    assert first == b"abcd" and pieces.take() == b"efgh"


@pytest.mark.parametrize("length", [1, 2, 7, 1000, HTTP_COALESCE_BELOW - 1])
@pytest.mark.parametrize(("chunked", "read"), [(True, 7), (True, 65_536), (False, 65_536)])
def test_memory_is_proportional_to_the_bytes(length: int, chunked: bool, read: int) -> None:
    """Chunks, or reads without chunks, of `length` bytes: neither the events nor the pieces take much more."""
    size = 1 << 17
    stream = b"%x\r\n%b\r\n" % (length, b"x" * length) * (size // length) if chunked else b"x" * size
    read = read if chunked else min(read, length)
    codec = H1Codec(CLIENT)
    codec.send(Request(b"GET", b"/", [(b"Host", b"h")]))
    codec.send(End())
    codec.feed(b"HTTP/1.1 200 OK\r\n" + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n"))
    pieces = Pieces()
    most = 0
    tracemalloc.start()
    try:
        for at in range(0, len(stream), read):
            events = codec.feed(stream[at : at + read])
            for event in events:
                assert isinstance(event, Data)
                pieces.add(event.data)
            most = max(most, len(events))
            del events
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert pieces.size == (size // length * length if chunked else size)
    # An eighth of spare capacity; at the peak a joined piece is copied while it grows, beside one read.
    assert kept < pieces.size * 9 // 8 + 20_000
    assert peak < pieces.size * 9 // 8 + 4 * HTTP_COALESCED_SIZE + 20_000
    assert most <= 1
