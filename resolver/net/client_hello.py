"""Collects the octets of a ClientHello (RFC 8446 section 4.1.2). The handshake starts when it is complete. Sans-IO.

Each record is parsed once, however it is divided into segments. At `limits.TLS_HELLO_OCTETS`, or at a record that is
not a handshake record, collecting stops: OpenSSL gets the octets unchanged and reports the error.
"""

from resolver import limits

__all__ = ["ClientHello"]

RECORD_HEADER, MESSAGE_HEADER = 5, 4
HANDSHAKE_RECORD = 22  # RFC 8446 section 5.1


class ClientHello:
    """The octets received so far, in `data`."""

    __slots__ = ("_missing", "_record_start", "data")

    def __init__(self) -> None:
        self.data = b""
        self._record_start = 0
        """Offset in `data` of the first incomplete record."""
        self._missing = 0
        """Octets of the handshake message that are not in the records before `_record_start`."""

    def feed(self, received: bytes) -> bool:
        """Append `received`. True: the handshake can start, because the message is complete, too long or malformed."""
        self.data += received
        data = self.data
        while self._record_start < limits.TLS_HELLO_OCTETS:
            start = self._record_start
            body = start + RECORD_HEADER
            if len(data) > start and data[start] != HANDSHAKE_RECORD:
                return True
            end = body + int.from_bytes(data[start + 3:body], "big")
            if len(data) < body or len(data) < end:
                return False
            if end == body or (not start and end - body < MESSAGE_HEADER):
                return True
            if not start:
                self._missing = MESSAGE_HEADER + int.from_bytes(data[body + 1:body + MESSAGE_HEADER], "big")
            self._missing -= end - body
            self._record_start = end
            if self._missing <= 0:
                return True
        return True
