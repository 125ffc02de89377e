"""A warning that cannot flood the log: said at most once an interval, with the number of those left out in between.

Running out of descriptors, or a peer that sends rubbish, happens ten thousand times a second or not at all; the first
line of such a storm is news, the rest would fill a disk. Where complaints differ, as with zones that fail, the first
few of an interval are said, so that one does not hide the other. The counters in `statistics()` tell the true numbers.
"""

import logging
import time

from resolver import limits

__all__ = ["LimitedWarning"]


class LimitedWarning:
    """One kind of warning of one logger, of which up to `different` ones are said in an interval of so many seconds."""

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
        """Whether there was no memory to say it the last time."""

    def warn(self, text: str, *arguments: object) -> bool:
        """Log `text` as a warning unless it, or enough others, was said in this interval; True when it was logged."""
        try:
            said = self._say(text, *arguments)
        except MemoryError:  # whoever complains of that must not fail over it
            self.lost = True
            try:
                self._left_out += 1
            except MemoryError:
                pass  # not even for a number, as Python makes them from 257 on: the count stays behind
            return False
        self.lost = False
        return said

    def _say(self, text: str, *arguments: object) -> bool:
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
