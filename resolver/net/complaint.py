"""A warning that cannot flood the log: said at most once an interval, with the number of those left out in between.

Running out of descriptors, or a peer that sends rubbish, happens ten thousand times a second or not at all; the first
line of such a storm is news, the rest would fill a disk. The counters in `statistics()` tell the true numbers.
"""

import logging
import time

from resolver import limits

__all__ = ["Complaint"]


class Complaint:
    """One kind of warning of one logger."""

    __slots__ = ("_interval", "_left_out", "_logger", "_next")

    def __init__(self, logger: logging.Logger, interval: float = limits.LOG_INTERVAL.default) -> None:
        self._logger = logger
        self._interval = interval
        self._next = float("-inf")
        self._left_out = 0

    def say(self, text: str, *arguments: object) -> bool:
        """Log `text` as a warning unless the interval has not passed; True when it was logged."""
        now = time.monotonic()
        if now < self._next:
            self._left_out += 1
            return False
        if self._left_out:
            text += " (and %d times since the last such line)"
            arguments = (*arguments, self._left_out)
        self._left_out = 0
        self._next = now + self._interval
        self._logger.warning(text, *arguments)
        return True
