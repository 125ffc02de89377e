"""A transport that records its calls, and a loop that the test moves, for connections of HTTP without sockets."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

__all__ = ["Loop", "Transport"]


class Transport(asyncio.Transport):
    """A transport that only records its calls."""

    def __init__(self, extra: dict[str, Any]) -> None:
        super().__init__(extra)
        self.told: list[str] = []
        self.unsent = 0
        self.unread = 0
        self.written = b""

    def is_closing(self) -> bool:
        return "close" in self.told or "abort" in self.told

    def close(self) -> None:
        self.told.append("close")

    def abort(self) -> None:
        self.told.append("abort")

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_read_buffer_size(self) -> int:
        return self.unread

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")


class Loop:
    """A clock that the test advances, its timers, and callbacks that the test runs."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Any] = []
        self.ready: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def call_soon(self, call: Callable[..., object], *args: Any, **_kwargs: Any) -> None:
        self.ready.append((call, args))

    def run_ready(self) -> None:
        """Run the callbacks, as at the end of an iteration."""
        ready, self.ready = self.ready, []
        for call, args in ready:
            call(*args)

    def create_future(self) -> Any:
        return asyncio.Future(loop=self)  # type: ignore[arg-type]

    def call_at(self, due: float, call: Any) -> Any:
        timer = SimpleNamespace(due=due, call=call, cancelled=False)
        timer.cancel = lambda: setattr(timer, "cancelled", True)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer.due <= self.now]
        self.timers = [timer for timer in self.timers if timer.due > self.now]
        for timer in due:
            if not timer.cancelled:
                timer.call()
