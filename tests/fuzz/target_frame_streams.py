"""Octets of a dnstap collector: cut anywhere they have the same effect, and what is kept is bounded."""

from resolver import limits
from resolver.observe.frame_streams import (
    ACCEPT,
    CONTENT_TYPE,
    FINISH,
    FrameStreamError,
    FrameStreamSender,
    control_frame,
    parse_control,
)

VALID = control_frame(ACCEPT, CONTENT_TYPE)


def outcome(pieces: list[bytes], *, stop: bool) -> tuple[object, ...]:
    """Replies and state, or what was refused."""
    sender = FrameStreamSender()
    sent = sender.start()
    try:
        if stop:
            sent += sender.feed(VALID) + sender.finish()
        for piece in pieces:
            sent += sender.feed(piece)
            assert len(sender._received) <= 8 + limits.DNSTAP_CONTROL + len(piece)
    except FrameStreamError as error:
        return (str(error),)
    return sent, sender.state


def run(data: bytes) -> None:
    """One input, whole and in pieces, instead of ACCEPT and instead of FINISH."""
    for octets in (data, VALID + data, b"\0\0\0\0" + (len(data) & 511).to_bytes(4, "big") + data):
        for stop in (False, True):
            whole = outcome([octets], stop=stop)
            assert outcome([octets[at : at + 1] for at in range(len(octets))], stop=stop) == whole
    try:
        kind, types = parse_control(data)
    except FrameStreamError:
        return
    assert control_frame(kind, *types)[8:] == data
    assert kind != FINISH or data[:4] == b"\0\0\0\5"


# Each input is played in many ways, in Python.
run.cost = 10  # type: ignore[attr-defined]
