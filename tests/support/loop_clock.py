"""A clock of the running loop that stands still, for tests of timeouts.

Timers of both loops and `asyncio.timeout` follow `loop.time`. While it stands still no timer fires, however long the
process is stopped or however slow the build is, so that a test reaches the state in which a timeout is to end: it moves
the clock, or leaves the block, after which the real time passes. Inside, wait by `support.waiting.spin`, which needs no
timer; the limit of the test (support/overdue.py) ends a wait for something that does not come.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

__all__ = ["LoopClock", "stopped_clock"]


class LoopClock:
    """The time of a loop, in seconds, as far as a test has moved it."""

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        """What the loop takes for the time."""
        return self.now

    def move(self, seconds: float) -> None:
        """Let `seconds` pass. Timers that are due by then fire in the next iteration."""
        self.now += seconds


@contextmanager
def stopped_clock() -> Iterator[LoopClock]:
    """Stop the clock of the running loop for the block."""
    loop = asyncio.get_running_loop()
    clock = LoopClock(loop.time())
    with mock.patch.object(loop, "time", clock.time):
        yield clock
