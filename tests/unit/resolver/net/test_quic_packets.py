"""Headers of QUIC packets and tokens of Retry packets, read by us; the library is the oracle for headers."""

import pytest
from qh3.quic import packet

from resolver import limits
from resolver.net.quic_packets import CONNECTION_ID, VERSION_1, make_token, open_token, parse_header

KEY = bytes(range(32))
CLIENT = b"\x7f\0\0\1\x10\x01"
NOW = 1_000_000


def initial(*, destination: bytes = b"d" * 8, source: bytes = b"s" * 5, token: bytes = b"") -> bytes:
    head = b"\xc3\0\0\0\1" + bytes([len(destination)]) + destination + bytes([len(source)]) + source
    size = bytes([len(token)]) if len(token) < 64 else (len(token) | 0x4000).to_bytes(2, "big")
    return head + size + token + b"\x44\0" + bytes(1024)


@pytest.mark.parametrize("token", [b"", b"t", b"t" * 63, b"t" * 64, b"t" * 300])
@pytest.mark.parametrize("destination", [b"", b"d", b"d" * 20])
def test_initial_packets_as_the_library_reads_them(token: bytes, destination: bytes) -> None:
    data = initial(destination=destination, token=token)
    ours, theirs = parse_header(data), packet.pull_quic_header(packet.Buffer(data=data), CONNECTION_ID)
    assert ours is not None
    assert (ours.version, ours.destination, ours.source, ours.token) == (
        theirs.version, theirs.destination_cid, theirs.source_cid, theirs.token
    )


def test_short_headers() -> None:
    header = parse_header(b"\x40" + b"d" * 8 + b"rest")
    assert header is not None and header.version is None and header.destination == b"d" * 8


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x40" + bytes(7),
        b"\x3f" + bytes(30),  # without the fixed bit
        b"\x80\0\0\0\1" + bytes(30),
        initial()[:13],
        initial()[:18],
        initial()[:20] + b"\x7f\xff" + bytes(9),  # a token longer than the datagram
        initial(destination=b"d" * 21),
        initial(source=b"s" * 21),
        b"\xc0\0\0\0\1" + b"\xff" + bytes(200),
    ],
)
def test_what_is_not_quic(data: bytes) -> None:
    assert parse_header(data) is None


def test_long_connection_ids_of_other_versions() -> None:
    data = b"\xff\xfa\xce\xb0\x0c" + b"\xff" + b"d" * 255 + b"\xff" + b"s" * 255 + b"rest"
    header = parse_header(data)
    assert header is not None and header.version == 0xFACEB00C
    assert (header.destination, header.source) == (b"d" * 255, b"s" * 255)


def test_a_token_gives_back_the_first_connection_id() -> None:
    for original in (b"o" * 8, b"o" * 20):
        token = make_token(KEY, CLIENT, original, b"chosen", NOW)
        assert open_token(KEY, token, CLIENT, b"chosen", NOW + limits.QUIC_TOKEN_LIFETIME) == original


def test_tokens_that_are_not_valid() -> None:
    token = make_token(KEY, CLIENT, b"original", b"chosen", NOW)
    assert open_token(KEY, token, CLIENT, b"chosen", NOW) == b"original"
    assert open_token(KEY, token, CLIENT, b"chosen", NOW + limits.QUIC_TOKEN_LIFETIME + 1) is None
    assert open_token(KEY, token, CLIENT, b"chosen", NOW - 1) is None
    assert open_token(KEY, token, CLIENT[:-1] + b"\2", b"chosen", NOW) is None
    assert open_token(KEY, token, CLIENT, b"another", NOW) is None
    assert open_token(bytes(32), token, CLIENT, b"chosen", NOW) is None
    assert open_token(KEY, token[:19], CLIENT, b"chosen", NOW) is None
    assert open_token(KEY, token + bytes(20), CLIENT, b"chosen", NOW) is None
    for at in range(len(token)):
        changed = token[:at] + bytes([token[at] ^ 1]) + token[at + 1:]
        assert open_token(KEY, changed, CLIENT, b"chosen", NOW) is None


def test_the_version_is_that_of_rfc_9000() -> None:
    assert VERSION_1 == 1
