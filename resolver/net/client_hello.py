"""Collects the ClientHello of a TLS client, which a handshake needs before it may begin. Sans-IO.

Each record is parsed once, however it is divided into segments. The collected octets are bounded: from
`limits.TLS_HELLO_OCTETS` on they are passed to OpenSSL unchanged, and so are other messages than a ClientHello, because
OpenSSL reports the error.
"""

from resolver import limits

__all__ = ["ClientHello"]

RECORD_HEADER, MESSAGE_HEADER = 5, 4
HANDSHAKE_RECORD = 22  # RFC 8446 section 5.1


class ClientHello:
    """The octets received so far, in `data`."""

    __slots__ = ("_at", "_left", "data")

    def __init__(self) -> None:
        self.data = b""
        self._at = 0
        """Where the first record begins that is not complete."""
        self._left = 0
        """Octets of the message that are not in the records before it."""

    def feed(self, received: bytes) -> bool:
        """Add octets; whether they are enough to begin (RFC 8446 sections 4 and 5.1)."""
        self.data += received
        data = self.data
        while self._at < limits.TLS_HELLO_OCTETS:
            at = self._at
            body = at + RECORD_HEADER
            if len(data) > at and data[at] != HANDSHAKE_RECORD:
                return True
            end = body + int.from_bytes(data[at + 3:body], "big")
            if len(data) < body or len(data) < end:
                return False
            if end == body or (not at and end - body < MESSAGE_HEADER):
                return True
            if not at:
                self._left = MESSAGE_HEADER + int.from_bytes(data[body + 1:body + MESSAGE_HEADER], "big")
            self._left -= end - body
            self._at = end
            if self._left <= 0:
                return True
        return True
