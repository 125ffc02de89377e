"""Checks the watermarks of a transport: when it pauses and resumes its protocol, and how much is queued then."""

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["check_watermarks", "fill", "record_pauses"]

MUCH = 8 << 20
"""Octets between the watermarks: more than a socket accepts at once, so several events lead from high to low."""
LOW = 1000


def record_pauses(writer: Any) -> list[tuple[str, int]]:
    """Return a list that gets each "pause" and "resume" of `writer`, a Recorder, with the octets queued then."""
    seen: list[tuple[str, int]] = []
    note = writer.note

    def noted(event: str) -> None:
        if event in ("pause", "resume"):
            seen.append((event, writer.transport.get_write_buffer_size()))
        note(event)

    writer.note = noted
    return seen


def fill(transport: Any) -> int:
    """Write until the kernel accepts no more; return how many octets were written."""
    written = 0
    while transport.get_write_buffer_size() == 0:
        transport.write(bytes(1 << 16))
        written += 1 << 16
    return written


async def check_watermarks(writer: Any, resume_peer: Callable[[], object], *, over: int = 1) -> int:
    """Check when `writer` is paused and resumed; return how many octets were written.

    Its peer does not read before `resume_peer` is called. `over` octets are written beyond the high watermark: 1 where
    the queue holds what was written, more over TLS, where it holds ciphertext and the exact point is not known.
    """
    transport = writer.transport
    seen = record_pauses(writer)
    transport.set_write_buffer_limits(high=1 << 30)
    written = fill(transport)
    assert seen == []
    high = transport.get_write_buffer_size() + MUCH
    transport.set_write_buffer_limits(high=high, low=LOW)
    below = high - transport.get_write_buffer_size() - (over - 1)
    transport.write(bytes(below))
    assert seen == [] and high - over < transport.get_write_buffer_size() <= high
    transport.write(bytes(over))
    transport.write(b"x")
    assert len(seen) == 1 and seen[0][0] == "pause" and high <= seen[0][1] <= high + over
    resume_peer()
    async with asyncio.timeout(30):
        await writer.until(lambda: len(seen) > 1)
    assert len(seen) == 2 and seen[1][0] == "resume" and seen[1][1] <= LOW
    return written + below + over + 1
