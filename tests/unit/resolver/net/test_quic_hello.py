"""The name that a QUIC client asks for: from the library's own packets, and from a ClientHello cut anywhere."""

from pathlib import Path

import pytest
from qh3.quic.connection import QuicConnection
from support.certs import Authority
from support.quic_client import client_configuration

from resolver import limits
from resolver.net.quic_hello import HelloReader, Octets, TooShortError, joined, read_crypto, server_name
from resolver.net.quic_packets import parse_header


def first_datagrams(folder: Path, name: str) -> list[bytes]:
    quic = QuicConnection(configuration=client_configuration(Authority(folder).cafile, name=name))
    quic.connect(("192.0.2.1", 853), 0.0)
    return [data for data, _ in quic.datagrams_to_send(0.0)]


def reader_of(data: bytes) -> HelloReader:
    header = parse_header(data)
    assert header is not None
    return HelloReader(header.destination)


@pytest.mark.parametrize("backwards", [False, True])
def test_the_name_is_in_one_of_the_first_datagrams(tmp_path: Path, backwards: bool) -> None:
    for _ in range(10):  # the library draws the order of its extensions
        datagrams = first_datagrams(tmp_path, "Dns.Example")
        assert len(datagrams) == 2
        reader = reader_of(datagrams[0])
        found = [reader.feed(data) for data in (reversed(datagrams) if backwards else datagrams)]
        assert found[1] == "dns.example"
        assert found[0] is None or (not backwards and found[0] == "dns.example")


def test_undecryptable_packets_give_no_name(tmp_path: Path) -> None:
    good = first_datagrams(tmp_path, "dns.example")[0]
    for wrong in (good[:-1] + bytes((good[-1] ^ 1,)), good[:100], good[:20]):
        reader = reader_of(good)
        assert [reader.feed(wrong) for _ in range(limits.QUIC_HELLO)] == [None] * (limits.QUIC_HELLO - 1) + [""]


def hello(*extensions: tuple[int, bytes]) -> bytes:
    """A ClientHello without its length."""
    body = b"".join(kind.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data for kind, data in extensions)
    return bytes((1,)) + bytes(37) + b"\0" + b"\0\2\x13\1" + b"\1\0" + len(body).to_bytes(2, "big") + body


def name(text: bytes, kind: int = 0) -> tuple[int, bytes]:
    entry = bytes((kind,)) + len(text).to_bytes(2, "big") + text
    return 0, len(entry).to_bytes(2, "big") + entry


def test_a_partial_client_hello_is_parsed_as_far_as_possible() -> None:
    whole = hello((10, b"abc"), name(b"dns.EXAMPLE"), (51, bytes(40)))
    known = whole.index(b"dns.EXAMPLE") + len(b"dns.EXAMPLE")
    for size in range(len(whole) + 1):
        if size < known:
            with pytest.raises(TooShortError):
                server_name(Octets(whole[:size]))
        else:
            assert server_name(Octets(whole[:size])) == "dns.example"


@pytest.mark.parametrize("data", [hello(), hello((10, b"abc")), hello(name(b"x", kind=1)), bytes(50)])
def test_a_hello_without_a_name(data: bytes) -> None:
    assert server_name(Octets(data)) == ""


def crypto(offset: int, data: bytes) -> bytes:
    return bytes((6, offset, len(data))) + data


@pytest.mark.parametrize(
    ("frames", "octets"),
    [
        (crypto(0, b"abc"), b"abc"),
        (b"\0\1" + crypto(3, b"def") + bytes(9) + crypto(0, b"abc"), b"abcdef"),
        (crypto(0, b"abc") + crypto(2, b"cde"), b"abcde"),
        (crypto(0, b"abcdef") + crypto(1, b"bc"), b"abcdef"),
        (crypto(0, b"abc") + crypto(4, b"e"), b"abc"),
        (crypto(0, b"abc") + b"\2" + crypto(3, b"d"), b"abc"),
        (crypto(1, b"b"), b""),
        (crypto(0, b""), b""),
    ],
)
def test_frames_are_joined_from_the_beginning(frames: bytes, octets: bytes) -> None:
    pieces: dict[int, bytes] = {}
    read_crypto(Octets(frames), pieces)
    assert joined(pieces) == octets


def test_a_frame_longer_than_its_packet() -> None:
    with pytest.raises(TooShortError):
        read_crypto(Octets(crypto(0, b"abc")[:-1]), {})
