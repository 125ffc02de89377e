"""The client's side of a SOCKS5 handshake (RFC 1928, RFC 1929), without I/O: bytes in, bytes out.

The proxy is not trusted. Each of its messages has a fixed greatest length, and it may not send a byte before it was
asked: such a byte would be taken for the beginning of the origin's response. States and events (an event in an empty
cell raises ProxyError)::

    state       | method 0   | method 2       | accepted   | reply
    ------------+------------+----------------+------------+------
    OFFERED     | REQUESTED  | AUTHENTICATING |            |
    AUTHENTICATING |         |                | REQUESTED  |
    REQUESTED   |            |                |            | DONE
    DONE        |            |                |            |

`start` sends the methods, OFFERED. In DONE the bytes of the connection belong to the origin.
"""

from ipaddress import ip_address

from corenet.http.errors import ProxyError

__all__ = ["Socks5Handshake"]

OFFERED, AUTHENTICATING, REQUESTED, DONE = range(4)

_VERSION = 5
_AUTH_VERSION = 1
_NO_AUTHENTICATION, _PASSWORD, _NONE_ACCEPTABLE = 0, 2, 0xFF
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_NAME_SIZE = 255

# RFC 1928 section 6.
_REPLIES = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
}


class Socks5Handshake:
    """One handshake that asks for a connection to `host` and `port`; `host` is an address, or a name in ASCII.

    Send what `start` returns, then what each `feed` returns, until `done`.
    """

    __slots__ = ("_credentials", "_destination", "_received", "state")

    def __init__(self, host: str, port: int, credentials: tuple[bytes, bytes] | None = None) -> None:
        self._destination = _address(host) + port.to_bytes(2, "big")
        self._credentials = credentials
        self._received = bytearray()
        self.state = OFFERED

    @property
    def done(self) -> bool:
        """True when the proxy has connected to the destination."""
        return self.state == DONE

    def start(self) -> bytes:
        """The first message: the methods of authentication that we can use."""
        if self._credentials is None:
            return bytes((_VERSION, 1, _NO_AUTHENTICATION))
        return bytes((_VERSION, 2, _NO_AUTHENTICATION, _PASSWORD))

    def feed(self, data: bytes) -> bytes:
        """Take received bytes and return what is to be sent now, maybe nothing.

        Raises:
            ProxyError: the proxy refuses, or it does not speak SOCKS5.
        """
        self._received += data
        if self.state == OFFERED:
            return self._read_method()
        if self.state == AUTHENTICATING:
            return self._read_auth_status()
        if self.state == REQUESTED:
            self._read_reply()
            return b""
        raise ProxyError("the SOCKS5 proxy has sent bytes after its reply")

    def _take(self, size: int) -> bytes | None:
        """The next message of `size` bytes, None when it is incomplete. Nothing may follow it: we were not asked."""
        if len(self._received) < size:
            return None
        if len(self._received) > size:
            raise ProxyError("the SOCKS5 proxy has sent more bytes than its message has")
        message = bytes(self._received)
        self._received.clear()
        return message

    def _read_method(self) -> bytes:
        self._expect_version(_VERSION)
        message = self._take(2)
        if message is None:
            return b""
        if message[1] == _NO_AUTHENTICATION:
            return self._request()
        if message[1] == _PASSWORD and self._credentials is not None:
            user, password = self._credentials
            self.state = AUTHENTICATING
            return bytes((_AUTH_VERSION, len(user))) + user + bytes((len(password),)) + password
        if message[1] == _NONE_ACCEPTABLE:
            wanted = "the credentials" if self._credentials else "a connection without credentials"
            raise ProxyError(f"the SOCKS5 proxy does not accept {wanted}")
        raise ProxyError(f"the SOCKS5 proxy has chosen the method {message[1]}, which was not offered")

    def _read_auth_status(self) -> bytes:
        self._expect_version(_AUTH_VERSION)
        message = self._take(2)
        if message is None:
            return b""
        if message[1]:
            raise ProxyError("the SOCKS5 proxy has refused the user or the password")
        return self._request()

    def _request(self) -> bytes:
        self.state = REQUESTED
        return bytes((_VERSION, _CONNECT, 0)) + self._destination

    def _read_reply(self) -> None:
        received = self._received
        self._expect_version(_VERSION)
        if len(received) >= 2 and received[1]:
            # The rest of a refusal has no information, and some proxies omit it.
            code = received[1]
            raise ProxyError(f"the SOCKS5 proxy cannot connect: {_REPLIES.get(code, f'reply {code}')}")
        if len(received) < 5:
            return
        sizes = {_IPV4: 4, _IPV6: 16, _NAME: 1 + received[4]}
        size = sizes.get(received[3])
        if size is None:
            raise ProxyError(f"the SOCKS5 proxy has replied with the address type {received[3]}")
        if self._take(4 + size + 2) is not None:
            self.state = DONE

    def _expect_version(self, version: int) -> None:
        if self._received and self._received[0] != version:
            raise ProxyError("the proxy does not speak SOCKS5")


def _address(host: str) -> bytes:
    """The address type and the address as RFC 1928 section 5 has them."""
    try:
        address = ip_address(host)
    except ValueError:
        name = host.rstrip(".").encode("ascii")
        if not 0 < len(name) <= _NAME_SIZE:
            raise ProxyError(f"a name of {len(name)} bytes does not fit into a SOCKS5 request") from None
        return bytes((_NAME, len(name))) + name
    return bytes((_IPV4 if address.version == 4 else _IPV6,)) + address.packed
