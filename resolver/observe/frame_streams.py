"""The sending side of Frame Streams, bidirectional, without I/O: control frames and the order in which they come.

States: NEW --(start: READY is sent)--> OFFERED --(ACCEPT with our content type comes: START is sent)--> STREAMING
--(finish: STOP is sent)--> STOPPING --(FINISH comes)--> FINISHED. In STREAMING data frames are sent, which the caller
makes. A frame that does not belong to the state, a control frame that is longer than the limit or malformed, and data
from the collector are errors: the connection is closed.

What a collector sends is bounded: at most one incomplete control frame is kept. The format is that of the fstrm
library: https://farsightsec.github.io/fstrm/.
"""

from resolver import limits

__all__ = ["CONTENT_TYPE", "FINISHED", "NEW", "OFFERED", "STOPPING", "STREAMING", "FrameStreamError",
           "FrameStreamSender", "next_frame"]

CONTENT_TYPE = b"protobuf:dnstap.Dnstap"
ESCAPE = b"\0\0\0\0"
ACCEPT, START, STOP, READY, FINISH = range(1, 6)
FIELD_CONTENT_TYPE = 1
LENGTH = 4

NEW, OFFERED, STREAMING, STOPPING, FINISHED = range(5)


class FrameStreamError(ValueError):
    """The collector has broken the protocol."""


def control_frame(kind: int, *content_types: bytes) -> bytes:
    """A control frame with its escape and its length."""
    fields = b"".join(_number(FIELD_CONTENT_TYPE) + _number(len(one)) + one for one in content_types)
    return ESCAPE + _number(LENGTH + len(fields)) + _number(kind) + fields


def parse_control(frame: bytes) -> tuple[int, list[bytes]]:
    """Kind and content types of a control frame without escape and length.

    Raises:
        FrameStreamError: it is malformed.
    """
    if len(frame) < LENGTH:
        raise FrameStreamError("a control frame without a type")
    at, found = LENGTH, []
    while at < len(frame):
        size = int.from_bytes(frame[at + LENGTH : at + 2 * LENGTH], "big")
        value = frame[at + 2 * LENGTH : at + 2 * LENGTH + size]
        if len(frame) < at + 2 * LENGTH or len(value) < size:
            raise FrameStreamError("a control frame ends within a field")
        if int.from_bytes(frame[at : at + LENGTH], "big") != FIELD_CONTENT_TYPE:
            raise FrameStreamError("a control frame with an unknown field")
        found.append(value)
        at += 2 * LENGTH + size
    return int.from_bytes(frame[:LENGTH], "big"), found


def next_frame(octets: "bytes | memoryview", at: int) -> int:
    """Where the data frame ends that begins at `at`."""
    return at + LENGTH + int.from_bytes(octets[at : at + LENGTH], "big")


class FrameStreamSender:
    """The state of one connection to a collector."""

    def __init__(self) -> None:
        self.state = NEW
        self._received = b""

    def start(self) -> bytes:
        """The octets with which the connection begins."""
        self.state = OFFERED
        return control_frame(READY, CONTENT_TYPE)

    def finish(self) -> bytes:
        """The octets that end the stream, after the last data frame."""
        self.state = STOPPING
        return control_frame(STOP)

    def feed(self, data: bytes) -> bytes:
        """Take octets from the collector; return what is to be sent in reply.

        Raises:
            FrameStreamError: the collector has broken the protocol; the connection is to be closed.
        """
        self._received += data
        reply = b""
        while len(self._received) >= 2 * LENGTH:
            if not self._received.startswith(ESCAPE):
                raise FrameStreamError("it sends data instead of control frames")
            size = int.from_bytes(self._received[LENGTH : 2 * LENGTH], "big")
            if size > limits.DNSTAP_CONTROL:
                raise FrameStreamError(f"a control frame of {size} octets")
            if len(self._received) < 2 * LENGTH + size:
                break
            frame = self._received[2 * LENGTH : 2 * LENGTH + size]
            self._received = self._received[2 * LENGTH + size :]
            reply += self._take(*parse_control(frame))
        return reply

    def _take(self, kind: int, content_types: list[bytes]) -> bytes:
        if kind == ACCEPT and self.state == OFFERED:
            if content_types and CONTENT_TYPE not in content_types:
                raise FrameStreamError("it does not accept the content type of dnstap")
            self.state = STREAMING
            return control_frame(START, CONTENT_TYPE)
        if kind == FINISH and self.state == STOPPING:
            self.state = FINISHED
            return b""
        raise FrameStreamError(f"an unexpected control frame of type {kind}")


def _number(value: int) -> bytes:
    return value.to_bytes(LENGTH, "big")
