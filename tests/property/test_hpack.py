"""HPACK against the library hpack, both ways: random fields, table sizes and blocks, and blocks that were broken."""

import hpack
from hypothesis import given
from hypothesis import strategies as st

from corenet.http.errors import RemoteProtocolError
from corenet.http.hpack import STATIC_TABLE, HpackDecoder, HpackEncoder, huffman_decode, huffman_encode

NAMES = st.sampled_from([name for name, _ in STATIC_TABLE] + [b"x-a", b"x-b", b"x-" + b"c" * 60])
VALUES = st.sampled_from([b"", b"GET", b"200", b"v", b"w" * 50, b"x" * 1900, b"\0\xff"]) | st.binary(max_size=40)
FIELDS = st.lists(st.tuples(NAMES, VALUES) | st.sampled_from(STATIC_TABLE), max_size=12)
SIZES = st.lists(st.sampled_from([0, 31, 32, 100, 1000, 4095, 4096, 100_000]), max_size=3)
BLOCKS = st.lists(st.tuples(SIZES, FIELDS), max_size=10)


@given(BLOCKS)
def test_what_we_encode_is_decoded_by_hpack(blocks: list[tuple[list[int], list[tuple[bytes, bytes]]]]) -> None:
    encoder, decoder = HpackEncoder(), hpack.Decoder(max_header_list_size=1 << 20)
    for sizes, fields in blocks:
        for size in sizes:
            encoder.set_limit(size)
        got = decoder.decode(encoder.encode(fields), raw=True)
        assert [(name, value) for name, value in got] == fields
        assert decoder.header_table._current_size == encoder.table.size


@given(BLOCKS, st.booleans())
def test_what_hpack_encodes_is_decoded_by_us(
    blocks: list[tuple[list[int], list[tuple[bytes, bytes]]]], huffman: bool
) -> None:
    encoder, decoder = hpack.Encoder(), HpackDecoder()
    for sizes, fields in blocks:
        if sizes:
            encoder.header_table_size = min(sizes[-1], 4096)
        assert decoder.decode(encoder.encode(fields, huffman=huffman)) == fields
        assert encoder.header_table._current_size == decoder.table.size


@given(BLOCKS, st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=3))
def test_broken_blocks_mean_the_same_or_are_refused(
    blocks: list[tuple[list[int], list[tuple[bytes, bytes]]]], changes: list[tuple[int, int]]
) -> None:
    """What we take from a broken block, hpack takes as the same; ours may refuse more."""
    encoder, ours, theirs = HpackEncoder(), HpackDecoder(), hpack.Decoder(max_header_list_size=1 << 20)
    for _, fields in blocks:
        block = bytearray(encoder.encode(fields))
        if not block:
            continue
        for position, byte in changes:
            block[position % len(block)] = byte
        try:
            got = ours.decode(block)
        except RemoteProtocolError:
            return
        if ours.over_limit:
            return
        assert [(name, value) for name, value in theirs.decode(bytes(block), raw=True)] == got


@given(st.binary(max_size=200))
def test_huffman_code_of_anything(text: bytes) -> None:
    assert huffman_decode(huffman_encode(text)) == text
    try:
        ours: bytes | None = huffman_decode(text)
    except RemoteProtocolError:
        ours = None
    try:
        theirs: bytes | None = hpack.huffman_table.decode_huffman(text)
    except hpack.HPACKDecodingError:
        theirs = None
    assert ours == theirs
