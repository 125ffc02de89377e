"""The timers of a worker, by name, so that no stop can forget one.

A name has at most one timer: `start` replaces the one before. `close` cancels all; after it, `start` does nothing.
"""

import asyncio
from collections.abc import Callable

__all__ = ["Timers"]


class Timers:
    """Open until `close`."""

    def __init__(self) -> None:
        self._handles: dict[str, asyncio.TimerHandle] = {}
        self.closed = False

    def start(self, name: str, seconds: float, call: Callable[[], object]) -> None:
        """Call `call` once in `seconds`, instead of the timer `name` there was."""
        self.cancel(name)
        if not self.closed:
            self._handles[name] = asyncio.get_running_loop().call_later(seconds, self._expire, name, call)

    def cancel(self, name: str) -> None:
        """Cancel the timer `name`, if there is one."""
        handle = self._handles.pop(name, None)
        if handle is not None:
            handle.cancel()

    def running(self, name: str) -> bool:
        """Whether the timer `name` waits for its time."""
        return name in self._handles

    def close(self) -> None:
        """Cancel all timers."""
        self.closed = True
        for name in list(self._handles):
            self.cancel(name)

    def _expire(self, name: str, call: Callable[[], object]) -> None:
        del self._handles[name]
        call()
