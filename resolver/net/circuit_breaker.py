"""A circuit breaker: after failures in a row nothing is asked of an engine until a probe succeeds. No clock inside.

States: closed (operations are begun), open (none is begun; after a pause that doubles, a probe is due), and probing
(one probe is in progress). It begins open with a probe due, because nothing is known of the engine yet. Only a probe
closes it, so no client waits for an engine that may still be down. Only a look-up that succeeds in time resets the
pause, not a probe: an engine may answer a small probe and still be too slow for values, or close connections while it
sends them.
"""

from enum import Enum

from resolver import limits

__all__ = ["CircuitBreaker", "State"]

FAILURES = limits.SECOND_LEVEL_FAILURES
FIRST_PAUSE = limits.SECOND_LEVEL_BACKOFF / 1000
LONGEST_PAUSE = limits.SECOND_LEVEL_MAX_BACKOFF / 1000


class State(Enum):
    """The states of a circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


class CircuitBreaker:
    """`now` is in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self.state = State.OPEN
        self.opened = 0
        """How often it was opened by failures."""
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._due = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether operations may be begun."""
        return self.state is State.CLOSED

    def succeeded(self) -> None:
        """An operation of the closed state succeeded in time."""
        self._failures, self._pause = 0, FIRST_PAUSE

    def failed(self, now: float) -> None:
        """An operation of the closed state failed, or took too long."""
        if self.state is State.CLOSED:
            self._failures += 1
            if self._failures >= FAILURES:
                self.trip(now)

    def trip(self, now: float) -> None:
        """Open it at once; a probe is due after the current pause."""
        if self.state is State.CLOSED:
            self.opened += 1
            self._open(now)

    def wait(self, now: float) -> float:
        """Seconds until the next probe is due; 0 when it is."""
        return max(self._due - now, 0.0)

    def begin_probe(self) -> None:
        """A probe begins."""
        self.state = State.PROBING

    def end_probe(self, now: float, *, succeeded: bool) -> None:
        """The probe has ended."""
        if succeeded:
            self.state, self._failures = State.CLOSED, 0
        else:
            self._open(now)

    def _open(self, now: float) -> None:
        self.state = State.OPEN
        self._due = now + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
