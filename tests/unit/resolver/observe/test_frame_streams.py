"""Frame Streams without a connection: the order of control frames, and what a collector may send."""

import pytest

from resolver import limits
from resolver.observe.frame_streams import (
    ACCEPT,
    CONTENT_TYPE,
    FINISH,
    FINISHED,
    OFFERED,
    START,
    STOP,
    STREAMING,
    FrameStreamError,
    FrameStreamSender,
    control_frame,
    next_frame,
    parse_control,
)

# Octets of the fstrm library: an escape, a length, a type, and one content type.
READY_OCTETS = bytes.fromhex("00000000" "00000022" "00000004" "00000001" "00000016") + b"protobuf:dnstap.Dnstap"


def offered() -> FrameStreamSender:
    sender = FrameStreamSender()
    assert sender.start() == READY_OCTETS
    return sender


def streaming() -> FrameStreamSender:
    sender = offered()
    sender.feed(control_frame(ACCEPT, CONTENT_TYPE))
    return sender


def test_the_whole_exchange_octet_by_octet() -> None:
    sender = offered()
    accept = control_frame(ACCEPT, b"another", CONTENT_TYPE)
    for octet in accept[:-1]:
        assert sender.feed(bytes([octet])) == b""
    assert sender.state == OFFERED
    assert sender.feed(accept[-1:]) == control_frame(START, CONTENT_TYPE)
    assert sender.state == STREAMING
    assert sender.finish() == control_frame(STOP)
    assert sender.feed(control_frame(FINISH)) == b""
    assert sender.state == FINISHED


def test_accept_without_a_content_type_accepts_any() -> None:
    sender = offered()
    sender.feed(control_frame(ACCEPT))
    assert sender.state == STREAMING


@pytest.mark.parametrize(("octets", "said"), [
    (control_frame(ACCEPT, b"other"), "does not accept the content type"),
    (control_frame(FINISH), "unexpected control frame of type 5"),
    (b"HTTP/1.1 400 Bad Request\r\n", "sends data"),
    (b"\0\0\0\0" + (limits.DNSTAP_CONTROL + 1).to_bytes(4, "big"), "of 513 octets"),
    (b"\0\0\0\0\0\0\0\3abc", "without a type"),
    (b"\0\0\0\0\0\0\0\7\0\0\0\1abc", "ends within a field"),
    (b"\0\0\0\0\0\0\0\14\0\0\0\1\0\0\0\1\0\0\0\1", "ends within a field"),
    (b"\0\0\0\0\0\0\0\14\0\0\0\1\0\0\0\2\0\0\0\0", "unknown field"),
])
def test_what_is_refused_instead_of_accept(octets: bytes, said: str) -> None:
    with pytest.raises(FrameStreamError, match=said):
        offered().feed(octets)


@pytest.mark.parametrize("kind", [ACCEPT, START, STOP, FINISH, 4, 99])
def test_nothing_is_expected_while_streaming(kind: int) -> None:
    with pytest.raises(FrameStreamError, match="unexpected"):
        streaming().feed(control_frame(kind))


def test_what_is_kept_is_bounded() -> None:
    sender = offered()
    size = limits.DNSTAP_CONTROL
    sender.feed(b"\0\0\0\0" + size.to_bytes(4, "big") + bytes(size - 1))
    with pytest.raises(FrameStreamError):
        sender.feed(b"\0")


def test_control_frames_are_read_as_they_are_written() -> None:
    for types in ((), (CONTENT_TYPE,), (b"", b"x" * 200)):
        frame = control_frame(ACCEPT, *types)
        assert frame[:4] == b"\0\0\0\0" and int.from_bytes(frame[4:8], "big") == len(frame) - 8
        assert parse_control(frame[8:]) == (ACCEPT, list(types))


def test_the_end_of_a_data_frame() -> None:
    assert next_frame(b"xx\0\0\0\3abc", 2) == 9
