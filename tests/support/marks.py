"""Checks a transport's watermarks: when it pauses and resumes its protocol, and how much is queued then."""

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["fill", "keeps_marks", "watch_marks"]

MUCH = 8 << 20
"""Octets, more than a kernel takes at once: the way from the high mark down to the low one has several steps."""
LOW = 1000


def watch_marks(writer: Any) -> list[tuple[str, int]]:
    """Return a list to which "pause" and "resume" of `writer`, a Recorder, come with what waits at that moment."""
    seen: list[tuple[str, int]] = []
    note = writer.note

    def noted(event: str) -> None:
        if event in ("pause", "resume"):
            seen.append((event, writer.transport.get_write_buffer_size()))
        note(event)

    writer.note = noted
    return seen


def fill(transport: Any) -> int:
    """Write until the kernel takes no more of it; returns how many octets that were."""
    written = 0
    while transport.get_write_buffer_size() == 0:
        transport.write(bytes(1 << 16))
        written += 1 << 16
    return written


async def keeps_marks(writer: Any, go_on: Callable[[], object], *, over: int = 1) -> int:
    """See that `writer`, whose peer does not read, keeps its marks; `go_on` lets the peer read. Returns what was sent.

    `over` octets are written beyond the high mark. More than 1 where what waits is not what was written, as with TLS,
    which is seen to pause near the mark then.
    """
    transport = writer.transport
    seen = watch_marks(writer)
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
    go_on()
    async with asyncio.timeout(30):
        await writer.until(lambda: len(seen) > 1)
    assert len(seen) == 2 and seen[1][0] == "resume" and seen[1][1] <= LOW
    return written + below + over + 1
