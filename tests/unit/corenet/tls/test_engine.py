"""The TLS engine played by hand: two of them joined by bytes that are cut anywhere, and no clock or socket."""

import ssl
from collections.abc import Iterator
from functools import cache

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from corenet.tls.engine import TlsEngine


@cache
def contexts(version: str = "any") -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context of one throw-away authority."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("peer.example").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    if version == "1.2":
        client.maximum_version = ssl.TLSVersion.TLSv1_2
    return server, client


def shake(client: TlsEngine, server: TlsEngine, cut: int = 1 << 20) -> None:
    """Play the handshake in pieces of `cut` bytes until nobody has anything to say."""
    client.handshake()
    while True:
        outward, inward = client.drain(), server.drain()
        if not outward and not inward:
            return
        for receiver, data in ((server, outward), (client, inward)):
            for start in range(0, len(data), cut):
                receiver.feed(data[start : start + cut])
                if not receiver.established:
                    receiver.handshake()


def pair(version: str = "any", cut: int = 1 << 20) -> tuple[TlsEngine, TlsEngine]:
    """A client and a server after their handshake."""
    server_context, client_context = contexts(version)
    client = TlsEngine(client_context, False, "peer.example")
    server = TlsEngine(server_context, True)
    shake(client, server, cut)
    assert client.established
    assert server.established
    return client, server


def plaintext(engine: TlsEngine) -> Iterator[bytes]:
    """All records that can be read now."""
    while piece := engine.read():
        yield piece


def write_all(engine: TlsEngine, data: bytes) -> None:
    while data:
        data = data[engine.write(data) :]


@pytest.mark.parametrize("version", ["any", "1.2"])
@pytest.mark.parametrize("cut", [1, 7, 100, 1 << 20])
def test_handshake_in_pieces(version: str, cut: int) -> None:
    client, server = pair(version, cut)
    assert client.ssl_object.version() == ("TLSv1.2" if version == "1.2" else "TLSv1.3")
    assert client.read() is None
    write_all(server, b"hello")
    client.feed(server.drain())
    assert client.read() == b"hello"
    assert client.read() is None


@settings(max_examples=60, deadline=None)
@given(
    version=st.sampled_from(["any", "1.2"]),
    sizes=st.lists(st.integers(1, 40_000), min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 20_000), min_size=1, max_size=8),
    room=st.sampled_from([0, 1, 100, 16_384, 70_000]),
)
def test_any_chunking(version: str, sizes: list[int], cuts: list[int], room: int) -> None:
    client, server = pair(version)
    sent = b""
    for number, size in enumerate(sizes):
        piece = bytes([number + 1]) * size
        write_all(client, piece)
        sent += piece
    wire = client.drain()
    received = b""
    number = 0
    buffer = memoryview(bytearray(room))
    while wire:
        cut = cuts[number % len(cuts)]
        number += 1
        server.feed(wire[:cut])
        wire = wire[cut:]
        if room:
            while count := server.read_into(buffer):
                received += bytes(buffer[:count])
        else:
            received += b"".join(plaintext(server))
    assert received == sent
    assert server.read() is None


def test_many_records_with_the_last_flight() -> None:
    """The client's data may come in one piece with the end of its handshake."""
    server_context, client_context = contexts()
    client = TlsEngine(client_context, False, "peer.example")
    server = TlsEngine(server_context, True)
    client.handshake()
    server.feed(client.drain())
    assert not server.handshake()
    client.feed(server.drain())
    assert client.handshake()
    write_all(client, b"a" * 50_000)
    server.feed(client.drain())
    assert server.handshake()
    assert b"".join(plaintext(server)) == b"a" * 50_000


def test_goodbye_asked_and_answered() -> None:
    client, server = pair()
    write_all(client, b"last words")
    assert not client.shutdown()
    server.feed(client.drain())
    assert server.read() == b"last words"
    assert server.read() == b""
    assert server.shutdown()
    client.feed(server.drain())
    assert client.shutdown()


def test_goodbyes_that_cross() -> None:
    client, server = pair()
    assert not client.shutdown()
    assert not server.shutdown()
    outward, inward = client.drain(), server.drain()
    server.feed(outward)
    client.feed(inward)
    assert client.shutdown()
    assert server.shutdown()


def test_data_after_our_goodbye() -> None:
    client, server = pair()
    client.feed(server.drain())
    assert not client.shutdown()
    write_all(server, b"still talking")
    client.feed(server.drain())
    with pytest.raises(ssl.SSLError, match="APPLICATION_DATA_AFTER_CLOSE_NOTIFY"):
        client.shutdown()


def test_wrong_name_is_refused_and_the_server_told() -> None:
    server_context, client_context = contexts()
    client = TlsEngine(client_context, False, "other.example")
    server = TlsEngine(server_context, True)
    client.handshake()
    server.feed(client.drain())
    server.handshake()
    client.feed(server.drain())
    with pytest.raises(ssl.SSLCertVerificationError):
        client.handshake()
    server.feed(client.drain())
    with pytest.raises(ssl.SSLError, match="ALERT"):
        server.handshake()


def test_host_name_that_is_none() -> None:
    with pytest.raises(ValueError, match="server_hostname"):
        TlsEngine(contexts()[1], False, "")


def test_nonsense_instead_of_a_handshake() -> None:
    server = TlsEngine(contexts()[0], True)
    server.feed(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(ssl.SSLError, match="HTTP_REQUEST"):
        server.handshake()


@pytest.mark.parametrize("garbage", [b"\x00\x00\x00\x00\x00", b"\x17\x03\x03\xff\xff", b"GET / HTTP/1.1\r\n\r\n"])
def test_nonsense_between_records(garbage: bytes) -> None:
    """A header that no peer sends is looked at at once, not when 65,535 bytes have followed it."""
    client, server = pair()
    write_all(client, b"good")
    server.feed(client.drain() + garbage)
    assert server.read() == b"good"
    with pytest.raises(ssl.SSLError):
        server.read()


def test_a_changed_byte_is_noticed() -> None:
    client, server = pair()
    write_all(client, b"x" * 100)
    wire = bytearray(client.drain())
    wire[-1] ^= 1
    server.feed(bytes(wire))
    with pytest.raises(ssl.SSLError, match=r"BAD_RECORD_MAC|RECORD_LAYER_FAILURE"):
        server.read()


def test_subclass_of_ssl_object_is_respected() -> None:
    seen: list[int] = []

    class Counting(ssl.SSLObject):
        def write(self, data: bytes) -> int:  # type: ignore[override]
            seen.append(len(data))
            return super().write(data)

    server_context, _ = contexts()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.sslobject_class = Counting
    client, server = TlsEngine(context, False), TlsEngine(server_context, True)
    shake(client, server)
    write_all(client, b"four")
    assert seen == [4]
