"""SOCKS5, the client's side: each message of RFC 1928 and RFC 1929, in one piece and in single bytes; refusals."""

import pytest

from corenet.http import ProxyError
from corenet.http.socks5 import Socks5Handshake

USER = (b"user", b"secret")
NAME_REQUEST = b"\x05\x01\x00\x03\x0bexample.org\x01\xbb"
OK = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x04\x38"


def feed_bytes(handshake: Socks5Handshake, data: bytes) -> bytes:
    return b"".join(handshake.feed(data[position : position + 1]) for position in range(len(data)))


def test_without_credentials_a_name_is_sent() -> None:
    handshake = Socks5Handshake("example.org.", 443)
    assert handshake.start() == b"\x05\x01\x00"
    assert handshake.feed(b"\x05\x00") == NAME_REQUEST
    assert not handshake.done and feed_bytes(handshake, OK) == b"" and handshake.done


def test_with_user_and_password() -> None:
    handshake = Socks5Handshake("example.org", 443, USER)
    assert handshake.start() == b"\x05\x02\x00\x02"
    assert feed_bytes(handshake, b"\x05\x02") == b"\x01\x04user\x06secret"
    assert feed_bytes(handshake, b"\x01\x00") == NAME_REQUEST
    assert handshake.feed(OK) == b"" and handshake.done


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("192.0.2.1", b"\x01\xc0\x00\x02\x01"),
        ("2001:db8::1", b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01"),
        ("x" * 63, b"\x03\x3f" + b"x" * 63),
    ],
)
def test_addresses_are_sent_in_binary(host: str, sent: bytes) -> None:
    handshake = Socks5Handshake(host, 80)
    handshake.start()
    assert handshake.feed(b"\x05\x00") == b"\x05\x01\x00" + sent + b"\x00\x50"


@pytest.mark.parametrize("bound", [b"\x01" + bytes(4), b"\x04" + bytes(16), b"\x03\x03abc", b"\x03\x00"])
def test_every_form_of_the_bound_address_is_skipped(bound: bytes) -> None:
    handshake = Socks5Handshake("a", 80)
    handshake.feed(b"\x05\x00")
    feed_bytes(handshake, b"\x05\x00\x00" + bound + b"\x00\x50")
    assert handshake.done
    with pytest.raises(ProxyError, match="after its reply"):
        handshake.feed(b"x")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([b"HTTP/1.1 400"], "does not speak SOCKS5"),
        ([b"\x04"], "does not speak SOCKS5"),
        ([b"\x05\xff"], "does not accept"),
        ([b"\x05\x01"], "method 1"),
        ([b"\x05\x00\x05"], "more bytes"),
        ([b"\x05\x02", b"\x01\x01"], "refused the user"),
        ([b"\x05\x02", b"\x05\x00"], "does not speak SOCKS5"),
        ([b"\x05\x02", b"\x01\x00\x05"], "more bytes"),
        ([b"\x05\x00", b"\x04\x00"], "does not speak SOCKS5"),
        ([b"\x05\x00", b"\x05\x05"], "connection refused"),
        ([b"\x05\x00", b"\x05\x63"], "reply 99"),
        ([b"\x05\x00", b"\x05\x00\x00\x02\x00"], "address type 2"),
        ([b"\x05\x00", OK + b"HTTP"], "more bytes"),
    ],
)
def test_refusals_are_errors(messages: list[bytes], reason: str) -> None:
    handshake = Socks5Handshake("example.org", 443, USER)
    for message in messages[:-1]:
        handshake.feed(message)
    with pytest.raises(ProxyError, match=reason):
        handshake.feed(messages[-1])


def test_a_method_that_was_not_offered_is_refused() -> None:
    with pytest.raises(ProxyError, match="method 2"):
        Socks5Handshake("a", 1).feed(b"\x05\x02")


@pytest.mark.parametrize("host", ["", ".", "x" * 256])
def test_names_that_are_too_long_are_refused(host: str) -> None:
    with pytest.raises(ProxyError, match="does not fit"):
        Socks5Handshake(host, 80)
