"""Limits of log lines: a line is logged at most once per interval, with the number of lines suppressed before it.

A lack of descriptors, or a misbehaving peer, can cause ten thousand equal warnings a second, which would fill a disk.
Where warnings differ, as for zones that fail, the first few different ones of an interval are logged, so that one does
not hide another. The counters in `statistics()` have the exact numbers.
"""

import logging
import time
from collections.abc import Hashable
from typing import ClassVar

from resolver import limits

__all__ = ["LimitedWarning", "LineLimit"]


class LineLimit:
    """Admits `different` different lines per `interval` (seconds), each once. The caller passes the time."""

    __slots__ = ("_admitted", "_different", "_interval", "_left_out", "_next")
    suppressed: ClassVar[int] = 0
    """Lines left out since the start of the process, by all limits."""

    def __init__(self, interval: float, different: int = 1) -> None:
        self._interval = interval
        self._different = different
        # Not a set: a set that fails to grow (MemoryError) keeps what it refused.
        self._admitted: dict[Hashable, None] = {}
        self._next = float("-inf")
        self._left_out = 0

    @property
    def remembered(self) -> int:
        """Number of lines admitted in this interval."""
        return len(self._admitted)

    def admit(self, line: Hashable, now: float) -> int | None:
        """The number of lines left out since the last admitted one if `line` may be logged now; else None."""
        if now >= self._next:
            self._admitted.clear()
        if len(self._admitted) >= self._different or line in self._admitted:
            self._left_out += 1
            LineLimit.suppressed += 1
            return None
        if not self._admitted:
            self._next = now + self._interval
        self._admitted[line] = None
        left_out, self._left_out = self._left_out, 0
        return left_out

    def retract(self, line: Hashable, left_out: int) -> None:
        """`line`, for which `admit` returned `left_out`, could not be logged for lack of memory."""
        self._admitted.pop(line, None)
        try:
            self._left_out += left_out + 1
        except MemoryError:
            pass  # no memory even for an int, which Python allocates from 257 on: this one is not counted


class LimitedWarning:
    """A warning of `logger`: at most `different` different ones are logged per `interval` (seconds)."""

    __slots__ = ("_limit", "_logger", "lost")

    def __init__(
        self, logger: logging.Logger, interval: float = limits.LOG_INTERVAL.default, different: int = 1
    ) -> None:
        self._logger = logger
        self._limit = LineLimit(interval, different)
        self.lost = False
        """Whether the last call failed for lack of memory."""

    def warn(self, text: str, *arguments: object) -> bool:
        """Log a warning, unless it, or enough different ones, were logged in this interval. True when it was logged."""
        self.lost = False
        line: Hashable = None
        left_out: int | None = 0
        try:
            line = (text, *arguments)
            left_out = self._limit.admit(line, time.monotonic())
            if left_out is None:
                return False
            if left_out:
                text, arguments = text + " (%d more since the last line)", (*arguments, left_out)
            self._logger.warning(text, *arguments)
        except MemoryError:  # callers that warn about a lack of memory must not fail because of it
            self.lost = True
            self._limit.retract(line, left_out or 0)
            return False
        return True
