"""The name that a QUIC client asks for, read from its first datagrams, so that the certificate can be chosen by it.

The library has no callback for that: a connection has its certificate before it reads anything. So this module opens
the first Initial packets, whose keys follow from the connection id in their header (RFC 9001 section 5.2), joins the
octets of their CRYPTO frames, and parses the ClientHello in them as far as it is complete (RFC 8446 section 4.1.2, RFC
6066 section 3). A ClientHello with post-quantum keys fills two datagrams, and the name may be in the second one. This
is
used only when there are several certificates.

Everything here is chosen by remote parties: each length is checked against the octets that are there, a packet has at
most as many frames as octets, and what cannot be read gives no name. At most `limits.QUIC_HELLO` datagrams are read.
"""

import hmac
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from resolver import limits

__all__ = ["HelloReader", "Octets", "TooShortError", "joined", "read_crypto", "server_name"]

_SALT = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")  # RFC 9001 section 5.2
_SAMPLE = 16
_PADDING, _PING, _CRYPTO = 0, 1, 6
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_HOST_NAME = 0


class TooShortError(Exception):
    """The octets end before the value that is read."""


class Octets:
    """Octets that are read from the beginning."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def at(self) -> int:
        """How many octets were read."""
        return self._at

    @property
    def left(self) -> int:
        """How many are left."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """The next `count` octets."""
        if count > self.left:
            raise TooShortError
        self._at += count
        return self._data[self._at - count:self._at]

    def number(self, count: int) -> int:
        """A number of `count` octets."""
        return int.from_bytes(self.take(count), "big")

    def varint(self) -> int:
        """A variable-length number (RFC 9000 section 16)."""
        first = self.number(1)
        more = (1 << (first >> 6)) - 1
        return (first & 0x3F) << (8 * more) | self.number(more)


class HelloReader:
    """Reads the name from the first datagrams of one connection."""

    __slots__ = ("_datagrams", "_keys", "_pieces")

    def __init__(self, destination: bytes) -> None:
        """`destination` is the connection id in the header of the first datagram."""
        secret = _expand(hmac.digest(_SALT, destination, "sha256"), b"client in", 32)
        self._keys = _Keys(
            AESGCM(_expand(secret, b"quic key", 16)),
            int.from_bytes(_expand(secret, b"quic iv", 12), "big"),
            Cipher(AES(_expand(secret, b"quic hp", 16)), ECB()),
        )
        self._pieces: dict[int, bytes] = {}
        self._datagrams = 0

    def feed(self, data: bytes) -> str | None:
        """Take a datagram whose header `parse_header` has accepted. The name, in lower case, once it is known; empty
        when there is none, or it was not in the first `limits.QUIC_HELLO` datagrams; None while it is not known."""
        self._datagrams += 1
        try:
            read_crypto(Octets(self._keys.open(data)), self._pieces)
            return server_name(Octets(joined(self._pieces)))
        except (TooShortError, InvalidTag):
            return None if self._datagrams < limits.QUIC_HELLO else ""


class _Keys(NamedTuple):
    """The keys of Initial packets of a client (RFC 9001 section 5)."""

    packets: AESGCM
    iv: int
    headers: "Cipher[ECB]"

    def open(self, data: bytes) -> bytes:
        """The frames of the Initial packet that `data` begins with."""
        octets = Octets(data)
        octets.take(5)
        octets.take(octets.number(1))  # the connection ids
        octets.take(octets.number(1))
        octets.take(octets.varint())  # the token
        size = octets.varint()
        begin = octets.at
        rest = octets.take(size)
        mask = self.headers.encryptor().update(Octets(rest[4:]).take(_SAMPLE))  # RFC 9001 section 5.4.2
        first = data[0] ^ mask[0] & 0x0F
        width = (first & 3) + 1
        number = bytes(one ^ other for one, other in zip(rest[:width], mask[1:], strict=False))
        nonce = self.iv ^ int.from_bytes(number, "big")
        head = bytes((first,)) + data[1:begin] + number
        return self.packets.decrypt(nonce.to_bytes(12, "big"), rest[width:], head)


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label of SHA-256 for at most one block (RFC 8446 section 7.1)."""
    label = b"tls13 " + label
    info = size.to_bytes(2, "big") + len(label).to_bytes(1, "big") + label + b"\0\1"
    return hmac.digest(secret, info, "sha256")[:size]


def read_crypto(frames: Octets, pieces: dict[int, bytes]) -> None:
    """Add the octets of CRYPTO frames to `pieces`, by their offset.

    Raises:
        TooShortError: a frame is longer than its packet.
    """
    while frames.left:
        kind = frames.varint()
        if kind == _CRYPTO:
            offset = frames.varint()
            piece = frames.take(frames.varint())
            if len(piece) > len(pieces.get(offset, b"")):
                pieces[offset] = piece
        elif kind not in (_PADDING, _PING):
            break  # no other frame comes before the ClientHello is complete


def joined(pieces: dict[int, bytes]) -> bytes:
    """The octets from the beginning to the first gap."""
    hello = b""
    for offset in sorted(pieces):
        if offset > len(hello):
            break
        hello += pieces[offset][len(hello) - offset:]
    return hello


def server_name(hello: Octets) -> str:
    """The host name in a ClientHello, in lower case, empty when there is none. The octets after it may be missing.

    Raises:
        TooShortError: the octets end before the name, or before it is certain that there is none.
    """
    if hello.number(1) != _CLIENT_HELLO:
        return ""
    hello.take(3 + 2 + 32)  # length, version, random
    hello.take(hello.number(1))  # session id
    hello.take(hello.number(2))  # cipher suites
    hello.take(hello.number(1))  # compression methods
    end = hello.number(2) + hello.at
    while hello.at < end:
        kind, size = hello.number(2), hello.number(2)
        if kind == _SERVER_NAME:
            names = Octets(hello.take(size))
            names.take(2)
            if names.number(1) != _HOST_NAME:
                return ""
            return names.take(names.number(2)).decode("latin-1").lower()
        hello.take(size)
    return ""
