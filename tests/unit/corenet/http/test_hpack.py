"""HPACK: the tables of the RFC, what the decoder refuses, and which fields the encoder never indexes.

The library hpack is the oracle for the static table and the Huffman code. Round trips in both directions are in
tests/property/test_hpack.py.
"""

import hpack
import pytest
from hpack.huffman_constants import REQUEST_CODES_LENGTH

from corenet.http.errors import RemoteProtocolError
from corenet.http.hpack import HUFFMAN_LENGTHS, STATIC_TABLE, HpackDecoder, HpackEncoder, huffman_decode, huffman_encode
from corenet.limits import HPACK_INTEGER_OCTETS, HPACK_SIZE_UPDATES, HPACK_TABLE_SIZE, HTTP_FIELD_COUNT, HTTP_HEAD_SIZE


def literal(name: bytes, value: bytes, first: int = 0x40) -> bytes:
    return bytes([first, len(name)]) + name + bytes([len(value)]) + value


def test_the_tables_are_those_of_the_rfc() -> None:
    assert STATIC_TABLE == tuple(hpack.table.HeaderTable.STATIC_TABLE)
    assert HUFFMAN_LENGTHS == bytes(REQUEST_CODES_LENGTH)


def test_the_examples_of_the_rfc() -> None:
    """RFC 7541 appendix C.4: three requests with Huffman code on one table."""
    decoder, encoder = HpackDecoder(), HpackEncoder()
    first = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
    second = [*first, (b"cache-control", b"no-cache")]
    blocks = [bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff"), bytes.fromhex("828684be5886a8eb10649cbf")]
    assert [decoder.decode(block) for block in blocks] == [first, second]
    assert [encoder.encode(first), encoder.encode(second)] == blocks
    assert decoder.table.size == encoder.table.size == 57 + 53


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (b"\x80", "index is in no table"),
        (b"\xbe", "index is in no table"),
        (b"\x7f\x00\x00", "name whose index is in no table"),
        (b"\xff" + b"\xff" * HPACK_INTEGER_OCTETS + b"\x00", "index is in no table"),
        (b"\xff\x80", "index is in no table"),
        (b"\x40", "ends inside a field"),
        (b"\x40\x05abc", "ends inside a string"),
        (b"\x40\x01a", "ends inside a field"),
        (b"\x40\x7f\xff\xff\xff\xff\x0f", "ends inside a string"),
        (b"\x40\x01a\x81\x00", "invalid Huffman code"),  # padding of zeros
        (b"\x40\x01a\x84\xff\xff\xff\xff", "invalid Huffman code"),  # the end of the string is no symbol
        (b"\x40\x01a\x82\x1f\xff", "invalid Huffman code"),  # padding of more than seven bits
        (b"\x82\x20", "at the beginning of its block"),
        (b"\x20" * (HPACK_SIZE_UPDATES + 1), "at the beginning of its block"),
        (b"\x3f\xe2\x1f", "update over 4096 bytes"),
        (b"\x3f\xff\xff\xff\xff\x0f", "update over 4096 bytes"),
    ],
)
def test_invalid_encodings_are_refused(block: bytes, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        HpackDecoder().decode(block)


def test_an_index_beyond_the_last_entry_is_refused() -> None:
    for block in (b"\xbf", b"\x7f\x00\x01v"):
        decoder = HpackDecoder()
        decoder.decode(literal(b"only", b"one"))
        assert decoder.decode(b"\xbe") == [(b"only", b"one")]
        with pytest.raises(RemoteProtocolError, match="in no table"):
            decoder.decode(block)


def test_the_length_of_integers_is_bounded() -> None:
    """With more bytes the value would overflow; leading zeros do not help."""
    rest = b"\x00" + b"n" * 127 + b"\x00"
    longest = b"\x00\x7f" + b"\x80" * (HPACK_INTEGER_OCTETS - 1)
    assert HpackDecoder().decode(longest + rest) == [(b"n" * 127, b"")]
    with pytest.raises(RemoteProtocolError):
        HpackDecoder().decode(longest + b"\x80" + rest)


def test_the_table_never_exceeds_its_size() -> None:
    decoder = HpackDecoder()
    for number in range(200):
        decoder.decode(literal(b"name-%d" % number, b"v" * 100))
        assert decoder.table.size <= HPACK_TABLE_SIZE.default
    assert decoder.table.count == HPACK_TABLE_SIZE.default // (32 + 8 + 100)
    # RFC 7541 section 4.4: an entry larger than the table empties it, and is no error.
    decoder.decode(b"\x3f\x81\x01" + literal(b"a", b"b"))  # 160 bytes
    assert decoder.table.count == 1
    decoder.decode(literal(b"name", b"v" * 125))
    assert decoder.table.count == decoder.table.size == 0


def test_a_table_over_our_limit_is_refused() -> None:
    assert HpackDecoder(65_536).decode(b"\x3f\xe1\xff\x03") == []
    with pytest.raises(RemoteProtocolError):
        HpackDecoder(65_535).decode(b"\x3f\xe1\xff\x03")


def test_a_bomb_is_counted_by_its_decoded_size() -> None:
    """One long field in the table, then a byte for each repetition: a megabyte out of 260 bytes."""
    decoder = HpackDecoder()
    name, value = b"n" * 126, b"v" * 126
    decoder.decode(literal(name, value))
    most = HTTP_HEAD_SIZE.default // (len(name) + len(value) + 32)
    assert len(decoder.decode(b"\xbe" * most)) == most and not decoder.over_limit
    fields = decoder.decode(b"\xbe" * (most + 1))
    assert len(fields) == most and decoder.over_limit
    # The table stays in use: fields after the limit are still added.
    decoder.decode(b"\xbe" * (most + 1) + literal(b"late", b"field"))
    assert decoder.over_limit and decoder.decode(b"\xbe") == [(b"late", b"field")] and not decoder.over_limit


def test_many_small_fields_count_with_their_overhead() -> None:
    decoder = HpackDecoder(max_list=HTTP_HEAD_SIZE.maximum)
    assert len(decoder.decode(b"\x82" * HTTP_FIELD_COUNT.default)) == HTTP_FIELD_COUNT.default
    assert not decoder.over_limit
    assert len(decoder.decode(b"\x82" * (HTTP_FIELD_COUNT.default + 1))) == HTTP_FIELD_COUNT.default
    assert decoder.over_limit


@pytest.mark.parametrize("name", [b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"])
def test_credentials_are_never_indexed(name: bytes) -> None:
    encoder, decoder = HpackEncoder(), hpack.Decoder()
    for _ in range(2):
        fields = decoder.decode(encoder.encode([(name, b"secret")]), raw=True)
        assert isinstance(fields[0], hpack.NeverIndexedHeaderTuple)
        assert encoder.table.count == 0


def test_a_sensitive_field_is_never_indexed() -> None:
    encoder = HpackEncoder()
    assert encoder.encode([(b"x-key", b"1")], frozenset([b"x-key"]))[0] & 0xF0 == 0x10
    assert encoder.table.count == 0


def test_changing_values_do_not_evict_other_entries() -> None:
    encoder = HpackEncoder()
    encoder.encode([(b"user-agent", b"x")])
    for number in range(200):
        encoder.encode([(b"content-length", b"%d" % number), (b":path", b"/%d" % number), (b"big", b"v" * 3000)])
    assert encoder.table.count == 1 and len(encoder.encode([(b"user-agent", b"x")])) == 1


def test_the_encoder_announces_its_table_size() -> None:
    """RFC 7541 section 4.2: the smallest size in between, then the last one."""
    encoder, decoder = HpackEncoder(), hpack.Decoder()
    fields = [(b"a", b"1"), (b"b", b"2")]
    decoder.decode(encoder.encode(fields), raw=True)
    encoder.set_limit(0)
    encoder.set_limit(100)
    encoder.set_limit(64)
    encoder.set_limit(4096)
    block = encoder.encode(fields)
    assert block.startswith(b"\x20\x3f\xe1\x1f")
    assert decoder.decode(block, raw=True) == fields
    assert len(encoder.encode(fields)) == 2
    # More than our own limit is not used.
    encoder.set_limit(1 << 32)
    assert encoder.table.limit == 4096


@pytest.mark.parametrize("size", [0, 1, 100, 511, 512, 513, 3000])
def test_strings_of_every_size(size: int) -> None:
    text = bytes(n * 7 % 256 for n in range(size))
    assert huffman_decode(huffman_encode(text)) == text
    assert HpackDecoder().decode(HpackEncoder().encode([(b"n", text)])) == [(b"n", text)]


def test_a_negative_table_size_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 bytes"):
        HpackEncoder().set_limit(-1)
