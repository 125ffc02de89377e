"""A rate-limited warning: logged at most once per interval, with the number of suppressed ones.

A lack of descriptors, or a misbehaving peer, can cause ten thousand equal warnings a second, which would fill a disk.
Where warnings differ, as for zones that fail, the first few different ones of an interval are logged, so that one does
not hide another. The counters in `statistics()` have the exact numbers.
"""

import logging
import time

from resolver import limits

__all__ = ["LimitedWarning"]


class LimitedWarning:
    """A warning of `logger`: at most `different` different ones are logged per `interval` (seconds)."""

    __slots__ = ("_different", "_interval", "_left_out", "_logger", "_next", "_said", "lost")

    def __init__(
        self, logger: logging.Logger, interval: float = limits.LOG_INTERVAL.default, different: int = 1
    ) -> None:
        self._logger = logger
        self._interval = interval
        self._different = different
        self._said: list[tuple[object, ...]] = []
        self._next = float("-inf")
        self._left_out = 0
        self.lost = False
        """Whether the last call failed for lack of memory."""

    def warn(self, text: str, *arguments: object) -> bool:
        """Log a warning, unless it, or enough different ones, were logged in this interval. True when it was logged."""
        try:
            logged = self._log(text, *arguments)
        except MemoryError:  # callers that warn about a lack of memory must not fail because of it
            self.lost = True
            try:
                self._left_out += 1
            except MemoryError:
                pass  # no memory even for an int, which Python allocates from 257 on: this one is not counted
            return False
        self.lost = False
        return logged

    def _log(self, text: str, *arguments: object) -> bool:
        now = time.monotonic()
        if now >= self._next:
            self._said.clear()
        if len(self._said) >= self._different or (text, *arguments) in self._said:
            self._left_out += 1
            return False
        if not self._said:
            self._next = now + self._interval
        self._said.append((text, *arguments))
        if self._left_out:
            text += " (%d more since the last line)"
            arguments = (*arguments, self._left_out)
        try:
            self._logger.warning(text, *arguments)
        except MemoryError:
            self._said.pop()
            raise
        self._left_out = 0
        return True
